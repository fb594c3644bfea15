"""`Courier`: the associations to one destination. They propose what was seen, and end when nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from ssl import SSLContext

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.destination import Destination
from asyncdicom.dimse.messages import Priority
from asyncdicom.exceptions import AssociationError
from asyncdicom.gateway.carrier import Begun, Carried
from asyncdicom.net.sources import Source
from asyncdicom.outgoing import context_for
from asyncdicom.pool import AssociationPool
from asyncdicom.services.contexts import MAXIMUM_CONTEXTS, Kind, contexts_for
from asyncdicom.services.responses import Response
from asyncdicom.ul.negotiation import PresentationContext

__all__ = ["Courier"]

_DIMSE_PRIORITY = {0: Priority.HIGH, 1: Priority.MEDIUM, 2: Priority.LOW}


class _Pool:
    """A pool for the kinds that were seen so far; it ends when it is out of date and nobody uses it."""

    def __init__(self, pool: AssociationPool, kinds: frozenset[Kind]) -> None:
        self.pool = pool
        self.kinds = kinds
        self.users = 0


class Courier:
    """Sends instances to the destination of a name: on any association, or a study on one of its own.

    Nothing here is tried again. `send` raises what `associate` and `c_store` raise; cancelled while it sends,
    it aborts the association. `uses_tls` tells whether we are called by TLS: then nothing
    is sent in the clear, unless the destination says so (`NotAttempted`). `kinds`: what may come, the most
    likely first: it is proposed from the start, so that the associations last.
    """

    def __init__(
        self,
        archive: Archive,
        name: str,
        destination: Destination,
        calling_ae_title: str,
        *,
        uses_tls: Callable[[], bool],
        kinds: Iterable[Kind] = (),
    ) -> None:
        self._archive = archive
        self._name = name
        self._destination = destination
        self._uses_tls = uses_tls
        self._calling = destination.calling_ae_title or calling_ae_title
        self._kinds: dict[Kind, None] = dict.fromkeys(reversed(list(kinds)))  # the one seen last is the last
        self._pool: _Pool | None = None
        self._lanes: dict[int, tuple[Association, frozenset[Kind]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def send(self, claimed: Claimed, priority: int, begun: Begun, lane: int | None) -> Carried:
        """Send an instance: on whichever association is free, or on that of a lane."""
        source = await self._archive.assigned(self._archive.source_of(claimed), peer=self._name)
        level = _DIMSE_PRIORITY.get(priority, Priority.MEDIUM)
        if lane is None:
            response = await self._send(source, level, begun)
        else:
            response = await self._send_on(lane, source, level, begun)
        return Carried(response.status, response.error_comment or "")

    async def _send(self, source: Source, priority: int, begun: Begun) -> Response:
        pool = self._pool_for(self._note(source), self._ssl())
        pool.users += 1
        try:
            async with pool.pool.acquire() as association:
                begun()
                return await association.c_store(source, priority=priority)
        finally:
            pool.users -= 1
            if not pool.users and pool is not self._pool:
                self._spawn(pool.pool.close())

    async def _send_on(self, lane: int, source: Source, priority: int, begun: Begun) -> Response:
        kind, ssl = self._note(source), self._ssl()
        association, kinds = self._lanes.get(lane, (None, frozenset()))
        if association is None or not association.is_established or kind not in kinds:
            self.leave(lane)
            kinds = frozenset(self._kinds)
            association = await associate(
                self._destination.where,
                calling_ae_title=self._calling,
                contexts=self._contexts(),
                ssl=ssl,
                server_hostname=self._destination.server_hostname,
                timeouts=self._destination.timeouts,
                limits=self._destination.limits,
            )
            self._lanes[lane] = association, kinds
        begun()
        return await association.c_store(source, priority=priority)

    def leave(self, lane: int) -> None:
        """Release the association of a lane; that is not waited for."""
        association, _ = self._lanes.pop(lane, (None, frozenset()))
        if association is not None and association.is_established:
            self._spawn(association.release())

    def rest(self) -> None:
        """Release what nobody uses: nothing has been sent for a while."""
        pool, self._pool = self._pool, None
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
        while len(contexts := contexts_for(self._kinds)) > MAXIMUM_CONTEXTS:
            del self._kinds[next(iter(self._kinds))]
        return contexts

    def _pool_for(self, kind: Kind, ssl: SSLContext | None) -> _Pool:
        if self._pool is None or kind not in self._pool.kinds:
            self.rest()
            contexts = self._contexts()
            destination = self._destination
            pool = AssociationPool(
                destination.where,
                size=destination.maximum_associations,
                calling_ae_title=self._calling,
                contexts=contexts,
                ssl=ssl,
                server_hostname=destination.server_hostname,
                operations=destination.window,
                timeouts=destination.timeouts,
                limits=destination.limits,
            )
            self._pool = _Pool(pool, frozenset(self._kinds))
        return self._pool

    def _spawn(self, ending: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(ending))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _quietly(ending: Coroutine[object, object, None]) -> None:
    """A release that fails has ended the association all the same."""
    try:
        await ending
    except AssociationError:
        return
