"""One DIMSE operation: `Operation` is one that we invoked, `Performed` one that we perform."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.dimse.operations import Invoked
from asyncdicom.net.stream import DataStream
from asyncdicom.options import Timeouts
from asyncdicom.status import Status
from asyncdicom.ul.negotiation import AcceptedContext

__all__ = [
    "Interrupted",
    "Operation",
    "Performed",
    "Reply",
    "permanent_failure",
    "transient_failure",
]

_T = TypeVar("_T")

# What a response weighs in the read budget beside its data set: an endless stream of responses
# without data is held back too.
_REPLY_WEIGHT = 512


class Reply(NamedTuple):
    """A response as it came: its command set, and its encoded data set if it had one."""

    command: Command
    data: bytes | None


class Operation:
    """An operation that was invoked and whose responses come in.

    `held_by` is the task that keeps it open between responses (a query or retrieval that is being
    iterated); the same task must not wait for room in the operations window. `receiver` is what knows about
    the C-STORE sub-operations of a C-GET (`services.arrivals.Arrivals`).
    """

    __slots__ = (
        "_create_future",
        "_error",
        "_replies",
        "_taken",
        "_waiter",
        "context",
        "held_by",
        "invoked",
        "is_final",
        "receiver",
    )

    def __init__(
        self,
        taken: Callable[[int], None],
        create_future: Callable[[], asyncio.Future[None]],
        context: AcceptedContext,
        invoked: Invoked,
    ) -> None:
        self.context = context
        self.invoked = invoked
        self.held_by: asyncio.Task[object] | None = None
        self.receiver: Any = None
        self.is_final = False
        self._taken = taken
        self._create_future = create_future
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None

    @property
    def message_id(self) -> int:
        """The Message ID of the request."""
        return self.invoked.message_id

    async def reply(self) -> Reply:
        """Wait for the next response. A cancellation loses nothing."""
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._waiter = self._create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        reply = self._replies.popleft()
        self._taken(_weight(reply))
        return reply

    def deliver(self, reply: Reply, is_final: bool) -> int:
        """Queue a response (the channel's side) and tell its weight."""
        self.is_final = is_final
        self._replies.append(reply)
        self._wake()
        return _weight(reply)

    def fail(self, error: BaseException) -> None:
        """No response will come any more."""
        if not self.is_final:
            self._error = error
            self.is_final = True
            self._wake()

    def drop_replies(self) -> None:
        """Throw away what was not read."""
        while self._replies:
            self._taken(_weight(self._replies.popleft()))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _weight(reply: Reply) -> int:
    return _REPLY_WEIGHT + (len(reply.data) if reply.data is not None else 0)


_COMPOSITE = frozenset(
    {CommandField.C_STORE_RQ, CommandField.C_FIND_RQ, CommandField.C_GET_RQ, CommandField.C_MOVE_RQ}
)


def permanent_failure(command: Command) -> Status:
    """The status of PS3.4 and PS3.7 Annex C for "it cannot be done"."""
    return Status.CANNOT_UNDERSTAND if command.command_field in _COMPOSITE else Status.PROCESSING_FAILURE


def transient_failure(command: Command) -> Status:
    """The status for "it cannot be done now": the peer may try again."""
    if command.command_field in _COMPOSITE:
        return Status.OUT_OF_RESOURCES
    is_echo = command.command_field is CommandField.C_ECHO_RQ
    return Status.PROCESSING_FAILURE if is_echo else Status.RESOURCE_LIMITATION


class Interrupted(Exception):
    """The work on a request was cut short: C-CANCEL came, or no progress was made."""


class _Performer(Protocol):
    def give_up(self, request: Performed[Any], /) -> None: ...


class _Channel(Protocol):
    """What a request needs of the channel that it came on."""

    @property
    def timeouts(self) -> Timeouts: ...

    @property
    def performer(self) -> _Performer: ...

    def call_later(self, delay: float, callback: Callable[..., object], /) -> asyncio.TimerHandle: ...


_On = TypeVar("_On", bound=_Channel)


class _Timer:
    """Ends a handler that works for too long; while the peer still sends, it is not the handler's time."""

    __slots__ = ("_deadline", "_handle", "_request")

    def __init__(self, deadline: float, request: Performed[Any]) -> None:
        self._deadline = deadline
        self._request = request
        self._handle = request.channel.call_later(deadline, self._passed)

    def _passed(self) -> None:
        request = self._request
        if request.data is not None and not request.data.is_complete:
            self._handle = request.channel.call_later(self._deadline, self._passed)
        else:
            request.is_late = True
            request.channel.performer.give_up(request)

    def cancel(self) -> None:
        self._handle.cancel()


class Performed(Generic[_On]):
    """A request that the peer invoked and that we perform.

    `channel` is what it came on (see `net.channel.IncomingRequest`). Its handler runs in one task. C-CANCEL,
    and lack of progress, cancel that task only where it runs the handler's own code (`guard`), never in the
    middle of a message that we send.
    """

    __slots__ = (
        "_guarding",
        "answered",
        "began",
        "channel",
        "command",
        "context",
        "data",
        "is_cancelled",
        "is_late",
        "is_stalled",
        "is_told",
        "matches",
        "remark",
        "subject",
        "task",
    )

    def __init__(
        self, channel: _On, context: AcceptedContext, command: Command, data: DataStream | None
    ) -> None:
        self.channel = channel
        self.context = context
        self.command = command
        self.data = data
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.is_stalled = False
        self.is_late = False
        self.answered = False
        self.began = 0.0  # when it came, by the event loop's clock
        self.matches = 0  # sent so far, of a C-FIND
        self.remark = ""  # what the log says about it beside the status; the peer is not told
        self.subject = ""  # what a query or retrieval asks for, as the log may say it: no names
        self.is_told = False  # whether the log has the reason of its failure already
        self._guarding = False

    def interrupt(self, *, stalled: bool = False) -> None:
        """Note a C-CANCEL (or `stalled`), and stop the handler if it runs."""
        first = not (self.is_cancelled or self.is_stalled)
        if stalled:
            self.is_stalled = True
        else:
            self.is_cancelled = True
        if first and self._guarding and self.task is not None:
            self.task.cancel()

    @property
    def given_up_status(self) -> Status:
        """What a request is answered with whose handler was interrupted."""
        return transient_failure(self.command) if self.is_stalled else Status.CANCEL

    @property
    def is_interrupted(self) -> bool:
        """Whether the handler's work is not wanted any more."""
        return self.is_cancelled or self.is_stalled

    async def guard(self, work: Awaitable[_T]) -> _T:
        """Await the handler's code; raises `Interrupted` when it was interrupted before or meanwhile."""
        if self.is_cancelled or self.is_stalled:
            if isinstance(work, Coroutine):
                work.close()
            raise Interrupted
        self._guarding = True
        deadline = self.channel.timeouts.handler_deadline
        timer = None if deadline is None else _Timer(deadline, self)
        try:
            return await work
        except (asyncio.CancelledError, StopAsyncIteration):
            if self.is_interrupted and self.task is not None and self.task.cancelling() <= 1:
                raise Interrupted from None
            raise
        finally:
            self._guarding = False
            if timer is not None:
                timer.cancel()
            if (self.is_cancelled or self.is_stalled) and self.task is not None:
                self.task.uncancel()  # the cancel() of `interrupt`; another may be that of a lost association
