"""`Courier`: the associations to one destination. They propose what was seen, and end when nothing comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack
from ssl import SSLContext
from typing import NamedTuple

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.destination import Destination
from asyncdicom.dimse.messages import Priority
from asyncdicom.exceptions import AssociationError, DicomNetworkError
from asyncdicom.gateway.carrier import Begun, Carried, Trip
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

    Nothing here is tried again. A trip's `send` raises what `associate` and `c_store` raise; cancelled while
    it sends, it aborts the association. `uses_tls` tells whether we are called by TLS: then nothing
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
        self._coming: dict[int, Claimed] = {}  # by delivery: what is to be read ahead
        self._expected: dict[int, FileSource] = {}  # and what is
        self._room = _AHEAD  # bytes
        self._is_told = False  # that it cannot be asked what it has
        self._ending: set[asyncio.Task[None]] = set()

    def trip(self, lane: int | None) -> Trip:
        """See `Carrier`: on whichever association is free, or on that of a lane."""
        return _Trip(self) if lane is None else _LaneTrip(self, lane)

    def expect(self, claimed: Iterable[Claimed]) -> None:
        """Read ahead what is to be sent, as far as there is room for it in memory, and the rest by and by."""
        self._coming.update((each.id, each) for each in claimed)
        self._read_ahead()

    def _read_ahead(self) -> None:
        sources: list[FileSource] = []
        while self._coming:
            delivery, claimed = next(iter(self._coming.items()))
            source = self._archive.source_of(claimed)
            if not isinstance(source, FileSource):
                self._coming.clear()
                break
            if source.length > self._room:
                if source.length > _AHEAD:
                    del self._coming[delivery]
                    continue
                break
            del self._coming[delivery]
            self._room -= source.length
            self._expected[delivery] = source
            sources.append(source)
        if len(sources) > 1:  # one alone is read in its turn as soon
            read_together(sources)

    def forget(self, deliveries: Sequence[int]) -> None:
        """Say that deliveries are not sent now: what was read of them is not kept, and no more is read."""
        for delivery in deliveries:
            self._coming.pop(delivery, None)
        for delivery in deliveries:
            self._take_expected(delivery)

    def _take_expected(self, delivery: int) -> FileSource | None:
        self._coming.pop(delivery, None)
        expected = self._expected.pop(delivery, None)
        if expected is not None:
            self._room += expected.length
        if self._coming and self._room >= _AHEAD // 2:
            self._read_ahead()
        return expected

    async def source_of(self, claimed: Claimed) -> Source:
        """Give what is to be sent."""
        source = self._take_expected(claimed.id) or self._archive.source_of(claimed)
        return await self._archive.assigned(source, peer=self._own.name)

    def calling_of(self, claimed: Claimed) -> str:
        """Give the AE title that the sender of an instance is passed on by; empty: our own."""
        return (claimed.calling_ae_title if self._own.pass_calling_ae_title else None) or ""

    async def forward(self, source: Source, calling: str, store: Forward) -> Response:
        """Have `store` send what is just being received, on an association that nobody else uses meanwhile.

        The data sets of one association come one after the other: a sender that stops in the middle would
        keep all behind him waiting. `calling`: the AE title of whoever sends it. Raises as `send`.
        """
        title = calling if self._own.pass_calling_ae_title else ""
        pool = self.enter(source, title)
        try:
            async with pool.pool.acquire(alone=True) as association:
                return await store(association)
        finally:
            self.exit(pool, title)

    def pool_of(self, source: Source, calling: str) -> _Pool:
        """Give the pool for a source."""
        return self._pool_for(self._note(source), self._ssl(), calling or self._calling)

    def enter(self, source: Source, calling: str) -> _Pool:
        """Give the pool for a source, to be used until `exit`."""
        pool = self.pool_of(source, calling)
        pool.users += 1
        return pool

    def exit(self, pool: _Pool, calling: str) -> None:
        """Say that a pool is not used any more; the last one ends one that is out of date."""
        pool.users -= 1
        if not pool.users and pool is not self._pools.get(calling or self._calling):
            self._spawn(pool.pool.close())

    async def store(self, association: Association, claimed: Claimed, source: Source) -> Carried:
        """Send an instance on an association, unless the destination has it."""
        if self._own.check_before and await self._has(association, claimed):
            return Carried(Status.SUCCESS, "it has it already, and was not sent it")
        response = await association.c_store(
            source,
            priority=_DIMSE_PRIORITY.get(claimed.priority, Priority.MEDIUM),
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

    async def association_of(self, lane: int, source: Source, calling: str) -> Association:
        """Give the association of a lane; one is opened if it has none that will do."""
        ssl, now, kind = self._ssl(), self._lanes.get(lane), self._note(source)
        calling = calling or self._calling
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


class _Trip:
    """Instance after instance on one place of an association, as long as nobody waits for one."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._pool: _Pool | None = None
        self._association: Association
        self._place = AsyncExitStack()

    async def send(self, claimed: Claimed, begun: Begun) -> Carried:
        """See `Trip`."""
        courier = self._courier
        source, calling = await courier.source_of(claimed), courier.calling_of(claimed)
        pool = courier.pool_of(source, calling)
        if pool is not self._pool or pool.pool.waiting or not self._association.is_established:
            await self.end()
            await self._take_place(source, calling)
        begun()
        try:
            return await courier.store(self._association, claimed, source)
        except BaseException:
            await self.end()
            raise

    async def _take_place(self, source: Source, calling: str) -> None:
        pool = self._courier.enter(source, calling)
        self._place.callback(self._courier.exit, pool, calling)
        try:
            self._association = await self._place.enter_async_context(pool.pool.acquire())
        except BaseException:
            await self.end()
            raise
        self._pool = pool

    async def end(self) -> None:
        """See `Trip`."""
        self._pool = None
        await self._place.aclose()


class _LaneTrip:
    """Instance after instance on the association of a lane."""

    def __init__(self, courier: Courier, lane: int) -> None:
        self._courier = courier
        self._lane = lane

    async def send(self, claimed: Claimed, begun: Begun) -> Carried:
        """See `Trip`."""
        courier = self._courier
        source = await courier.source_of(claimed)
        association = await courier.association_of(self._lane, source, courier.calling_of(claimed))
        begun()
        return await courier.store(association, claimed, source)

    async def end(self) -> None:
        """See `Trip`: the association stays the lane's."""


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
