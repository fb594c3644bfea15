"""One side of an association for the fuzzer: it drives `dimse.association` and writes down what it sees."""

from __future__ import annotations

import hashlib
from itertools import cycle
from typing import NamedTuple

from asyncdicom.dimse.assembler import DataReceived, MessageStarted
from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import (
    CancelReceived,
    CommandDropped,
    DuplicateRefused,
    Ended,
    Event,
    OperationFailed,
    ResponseReceived,
)
from asyncdicom.dimse.messages import Command, CommandField, encode, response_to
from asyncdicom.exceptions import AssociationError, AssociationReleased, LocalProtocolError
from asyncdicom.options import Limits, Timeouts
from asyncdicom.ul.events import AssociateIndication, ProtocolViolation, TimerExpired
from asyncdicom.ul.negotiation import Policy, answer
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ
from asyncdicom.ul.statetable import State
from fuzz.check import Finding, check

_BUDGETS = (1, 1000, 2, 7, 64)


class Message(NamedTuple):
    """What one side sent and the other has to get; of a message that was dropped no data set is known."""

    name: str
    message_id: int
    length: int
    digest: bytes

    def is_like(self, other: Message) -> bool:
        """Whether it is the same, as far as both are known."""
        return self[:2] == other[:2] and (-1 in (self.length, other.length) or self == other)


def message(command: Command, data: bytes | None, *, dropped: bool = False) -> Message:
    """The same on both sides."""
    number = command.message_id if command.is_request else command.message_id_being_responded_to
    if dropped:
        return Message(command.name, number or 0, -1, b"")
    body = data or b""
    return Message(command.name, number or 0, len(body), hashlib.blake2b(body).digest()[:8])


