"""`Client`: the daily jobs with one peer."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from asyncdicom.address import ANY_SCP, Address, check_ae_title
from asyncdicom.client import DEFAULT_CALLING_AE_TITLE
from asyncdicom.exceptions import AssociationError, StatusError
from asyncdicom.net.channel import Trace
from asyncdicom.options import OPERATIONS, ByRole, Limits, Timeouts, changed, explains_options, of_role
from asyncdicom.pool import AssociationPool
from asyncdicom.scu.finding import Finding
from asyncdicom.scu.identifiers import Keys, Wanted, query, retrieval, worklist_query
from asyncdicom.scu.listening import Listening
from asyncdicom.scu.peering import Method, Peering
from asyncdicom.scu.results import Stored
from asyncdicom.scu.retrieving import Retrieving
from asyncdicom.scu.storing import Storable, Storing
from asyncdicom.services.responses import Response
from asyncdicom.services.retrieve import Progress, RetrieveResult
from asyncdicom.status import Status
from asyncdicom.uid import VERIFICATION, InformationModel
from asyncdicom.ul.items import UserIdentity

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Client"]

_IDLE = 60.0  # seconds after which an association that nobody uses is released
_MAXIMUM_INSTANCES = 100_000


class Client:
    """The daily jobs with one peer: `async with Client("PACS@10.0.0.5:104") as pacs`.

    It opens associations when they are needed, with the contexts that each job needs, at most `associations`
    at a time; a peer that takes fewer is served over those. One that nobody has used for 60 s is released
    (or `Timeouts.idle`). What only asks is asked again when it turns out that its association was gone. A
    C-STORE or retrieval that was broken off is repeated, too, and its result says so; a C-MOVE to somebody
    else never is.

    `address`: the peer, "AET@host:port". `calling_ae_title`, `ssl`, `server_hostname`, `user_identity`,
    `timeouts`, `limits` and `trace`: as for `associate`. `listen`: "AET@host:port", the address that the peer
    has for our AE title, for retrieval by C-MOVE where it takes no C-GET; without an AE title it is
    `calling_ae_title`. `listen_ssl`: the context for TLS there, which is needed if `ssl` is given: what is
    asked for by TLS does not come in the clear. `method`: "get" or "move" retrieves by nothing else; by
    default C-GET is tried first, and what the peer takes is remembered.

    Leaving the block ends what is still under way, releases the associations, and leaves nothing open. Raises
    ValueError (an impossible address, AE title or option), and OSError on entering if `listen` cannot be
    listened on.
    """

    @explains_options
    def __init__(
        self,
        address: str | Address,
        *,
        associations: int = 4,
        calling_ae_title: str = DEFAULT_CALLING_AE_TITLE,
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
        user_identity: UserIdentity | None = None,
        listen: str | Address | None = None,
        listen_ssl: SSLContext | None = None,
        method: Method | None = None,
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        trace: Trace | None = None,
    ) -> None:
        if not isinstance(address, Address):
            address = Address.parse(address)
        if method not in (None, "get", "move"):
            raise ValueError(f'method is "get", "move" or None, not {method!r}')
        if method == "move" and listen is None:
            raise ValueError('method="move" needs listen=: the address that the peer sends to')
        if listen is not None and ssl is not None and listen_ssl is None:
            raise ValueError("the peer is asked by TLS, so what it sends comes by TLS, too: give listen_ssl=")
        calling_ae_title = check_ae_title(calling_ae_title)
        if of_role(timeouts.idle, requestor=True) is None:
            timeouts = changed(timeouts, idle=ByRole(_IDLE, of_role(timeouts.idle, requestor=False)))
        self._timeouts = timeouts
        self._limits = limits
        self._operations = min(limits.operations_invoked or OPERATIONS, OPERATIONS)
        pool = AssociationPool(
            address,
            size=associations,
            operations=self._operations,
            calling_ae_title=calling_ae_title,
            contexts=[VERIFICATION],
            ssl=ssl,
            server_hostname=server_hostname,
            user_identity=user_identity,
            timeouts=timeouts,
            limits=limits,
            trace=trace,
        )
        listening = None
        if listen is not None:
            ours = listen if isinstance(listen, Address) else Address.parse(listen)
            if ours.ae_title == ANY_SCP:
                ours = ours._replace(ae_title=calling_ae_title)
            listening = Listening(
                ours, address, ssl=listen_ssl, timeouts=timeouts, limits=limits, trace=trace
            )
        self._peering = Peering(address, calling_ae_title, associations, pool, listening, method)

    async def __aenter__(self) -> Self:
        if self._peering.listening is not None:
            await self._peering.listening.open()
        self._peering.is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        peering = self._peering
        peering.is_open = False
        try:
            for running in list(peering.running):
                await running.stop()
        finally:
            try:
                await peering.pool.__aexit__(kind, error, traceback)
            finally:
                if peering.listening is not None:
                    await peering.listening.close()

    @property
    def address(self) -> Address:
        """The peer."""
        return self._peering.address

    @property
    def method(self) -> Method | None:
        """How the peer retrieves: "get", "move", or None as long as that is not known."""
        return self._peering.method

    @property
    def listens_on(self) -> Address | None:
        """The address that C-MOVE sends to; None without `listen`."""
        return None if self._peering.listening is None else self._peering.listening.address

    # asking

    async def echo(self, *, timeout: float | None = None) -> Response:
        """Verify that the peer is there (PS3.7 9.1.5); gives its response.

        `timeout`: seconds to wait for it. Raises `AssociationError` if there is no association.
        """
        return await self._peering.ask(
            [VERIFICATION], lambda association: association.c_echo(timeout=timeout)
        )

    def find(
        self,
        keys: Keys | None = None,
        *,
        level: str | None = None,
        returned: Iterable[str] | None = None,
        information_model: InformationModel | None = None,
        maximum_matches: int | None = None,
        timeout: float | None = None,
    ) -> Finding:
        """Query (PS3.4 C.4.1): `await` gives all matches, `async for` one after another.

        `keys`: a mapping of keywords or a Dataset: what to match by. `level`: "PATIENT", "STUDY", "SERIES" or
        "IMAGE"; by default QueryRetrieveLevel of the keys, else that of the lowest UID among them, else
        STUDY. `returned`: the keywords to be told beside, by default what one wants to see of the level; its
        UID is always told. `information_model`: by default Study Root, for the level PATIENT Patient Root.
        `maximum_matches`: more end the query; by default `await` gives 100,000, and `async for` as many as
        are taken. `timeout`: seconds to wait for each response.

        Raises `StatusError` for a Failure, `DicomNetworkError` for more matches than that, each with those
        that came as its `result`; `PresentationContextError` if the peer does not take such queries;
        ValueError for a level that the model does not have; `DataSetError` for keys that cannot be encoded.
        """
        wanted = query(keys, level, returned, information_model)
        return Finding(self._peering, wanted, maximum_matches=maximum_matches, timeout=timeout)

    def worklist(
        self,
        keys: Keys | None = None,
        *,
        maximum_matches: int | None = None,
        timeout: float | None = None,
    ) -> Finding:
        """Query for worklist items (PS3.4 Annex K); see `find`.

        `keys`: those of the Scheduled Procedure Step (Modality, ScheduledStationAETitle,
        ScheduledProcedureStepStartDate ...) may stand beside the others: they are put into its sequence.
        """
        return Finding(self._peering, worklist_query(keys), maximum_matches=maximum_matches, timeout=timeout)

    # moving instances

    def retrieve(
        self,
        what: Keys | str | Iterable[Keys | str],
        *,
        to: str | os.PathLike[str] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        maximum_instances: int = _MAXIMUM_INSTANCES,
    ) -> Retrieving:
        """Retrieve instances: `async for` gives each as it comes, `await` the sum (`Retrieved`).

        `what`: a match of `find`, other keys with the UID of a study, series or instance, a Study Instance
        UID, or several of them; of keys without a UID the studies are found first. `to`: a folder, which is
        made when it is missing; a file is named after its SOP Instance UID, and none is replaced. Without it
        instances are given in memory, and the peer is held back while they are not taken. `on_progress`: is
        called with the numbers of the sub-operations as the peer tells them. `maximum_instances`: more are
        refused.

        Instances that were not asked for are refused. Raises `StatusError` for a Failure, and
        `AssociationError` if there is no association, with the `Retrieved` so far as its `result`;
        `PresentationContextError` if the peer has no C-GET, and `listen` was not given; OSError if the folder
        cannot be made. Failed instances alone raise nothing: see `Retrieved.failed`.
        """
        return Retrieving(
            self._peering,
            lambda: self._wanted(_several(what)),
            to=to,
            on_progress=on_progress,
            maximum_instances=maximum_instances,
        )

    async def _wanted(self, what: Iterable[Keys | str]) -> AsyncGenerator[Wanted, None]:
        seen: set[str] = set()  # some peers answer once for each instance
        for keys in what:
            wanted = retrieval(keys)
            matches = await self.find(cast("Keys", keys)) if wanted is None else ()
            for found in [wanted, *map(retrieval, matches)]:
                if found is not None and str(found.identifier) not in seen:
                    seen.add(str(found.identifier))
                    yield found

    async def move(
        self,
        what: Keys | str | Iterable[Keys | str],
        destination: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        timeout: float | None = None,
    ) -> RetrieveResult:
        """Have the peer send instances to `destination`, an AE title that it knows (PS3.4 C.4.2).

        `what`, `on_progress`: see `retrieve`; `timeout`: seconds to wait for each response. Gives the sum of
        what the peer tells. Raises `StatusError` for a Failure, with that as its `result`. It is never
        repeated: an `AssociationError` says that nobody knows what was sent. Cancelled: C-CANCEL is sent.
        """
        self._peering.check_open()
        total = RetrieveResult(Status.SUCCESS, 0, 0, 0, ())
        async for wanted in self._wanted(_several(what)):
            async with self._peering.pool.acquire([wanted.sop_class("move")]) as association:
                operation = association.c_move(
                    wanted.identifier,
                    information_model=wanted.model,
                    move_destination=check_ae_title(destination),
                    timeout=timeout,
                )
                try:
                    async with operation:
                        async for progress in operation:
                            if on_progress is not None:
                                on_progress(progress)
                except StatusError as error:
                    raise error.having(_sum(total, operation.result)) from None
                except AssociationError as error:
                    told = error.having(total)
                    told.add_note("The C-MOVE is not repeated: what it has done is not known.")
                    raise told from error.__cause__
                self._peering.used.add(association)
            total = _sum(total, operation.result)
        return total

    def store(
        self,
        what: Storable | Iterable[Storable],
        *,
        strict: bool = False,
        on_progress: Callable[[Stored], None] | None = None,
        timeout: float | None = None,
    ) -> Storing:
        """Send instances: `async for` gives what became of each (`Stored`), `await` the sum (`StoreResult`).

        `what`: a file, a folder, a pydicom Dataset, a `Source`, or several of them. The contexts are those
        that the instances need; uncompressed ones are re-encoded for a peer that takes them only so. In
        folders, a DICOMDIR and what is plainly no DICOM file are skipped, unless `strict`. `on_progress`: is
        called with what became of each; `timeout`: seconds to wait for each response.

        What fails is named in the result (`StoreResult.failed`), and the rest is sent. Raises
        `AssociationError` if there is no association (any more), with the `StoreResult` so far as its
        `result`.
        """
        return Storing(
            self._peering,
            what,
            operations=self._operations,
            strict=strict,
            on_progress=on_progress,
            timeout=timeout,
        )


def _several(what: Keys | str | Iterable[Keys | str]) -> Iterable[Keys | str]:
    is_one = isinstance(what, str) or hasattr(what, "keys")  # a mapping, or a Dataset
    return [cast("Keys | str", what)] if is_one else cast("Iterable[Keys | str]", what)


def _sum(one: RetrieveResult, other: RetrieveResult) -> RetrieveResult:
    is_worse = (not other.status.is_success, other.status.is_failure) > (
        not one.status.is_success,
        one.status.is_failure,
    )
    return RetrieveResult(
        other.status if is_worse else one.status,
        one.completed + other.completed,
        one.failed + other.failed,
        one.warning + other.warning,
        (*one.failed_sop_instance_uids, *other.failed_sop_instance_uids),
        one.error_comment or other.error_comment,
    )
