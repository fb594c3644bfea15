"""The archive as an application entity: it stores, answers queries, and sends what is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from asyncdicom.access import AccessPolicy, Peers
from asyncdicom.address import Address
from asyncdicom.archive.answers import Answers
from asyncdicom.archive.archive import Archive
from asyncdicom.archive.arrival import Outcome
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.find import MatchingInstances, SourcesOf
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.matching import IdentifierError, Problem
from asyncdicom.archive.index.queries import QueriesClosed
from asyncdicom.archive.index.query import (
    MAXIMUM_IDENTIFIER,
    QUERY_RETRIEVE_LEVEL,
    RETRIEVE_AE_TITLE,
    Query,
    find_query,
    reading,
    retrieve_query,
)
from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET
from asyncdicom.archive.index.unsupported import has_unsupported, private_creators
from asyncdicom.archive.intake import PIECE
from asyncdicom.archive.origin import Origin
from asyncdicom.archive.relational import Relational
from asyncdicom.archive.stored import Stored
from asyncdicom.archive.stored_kinds import StoredKinds
from asyncdicom.association import Request
from asyncdicom.data.elements import Element
from asyncdicom.data.steps import Steps, finish
from asyncdicom.exceptions import DataSetError, StatusError
from asyncdicom.net.channel import Trace
from asyncdicom.net.lane import lane
from asyncdicom.net.tls import certificate_of
from asyncdicom.opening import Opening
from asyncdicom.options import Limits, Timeouts, explains_options
from asyncdicom.server import AssociationHook, Server, serve
from asyncdicom.services.account import note_asked
from asyncdicom.services.commitment import StorageCommitment
from asyncdicom.services.contexts import Proposable
from asyncdicom.services.node import Delivery, Node
from asyncdicom.services.references import Reference
from asyncdicom.services.request import EchoHandler, NormalizedHandlers, Retrieval
from asyncdicom.services.responses import Response
from asyncdicom.services.retrieve import GetService
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import (
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    STUDY_ROOT,
    InformationModel,
    transfer_syntax,
)

if TYPE_CHECKING:
    from socket import socket
    from ssl import SSLContext

__all__ = [
    "ArchiveProvider",
    "commitment_of",
    "find",
    "matching_instances",
    "serve_archive",
    "status_of",
]

_T = TypeVar("_T")

_LOG = Log("asyncdicom.archive")

_INSTANCE_AVAILABILITY = 0x00080056
_AT_ONCE = 8192  # bytes of an identifier that are decoded in the event loop

_MODELS: dict[str, InformationModel] = {
    uid: model
    for model in (PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY)
    for uid in (model.find, model.move, model.get)
}


@explains_options
def serve_archive(
    archive: Archive,
    address: str | Address,
    *,
    c_echo: EchoHandler | None = None,
    services: Iterable[Service] = (),
    contexts: Proposable | Iterable[Proposable] | None = None,
    access: AccessPolicy | Peers | None = None,
    maximum_retrievals: int = 32,
    relational: Collection[str] = (),
    ssl: SSLContext | None = None,
    destination_ssl: SSLContext | None = None,
    sock: socket | None = None,
    reuse_port: bool = False,
    association_opened: AssociationHook | None = None,
    association_closed: AssociationHook | None = None,
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
    **normalized: Unpack[NormalizedHandlers],
) -> Opening[Server]:
    """Serve an open archive: C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE.

    `access`: who may do what, as for `serve`; its peers with an address are the C-MOVE destinations (the
    archive itself never is one). `maximum_retrievals`: C-GETs and C-MOVEs at the same time, a quarter of
    them for one peer (its AE title and address); others are refused with 0xA702. `relational`: the AE titles
    of callers that may leave out the Unique Keys above the level of a query or retrieval ("*": all callers)
    without having negotiated that; whoever negotiates it may (PS3.4 C.5.1). The other arguments are those of
    `serve`.

    Event reports that its services promise (`Node.report`) are rows of `Archive.outbox`: they are sent on the
    association that asked, or on another one to the caller's address, also after a crash.

    Raises what `serve` raises. Leaving the block closes the server, and leaves the archive open.
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    archive.is_served_by_tls |= ssl is not None
    policy = access if isinstance(access, AccessPolicy) else AccessPolicy(peers=access)
    agreed = Relational(relational)
    provider = ArchiveProvider(archive, address.ae_title, maximum_retrievals, agreed)
    destinations = {title: where for title, where in policy.destinations.items() if title != address.ae_title}
    retrieval = _Retrieval(provider)
    return serve(
        address,
        c_echo=c_echo,
        c_store=provider.store,
        c_find=provider.find,
        c_get=provider.retrieve if contexts is not None else None,  # then it is offered if it is asked for
        c_move=provider.retrieve,
        services=[
            *services,
            agreed,
            _KeptReports(archive),
            _KnownSenders(archive, policy),
            *([retrieval] if contexts is None else []),
        ],
        destinations=destinations,
        contexts=contexts,
        unknown_storage=True,
        access=policy,
        ssl=ssl,
        destination_ssl=destination_ssl,
        sock=sock,
        reuse_port=reuse_port,
        association_opened=association_opened,
        association_closed=association_closed,
        timeouts=timeouts,
        limits=limits,
        trace=trace,
        **normalized,
    )


