"""`Courier`: the associations to one destination. They propose what was seen, and end when nothing comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from ssl import SSLContext
from typing import NamedTuple

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.destination import Destination
from asyncdicom.dimse.messages import Priority
from asyncdicom.exceptions import AssociationError, DicomNetworkError
from asyncdicom.gateway.carrier import Begun, Carried
from asyncdicom.gateway.config import GatewayDestination
from asyncdicom.net.sources import FileSource, Source, read_together
from asyncdicom.outgoing import context_for
from asyncdicom.pool import AssociationPool
from asyncdicom.services.contexts import DEFAULT_TRANSFER_SYNTAXES, MAXIMUM_CONTEXTS, Kind, contexts_for
from asyncdicom.services.responses import Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import STUDY_ROOT
from asyncdicom.ul.negotiation import PresentationContext

__all__ = ["Courier"]

_LOG = Log("asyncdicom.gateway")

_DIMSE_PRIORITY = {0: Priority.HIGH, 1: Priority.MEDIUM, 2: Priority.LOW}


_AHEAD = 2 << 20  # bytes of data sets that are read ahead
_ASKING = [PresentationContext(STUDY_ROOT.find, DEFAULT_TRANSFER_SYNTAXES)]


Forward = Callable[[Association], Awaitable[Response]]
"""Sends an instance on an association."""


class _Lane(NamedTuple):
    """The association of a lane, what it proposed, and as whom."""

    association: Association
    kinds: frozenset[Kind]
    calling: str


class _Pool:
    """A pool for the kinds that were seen so far; it ends when it is out of date and nobody uses it."""

    def __init__(self, pool: AssociationPool, kinds: frozenset[Kind]) -> None:
        self.pool = pool
        self.kinds = kinds
        self.users = 0


class Courier:
    """Sends instances to a destination (`destination` is how it is called): on any association, or a study on
    one of its own.

    Nothing here is tried again. `send` raises what `associate` and `c_store` raise; cancelled while it sends,
    it aborts the association. `uses_tls` tells whether we are called by TLS: then nothing
    is sent in the clear, unless the destination says so (`NotAttempted`). `kinds`: what may come, the most
    likely first: it is proposed from the start, so that the associations last.
    """

    def __init__(
        self,
        archive: Archive,
        own: GatewayDestination,
        destination: Destination,
        calling_ae_title: str,
        *,
        uses_tls: Callable[[], bool],
        kinds: Iterable[Kind] = (),
    ) -> None:
        self._archive = archive
        self._own = own
        self._destination = destination
        self._uses_tls = uses_tls
        self._calling = destination.calling_ae_title or calling_ae_title
        self._kinds: dict[Kind, None] = dict.fromkeys(reversed(list(kinds)))  # the one seen last is the last
        self._pools: dict[str, _Pool] = {}  # by calling AE title
        self._lanes: dict[int, _Lane] = {}
        self._expected: dict[int, FileSource] = {}  # by delivery: what is read ahead
        self._is_told = False  # that it cannot be asked what it has
        self._ending: set[asyncio.Task[None]] = set()

    async def send(self, claimed: Claimed, priority: int, begun: Begun, lane: int | None) -> Carried:
        """Send an instance: on whichever association is free, or on that of a lane."""
        expected = self._expected.pop(claimed.id, None) or self._archive.source_of(claimed)
        source = await self._archive.assigned(expected, peer=self._own.name)
        calling = (claimed.calling_ae_title if self._own.pass_calling_ae_title else None) or ""
        if lane is not None:
            association = await self._association_of(lane, self._note(source), calling or self._calling)
            begun()
            return await self._store(association, claimed, source, priority)
        pool = self._enter(source, calling)
        try:
            async with pool.pool.acquire() as association:
                begun()
                return await self._store(association, claimed, source, priority)
        finally:
            self._exit(pool, calling)

    def expect(self, claimed: Iterable[Claimed]) -> None:
        """Read ahead what is to be sent soon, as far as there is room for it in memory."""
        room = _AHEAD - sum(source.length for source in self._expected.values())
        sources: list[FileSource] = []
        for each in claimed:
            source = self._archive.source_of(each)
            if not isinstance(source, FileSource) or (room := room - source.length) < 0:
                break
            self._expected[each.id] = source
            sources.append(source)
        if len(sources) > 1:  # one alone is read in its turn as soon
            read_together(sources)

    def forget(self, delivery: int) -> None:
        """Say that a delivery is not sent now: what was read of it is not kept."""
        self._expected.pop(delivery, None)

    async def forward(self, source: Source, calling: str, store: Forward) -> Response:
        """Have `store` send what is just being received, on an association that nobody else uses meanwhile.

        The data sets of one association come one after the other: a sender that stops in the middle would
        keep all behind him waiting. `calling`: the AE title of whoever sends it. Raises as `send`.
        """
        title = calling if self._own.pass_calling_ae_title else ""
        pool = self._enter(source, title)
        try:
            async with pool.pool.acquire(alone=True) as association:
                return await store(association)
        finally:
            self._exit(pool, title)

    def _enter(self, source: Source, calling: str) -> _Pool:
        """Give the pool for a source, to be used until `_exit`."""
        pool = self._pool_for(self._note(source), self._ssl(), calling or self._calling)
        pool.users += 1
        return pool

    def _exit(self, pool: _Pool, calling: str) -> None:
        pool.users -= 1
        if not pool.users and pool is not self._pools.get(calling or self._calling):
            self._spawn(pool.pool.close())

    async def _store(
        self, association: Association, claimed: Claimed, source: Source, priority: int
    ) -> Carried:
        if self._own.check_before and await self._has(association, claimed):
            return Carried(Status.SUCCESS, "it has it already, and was not sent it")
        response = await association.c_store(
            source,
            priority=_DIMSE_PRIORITY.get(priority, Priority.MEDIUM),
            move_originator=_originator(claimed) if self._own.pass_move_originator else None,
        )
        return Carried(response.status, response.error_comment or "")

    async def _has(self, association: Association, claimed: Claimed) -> bool:
        """Ask whether the destination has an instance; it has not, if it cannot be asked."""
        uid = claimed.sop_instance_uid
        identifier = {
            "QueryRetrieveLevel": "IMAGE",
            "StudyInstanceUID": claimed.study_instance_uid,
            "SeriesInstanceUID": claimed.series_instance_uid,
            "SOPInstanceUID": uid,
        }
        try:
            matches = await association.c_find(identifier, information_model=STUDY_ROOT)
        except AssociationError:
            raise
        except DicomNetworkError as error:
            if not self._is_told:
                self._is_told = True
                _LOG.warning("%s cannot be asked what it has, and is sent all: %s", self._own.name, error)
            return False
        return any(
            match.get("SOPInstanceUID") == uid for match in matches
        )  # some give what was not asked for

    async def _association_of(self, lane: int, kind: Kind, calling: str) -> Association:
        ssl, now = self._ssl(), self._lanes.get(lane)
        if (
            now is None
            or not now.association.is_established
            or kind not in now.kinds
            or now.calling != calling
        ):
            self.leave(lane)
            kinds = frozenset(self._kinds)
            association = await associate(
                self._destination.where,
                calling_ae_title=calling,
                contexts=self._contexts(),
                ssl=ssl,
                server_hostname=self._destination.server_hostname,
                timeouts=self._destination.timeouts,
                limits=self._destination.limits,
            )
            now = self._lanes[lane] = _Lane(association, kinds, calling)
        return now.association

    def leave(self, lane: int) -> None:
        """Release the association of a lane; that is not waited for."""
        left = self._lanes.pop(lane, None)
        if left is not None and left.association.is_established:
            self._spawn(left.association.release())

    def rest(self) -> None:
        """Release what nobody uses: nothing has been sent for a while."""
        for calling in list(self._pools):
            self._retire(calling)

    def _retire(self, calling: str) -> None:
        """Use the pool of an AE title no more; who uses it still ends it."""
        pool = self._pools.pop(calling, None)
        if pool is not None and not pool.users:
            self._spawn(pool.pool.close())

    async def close(self) -> None:
        """Release all associations, and wait for that."""
        self.rest()
        for lane in list(self._lanes):
            self.leave(lane)
        while self._ending:
            await asyncio.wait(self._ending)

    def _ssl(self) -> SSLContext | None:
        return context_for(self._destination, None, uses_tls=self._uses_tls())

    # what it proposes

    def _note(self, source: Source) -> Kind:
        kind = source.sop_class_uid, source.transfer_syntax_uid
        self._kinds.pop(kind, None)
        self._kinds[kind] = None
        return kind

    def _contexts(self) -> list[PresentationContext]:
        """Propose what was seen, as far as one association has contexts for it: what was seen last is in."""
        more = _ASKING if self._own.check_before else []
        while len(contexts := contexts_for(self._kinds)) > MAXIMUM_CONTEXTS - len(more):
            del self._kinds[next(iter(self._kinds))]
        return contexts + more

    def _pool_for(self, kind: Kind, ssl: SSLContext | None, calling: str) -> _Pool:
        pool = self._pools.get(calling)
        if pool is None or kind not in pool.kinds:
            self._retire(calling)
            idle = [title for title, each in self._pools.items() if not each.users]
            if len(self._pools) >= self._destination.maximum_associations and idle:
                self._retire(idle[0])  # no more associations than there may be
            contexts = self._contexts()
            destination = self._destination
            made = AssociationPool(
                destination.where,
                size=destination.maximum_associations,
                calling_ae_title=calling,
                contexts=contexts,
                ssl=ssl,
                server_hostname=destination.server_hostname,
                operations=destination.window,
                timeouts=destination.timeouts,
                limits=destination.limits,
            )
            pool = self._pools[calling] = _Pool(made, frozenset(self._kinds))
        return pool

    def _spawn(self, ending: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(ending))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _originator(claimed: Claimed) -> tuple[str, int] | None:
    """Give the Move Originator that an instance came with (PS3.7 9.1.1.1), if it did."""
    if claimed.payload is None:
        return None
    ae_title, message_id = json.loads(claimed.payload)
    return str(ae_title), int(message_id)


async def _quietly(ending: Coroutine[object, object, None]) -> None:
    """A release that fails has ended the association all the same."""
    try:
        await ending
    except AssociationError:
        return
