"""`AssociationPool`: several associations to one peer, opened when they are needed."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
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
from asyncdicom.options import Limits, Timeouts, explains_options
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


class AssociationPool:
    """Up to `size` associations to one peer, each for up to `operations` tasks at a time.

    An association is opened when a task needs one and all others are busy, and kept for the next, as long as
    neither the peer nor `timeouts.idle` ends it. One that was lost is not given out again. `contexts` are
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
            limits=replace(limits, operations_invoked=operations),
            trace=trace,
            **normalized,
        )
        self._contexts = expand(contexts)
        self._more: dict[PresentationContext, None] = {}  # what tasks needed beside, the latest at the end
        self._proposed: dict[Association, list[PresentationContext]] = {}
        self._users: dict[Association, int] = {}
        self._fewer: tuple[int, float] | None = None  # what the peer takes, and until when that is believed
        self._idle_since: dict[Association, float] = {}
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
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
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        if self._users:
            await asyncio.gather(*(a.release() if is_healthy else a.abort() for a in self._users))

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

    @asynccontextmanager
    async def _borrow(
        self, places: int, needs: list[PresentationContext], fits: Callable[[Association], bool]
    ) -> AsyncGenerator[Association, None]:
        """Take so many places on an association: `operations` of them are all that it has."""
        association = await self._take(places, needs, fits)
        try:
            yield association
        finally:
            self._users[association] -= places
            if not self._users[association]:
                self._idle_since[association] = _now()
            self._wake_next()

    async def _take(
        self, places: int, needs: list[PresentationContext], fits: Callable[[Association], bool]
    ) -> Association:
        """Give an association that nobody uses, or a new one, or (several operations) the least used."""
        is_next = not self._waiting
        while True:
            if self._closed:
                raise LocalProtocolError("the pool is closed")
            if is_next:
                association = await self._find(places, needs, fits)
                if association is not None:
                    self._users[association] += places
                    self._wake_next()  # there may be room for more than one
                    return association
            await self._turn(is_next)
            is_next = True

    async def _find(
        self, places: int, needs: list[PresentationContext], fits: Callable[[Association], bool]
    ) -> Association | None:
        for association in [a for a, users in self._users.items() if not (a.is_established or users)]:
            self._forget(association)
        established = [association for association in self._users if association.is_established]
        usable = [association for association in established if fits(association)]
        least_used = min(usable, key=self._users.__getitem__, default=None)
        users = 0 if least_used is None else self._users[least_used]
        if least_used is not None and not users:
            return least_used
        idle = next((a for a in established if not self._users[a]), None)
        if len(established) + self._opening < self._most():
            return await self._open(needs) or await self._find(places, needs, fits)
        if idle is not None:
            self._forget(idle)
            return await self._open(needs, instead_of=idle) or await self._find(places, needs, fits)
        has_room = least_used is not None and users + places <= self._room_of(least_used)
        return least_used if has_room else None

    def _most(self) -> int:
        """How many associations there may be: the peer may have taken fewer a short time ago."""
        if self._fewer is not None and asyncio.get_running_loop().time() > self._fewer[1]:
            self._fewer = None
        return self._size if self._fewer is None else self._fewer[0]

    def _forget(self, association: Association) -> None:
        del self._users[association]
        del self._proposed[association]
        self._idle_since.pop(association, None)

    def _room_of(self, association: Association) -> int:
        """How many may use it at a time: as many as the peer has granted operations."""
        return min(self._operations, association.operations_invoked or self._operations)

    async def _turn(self, is_next: bool) -> None:
        """Wait until there may be room; who was the next before stays it."""
        turn = asyncio.get_running_loop().create_future()
        if is_next:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._wake_next()  # it was our turn already: hand it on
            raise
        finally:
            self._waiting.remove(turn)  # not before: until then nobody overtakes

    def _wake_next(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
                return

    async def _open(
        self, needs: list[PresentationContext], *, instead_of: Association | None = None
    ) -> Association | None:
        """Open one more; None where the peer takes no more beside those that there are."""
        self._opening += 1
        contexts = self._to_propose(needs)
        try:
            if instead_of is not None:
                await instead_of.release()
            association = await self._associate(contexts=contexts)
        except (AssociationRejected, AssociationTimeout) as error:
            opens_another = isinstance(error, AssociationRejected) and self._opening > 1
            if not _has_no_room(error) or not (self._users or opens_another):
                raise
            others = max(len(self._users) + self._opening - 1, 1)
            self._fewer = others, asyncio.get_running_loop().time() + _FEWER_FOR
            log.info("%s; going on with %d associations", error, others)
            return None
        finally:
            self._opening -= 1
            self._wake_next()
        self._users[association] = 0
        self._proposed[association] = contexts
        return association

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


def _has_no_room(error: AssociationRejected | AssociationTimeout) -> bool:
    """Whether the peer takes no more: it says so, or lets the next one wait until another has ended."""
    if isinstance(error, AssociationRejected):
        return (error.source, error.reason) in _NO_ROOM
    return error.which == "acse"


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