# what is answered to a C-STORE

_STATUS = {outcome: Status.SUCCESS for outcome in Outcome if outcome.is_here} | {
    Outcome.QUARANTINED: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
    Outcome.ALREADY_IN_QUARANTINE: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
    Outcome.HEALED_IN_QUARANTINE: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
    Outcome.QUARANTINE_FULL: Status.OUT_OF_RESOURCES,
    Outcome.REFUSED: Status.DUPLICATE_SOP_INSTANCE,
    Outcome.UNREADABLE: Status.CANNOT_UNDERSTAND,
    Outcome.WRONG: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    Outcome.NO_ROOM: Status.OUT_OF_RESOURCES,
}
_REFUSAL = {
    Problem.WRONG: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
    Problem.UNREADABLE: Status.UNABLE_TO_PROCESS,
    Problem.TOO_MUCH: Status.OUT_OF_RESOURCES,
    Problem.TOO_MANY: Status.UNABLE_TO_CALCULATE_NUMBER_OF_MATCHES,
    Problem.BUSY: Status.UNABLE_TO_PERFORM_SUB_OPERATIONS,
}


def status_of(stored: Stored) -> Status:
    """Give the Status of the C-STORE response for what became of an instance."""
    return _STATUS[stored.outcome]


# identifiers of queries and retrievals


async def find(
    archive: Archive,
    identifier: bytes,
    transfer_syntax_uid: str,
    information_model: InformationModel,
    *,
    retrieve_ae_title: str = "",
    relational: bool = False,
    peer: Hashable = None,
    on_unsupported: Callable[[], None] | None = None,
) -> AsyncGenerator[bytes, None]:
    """Give the encoded identifiers that match one, in its transfer syntax.

    `on_unsupported` is called before the first one if a key with a value is not matched: then each match is a
    warning (0xFF01; PS3.4 C.4.1.1.4).

    `peer` and what is raised: as for `Archive.rows`; `IdentifierError` also for an identifier that says not
    what it has to (without `relational` it has a value for the Unique Key of each level above its own).
    """

    def read() -> Steps[tuple[Query, list[Element], bool]]:
        elements = yield from reading(identifier, transfer_syntax_uid)
        yield
        query = find_query(
            elements, information_model, little_endian=syntax.little_endian, relational=relational
        )
        is_ignoring = yield from has_unsupported(elements, query, transfer_syntax_uid)
        return query, elements, is_ignoring

    syntax = transfer_syntax(transfer_syntax_uid)
    query, elements, is_ignoring = await _in_turn(identifier, transfer_syntax_uid, peer, read())
    if is_ignoring and on_unsupported is not None:
        on_unsupported()
    constants = private_creators(elements) | {
        QUERY_RETRIEVE_LEVEL: ("CS", query.level),
        RETRIEVE_AE_TITLE: ("AE", retrieve_ae_title),
        _INSTANCE_AVAILABILITY: ("CS", "ONLINE"),
    }
    with_set = any(element.tag == SPECIFIC_CHARACTER_SET for element in elements)
    answers = Answers(query, transfer_syntax_uid, constants, with_set=with_set)
    async for row in archive.rows(query, peer=peer):
        yield answers.encode(row[1:])


async def matching_instances(
    archive: Archive,
    identifier: bytes,
    transfer_syntax_uid: str,
    information_model: InformationModel,
    *,
    relational: bool = False,
    peer: Hashable = None,
) -> MatchingInstances:
    """Give the instances that the identifier of a C-GET or C-MOVE asks for; raises as `find`."""

    def read() -> Steps[Query]:
        elements: list[Element] = yield from reading(identifier, transfer_syntax_uid)
        yield
        return retrieve_query(
            elements, information_model, little_endian=syntax.little_endian, relational=relational
        )

    syntax = transfer_syntax(transfer_syntax_uid)
    query = await _in_turn(identifier, transfer_syntax_uid, peer, read())
    return await archive.instances(query, peer=peer)