class Side:
    """An association and its user.

    `sent` and `got` are the messages; `violations` is how often the peer broke the protocol, `ended`
    how often the association ended. `answers`: respond to each request at once; otherwise `respond` is
    called from outside.
    """

    def __init__(self, *, request: AAssociateRQ | None, policy: Policy, answers: bool) -> None:
        announced = policy.maximum_length if request is None else request.user_information.maximum_length
        self.core = AssociationCore(
            requestor=request is not None,
            timeouts=Timeouts(idle=None),
            limits=Limits(maximum_length=max(announced, 8) & ~1 if announced else 0),
        )
        self.open: list[tuple[int, Command]] = []  # requests without a final response
        self.sent: list[Message] = []
        self.got: list[Message] = []
        self.violations: list[str] = []
        self.expired: list[str] = []
        self.ended: list[AssociationError] = []
        self.now = 0.0
        self._policy = policy
        self._answers = answers
        self._budgets = cycle(_BUDGETS)
        self._started: MessageStarted | None = None
        self._data = bytearray()
        self._out: list[bytes | memoryview] = []
        if request is not None:
            self.core.associate(request, 0.0)
        self.core.connected(0.0)

    @property
    def maximum_length(self) -> int:
        """The peer's Maximum Length."""
        return self.core.negotiated.maximum_length if self.core.negotiated is not None else 0

    @property
    def released(self) -> bool:
        """Whether the association ended in order."""
        return any(isinstance(error, AssociationReleased) for error in self.ended)

    # out

    def output(self) -> bytes:
        """What has to be sent, each byte given once."""
        self._collect()
        out, self._out = b"".join(self._out), []
        return out

    def _collect(self) -> None:
        self._happened(self.core.events())
        self._out += self.core.data_to_send()

    def send(self, context_id: int, command: Command, data: bytes | None = None) -> bool:
        """Send one message whole; False where that is not possible now."""
        self._collect()
        try:
            fragmenter, out = self.core.begin(context_id, command)
        except (LocalProtocolError, AssociationError):
            return False
        self._out += out
        if data is not None:
            third = len(data) // 3
            self._out += fragmenter.data([data[:third]], final=False)
            self._out += fragmenter.data([data[third:]], final=True)
        self.sent.append(message(command, data))
        return True

    def invoke(self, context_id: int, command: Command, data: bytes | None) -> bool:
        """Send a request, if the window has room."""
        if not self.core.has_room or not self.core.is_established:
            return False
        operation = self.core.invoke(context_id, command, self.now, timeout=30.0)
        check(self.send(context_id, command, data), "a request that cannot be sent where it can be invoked")
        self.core.sent(operation, self.now)
        return True

    def cancel(self) -> None:
        """C-CANCEL the first open operation that may be cancelled."""
        for operation in self.core.operations:
            if operation.command_field is not CommandField.C_ECHO_RQ:
                command = self.core.cancel(operation, self.now)
                if command is not None:
                    self.send(operation.context_id, command)
                return

    def respond(self, position: int, status: int, data: bytes | None = None) -> bool:
        """Answer one of the open requests; a status that is not Pending ends it."""
        if not self.open:
            return False
        context_id, request = self.open[position % len(self.open)]
        is_pending = status in (0xFF00, 0xFF01)
        may_have_data = is_pending and request.command_field == CommandField.C_FIND_RQ
        data = (data or b"") if may_have_data else None
        try:
            response = response_to(request, status, has_data_set=data is not None)
            response.has_data_set = data is not None
            encode(response)
        except LocalProtocolError as error:
            raise Finding(f"a {request.name} that cannot be answered: {error}") from error
        if is_pending:
            return self.send(context_id, response, data)
        del self.open[position % len(self.open)]
        self.core.responding(request)
        sent = self.send(context_id, response, data)
        self.core.performed(request, self.now)
        self._collect()
        return sent

    def release(self) -> None:
        """A-RELEASE, once nothing is open on this side."""
        self.core.release(self.now)

    # in

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the peer, handled in pieces."""
        view = memoryview(data)
        while True:
            budget = next(self._budgets)
            events = self.core.receive_data(view, self.now, budget)
            messages = sum(isinstance(event, MessageStarted | ResponseReceived) for event in events)
            check(messages <= budget, f"{messages} messages where {budget} were allowed")
            views = sum(len(event.views) for event in events if isinstance(event, DataReceived))
            check(views <= budget, f"{views} views where {budget} were allowed")
            self._happened(events)
            if not self.core.has_more:
                return
            view = memoryview(b"")

    def closed(self) -> None:
        """The connection is gone."""
        self.core.connection_closed(self.now)
        self._happened(self.core.events())
        check(self.core.state is State.STA1, "not over with the connection")
        check(len(self.ended) == 1, f"an association that ended {len(self.ended)} times")

    def pass_time(self, seconds: float) -> None:
        """Time passes, with all deadlines on the way."""
        end = self.now + seconds
        for _ in range(50):
            deadline = self.core.next_deadline()
            if deadline is None or deadline > end:
                self.now = end
                return
            self.now = max(self.now, deadline)
            self._happened(self.core.handle_timer(self.now))
        raise Finding("timers that never end")

    # what happens

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            self._event(event)

    def _event(self, event: Event) -> None:
        match event:
            case AssociateIndication():
                outcome = answer(event.request, self._policy)
                if isinstance(outcome, AAssociateRJ):
                    self.core.reject(outcome, self.now)
                else:
                    self.core.accept(*outcome, self.now)
            case MessageStarted():
                self._started = event
                self._data.clear()
                if not event.command.has_data_set:
                    self._complete(None)
            case DataReceived():
                check(self._started is not None, "data without a message")
                check(event.length == sum(map(len, event.views)), "a wrong length of data")
                self._data += b"".join(event.views)
                if event.is_last:
                    self._complete(bytes(self._data))
            case ResponseReceived():
                self.got.append(message(event.command, event.data))
            case CommandDropped():
                self.got.append(message(event.command, None, dropped=True))
            case DuplicateRefused():
                self.send(event.context_id, event.response)
            case CancelReceived():
                self.got.append(message(event.command, None))
            case ProtocolViolation():
                self.violations.append(str(event.error))
            case TimerExpired():
                self.expired.append(event.which)
            case OperationFailed():
                self.expired.append("dimse")
            case Ended():
                self.ended.append(event.error)
                for _, request in self.open:
                    self.core.performed(request, self.now)
                self.open.clear()

    def _complete(self, data: bytes | None) -> None:
        assert self._started is not None
        (context_id, command), self._started = self._started, None
        self.got.append(message(command, data))
        check(all(command.message_id != other.message_id for _, other in self.open), "a Message ID twice")
        self.open.append((context_id, command))
        negotiated = self.core.negotiated
        window = negotiated.operations_performed if negotiated is not None else 1
        check(not window or len(self.open) <= 2 * window, "more operations open than twice the window")
        if self._answers:
            if command.command_field == CommandField.C_FIND_RQ:
                self.respond(-1, 0xFF00, b"\x08\0\x52\0CS\x06\0STUDY ")
            self.respond(-1, 0x0000)
