"""`AssociationPool`: several associations to one peer, opened when they are needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import lru_cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack, cast

from asyncdicom.address import Address
from asyncdicom.association import Association
from asyncdicom.client import DEFAULT_CALLING_AE_TITLE, associate
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    LocalProtocolError,
    RemoteProtocolError,
)
from asyncdicom.net.channel import Trace
from asyncdicom.net.sources import Source
from asyncdicom.opening import is_answer
from asyncdicom.options import Limits, Timeouts, changed, explains_options
from asyncdicom.services.builtin import check_handlers
from asyncdicom.services.contexts import MAXIMUM_CONTEXTS, Kind, Proposable, can_send, contexts_for, expand
from asyncdicom.services.request import NormalizedHandlers, StoreHandler
from asyncdicom.services.responses import Response
from asyncdicom.services.service import Service
from asyncdicom.services.storage import open_file, uids_of
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import VERIFICATION
from asyncdicom.ul.items import UserIdentity
from asyncdicom.ul.negotiation import PresentationContext

if TYPE_CHECKING:
    from ssl import SSLContext

    from pydicom import Dataset

__all__ = ["AssociationPool"]

log = Log("asyncdicom.association")

# To send an instance whose associations are lost. The last time no other is under way beside it: associations
# with a window may have been opened before it was known that the peer takes one operation at a time.
_ATTEMPTS = 3
_WARM = 1.0  # seconds without an operation, after which the peer may have ended it, and we do not know yet

# Source and reason of a rejection for want of room (PS3.8 Table 9-21).
_NO_ROOM = {(3, 1), (3, 2)}
_FEWER_FOR = 60.0  # seconds that a peer without room is not asked for one more


class _Waiter:
    """Who waits for places on an association that has what it needs."""

    __slots__ = ("fits", "needs", "opening", "places", "turn")

    def __init__(
        self, places: int, needs: list[PresentationContext], fits: Callable[[Association], bool]
    ) -> None:
        self.places = places
        self.needs = needs
        self.fits = fits
        self.turn: asyncio.Future[Association] = asyncio.get_running_loop().create_future()
        self.opening: asyncio.Task[None] | None = None  # of one more, begun for it


class _Places(AbstractAsyncContextManager["Association"]):
    """Some places on an association, within a block. (A generator would cost twice as much.)"""

    __slots__ = ("_association", "_pool", "_wanted")

    def __init__(
        self,
        pool: AssociationPool,
        places: int,
        needs: list[PresentationContext],
        fits: Callable[[Association], bool],
    ) -> None:
        self._pool = pool
        self._wanted = places, needs, fits
        self._association: Association

    async def __aenter__(self) -> Association:
        self._association = await self._pool._take(_Waiter(*self._wanted))
        return self._association

    async def __aexit__(self, *_: object) -> None:
        self._pool._give_back(self._association, self._wanted[0])


class AssociationPool:
    """Up to `size` associations to one peer, each for up to `operations` tasks at a time.

    An association is opened when a task needs one and all others are busy; the task takes a place on
    whichever has one first. It is kept for the next task, as long as neither the peer nor `timeouts.idle`
    ends it. One that was lost is not given out again. `contexts` are
    proposed each time, and what tasks need beside them as it comes: for an instance that no association has a
    context for, one is opened that has, in the place of an idle one if there are `size` already. A peer that
    takes fewer associations is served over those.

    `operations` above 1 proposes an Asynchronous Operations Window of that size (PS3.7 D.3.3.3), by default
    `limits.operations_invoked`; if the peer grants less, so many tasks have an association at a time. The
    other arguments are those of `associate`. Leaving the block releases them all, or aborts them after an
    exception (but a `StatusError`, which is an answer).

    Raises ValueError for no association, or one for no operation.
    """

    @explains_options
    def __init__(
        self,
        address: str | Address,
        *,
        size: int = 4,
        operations: int | None = None,
        calling_ae_title: str = DEFAULT_CALLING_AE_TITLE,
        contexts: Proposable | Iterable[Proposable] = (VERIFICATION,),
        ssl: SSLContext | None = None,
        server_hostname: str | None = None,
        user_identity: UserIdentity | None = None,
        c_store: StoreHandler | None = None,
        services: Iterable[Service] = (),
        timeouts: Timeouts = Timeouts(),
        limits: Limits = Limits(),
        trace: Trace | None = None,
        **normalized: Unpack[NormalizedHandlers],
    ) -> None:
        check_handlers({"c_store": c_store, **normalized})
        if operations is None:
            operations = limits.operations_invoked
        if size < 1 or operations < 1:
            raise ValueError("a pool has at least one association, for at least one operation")
        self._size = size
        self._operations = operations
        self._associate = partial(
            associate,
            address,
            calling_ae_title=calling_ae_title,
            ssl=ssl,
            server_hostname=server_hostname,
            user_identity=user_identity,
            c_store=c_store,
            services=tuple(services),
            timeouts=timeouts,
            limits=changed(limits, operations_invoked=operations),
            trace=trace,
            **normalized,
        )
        self._contexts = expand(contexts)
        self._more: dict[PresentationContext, None] = {}  # what tasks needed beside, the latest at the end
        self._proposed: dict[Association, list[PresentationContext]] = {}
        self._users: dict[Association, int] = {}
        self._fewer: tuple[int, float] | None = None  # what the peer takes, and until when that is believed
        self._idle_since: dict[Association, float] = {}
        self._openings: set[asyncio.Task[None]] = set()
        self._waiting: dict[_Waiter, None] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(is_healthy=error is None or is_answer(error))

    async def close(self) -> None:
        """Release all associations, and give out none any more, for a pool that is not used as a block.

        Who waits for one gets a `LocalProtocolError`. Closed again, nothing happens.
        """
        await self._end(is_healthy=True)

    async def _end(self, *, is_healthy: bool) -> None:
        self._closed = True
        for waiter in self._waiting:
            if not waiter.turn.done():
                waiter.turn.set_exception(LocalProtocolError("the pool is closed"))
        self._waiting.clear()
        for opening in self._openings:
            opening.cancel()
        if self._openings:
            await asyncio.wait(self._openings)
        if self._users:
            await asyncio.gather(*(a.release() if is_healthy else a.abort() for a in self._users))

    @property
    def waiting(self) -> int:
        """How many tasks wait for a place: who keeps one for long may let them have it in between."""
        return len(self._waiting)

    def expect(self, contexts: Proposable | Iterable[Proposable]) -> None:
        """Propose these too from now on, as far as there is room for them: instances are to come."""
        for context in expand(contexts):
            self._more.pop(context, None)
            self._more[context] = None
        while len(self._more) > MAXIMUM_CONTEXTS:
            del self._more[next(iter(self._more))]

    def acquire(
        self, contexts: Proposable | Iterable[Proposable] = (), *, alone: bool = False
    ) -> AbstractAsyncContextManager[Association]:
        """Borrow an association: ``async with pool.acquire() as association``.

        `contexts`: what it must have proposed; whether the peer has accepted it is another matter. `alone`:
        nobody else uses it meanwhile. Raises what `associate` raises. Cancelled while waiting: nothing was
        taken.
        """
        needs = expand(contexts)
        return self._borrow(self._operations if alone else 1, needs, partial(self._has, needs))

    def _has(self, needs: Iterable[PresentationContext], association: Association) -> bool:
        proposed = self._proposed.get(association, ())
        return all(any(_covers(context, need) for context in proposed) for need in needs)

    def _borrow(
        self, places: int, needs: list[PresentationContext], fits: Callable[[Association], bool]
    ) -> _Places:
        """Take so many places on an association: `operations` of them are all that it has."""
        return _Places(self, places, needs, fits)

    def _give_back(self, association: Association, places: int) -> None:
        self._users[association] -= places
        if not self._users[association]:
            self._idle_since[association] = _now()
        self._serve()

    async def _take(self, waiter: _Waiter) -> Association:
        """Wait for a place: on an association that is there, or on one that is being opened meanwhile."""
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        self._waiting[waiter] = None
        self._serve()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            self._waiting.pop(waiter, None)
            if waiter.opening is not None:
                waiter.opening.cancel()
            if waiter.turn.cancelled() or waiter.turn.exception() is not None:
                self._serve()
            else:  # it was its turn already: it is the next one's
                self._give_back(waiter.turn.result(), waiter.places)
            raise

    # who is next

    def _serve(self) -> None:
        """Give places to those who wait, in their order, and open associations for them.

        Whoever waits keeps those behind from the associations that it waits for itself, and from no others.
        """
        for association in [a for a, users in self._users.items() if not (a.is_established or users)]:
            self._forget(association)
        if not self._waiting:
            return
        established = [association for association in self._users if association.is_established]
        served = []
        for waiter in self._waiting:
            if waiter.turn.done():  # cancelled, and about to leave
                continue
            usable = [association for association in established if waiter.fits(association)]
            best = min(usable, key=self._users.__getitem__, default=None)
            if (best is None or self._users[best]) and waiter.opening is None:
                self._open_for(waiter, established)
                established = [association for association in established if association in self._users]
            if best is not None and self._has_room(best, waiter.places):
                served.append(waiter)
                self._users[best] += waiter.places
                waiter.turn.set_result(best)
                continue
            established = [association for association in established if association not in usable]
            if not established and not self._may_open():
                break
        for waiter in served:
            del self._waiting[waiter]

    def _may_open(self) -> bool:
        established = sum(association.is_established for association in self._users)
        return established + len(self._openings) < self._most()

    def _open_for(self, waiter: _Waiter, established: Iterable[Association]) -> None:
        """Open one more, if there may be one; or one in the place of one that nobody uses."""
        idle = None
        if not self._may_open():
            idle = next((a for a in established if not self._users[a]), None)
            if idle is None:
                return
            self._forget(idle)
        waiter.opening = asyncio.get_running_loop().create_task(self._open(waiter.needs, idle))
        self._openings.add(waiter.opening)
        waiter.opening.add_done_callback(partial(self._opened, waiter))

    def _most(self) -> int:
        """How many associations there may be: the peer may have taken fewer a short time ago."""
        if self._fewer is not None and _now() > self._fewer[1]:
            self._fewer = None
        return self._size if self._fewer is None else self._fewer[0]

    def _forget(self, association: Association) -> None:
        del self._users[association]
        del self._proposed[association]
        self._idle_since.pop(association, None)

    def _has_room(self, association: Association, places: int) -> bool:
        """Whether it has so many places, or nobody uses it; the peer may have granted fewer operations."""
        users = self._users[association]
        room = min(self._operations, association.operations_invoked or self._operations)
        return not users or users + places <= room

    # opening

    async def _open(self, needs: list[PresentationContext], instead_of: Association | None) -> None:
        contexts = self._to_propose(needs)
        if instead_of is not None:
            await instead_of.release()
        association = await self._associate(contexts=contexts)
        self._users[association] = 0
        self._proposed[association] = contexts

    def _opened(self, waiter: _Waiter, opening: asyncio.Task[None]) -> None:
        """One is there, or will not be: then who it was opened for is told, unless there is another way."""
        self._openings.discard(opening)
        waiter.opening = None
        error = None if opening.cancelled() else opening.exception()
        if error is not None:
            is_waiting = waiter in self._waiting and not waiter.turn.done()
            others = len(self._users) + len(self._openings)
            if others and (not is_waiting or self._takes_no_more(error)):
                self._fewer = others, _now() + _FEWER_FOR
                log.info("%s; going on with %d associations", error, others)
            elif is_waiting:
                del self._waiting[waiter]
                waiter.turn.set_exception(error)
            else:
                log.info("%s; nobody waits for it any more", error)
        self._serve()

    def _takes_no_more(self, error: BaseException) -> bool:
        """Whether the peer, which fails to open one more, takes no more beside those that there are."""
        if isinstance(error, AssociationRejected):
            return (error.source, error.reason) in _NO_ROOM
        return isinstance(error, AssociationTimeout) and error.which == "acse" and bool(self._users)

    def _to_propose(self, needs: list[PresentationContext]) -> list[PresentationContext]:
        """What is needed now, then what is always proposed, then what was needed before, the latest first.

        A role belongs to the SOP class on the whole association (PS3.7 D.3.3.4): what needs another one for a
        SOP class that is proposed already is left out.
        """
        self.expect(needs)
        chosen: dict[PresentationContext, None] = {}
        roles: dict[str, tuple[bool, bool]] = {}
        for context in (*needs, *self._contexts, *reversed(self._more)):
            role = (context.scu_role, context.scp_role)
            fits = roles.setdefault(context.abstract_syntax, role) == role or context in needs
            if fits and (len(chosen) < MAXIMUM_CONTEXTS or context in needs):
                chosen[context] = None
        return list(chosen)

    async def c_store(
        self,
        instance: str | os.PathLike[str] | Dataset | Source,
        *,
        priority: int = 0,
        move_originator: tuple[str, int] | None = None,
        timeout: float | None = None,
        on_attempt: Callable[[], None] | None = None,
    ) -> Response:
        """Send one instance over whichever association is free; see `Association.c_store`.

        If none has a context for it, one is opened that proposes what it needs. What had not been answered
        when an association was lost that others used as well is sent once more on the next, and the third
        time alone, so a source may be opened more than once; `on_attempt` is called each time. So is what
        went out on an association that the peer had ended meanwhile, because it was idle. Raises what
        `Association.c_store` raises, and what `associate` raises.
        """
        if isinstance(instance, (str, os.PathLike)):
            instance = await open_file(instance)
        needs, fits = self._for_instance(instance)
        attempts = _ATTEMPTS
        while True:
            async with self._borrow(1 if attempts > 1 else self._operations, needs, fits) as association:
                was_warm = _now() - self._idle_since.pop(association, _now()) >= _WARM
                if on_attempt is not None:
                    on_attempt()
                try:
                    return await association.c_store(
                        instance, priority=priority, move_originator=move_originator, timeout=timeout
                    )
                except AssociationError as error:
                    attempts -= 1
                    if not attempts or self._closed:
                        raise
                    if _is_to_blame(error, association) and not (
                        was_warm and _is_by_peer(error, association)
                    ):
                        raise

    def _for_instance(
        self, instance: Dataset | Source
    ) -> tuple[list[PresentationContext], Callable[[Association], bool]]:
        """What an instance needs, and whether an association has it, or would not get it again."""
        if hasattr(instance, "open"):
            kinds = [(instance.sop_class_uid, instance.transfer_syntax_uid)]
            needs = _contexts_for(kinds[0])
        else:
            uids_of(cast("Dataset", instance))
            needs = expand(instance)
            kinds = [
                (context.abstract_syntax, syntax) for context in needs for syntax in context.transfer_syntaxes
            ]

        def fits(association: Association) -> bool:
            return any(can_send(association.contexts, kind) for kind in kinds) or self._has(
                needs, association
            )

        return needs, fits


@lru_cache(256)
def _contexts_for(kind: Kind) -> list[PresentationContext]:
    return contexts_for([kind])


def _covers(proposed: PresentationContext, need: PresentationContext) -> bool:
    """Whether what was proposed has all of what is needed now."""
    return (
        proposed.abstract_syntax == need.abstract_syntax
        and set(need.transfer_syntaxes) <= set(proposed.transfer_syntaxes)
        and (proposed.scu_role, proposed.scp_role) == (need.scu_role, need.scp_role)
    )


def _is_to_blame(error: AssociationError, association: Association) -> bool:
    """Whether the association was lost for this instance, or may have been: it was the only one under way."""
    if association.is_established or association.unanswered == 1:
        return True
    if isinstance(error, AssociationTimeout) and error.which == "dimse":
        return True
    # Its source has failed in the middle.
    is_own = isinstance(error, AssociationAborted) and error.__cause__ is not None
    return is_own and not isinstance(error.__cause__, RemoteProtocolError)


def _is_by_peer(error: AssociationError, association: Association) -> bool:
    """Whether the peer has ended the association, by whatever means."""
    if isinstance(error, AssociationAborted):
        return not error.message and not association.is_established
    return isinstance(error, (AssociationClosed, AssociationReleased))


def _now() -> float:
    return asyncio.get_running_loop().time()