async def _in_turn(identifier: bytes, transfer_syntax_uid: str, peer: Hashable, steps: Steps[_T]) -> _T:
    """Do work on an identifier: at once if it is short, else in the lane."""
    if len(identifier) <= _AT_ONCE and not transfer_syntax(transfer_syntax_uid).deflated:
        return finish(steps)
    return await lane().run(peer, steps)


class _Retrieval(GetService):
    """C-GET, which prefers the transfer syntaxes that most of what is stored can be sent as."""

    def __init__(self, provider: ArchiveProvider) -> None:
        super().__init__(provider.retrieve)
        self._provider = provider

    async def start(self, node: Node[Any]) -> None:
        """See `Service`."""
        await self._provider.stored.count(self._provider.archive)

    def prefer(self, sop_class_uid: str, transfer_syntaxes: tuple[str, ...]) -> Sequence[str]:
        """See `Service`."""
        return self._provider.stored.in_order(sop_class_uid, transfer_syntaxes)


class _KeptReports(Service):
    """Has the reports of a server's services kept by its archive. It offers nothing itself."""

    name = "kept reports"
    permission = "commitment"

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._ae_title = ""

    async def start(self, node: Node[Any]) -> None:
        """See `Service`."""
        self._ae_title = node.ae_title
        node.report_by(self)
        self._archive.reports.serve(node.ae_title, node.open)

    async def stop(self) -> None:
        """See `Service`."""
        await self._archive.reports.leave(self._ae_title)

    async def add(self, delivery: Delivery) -> None:
        """See `services.node.Reports`."""
        try:
            await self._archive.reports.add(self._ae_title, delivery)
        except ArchiveError as error:
            refused = Response(Status.RESOURCE_LIMITATION, error_comment=str(error)[:64])
            raise StatusError(refused) from None


class _KnownSenders(Service):
    """Has those counted each by itself that may call a server of the archive. It offers nothing itself."""

    name = "known senders"

    def __init__(self, archive: Archive, policy: AccessPolicy) -> None:
        self._archive = archive
        self._policy = policy
        self._end: Callable[[], None] = lambda: None

    async def start(self, node: Node[Any]) -> None:
        """See `Service`."""
        self._end = self._archive.senders.know(lambda: self._policy.peers)

    async def stop(self) -> None:
        """See `Service`."""
        self._end()
        self._end = lambda: None


