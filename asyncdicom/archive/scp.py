"""The archive as an application entity: it stores, answers queries, and sends what is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from asyncdicom.access import AccessPolicy, Peers
from asyncdicom.address import Address
from asyncdicom.archive.archive import PIECE, Archive
from asyncdicom.archive.find import MatchingInstances, StoredInstance
from asyncdicom.archive.index.kinds import NEWEST
from asyncdicom.archive.index.matching import IdentifierError
from asyncdicom.archive.index.queries import QueriesClosed
from asyncdicom.archive.index.query import MAXIMUM_IDENTIFIER
from asyncdicom.archive.origin import Origin
from asyncdicom.association import Request
from asyncdicom.exceptions import DataSetError, StatusError
from asyncdicom.net.channel import Trace
from asyncdicom.net.sources import FileSource
from asyncdicom.net.tls import certificate_of
from asyncdicom.opening import Opening
from asyncdicom.options import Limits, Timeouts, explains_options
from asyncdicom.server import Server, serve
from asyncdicom.services.account import note_asked
from asyncdicom.services.contexts import Proposable, in_order
from asyncdicom.services.node import Node
from asyncdicom.services.request import EchoHandler, NormalizedHandlers, Retrieval
from asyncdicom.services.responses import Response
from asyncdicom.services.retrieve import GetService
from asyncdicom.services.service import Service
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    STUDY_ROOT,
    InformationModel,
)

if TYPE_CHECKING:
    from socket import socket
    from ssl import SSLContext

__all__ = ["ArchiveProvider", "serve_archive"]

_LOG = Log("asyncdicom.archive")

# How many SOP classes, and transfer syntaxes of each, are counted: peers may invent any number.
_CLASSES_COUNTED, _SYNTAXES_COUNTED = 1000, 32

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
    ssl: SSLContext | None = None,
    destination_ssl: SSLContext | None = None,
    sock: socket | None = None,
    reuse_port: bool = False,
    timeouts: Timeouts = Timeouts(),
    limits: Limits = Limits(),
    trace: Trace | None = None,
    **normalized: Unpack[NormalizedHandlers],
) -> Opening[Server]:
    """Serve an open archive: C-ECHO, C-STORE, C-FIND, C-GET and C-MOVE.

    `access`: who may do what, as for `serve`; its peers with an address are the C-MOVE destinations (the
    archive itself never is one). `maximum_retrievals`: C-GETs and C-MOVEs at the same time, a quarter of
    them for one peer (its AE title and address); others are refused with 0xA702. The other arguments are
    those of `serve`.

    Raises what `serve` raises. Leaving the block closes the server, and leaves the archive open.
    """
    if not isinstance(address, Address):
        address = Address.parse(address)
    policy = access if isinstance(access, AccessPolicy) else AccessPolicy(peers=access)
    provider = ArchiveProvider(archive, address.ae_title, maximum_retrievals)
    destinations = {title: where for title, where in policy.destinations.items() if title != address.ae_title}
    retrieval = _Retrieval(provider)
    return serve(
        address,
        c_echo=c_echo,
        c_store=provider.store,
        c_find=provider.find,
        c_get=provider.retrieve if contexts is not None else None,  # then it is offered if it is asked for
        c_move=provider.retrieve,
        services=[*services, retrieval] if contexts is None else services,
        destinations=destinations,
        contexts=contexts,
        unknown_storage=True,
        access=policy,
        ssl=ssl,
        destination_ssl=destination_ssl,
        sock=sock,
        reuse_port=reuse_port,
        timeouts=timeouts,
        limits=limits,
        trace=trace,
        **normalized,
    )


class _Retrieval(GetService):
    """C-GET, which prefers the transfer syntaxes that most of what is stored can be sent as."""

    def __init__(self, provider: ArchiveProvider) -> None:
        super().__init__(provider.retrieve)
        self._provider = provider
        self._unseen = 0  # instances that may be there and were not counted

    async def start(self, node: Node[Any]) -> None:
        """See `Service`."""
        try:
            counted = await self._provider.archive.recent_kinds()
        except Exception as error:  # nothing is lost by it: then the order is that of the requestor
            _LOG.warning("what is stored cannot be counted by transfer syntax: %s", error)
            return
        self._unseen = int(counted.total() >= NEWEST)
        for kind, count in counted.items():
            self._provider.note(*kind, count)

    def prefer(self, sop_class_uid: str, transfer_syntaxes: tuple[str, ...]) -> Sequence[str]:
        """See `Service`."""
        stored = Counter(self._provider.stored.get(sop_class_uid))
        stored[EXPLICIT_VR_LITTLE_ENDIAN] += self._unseen
        return in_order(transfer_syntaxes, stored)


class ArchiveProvider:
    """The handlers of an archive."""

    def __init__(self, archive: Archive, ae_title: str, maximum_retrievals: int = 32) -> None:
        self.archive = archive
        self.ae_title = ae_title
        self._maximum = maximum_retrievals
        self._retrievals: Counter[Hashable] = Counter()  # under way, by who asked
        self.stored: dict[str, Counter[str]] = {}
        """SOP class -> about how many instances there are in each transfer syntax."""

    def note(self, sop_class_uid: str, transfer_syntax_uid: str, count: int = 1) -> None:
        """Count instances that are stored; what comes again, and what is removed, makes no difference."""
        syntaxes = self.stored.get(sop_class_uid)
        if syntaxes is None:
            if len(self.stored) >= _CLASSES_COUNTED:
                return
            syntaxes = self.stored[sop_class_uid] = Counter()
        if transfer_syntax_uid in syntaxes or len(syntaxes) < _SYNTAXES_COUNTED:
            syntaxes[transfer_syntax_uid] += count

    async def store(self, request: Request) -> Response:
        """C-STORE: the answer is a Success when the instance is as durable as the archive promises."""
        stored = await self.archive.store(
            sop_class_uid=request.affected_sop_class_uid,
            sop_instance_uid=request.affected_sop_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            batches=request.data.batches(PIECE),
            calling_ae_title=request.calling_ae_title,
            origin=_origin(request) if self.archive.is_routing else None,
        )
        if stored.status.is_success:
            self.note(request.affected_sop_class_uid, request.transfer_syntax_uid)
        return Response(stored.status, error_comment=stored.comment or None)

    async def find(self, request: Request) -> AsyncIterator[bytes]:
        """C-FIND: encoded identifiers, page by page."""
        model = _model_of(request)
        try:
            identifier = await request.data.read(MAXIMUM_IDENTIFIER)
            note_asked(request.incoming, identifier)
            matches = self.archive.find(
                identifier,
                request.transfer_syntax_uid,
                model,
                retrieve_ae_title=self.ae_title,
                peer=_peer(request),
            )
            async for match in matches:
                yield match
        except (IdentifierError, DataSetError, QueriesClosed) as error:
            raise _refusal(error) from None

    async def retrieve(self, request: Request) -> Retrieval:
        """C-GET and C-MOVE: the files that match."""
        model, peer = _model_of(request), _peer(request)
        if self._retrievals.total() >= self._maximum or self._retrievals[peer] >= max(self._maximum // 4, 1):
            busy = IdentifierError(
                "too many retrievals at the same time: try again later",
                Status.UNABLE_TO_PERFORM_SUB_OPERATIONS,
            )
            raise _refusal(busy)
        self._retrievals[peer] += 1
        try:
            identifier = await request.data.read(MAXIMUM_IDENTIFIER)
            note_asked(request.incoming, identifier)
            found = await self.archive.matching_instances(
                identifier, request.transfer_syntax_uid, model, peer=peer
            )
        except BaseException as error:
            self._ended(peer)
            if isinstance(error, (IdentifierError, DataSetError, QueriesClosed)):
                raise _refusal(error) from None
            raise
        comment = "another patient has this Study Instance UID: name the Patient ID"
        return Retrieval(_Files(found), partial(self._ended, peer), comment if found.leaves_out else None)

    def _ended(self, peer: Hashable) -> None:
        self._retrievals[peer] -= 1
        if not self._retrievals[peer]:
            del self._retrievals[peer]


def _model_of(request: Request) -> InformationModel:
    model = _MODELS.get(request.affected_sop_class_uid)
    if model is None:  # it was asked for by `contexts`, and no service was given for it
        raise StatusError(Response(Status.SOP_CLASS_NOT_SUPPORTED))
    return model


class _Files:
    """The files of a retrieval, as they are looked up."""

    def __init__(self, found: MatchingInstances) -> None:
        self._found = found

    @property
    def kinds(self) -> frozenset[tuple[str, str]]:
        return self._found.kinds

    def __len__(self) -> int:
        return len(self._found)

    async def __aiter__(self) -> AsyncIterator[FileSource | None]:
        async with aclosing(self._found.each()) as found:
            async for instance in found:
                yield None if instance is None else _source(instance)


def _source(instance: StoredInstance) -> FileSource:
    return FileSource(
        instance.path,
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        offset=instance.data_set_offset,
        length=instance.data_set_length,
        in_threads=True,
    )


def _origin(request: Request) -> Origin:
    """Say who has sent an instance, to whom."""
    certificate = certificate_of(request.incoming.channel.transport.get_extra_info("ssl_object"))
    names = () if certificate is None else (f"sha256:{certificate.fingerprint}", *sorted(certificate.names))
    return Origin(request.calling_ae_title, request.called_ae_title, request.association.peer[0], names)


def _peer(request: Request) -> Hashable:
    """Say who asks: an AE title alone can be borrowed, an address can be shared."""
    return request.calling_ae_title, request.association.peer[0]


def _refusal(error: IdentifierError | DataSetError | QueriesClosed) -> StatusError:
    status = Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
    if isinstance(error, IdentifierError):
        status = error.status
    elif isinstance(error, QueriesClosed):
        status = Status.OUT_OF_RESOURCES
    return StatusError(Response(status, error_comment=str(error)[:64]))
