"""One live association: the skin of `dimse.association` that has a socket, a clock and tasks.

    transport  ->  AssociationCore  ->  Performer (their requests) or Invoker (our operations)
    transport  <-  Outbox           <-  both

What is done with a request comes from above (`dispatcher`), so services need no sockets. How much of one turn
of the event loop an association gets is in `net.reading`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from asyncdicom.address import place_of
from asyncdicom.dimse.assembler import DataReceived, MessageStarted
from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import (
    CancelReceived,
    CommandDropped,
    DuplicateRefused,
    Ended,
    Established,
    Event,
    OperationFailed,
    OperationsFailed,
    ResponseReceived,
)
from asyncdicom.exceptions import (
    AssociationError,
    AssociationReleased,
    AssociationTimeout,
)
from asyncdicom.net.invoker import Invoker
from asyncdicom.net.operation import Performed
from asyncdicom.net.outbox import Outbox
from asyncdicom.net.performer import Dispatch, Performer
from asyncdicom.net.reading import Reading
from asyncdicom.net.telling import tell_end
from asyncdicom.net.tls import explain_loss
from asyncdicom.net.transport import Transport, WatchedTransport
from asyncdicom.options import Limits, Timeouts
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.text import printable
from asyncdicom.ul.events import AssociateIndication, TimerExpired
from asyncdicom.ul.negotiation import AcceptedContext, Negotiated
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ

__all__ = ["Channel", "IncomingRequest", "Trace"]

log = Log("asyncdicom.association")

Trace = Callable[[str, object], None]

_OFTEN = 0.1  # seconds between two looks at the deadlines of a busy association, at least
_CLOSE_LINGER = 1.0  # seconds for the last bytes to leave once the connection is to be closed


class Channel:
    """The driver of one association, on either side."""

    told: frozenset[str] = frozenset()
    """What was said of this association already, and is said once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        requestor: bool,
        timeouts: Timeouts,
        limits: Limits,
        admit: Callable[[Channel, AAssociateRQ], None] | None = None,
        on_closed: Callable[[Channel], None] | None = None,
        on_ended: Callable[[Channel], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.timeouts = timeouts
        self.limits = limits
        self.established: asyncio.Future[Negotiated] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.time = loop.time
        # A `trace` may want to see the bytes, too (`tracing.tap`): then it has a `watch`.
        watch = getattr(trace, "watch", None)
        self.transport = (
            Transport(self, loop, timeouts.close)
            if watch is None
            else WatchedTransport(self, loop, timeouts.close, partial(watch, requestor))
        )
        self.core = AssociationCore(
            requestor=requestor,
            timeouts=timeouts,
            limits=limits,
            name=self.__str__,
        )
        abort, carry_out = self.abort, self.carry_out
        reading = Reading(
            loop,
            self.core,
            self.transport,
            timeouts=timeouts,
            limits=limits,
            handle=self._handle,
            carry_out=carry_out,
            arm_timer=self.arm_timer,
            unstick=self._unstick,
            too_much=abort,
        )
        self.bytes_received = reading.bytes_received  # see `net.transport.Receiver`
        self.inbox = reading.inbox
        self.outbox = Outbox(
            self.core,
            self.transport,
            timeouts.write,
            name=self,
            abort=abort,
            spawn=self.spawn,
            note=trace,
        )
        self.invoker = Invoker(
            self.core,
            self.inbox,
            self.outbox,
            time=self.time,
            carry_out=carry_out,
            arm_timer=self.arm_timer,
            create_future=loop.create_future,
            shorten_timeout=self._shorten_timeout,
        )
        self.performer = Performer(
            self.core,
            self.inbox,
            self.outbox,
            make=partial(Performed, self),
            name=self,
            cancel_timeout=timeouts.cancel,
            time=self.time,
            carry_out=carry_out,
            create_task=loop.create_task,
            spawn=self.spawn,
            abort=abort,
        )
        self._loop = loop
        self._admit = admit
        self._on_closed = on_closed
        self._on_end = on_ended
        self._trace = trace
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self._shortest_timeout = timeouts.shortest(requestor=requestor)
        self._over: asyncio.Future[None] | None = None  # for who waits for the end
        self._is_closing = False
        self._has_complained = False
        self._since = 0.0  # when the association was established

    # what is known about the association

    @property
    def request(self) -> AAssociateRQ | None:
        """The A-ASSOCIATE-RQ, ours or the peer's; an acceptor forgets what was proposed in it."""
        return self.core.request

    @property
    def negotiated(self) -> Negotiated | None:
        """What both sides agreed on."""
        return self.core.negotiated

    @property
    def contexts(self) -> dict[int, AcceptedContext]:
        """The accepted presentation contexts by their ID."""
        return self.core.contexts

    @property
    def failure(self) -> AssociationError | None:
        """What has ended the association."""
        return self.core.failure

    @property
    def is_established(self) -> bool:
        """Whether operations can be invoked."""
        return self.core.is_established

    def check_open(self) -> None:
        """Raise what ended the association, if it has ended."""
        self.core.check_open()

    # the life of the association

    def associate(self, request: AAssociateRQ, dispatcher: Dispatch) -> None:
        """Have the A-ASSOCIATE-RQ sent as soon as the transport connection stands."""
        self.performer.dispatcher = dispatcher
        self.note("sent", request)
        self.core.associate(request, self.time())

    def accept(self, accept: AAssociateAC, negotiated: Negotiated, dispatcher: Dispatch) -> None:
        """Answer the indication that `admit` got (PS3.8 7.1)."""
        self.performer.dispatcher = dispatcher
        self.note("sent", accept)
        self.core.accept(accept, negotiated, self.time())
        self.carry_out()

    def reject(self, rejection: AAssociateRJ) -> None:
        """Refuse the indication that `admit` got, who logs it."""
        self.note("sent", rejection)
        self.core.reject(rejection, self.time())
        self.carry_out()

    async def release(self) -> None:
        """Let what is under way end, then A-RELEASE; A-ABORT when that takes too long (PS3.8 7.2).

        Cancelled: A-ABORT.
        """
        self.core.release(self.time())
        self.carry_out()
        try:
            await asyncio.wait([self.closed])
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self, why: str = "") -> None:
        """Send A-ABORT (source: service user); never waits (PS3.8 7.3)."""
        self.core.abort(self.time(), why)
        self.carry_out()

    async def stop(self, timeout: float) -> None:
        """Abort when no operation is under way, or in `timeout` seconds: how an acceptor shuts down."""
        self.core.stop(timeout, self.time())
        self.carry_out()
        self.arm_timer(anew=True)  # the time may be shorter than all those of the association
        if self.core.failure is None:
            if self._over is None:
                self._over = self._loop.create_future()
            await asyncio.wait([self._over])

    def drain(self, idle: float) -> None:
        """Release the association once nothing was under way for `idle` seconds (PS3.8 7.2)."""
        self.core.drain(idle)
        self._shorten_timeout(max(idle, _OFTEN))
        self.arm_timer(anew=True)

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the transport connection is gone; after `timeout` seconds cut it."""
        await asyncio.wait([self.closed], timeout=timeout)
        if not self.closed.done():
            self.transport.abort()
            await asyncio.wait([self.closed])
        tasks = self._tasks | self.performer.tasks
        if tasks:  # all were cancelled; one that does not care is left behind
            await asyncio.wait(tasks, timeout=self.timeouts.cancel)

    # what the transport calls

    def connection_made(self) -> None:
        """See `net.transport.Receiver`."""
        self.core.connected(self.time())
        self.carry_out()

    def eof_received(self) -> bool:
        """See `net.transport.Receiver`: what was wholly asked before is still answered."""
        stays = self.core.eof(self.time())
        self.arm_timer()
        return stays

    def connection_lost(self, error: Exception | None) -> None:
        """See `net.transport.Receiver`."""
        why = explain_loss(error, is_established=self.established.done(), is_tls=self.transport.is_tls)
        self.core.connection_closed(self.time(), why, error)
        self.carry_out()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._linger is not None:
            self._linger.cancel()  # it would keep all of this in memory
        if not self.closed.done():
            self.closed.set_result(None)
        dispatcher = self.performer.dispatcher
        if dispatcher is not None and self.core.negotiated is not None:
            dispatcher.association_ended()
        if self._on_closed is not None:
            self._on_closed(self)

    def writing_paused(self) -> None:
        """See `net.transport.Receiver`."""
        self.outbox.stalled(self.time())
        self.arm_timer()

    # what the core decides

    def carry_out(self) -> None:
        """Do what the core has decided: events, PDUs to send, closing, its next deadline."""
        core = self.core
        if not core.is_settled:
            while core.news:
                self._handle(core.events(), self.time())
            out = core.data_to_send()
            if out:
                self.transport.write(out)
            if core.wants_close and not self._is_closing:
                self._close()
        self.arm_timer()

    def _close(self) -> None:
        failure, self._is_closing = self.core.failure, True
        self.transport.close(is_over=isinstance(failure, AssociationReleased))
        if failure is not None:
            # A peer that does not take the last bytes must not keep the connection.
            self._linger = self._loop.call_later(_CLOSE_LINGER, self.transport.abort)

    def _handle(self, events: list[Event], now: float) -> None:
        for event in events:
            if type(event) is DataReceived:
                self.inbox.feed(*event, now)
                continue
            if self._trace is not None and type(event) not in _NOT_TRACED:
                self._trace("received", getattr(event, "command", event))
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event, now)

    def _on_indication(self, event: AssociateIndication, now: float) -> None:
        if self._admit is not None:
            self._admit(self, event.request)

    def _on_established(self, event: Established, now: float) -> None:
        if not self.established.done():
            self._since = now
            self.established.set_result(event.negotiated)

    def _on_request(self, event: MessageStarted, now: float) -> None:
        if self.core.failure is None:
            self.performer.start(self.core.contexts[event.context_id], event.command, now)

    def _on_response(self, event: ResponseReceived, now: float) -> None:
        self.invoker.responded(event, now)

    def _on_dropped(self, event: CommandDropped, now: float) -> None:
        if event.command.is_response:
            self._complain("%s: dropped a stray %s", event.command.name)
            self.invoker.dropped(event)

    def _complain(self, message: str, what: object) -> None:
        """Log what a peer may do a thousand times: once where it is seen."""
        log.log(logging.DEBUG if self._has_complained else logging.WARNING, message, self, what)
        self._has_complained = True

    def _on_duplicate(self, event: DuplicateRefused, now: float) -> None:
        self._complain("%s: message ID %s is already in use", event.command.message_id)
        self.outbox.answer(event.context_id, event.response)

    def _on_cancel(self, event: CancelReceived, now: float) -> None:
        self.performer.cancel(event.request)

    def _on_operation_failed(self, event: OperationFailed, now: float) -> None:
        self.invoker.failed(event)

    def _on_operations_failed(self, event: OperationsFailed, now: float) -> None:
        self.invoker.fail(event.error)

    def _on_timer(self, event: TimerExpired, now: float) -> None:
        if event.which == "idle":
            log.info("%s: idle for too long", self)

    def _on_ended(self, event: Ended, now: float) -> None:
        error = event.error
        seconds = now - self._since if self.established.done() else None
        tell_end(self.core, error, seconds, self.log_fields())
        if not self.established.done():
            self.established.set_exception(error)
            self.established.exception()  # raised to whoever waits for it, if anybody does
        self.invoker.fail(error)
        self.inbox.fail(error)
        self.outbox.fail()
        self.performer.fail(error)
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self._on_end is not None:
            self._on_end(self)

    # time: one timer for all deadlines

    def arm_timer(self, *, anew: bool = False) -> None:
        """See to it that the soonest deadline is not missed.

        While operations are open, the timer is never set farther away than the shortest time-out: then no
        deadline that comes up meanwhile can be missed, and the next messages need not look at them all;
        `anew`: look at them all the same.
        """
        now = self.time()
        if self._timer is not None and self._timer_at <= now + self._shortest_timeout and not anew:
            return
        core = self.core
        soonest = core.next_deadline()
        if core.failure is None:
            shortest = None if core.is_quiet else now + self._shortest_timeout
            for deadline in (self.inbox.budget.deadline(), self.outbox.deadline(), shortest):
                if deadline is not None and (soonest is None or deadline < soonest):
                    soonest = deadline
        if soonest is None or self.closed.done():
            return
        if self._timer is not None:
            if self._timer_at <= soonest:
                return
            self._timer.cancel()
        self._timer_at = soonest
        self._timer = self._loop.call_at(soonest, self._time_passed)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Have something called by the clock of this association (`asyncio.loop.call_later`)."""
        return self._loop.call_later(delay, callback, *args)

    def _shorten_timeout(self, timeout: float) -> None:
        """An operation has a time-out of its own, perhaps shorter than all those of the association."""
        self._shortest_timeout = min(timeout, self._shortest_timeout)

    def _time_passed(self) -> None:
        self._timer = None
        now = self.time()
        self._handle(self.core.handle_timer(now), now)
        self.inbox.check_patience(now)
        if self.inbox.budget.paused and self.transport.is_closed_by_peer:  # nobody reads that it is
            self.core.closed_behind(now)
        if self.outbox.is_stuck(now):
            error = AssociationTimeout(f"{self}: the peer does not take what is sent", which="write")
            self.core.fail(error)
            self.transport.abort()
        self.carry_out()

    def _unstick(self) -> bool:
        return self.performer.unstick()

    # tasks and tracing

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in a task that ends with the association; if it fails, so does the association."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AssociationError):
            log.error("%s: a task failed; aborting", self, exc_info=error)
            self.abort()

    def note(self, direction: str, what: object) -> None:
        """Show a command or an event to whoever traces this association."""
        if self._trace is not None:
            self._trace(direction, what)

    def __str__(self) -> str:
        where = place_of(*self.transport.peer)
        request = self.core.request
        if request is None:
            return where
        calling, called = printable(request.calling_ae_title), printable(request.called_ae_title)
        return f"{calling} -> {called} ({where})"

    def log_fields(self) -> dict[str, object]:
        """Say whom a log line about this association is about (`telemetry.log.Log`)."""
        host, port = self.transport.peer
        fields: dict[str, object] = {"address": host, "port": port}
        request = self.core.request
        if request is not None:
            fields["calling_ae_title"] = request.calling_ae_title
            fields["called_ae_title"] = request.called_ae_title
        return fields


IncomingRequest: TypeAlias = Performed[Channel]
"""A request on one of these channels."""

_NOT_TRACED = {Ended, Established, OperationFailed, OperationsFailed}
_HANDLERS: dict[type, Callable[[Channel, Any, float], None]] = {
    MessageStarted: Channel._on_request,
    ResponseReceived: Channel._on_response,
    CommandDropped: Channel._on_dropped,
    DuplicateRefused: Channel._on_duplicate,
    CancelReceived: Channel._on_cancel,
    OperationFailed: Channel._on_operation_failed,
    OperationsFailed: Channel._on_operations_failed,
    AssociateIndication: Channel._on_indication,
    Established: Channel._on_established,
    TimerExpired: Channel._on_timer,
    Ended: Channel._on_ended,
}
