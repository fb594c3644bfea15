"""One side of an association without a socket: all the sans-IO cores, driven as ``net.channel`` does it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from asyncdicom.dimse.assembler import Assembler, DataReceived, MessageStarted
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.dimse.messages import Command, CommandField, encode, response_to
from asyncdicom.dimse.operations import DuplicateInvocation, InvokedOperations, PerformedOperations
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.options import Timeouts
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.events import (
    AssociateConfirmation,
    AssociateIndication,
    Event,
    ProtocolViolation,
    ReleaseConfirmation,
    ReleaseIndication,
    TimerExpired,
)
from asyncdicom.ul.negotiation import AcceptedContext, Negotiated, Policy, answer, confirm
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State
from fuzz.check import Finding, check


class Message(NamedTuple):
    """What one side sent and the other has to get."""

    context_id: int
    name: str
    message_id: int
    length: int
    digest: bytes


def message(context_id: int, command: Command, data: bytes | None) -> Message:
    """The same on both sides."""
    number = command.message_id if command.is_request else command.message_id_being_responded_to
    body = data or b""
    return Message(context_id, command.name, number or 0, len(body), hashlib.blake2b(body).digest()[:8])


class Core:
    """UpperLayer, Assembler, Fragmenter and the books of operations of one side.

    ``sent`` and ``got`` are the messages; ``violations`` is how often the peer broke the protocol.
    ``answers``: respond to each request at once; otherwise ``respond`` is called from outside.
    """

    def __init__(self, *, request: AAssociateRQ | None, policy: Policy, answers: bool) -> None:
        self.request = request
        self.layer = UpperLayer(
            requestor=request is not None,
            maximum_length=policy.maximum_length
            if request is None
            else request.user_information.maximum_length,
            timeouts=Timeouts(idle=None),
        )
        self.contexts: dict[int, AcceptedContext] = {}
        self.invoked, self.performed = InvokedOperations(1), PerformedOperations(1)
        self.maximum_length = 0
        self.open: list[tuple[int, Command]] = []  # requests without a final response
        self.sent: list[Message] = []
        self.got: list[Message] = []
        self.violations: list[str] = []
        self.expired: list[str] = []
        self.released = False
        self.now = 0.0
        self._assembler = Assembler()
        self._policy = policy
        self._answers = answers
        self._started: tuple[int, Command] | None = None
        self._data = bytearray()
        self._out: list[bytes | memoryview] = []
        if request is not None:
            self.layer.associate(request, 0.0)
        self.layer.connected(0.0)

    # out

    def output(self) -> bytes:
        """What has to be sent, each byte given once."""
        self._collect()
        out, self._out = b"".join(self._out), []
        return out

    def _collect(self) -> None:
        self._out += self.layer.data_to_send()

    def send(self, context_id: int, command: Command, data: bytes | None = None) -> bool:
        """Send one message whole; False where that is not possible now."""
        try:
            self.layer.check_p_data()
        except LocalProtocolError:
            return False
        fragmenter = Fragmenter(context_id, self.maximum_length)
        self._collect()
        self._out += fragmenter.command(encode(command))
        if data is not None:
            third = len(data) // 3
            self._out += fragmenter.data([data[:third]], final=False)
            self._out += fragmenter.data([data[third:]], final=True)
        self.sent.append(message(context_id, command, data))
        return True

    def invoke(self, context_id: int, command: Command, data: bytes | None) -> bool:
        """Send a request, if the window has room."""
        if not self.invoked.has_room or self.layer.state is not State.STA6:
            return False
        invoked = self.invoked.open(context_id, command.command_field, timeout=30.0, now=self.now)
        command.message_id = invoked.message_id
        self.send(context_id, command, data)
        self.invoked.sent(invoked.message_id, self.now)
        return True

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
        if not is_pending:
            del self.open[position % len(self.open)]
            self.performed.close(request.message_id or 0)
        return self.send(context_id, response, data)

    def release(self) -> bool:
        """A-RELEASE, once nothing is open on this side."""
        return not len(self.invoked) and not self.open and self.layer.release(self.now)

    # in

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the peer."""
        for event in self.layer.receive_data(memoryview(data), self.now):
            if isinstance(event, PDataFragment):
                try:
                    self._fragment(event)
                except RemoteProtocolError as error:
                    self._violated(error)
                    break
            else:
                self._event(event)
        self.layer.expecting_data = self._assembler.expecting_data
        self.layer.set_busy(bool(self.open or len(self.invoked)), self.now)

    def closed(self) -> None:
        """The connection is gone."""
        for event in self.layer.connection_closed(self.now):
            self._event(event)
        check(self.layer.state is State.STA1, "not over with the connection")

    def pass_time(self, seconds: float) -> None:
        """Time passes, with all deadlines on the way."""
        end = self.now + seconds
        for _ in range(50):
            deadlines = [
                d for d in (self.layer.next_deadline(), self.invoked.next_deadline()) if d is not None
            ]
            if not deadlines or min(deadlines) > end:
                self.now = end
                return
            self.now = max(self.now, min(deadlines))
            for event in self.layer.handle_timer(self.now):
                self._event(event)
            if self.invoked.expired(self.now):
                self.expired.append("dimse")
                self.layer.abort(self.now)
        raise Finding("timers that never end")

    def _violated(self, error: RemoteProtocolError) -> None:
        for event in self.layer.violation(error, self.now):
            self._event(event)

    def _event(self, event: Event) -> None:
        match event:
            case AssociateIndication():
                outcome = answer(event.request, self._policy)
                if isinstance(outcome, AAssociateRJ):
                    self.layer.reject(outcome, self.now)
                else:
                    self._adopt(outcome[1])
                    self.layer.accept(outcome[0], self.now)
            case AssociateConfirmation():
                try:
                    check(self.request is not None, "a confirmation without a request")
                    self._adopt(confirm(self.request, event.accept))  # type: ignore[arg-type]
                except RemoteProtocolError as error:
                    self._violated(error)
            case ReleaseIndication():
                if not event.collision or self.layer.requestor:
                    self.layer.release_response(self.now)
                self.released = True
            case ReleaseConfirmation():
                if self.layer.state is State.STA12:
                    self.layer.release_response(self.now)
                self.released = True
            case ProtocolViolation():
                self.violations.append(str(event.error))
            case TimerExpired():
                self.expired.append(event.which)

    def _adopt(self, negotiated: Negotiated) -> None:
        self.contexts = negotiated.contexts
        self.maximum_length = negotiated.maximum_length
        self.invoked = InvokedOperations(negotiated.operations_invoked)
        self.performed = PerformedOperations(negotiated.operations_performed)

    def _fragment(self, fragment: PDataFragment) -> None:
        for part in self._assembler.feed(
            fragment.context_id, fragment.is_command, fragment.views, fragment.is_last
        ):
            if isinstance(part, MessageStarted):
                if part.context_id not in self.contexts:
                    raise RemoteProtocolError(f"presentation context {part.context_id} was not accepted")
                self._started = (part.context_id, part.command)
                self._data = bytearray()
                if not part.command.has_data_set:
                    self._complete(None)
            elif isinstance(part, DataReceived):
                check(self._started is not None, "data without a message")
                check(part.length == sum(map(len, part.views)), "a wrong length of data")
                for view in part.views:
                    self._data += view
                if part.is_last:
                    self._complete(bytes(self._data))

    def _complete(self, data: bytes | None) -> None:
        assert self._started is not None
        (context_id, command), self._started = self._started, None
        self.got.append(message(context_id, command, data))
        if command.is_response:
            self.invoked.receive(command, self.now)
        elif command.command_field == CommandField.C_CANCEL_RQ:
            self.performed.cancel(command.message_id_being_responded_to or 0)
        else:
            self._requested(context_id, command)

    def _requested(self, context_id: int, command: Command) -> None:
        try:
            self.performed.open(command)
        except DuplicateInvocation:
            self.send(context_id, response_to(command, 0x0210))
            return
        check(all(command.message_id != other.message_id for _, other in self.open), "a Message ID twice")
        self.open.append((context_id, command))
        window = self.performed.window
        check(not window or len(self.open) <= 2 * window, "more operations open than twice the window")
        if self._answers:
            if command.command_field == CommandField.C_FIND_RQ:
                self.respond(-1, 0xFF00, b"\x08\0\x52\0CS\x06\0STUDY ")
            self.respond(-1, 0x0000)
