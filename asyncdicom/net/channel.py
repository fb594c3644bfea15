"""One live association: it feeds the sans-IO cores, carries out what they decide, and owns its tasks.

    transport  ->  UpperLayer  ->  Inbox  ->  Performer (their requests) or Invoker (our operations)
    transport  <-  Outbox      <-  both

What is done with a request comes from above (`dispatcher`), so services need no sockets.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from asyncdicom.dimse.messages import Command
from asyncdicom.dimse.operations import InvokedOperations, PerformedOperations
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    RemoteProtocolError,
)
from asyncdicom.net.blocks import undelivered
from asyncdicom.net.flow import ReadBudget
from asyncdicom.net.inbox import Inbox
from asyncdicom.net.invoker import Invoker
from asyncdicom.net.operation import IncomingRequest
from asyncdicom.net.outbox import Outbox
from asyncdicom.net.performer import Performer
from asyncdicom.net.tls import explain_loss
from asyncdicom.net.transport import Transport
from asyncdicom.options import Limits, Timeouts
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.text import printable
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.events import (
    AbortIndication,
    AssociateConfirmation,
    AssociateIndication,
    AssociateRejection,
    ProtocolViolation,
    ReleaseConfirmation,
    ReleaseIndication,
    TimerExpired,
)
from asyncdicom.ul.negotiation import AcceptedContext, Negotiated, confirm
from asyncdicom.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

__all__ = ["Channel", "Trace"]

log = Log("asyncdicom.association")

Trace = Callable[[str, object], None]


class Dispatch(Protocol):
    """What is done with requests (`services.dispatch.Dispatcher`)."""

    def at_once(self, context: AcceptedContext, command: Command) -> Command | None:
        """Give the response to a request that needs no work."""

    async def __call__(self, incoming: IncomingRequest) -> None:
        """Perform a request and respond to it."""

    def association_ended(self) -> None:
        """The association, which was established, is over."""


_CLOSE_LINGER = 1.0  # seconds for the last bytes to leave once the connection is to be closed


class Channel:
    """The driver of one association, on either side."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        requestor: bool,
        timeouts: Timeouts,
        limits: Limits,
        admit: Callable[[Channel, AAssociateRQ], None] | None = None,
        on_closed: Callable[[Channel], None] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.timeouts = timeouts
        self.limits = limits
        self.dispatcher: Dispatch | None = None  # until it is known who the peer is, nothing is performed
        self.request: AAssociateRQ | None = None
        self.negotiated: Negotiated | None = None
        self.contexts: dict[int, AcceptedContext] = {}
        self.failure: Exception | None = None
        self.established: asyncio.Future[Negotiated] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.time = loop.time
        self.transport = Transport(self, loop, timeouts.close)
        self.upper_layer = UpperLayer(
            requestor=requestor,
            maximum_length=limits.maximum_length,
            timeouts=timeouts,
            maximum_associate_length=limits.maximum_associate_length,
        )
        budget = ReadBudget(limits.read_budget, timeouts.handler, undelivered(loop))
        self.inbox = Inbox(self, budget)
        self.outbox = Outbox(self, timeouts.write)
        self.invoker = Invoker(self)
        self.performer = Performer(self)
        self._loop = loop
        self._admit = admit
        self._on_closed = on_closed
        self._trace = trace
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self._shortest_timeout = timeouts.shortest(requestor=requestor)
        self._quiet: asyncio.Future[None] | None = None
        self._half_closed = False
        self._stopping = False
        self._is_closing = False

    # the life of the association

    @property
    def is_established(self) -> bool:
        """Whether operations can be invoked."""
        return self.failure is None and self.upper_layer.state is State.STA6

    def associate(self, request: AAssociateRQ, dispatcher: Dispatch) -> None:
        """Have the A-ASSOCIATE-RQ sent as soon as the transport connection stands."""
        self.dispatcher = dispatcher
        self.request = request
        self.note("sent", request)
        self.upper_layer.associate(request, self.time())

    def accept(self, accept: AAssociateAC, negotiated: Negotiated, dispatcher: Dispatch) -> None:
        """Answer the indication that `admit` got (PS3.8 7.1)."""
        self.dispatcher = dispatcher
        self._adopt(negotiated)
        self.note("sent", accept)
        self.upper_layer.accept(accept, self.time())
        self._settle()

    def reject(self, rejection: AAssociateRJ) -> None:
        """Refuse the indication that `admit` got, who logs it."""
        self.note("sent", rejection)
        self.upper_layer.reject(rejection, self.time())
        self._fail(AssociationRejected(*rejection, peer=str(self)), is_news=False)
        self._settle()

    async def release(self) -> None:
        """Let what is under way end, then A-RELEASE; A-ABORT when that takes too long (PS3.8 7.2)."""
        timeout = self.timeouts.release
        try:
            if not await self._becomes_quiet(timeout):
                log.warning("%s: operations did not end within %s s; aborting", self, timeout)
                self.abort()
            elif self.failure is None and self.upper_layer.release(self.time()):
                self._settle()
                await asyncio.wait([self.closed])
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """Send A-ABORT (source: service user); never waits (PS3.8 7.3)."""
        self.upper_layer.abort(self.time())
        self._fail(AssociationAborted(0, 0, f"{self}: the association was aborted by this side"))
        self._settle()

    async def stop(self, timeout: float) -> None:
        """Abort when no operation is under way, or in `timeout` seconds: how an acceptor shuts down."""
        self._stopping = True
        await self._becomes_quiet(timeout)
        if self.failure is None:
            self.abort()

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the transport connection is gone; after `timeout` seconds cut it."""
        await asyncio.wait([self.closed], timeout=timeout)
        if not self.closed.done():
            self.transport.abort()
            await asyncio.wait([self.closed])
        tasks = self._tasks | self.performer.tasks
        if tasks:  # all were cancelled; one that does not care is left behind
            await asyncio.wait(tasks, timeout=self.timeouts.cancel)

    def check_open(self) -> None:
        """Raise what ended the association, if it has ended."""
        if self.failure is not None:
            raise copy.copy(self.failure) from self.failure.__cause__

    def check_invocable(self) -> None:
        """Raise why no operation can be invoked any more, if that is so."""
        self.check_open()
        if self.upper_layer.state is State.STA8:
            raise AssociationReleased(f"{self}: the peer has asked for the release")
        if self._half_closed:
            raise AssociationClosed(f"{self}: the peer has closed its half of the connection")

    @property
    def _is_quiet(self) -> bool:
        return not self.invoker.operations and not self.performer.performing

    async def _becomes_quiet(self, timeout: float | None) -> bool:
        """Wait for the end of all operations, or of the association; False when that takes too long."""
        give_up = None if timeout is None else self.time() + timeout
        while not self._is_quiet and self.failure is None:  # who waited for his turn may have begun meanwhile
            if self._quiet is None:
                self._quiet = self._loop.create_future()
            left = None if give_up is None else max(give_up - self.time(), 0)
            if not (await asyncio.wait([self._quiet], timeout=left))[0]:
                return False
        return True

    def operations_changed(self) -> None:
        """An operation has begun or ended."""
        quiet = self._is_quiet
        self.upper_layer.set_busy(not quiet, self.time())
        if quiet and self._stopping and self.failure is None:
            self.abort()  # before a busy peer asks for more
        if quiet or self.failure is not None:
            if self._quiet is not None:
                self._quiet.set_result(None)
                self._quiet = None
            if self._half_closed and self.upper_layer.state is not State.STA8:
                self._settle()
                self.transport.close()
            self.arm_timer()

    def _adopt(self, negotiated: Negotiated) -> None:
        self.negotiated = negotiated
        self.contexts = negotiated.contexts
        self.outbox.maximum_length = negotiated.maximum_length
        self.invoker.book = InvokedOperations(negotiated.operations_invoked)
        self.performer.book = PerformedOperations(negotiated.operations_performed)
        if not self.established.done():
            self.established.set_result(negotiated)

    def _fail(self, error: Exception, *, is_news: bool = True) -> None:
        """End everything with `error`; the first one counts."""
        if self.failure is not None:
            return
        self.failure = error
        # A health check is no news, nor is an orderly end; a stranger who speaks something else is.
        if isinstance(error, AssociationReleased) or (self.request is None and error.__cause__ is None):
            is_news = False
        log.log(logging.INFO if is_news else logging.DEBUG, "%s", error, fields=self.log_fields())
        if not self.established.done():
            self.established.set_exception(error)
            self.established.exception()  # raised to whoever waits for it, if anybody does
        self.invoker.fail(error)
        self.inbox.fail(error)
        self.outbox.fail()
        self.performer.fail(error)
        self.operations_changed()

    # what the transport calls

    def connection_made(self) -> None:
        """See `net.transport.Receiver`."""
        self.upper_layer.connected(self.time())
        self._settle()

    def bytes_received(self, view: memoryview) -> None:
        """See `net.transport.Receiver`."""
        now = self.time()
        if self.upper_layer.continues(len(view), now):
            self._continued(view, now)
            return
        for event in self.upper_layer.receive_data(view, now):
            if type(event) is PDataFragment:
                try:
                    self.inbox.feed(event, now)
                except RemoteProtocolError as error:
                    self._violated(error)
                    break
            else:
                self._event(event)
        self.upper_layer.expecting_data = self.inbox.expecting_data
        if self.upper_layer.is_owed:
            self.transport.acknowledge_now()
        self._settle()

    def _continued(self, view: memoryview, now: float) -> None:
        try:
            self.inbox.more(view, now)
            self.transport.acknowledge_now()
        except RemoteProtocolError as error:
            self._violated(error)
            self._settle()

    def eof_received(self) -> bool:
        """See `net.transport.Receiver`: what was wholly asked before is still answered."""
        awaited = self.inbox.expecting_data or self.invoker.operations  # what can never come now
        self._half_closed = bool(self.performer.performing) and not awaited
        return self._half_closed

    def connection_lost(self, error: Exception | None) -> None:
        """See `net.transport.Receiver`."""
        how = "the connection was closed"
        for event in self.upper_layer.connection_closed(self.time()):
            self.note("received", event)
            what = explain_loss(error, is_established=self.established.done(), is_tls=self.transport.is_tls)
            how = f"the peer closed {what}"
        failure = AssociationClosed(f"{self}: {how}")
        failure.__cause__ = error
        self._fail(failure, is_news=self.request is not None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._linger is not None:
            self._linger.cancel()  # it would keep all of this in memory
        if not self.closed.done():
            self.closed.set_result(None)
        if self.dispatcher is not None and self.negotiated is not None:
            self.dispatcher.association_ended()
        if self._on_closed is not None:
            self._on_closed(self)

    def writing_paused(self) -> None:
        """See `net.transport.Receiver`."""
        self.outbox.stalled(self.time())
        self.arm_timer()

    def pause_reading(self, now: float) -> None:
        """Too much waits for its handlers: the peer is held back, and its deadlines stand still."""
        self.transport.pause_reading()
        self.upper_layer.pause(now)
        self.invoker.book.pause(now)
        self.arm_timer()

    def resume_reading(self, now: float) -> None:
        """Enough was taken."""
        self.upper_layer.resume(now)
        self.invoker.book.resume(now)
        self.transport.resume_reading()
        self.arm_timer(anew=True)  # of a deadline that stood still little may be left

    def _settle(self) -> None:
        """Carry out what the upper layer has decided: PDUs to send, closing, its next deadline."""
        out = self.upper_layer.data_to_send()
        if out:
            self.transport.write(out)
        if self.upper_layer.wants_close and not self._is_closing:
            self._is_closing = True
            self.transport.close()
            # A peer that does not take the last bytes must not keep the connection.
            self._linger = self._loop.call_later(_CLOSE_LINGER, self.transport.abort)
        self.arm_timer()

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
        deadlines = [self.upper_layer.next_deadline()]
        if self.failure is None:
            deadlines += (
                self.invoker.book.next_deadline(),
                self.inbox.budget.deadline(),
                self.outbox.deadline(),
            )
        if not self._is_quiet:
            deadlines.append(now + self._shortest_timeout)
        soonest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if soonest is None or self.closed.done():
            return
        if self._timer is not None:
            if self._timer_at <= soonest:
                return
            self._timer.cancel()
        self._timer_at = soonest
        self._timer = self._loop.call_at(soonest, self._time_passed)

    def shorten_timeout(self, timeout: float | None) -> None:
        """An operation has a time-out of its own, perhaps shorter than all those of the association."""
        if timeout is not None and timeout < self._shortest_timeout:
            self._shortest_timeout = timeout

    def _time_passed(self) -> None:
        self._timer = None
        now = self.time()
        for event in self.upper_layer.handle_timer(now):
            self._event(event)
        if self.invoker.expire(now):
            self.abort()
        self.inbox.check_patience(now)
        if self.outbox.is_stuck(now):
            self._fail(AssociationTimeout(f"{self}: the peer does not take what is sent", which="write"))
            self.transport.abort()
        self._settle()

    # events of the upper layer

    def _event(self, event: object) -> None:
        self.note("received", event)
        handler = _EVENTS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_indication(self, event: AssociateIndication) -> None:
        self.request = event.request
        if self._admit is not None:
            self._admit(self, event.request)

    def _on_confirmation(self, event: AssociateConfirmation) -> None:
        try:
            if self.request is not None:
                self._adopt(confirm(self.request, event.accept))
        except RemoteProtocolError as error:
            self._violated(error)

    def _on_rejection(self, event: AssociateRejection) -> None:
        self._fail(AssociationRejected(*event.rejection, peer=str(self)))

    def _on_release(self, event: ReleaseIndication) -> None:
        if event.collision:
            if self.upper_layer.requestor:  # AR-9; the acceptor waits for ours first (PS3.8 9.2.2)
                self.upper_layer.release_response(self.time())
            return
        self.invoker.fail(AssociationReleased(f"{self}: released by the peer before it answered"))
        if self.performer.performing and not self.inbox.expecting_data:
            self.spawn(self._answer_release())
        else:  # also inside a message, whose end can come no more
            self._finish_release()

    async def _answer_release(self) -> None:
        # PS3.8 AR-7: responses may still be sent before the A-RELEASE-RP.
        if tasks := self.performer.tasks:
            await asyncio.wait(tasks, timeout=self.timeouts.release)
        self._finish_release()
        self._settle()

    def _finish_release(self) -> None:
        self.upper_layer.release_response(self.time())
        self._fail(AssociationReleased(f"{self}: the association was released"))

    def _on_released(self, event: ReleaseConfirmation) -> None:
        if self.upper_layer.state is State.STA12:
            self.upper_layer.release_response(self.time())  # a collision, and we are the acceptor: AR-4
        self._fail(AssociationReleased(f"{self}: the association was released"))

    def _on_abort(self, event: AbortIndication) -> None:
        self._fail(AssociationAborted(event.source, event.reason, peer=str(self)))

    def _on_violation(self, event: ProtocolViolation) -> None:
        error = event.error
        failure = AssociationAborted(
            2, error.reason, f"{self}: aborted, the peer broke the protocol: {error}"
        )
        failure.__cause__ = error
        self._fail(failure)

    def _on_timer(self, event: TimerExpired) -> None:
        if event.which != "idle":
            what = _EXPIRED.get(event.which, event.which)
            self._fail(AssociationTimeout(f"{self}: {what}", which=event.which))
            return
        log.info("%s: idle for too long", self)
        if self.upper_layer.requestor:
            self.spawn(self.release())
        else:
            self.abort()

    def _violated(self, error: RemoteProtocolError) -> None:
        for event in self.upper_layer.violation(error, self.time()):
            self._event(event)

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
        host, port = self.transport.peer
        if self.request is None:
            return f"{host}:{port}"
        calling, called = printable(self.request.calling_ae_title), printable(self.request.called_ae_title)
        return f"{calling} -> {called} ({host}:{port})"

    def log_fields(self) -> dict[str, object]:
        """Say whom a log line about this association is about (`telemetry.log.Log`)."""
        host, port = self.transport.peer
        fields: dict[str, object] = {"address": host, "port": port}
        if self.request is not None:
            fields["calling_ae_title"] = self.request.calling_ae_title
            fields["called_ae_title"] = self.request.called_ae_title
        return fields


_EXPIRED = {
    "artim": "no A-ASSOCIATE-RQ came in time",
    "acse": "the peer did not answer the A-ASSOCIATE-RQ in time",
    "release": "the peer did not answer the A-RELEASE-RQ in time",
    "receive": "the peer stopped in the middle of a message",
}

_EVENTS: dict[type, Callable[[Channel, Any], None]] = {
    AssociateIndication: Channel._on_indication,
    AssociateConfirmation: Channel._on_confirmation,
    AssociateRejection: Channel._on_rejection,
    ReleaseIndication: Channel._on_release,
    ReleaseConfirmation: Channel._on_released,
    AbortIndication: Channel._on_abort,
    ProtocolViolation: Channel._on_violation,
    TimerExpired: Channel._on_timer,
}