class ArchiveProvider:
    """The handlers of an archive."""

    def __init__(
        self,
        archive: Archive,
        ae_title: str,
        maximum_retrievals: int = 32,
        relational: Relational | None = None,
    ) -> None:
        self.archive = archive
        self.ae_title = ae_title
        self._relational = relational or Relational()
        self._maximum = maximum_retrievals
        self._retrievals: Counter[Hashable] = Counter()  # under way, by who asked
        self.stored = StoredKinds()

    async def store(self, request: Request) -> Response:
        """C-STORE: the answer is a Success when the instance is as durable as the archive promises.

        What passes through (`Archive.passing`) is not stored: its answer is that of who gets it.
        """
        origin = _origin(request) if self.archive.is_routing else None
        if self.archive.passing is not None and origin is not None:
            answer: Response | None = await self.archive.passing(request, origin)
            if answer is not None:
                return answer
        stored = await self.archive.receive(
            sop_class_uid=request.affected_sop_class_uid,
            sop_instance_uid=request.affected_sop_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            batches=request.data.batches(PIECE),
            calling_ae_title=request.calling_ae_title,
            origin=origin,
        )
        if stored.is_here:
            self.stored.note(request.affected_sop_class_uid, request.transfer_syntax_uid)
        return Response(status_of(stored), error_comment=stored.comment or None)

    async def find(self, request: Request) -> AsyncIterator[bytes]:
        """C-FIND: encoded identifiers, page by page."""
        model = _model_of(request)
        try:
            identifier = await request.data.read(MAXIMUM_IDENTIFIER)
            note_asked(request.incoming, identifier)
            matches = find(
                self.archive,
                identifier,
                request.transfer_syntax_uid,
                model,
                retrieve_ae_title=self.ae_title,
                relational=self._relational.may_ask(request),
                peer=_peer(request),
                on_unsupported=partial(setattr, request, "optional_keys_supported", False),
            )
            async for match in matches:
                yield match
        except _REFUSED as error:
            raise _refusal(error) from None

    async def retrieve(self, request: Request) -> Retrieval:
        """C-GET and C-MOVE: the files that match."""
        model, peer = _model_of(request), _peer(request)
        if self._retrievals.total() >= self._maximum or self._retrievals[peer] >= max(self._maximum // 4, 1):
            busy = IdentifierError("too many retrievals at the same time: try again later", Problem.BUSY)
            raise _refusal(busy)
        self._retrievals[peer] += 1
        try:
            identifier = await request.data.read(MAXIMUM_IDENTIFIER)
            note_asked(request.incoming, identifier)
            found = await matching_instances(
                self.archive,
                identifier,
                request.transfer_syntax_uid,
                model,
                relational=self._relational.may_ask(request),
                peer=peer,
            )
        except BaseException as error:
            self._ended(peer)
            if isinstance(error, _REFUSED):
                raise _refusal(error) from None
            raise
        comment = "another patient has this Study Instance UID: name the Patient ID"
        return Retrieval(SourcesOf(found), partial(self._ended, peer), comment if found.leaves_out else None)

    def _ended(self, peer: Hashable) -> None:
        self._retrievals[peer] -= 1
        if not self._retrievals[peer]:
            del self._retrievals[peer]


def commitment_of(archive: Archive) -> StorageCommitment:
    """Give the service of storage commitment (PS3.4 Annex J) that is responsible for what an archive has.

    An instance is committed that is stored whole, and whose file has its size: 0x0112 says that it is not
    here, 0x0119 that its SOP Class is another one. Reports are rows of the outbox until they are delivered.
    """

    async def check(request: Request, references: tuple[Reference, ...]) -> Mapping[Reference, int]:
        uids = [reference.sop_instance_uid for reference in references]
        try:
            release = await archive.read(archive.deleting.holds.take, uids)
            _when_over(request, release)
            kept = await archive.read(archive.care.kept, uids)
        except ArchiveError as error:
            _LOG.error("storage commitment: %s", error)
            comment = "the index cannot be read"
            raise StatusError(Response(Status.PROCESSING_FAILURE, error_comment=comment)) from None
        return {reference: _failure_of(reference, kept) for reference in references}

    return StorageCommitment(check)


def _when_over(request: Request, call: Callable[[], None]) -> None:
    """Make a call when a request was answered, and the report that was promised is owed."""
    task = request.incoming.task
    if task is None:
        call()
    else:
        task.add_done_callback(lambda _: call())


def _failure_of(reference: Reference, kept: Mapping[str, str]) -> int:
    sop_class = kept.get(reference.sop_instance_uid)
    if sop_class is None:
        return int(Status.NO_SUCH_OBJECT_INSTANCE)
    return 0 if sop_class == reference.sop_class_uid else int(Status.CLASS_INSTANCE_CONFLICT)


def _model_of(request: Request) -> InformationModel:
    model = _MODELS.get(request.affected_sop_class_uid)
    if model is None:  # it was asked for by `contexts`, and no service was given for it
        raise StatusError(Response(Status.SOP_CLASS_NOT_SUPPORTED))
    return model


def _origin(request: Request) -> Origin:
    """Say who has sent an instance, to whom."""
    certificate = certificate_of(request.incoming.channel.transport.get_extra_info("ssl_object"))
    names = () if certificate is None else (f"sha256:{certificate.fingerprint}", *sorted(certificate.names))
    command = request.command
    ae_title, message_id = command.move_originator_ae_title, command.move_originator_message_id
    return Origin(
        request.calling_ae_title,
        request.called_ae_title,
        request.association.peer[0],
        names,
        (ae_title, message_id) if ae_title and message_id is not None else None,
    )


def _peer(request: Request) -> Hashable:
    """Say who asks: an AE title alone can be borrowed, an address can be shared."""
    return request.calling_ae_title, request.association.peer[0]


_REFUSED = (IdentifierError, DataSetError, QueriesClosed, IndexFailed)


def _refusal(error: IdentifierError | DataSetError | QueriesClosed | IndexFailed) -> StatusError:
    status = Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    if isinstance(error, IndexFailed):
        _LOG.error("a query or retrieval failed: the index cannot be read: %s", error)
        return StatusError(Response(Status.OUT_OF_RESOURCES, error_comment="the index cannot be read"))
    if isinstance(error, IdentifierError):
        status = _REFUSAL[error.problem]
    elif isinstance(error, QueriesClosed):
        status = Status.OUT_OF_RESOURCES
    return StatusError(Response(status, error_comment=str(error)[:64]))
