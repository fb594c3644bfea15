"""The C-STORE sub-operations of a C-GET or C-MOVE that is being performed (PS3.4 C.4.2.3, C.4.3.3).

As many are under way as the Asynchronous Operations Window of the association allows that they are sent on:
over a distance the round trip decides, and it is waited for once a window, not once an instance.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from functools import partial
from typing import TypeAlias

from asyncdicom.data.elements import encode as encode_elements
from asyncdicom.dimse.messages import response_to
from asyncdicom.dimse.suboperations import Attempt, Attempts, Route, SubOperations
from asyncdicom.exceptions import AssociationError, DicomNetworkError, PresentationContextError
from asyncdicom.net.channel import IncomingRequest
from asyncdicom.net.operation import Interrupted
from asyncdicom.net.reasons import in_short
from asyncdicom.net.sources import Source
from asyncdicom.net.turns import turns
from asyncdicom.options import OPERATIONS
from asyncdicom.services.contexts import Kind
from asyncdicom.services.failures import Failures
from asyncdicom.services.responses import Response
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

__all__ = ["FAILED_SOP_INSTANCE_UID_LIST", "StoreOne", "SubOperationSender"]

log = Log("asyncdicom.services")

FAILED_SOP_INSTANCE_UID_LIST = 0x00080058

StoreOne: TypeAlias = Callable[[Source, Callable[[], None]], Awaitable[Response]]
"""Sends an instance by C-STORE and gives the response; calls the function when the last byte has left."""

_IN_A_ROW = 32  # sub-operations that end without anything to wait for, before others have their turn


class SubOperationSender:
    """Sends the instances of one retrieval, and counts how the sub-operations ended.

    `incoming`: the C-GET or C-MOVE; `total`: how many sub-operations there will be; `what`: what log lines
    call it. A C-CANCEL ends it: none is begun any more, and those under way end.
    """

    def __init__(self, incoming: IncomingRequest, total: int, what: str) -> None:
        self.losses = 0
        """How many associations were lost on the way."""
        self._incoming = incoming
        self._operations = SubOperations(total)
        self._what = what
        self._failures = Failures(incoming, what)
        self._again: Attempts[Source] = Attempts()
        self._routes: dict[Route[Source], StoreOne] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: asyncio.Future[None] | None = None  # for who waits for room, or for an end
        self._error: BaseException | None = None
        self._waits: Attempt[Source] | None = None  # for room
        self._alive = 0  # associations that were not lost
        self._in_a_row = 0
        self._is_exhausted = False

    @property
    def number_of_remaining(self) -> int:
        """How many have not ended."""
        return self._operations.number_of_remaining

    def add(self, window: int, store: StoreOne) -> Route[Source]:
        """Use one more association, whose window is `window` (0: any number)."""
        route: Route[Source] = Route(window or OPERATIONS)
        self._routes[route] = store
        self._alive += 1
        self._change()
        return route

    async def perform(self, sources: AsyncIterator[Source | None], kinds: Collection[Kind]) -> bool:
        """Send on the associations that were added; True if the last one was lost, and something is left.

        The peer is told after each one. What there is no context for (`kinds`) is counted as failed; it
        costs no message. What had not been answered when its association was lost is sent once more.
        Cancelled: what is under way is cancelled, too. Raises what a source has failed with that is no
        failure to read it.
        """
        self._is_exhausted = False
        try:
            while (attempt := await self._next(sources, kinds)) is not None:
                route = await self._route_for(attempt)
                if route is None:
                    self._again.put_back(attempt)
                    break
                self._begin(route, attempt)
                await asyncio.sleep(0)  # a small one has left by then
            while self._tasks:
                await self._change_is_told()
        finally:
            self._routes.clear()
            self._alive = 0
            await self._cancel()
        if self._error is not None:
            raise self._error
        return bool(self._again) or not self._is_exhausted

    async def fail(self, sources: AsyncIterator[Source | None], kind: str, detail: str = "") -> None:
        """Count all that is left as failed."""
        self._failures.add(kind, detail)
        while self._again:
            self._operations.failed(self._again.take().item.sop_instance_uid)
        async for source in sources:
            self._operations.failed("" if source is None else source.sop_instance_uid)

    def final(self, comment: str | None) -> Response:
        """Give the final response; `comment` tells what nothing that failed tells."""
        incoming, operations = self._incoming, self._operations
        status = Status(operations.final_status(incoming.is_cancelled))
        data = None
        if operations.failed_uids and not status.is_success:
            element = (FAILED_SOP_INSTANCE_UID_LIST, "UI", bytes(operations.failed_uids))
            data = encode_elements([element], incoming.context.transfer_syntax)
        return Response(
            status,
            counters=operations.counters(remaining=incoming.is_cancelled),
            data=data,
            error_comment=self._failures.comment or comment,
        )

    # what is begun next, and where

    async def _next(
        self, sources: AsyncIterator[Source | None], kinds: Collection[Kind]
    ) -> Attempt[Source] | None:
        """What is to be sent next; None for nothing more, for a C-CANCEL, or without an association."""
        while self._is_wanted:
            if self._again:
                return self._again.take()
            try:
                source = await self._incoming.guard(anext(sources))
            except Interrupted:
                return None  # what was done until then is told in the final response
            except StopAsyncIteration:
                self._is_exhausted = True
                if not self._tasks:
                    return None
                await self._change_is_told()  # one under way may be lost, and has to be sent again
                continue
            if source is not None and (source.sop_class_uid, source.transfer_syntax_uid) in kinds:
                return Attempt(source)
            self._cannot_be_sent(source)
            self._in_a_row += 1
            if self._in_a_row % _IN_A_ROW == 0:
                await turns().take(self._incoming.channel)
        return None

    def _cannot_be_sent(self, source: Source | None) -> None:
        if source is None:
            self._failed("", "an instance is not there any more", is_ours=True)
        else:
            self._failed(source.sop_instance_uid, "an instance has no presentation context")

    async def _route_for(self, attempt: Attempt[Source]) -> Route[Source] | None:
        """Wait for an association with room for it; None if it is not wanted any more, or there is none."""
        while self._is_wanted:
            route = self._with_room(attempt)
            if route is not None:
                return route
            self._waits = attempt
            await self._change_is_told()
            self._waits = None
        return None

    def _with_room(self, attempt: Attempt[Source]) -> Route[Source] | None:
        """Of the associations with room for it, the one with the fewest under way."""
        found = None
        for route in self._routes:
            fits = route.has_room(attempt)
            if fits and (found is None or len(route.under_way) < len(found.under_way)):
                found = route
        return found

    @property
    def _is_wanted(self) -> bool:
        return self._alive > 0 and self._error is None and not self._incoming.is_interrupted

    # those under way

    def _begin(self, route: Route[Source], attempt: Attempt[Source]) -> None:
        route.begin(attempt)
        task = asyncio.get_running_loop().create_task(self._perform_one(route, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _perform_one(self, route: Route[Source], attempt: Attempt[Source]) -> None:
        """Do one sub-operation, count it, and tell the peer."""
        try:
            is_counted = await self._store(route, attempt)
            if is_counted and self._operations.number_of_remaining:
                incoming = self._incoming
                pending = response_to(incoming.command, Status.PENDING, **self._operations.counters())
                await incoming.channel.performer.respond(incoming, pending)
        finally:
            route.ended(attempt)

    async def _store(self, route: Route[Source], attempt: Attempt[Source]) -> bool:
        """Send one instance and count it; False if it will be sent once more."""
        uid, channel = attempt.item.sop_instance_uid, self._incoming.channel
        try:
            response = await self._routes[route](attempt.item, partial(self._sent, route, attempt))
        except AssociationError as error:
            channel.check_open()
            return self._lost(route, attempt, error)
        except (DicomNetworkError, OSError) as error:
            channel.check_open()
            self._operations.failed(uid)
            _explain(self._failures, uid, error)
            return True
        status, comment = response.status, response.error_comment
        if status.is_success:
            self._operations.completed()
        elif status.is_warning:
            self._operations.warned()
        else:
            said = f": {comment}" if comment else ""
            kind = f"an instance was refused with 0x{status:04X}{said}"
            self._failed(uid, kind, f"{uid} was refused with {status}{said}")
        return True

    def _lost(self, route: Route[Source], attempt: Attempt[Source], error: AssociationError) -> bool:
        """Its association was lost before it was answered: nobody knows whether it has arrived."""
        if not route.is_lost:
            route.is_lost = True
            self._alive -= 1
            self.losses += 1
            unanswered = len(route.under_way)
            log.warning("%s: %s: %s; %d not answered", self._incoming.channel, self._what, error, unanswered)
        uid = attempt.item.sop_instance_uid
        if self._again.lost(attempt):
            return False
        self._failed(uid, f"destination: {in_short(error)}", f"{uid}: {error}")
        return True

    def _failed(self, uid: str, kind: str, detail: str = "", *, is_ours: bool = False) -> None:
        self._operations.failed(uid)
        self._failures.add(kind, detail or f"{uid}: {kind}" if uid else kind, is_ours=is_ours)

    # who waits for them

    def _sent(self, route: Route[Source], attempt: Attempt[Source]) -> None:
        route.sent(attempt)
        self._change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._error is None:
            self._error = error
        self._change()

    def _change(self) -> None:
        if self._changed is None or self._changed.done():
            return
        attempt = self._waits
        if attempt is None or not self._is_wanted or self._with_room(attempt) is not None:
            self._changed.set_result(None)

    async def _change_is_told(self) -> None:
        """Wait until one has left or ended, or an association was added."""
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _explain(failures: Failures, uid: str, error: DicomNetworkError | OSError) -> None:
    if isinstance(error, PresentationContextError):
        failures.add("an instance has no presentation context", f"{uid}: {error}")
    elif isinstance(error, OSError):
        failures.add(f"an instance cannot be read: {in_short(error)}", f"{uid}: {error}", is_ours=True)
    else:
        failures.add("an instance cannot be sent", f"{uid}: {error}", is_ours=True)
