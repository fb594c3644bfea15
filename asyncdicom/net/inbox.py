"""What is received on an association: fragments become messages, and messages find who waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncdicom.dimse.assembler import Assembler, DataReceived, MessageStarted
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.net.flow import ReadBudget
from asyncdicom.net.operation import Operation, Reply
from asyncdicom.net.stream import DataStream
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.statetable import State

if TYPE_CHECKING:
    from asyncdicom.net.channel import Channel

__all__ = ["Inbox"]

log = Log("asyncdicom.association")

# A request that comes after our A-RELEASE-RQ (AR-6), or together with the end of it all, is dropped.
_ANSWERABLE = (State.STA6, State.STA8)


def _takes(state: State, command: Command) -> bool:
    # An event report in answer to what we have asked may cross our A-RELEASE-RQ: it is not answered, but
    # told.
    is_report = command.command_field is CommandField.N_EVENT_REPORT_RQ
    return state in _ANSWERABLE or (is_report and state is State.STA7)


class Inbox:
    """Messages come strictly one after another; whatever is behind an unread data set waits with it."""

    __slots__ = ("_assembler", "_channel", "_incoming", "budget")

    def __init__(self, channel: Channel, budget: ReadBudget) -> None:
        self.budget = budget
        self._channel = channel
        self._assembler = Assembler()
        self._incoming: DataStream | _ReplyCollector | None = None

    @property
    def expecting_data(self) -> bool:
        """Whether a command has announced a data set that has not ended."""
        return self._assembler.expecting_data

    def feed(self, fragment: PDataFragment, now: float) -> None:
        """Take what a P-DATA-TF brought. Raises `RemoteProtocolError`."""
        for part in self._assembler.feed(
            fragment.context_id, fragment.is_command, fragment.views, fragment.is_last
        ):
            if type(part) is DataReceived:
                self._take(*part, now)
            elif type(part) is MessageStarted:
                self._message(part, now)

    def _message(self, started: MessageStarted, now: float) -> None:
        channel, command = self._channel, started.command
        context = channel.contexts.get(started.context_id)
        if context is None:
            raise RemoteProtocolError(f"presentation context {started.context_id} was not accepted")
        channel.note("received", command)
        if command.is_response:
            self._response(command, now)
        elif not _takes(channel.upper_layer.state, command):
            self._incoming = None
        elif command.command_field == CommandField.C_CANCEL_RQ:
            channel.performer.cancel(command)
        else:
            self._incoming = channel.performer.start(context, command)

    def _response(self, command: Command, now: float) -> None:
        operation = self._channel.invoker.respond(command, now)
        if operation is None:
            log.warning("%s: dropped a stray %s", self._channel, command.name)
        if command.has_data_set:
            self._incoming = _ReplyCollector(self, operation, command)
        elif operation is not None:
            self.deliver(operation, Reply(command, None), now)

    def deliver(self, operation: Operation, reply: Reply, now: float) -> None:
        """Queue a response for whoever invoked the operation."""
        is_final = not Status(reply.command.status or 0).is_pending
        self._count(operation.deliver(reply, is_final), now)

    def more(self, view: memoryview, now: float) -> None:
        """Take what only goes on with the fragment that was fed last."""
        self._take([view], len(view), False, now)

    def _take(self, views: list[memoryview], length: int, is_last: bool, now: float) -> None:
        incoming = self._incoming
        if incoming is None:
            return
        self._count(length, now)
        incoming.feed(views, length, is_last)
        if is_last:
            self._incoming = None
            self._channel.invoker.book.progressed(now)
        elif incoming.discarded > self._channel.limits.maximum_discarded:
            log.warning("%s: more than %d bytes to discard; aborting", self._channel, incoming.discarded)
            self._channel.abort()

    def _count(self, count: int, now: float) -> None:
        if self.budget.added(count, now):
            self._channel.pause_reading(now)

    def is_held_back(self) -> bool:
        """Whether reading is paused."""
        return self.budget.paused

    def taken(self, count: int) -> None:
        """Account for bytes that somebody took or threw away."""
        now = self._channel.time()
        if self.budget.taken(count, now):
            self._channel.resume_reading(now)

    def check_patience(self, now: float) -> None:
        """Give up a handler that lets bytes wait for too long; our own user may be as slow as he likes."""
        deadline = self.budget.deadline()
        if deadline is None or now < deadline:
            return
        if not self._channel.performer.unstick():
            self.budget.taken(0, now)

    def fail(self, error: Exception) -> None:
        """The association has ended."""
        if isinstance(self._incoming, DataStream):
            self._incoming.fail(error)
        self._incoming = None
        self.budget.close()


class _ReplyCollector:
    """Gathers the data set of one response."""

    __slots__ = ("_command", "_inbox", "_length", "_operation", "_views", "discarded")

    def __init__(self, inbox: Inbox, operation: Operation | None, command: Command) -> None:
        self._inbox = inbox
        self._operation = operation
        self._command = command
        self._views: list[memoryview] = []
        self._length = 0
        self.discarded = 0

    def feed(self, views: list[memoryview], length: int, is_last: bool) -> None:
        inbox = self._inbox
        inbox.taken(length)  # it is counted again as a whole
        self._length += length
        if self._operation is None:
            self.discarded += length
            return
        if self._length > inbox._channel.limits.maximum_data_set:
            raise RemoteProtocolError(f"the data set of a {self._command.name} is larger than allowed")
        self._views += views
        if is_last:
            reply = Reply(self._command, b"".join(self._views))
            inbox.deliver(self._operation, reply, inbox._channel.time())
