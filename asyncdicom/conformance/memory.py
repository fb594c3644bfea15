"""The wire suite against the sans-IO core itself: no socket, and time that passes when it is told to."""

from __future__ import annotations

from asyncdicom.dimse.assembler import Assembler, DataReceived, MessageStarted
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.dimse.messages import Command, CommandField, encode, response_to
from asyncdicom.dimse.operations import DuplicateInvocation, InvokedOperations, PerformedOperations
from asyncdicom.exceptions import RemoteProtocolError
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.events import AssociateConfirmation, AssociateIndication, Event, ReleaseIndication
from asyncdicom.ul.negotiation import Policy, PresentationContext, answer, confirm, propose
from asyncdicom.ul.pdu import AAssociateRJ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

from .build import CT, IMPLICIT, STUDY_FIND, STUDY_MOVE, VERIFICATION
from .case import Case, Do, Verdict
from .play import play

__all__ = ["play_in_memory"]

_SYNTAX = (IMPLICIT.decode(),)
_OFFERED = tuple(uid.decode() for uid in (VERIFICATION, CT, STUDY_FIND, STUDY_MOVE))
_POLICY = Policy(dict.fromkeys(_OFFERED, _SYNTAX), maximum_length=16384)
_REQUEST = propose(
    [PresentationContext(uid, _SYNTAX) for uid in _OFFERED],
    called_ae_title="SCP",
    calling_ae_title="SCU",
    maximum_length=16384,
)
_SUCCESS, _DUPLICATE_INVOCATION = 0x0000, 0x0210


class _Side:
    """The cores of one side: it performs whatever it can understand, or it verifies and releases."""

    def __init__(self, *, requestor: bool) -> None:
        self.now = 0.0
        self.layer = UpperLayer(requestor=requestor, maximum_length=16384)
        self.invoked, self.performed = InvokedOperations(), PerformedOperations()
        self._assembler = Assembler()
        self._maximum_length = 0
        self._started: MessageStarted | None = None
        self._responses: list[tuple[int, Command]] = []
        self._out: list[bytes] = []
        if requestor:
            self.layer.associate(_REQUEST, self.now)
        self.layer.connected(self.now)

    def receive(self, data: bytes) -> None:
        """Bytes come from the peer; what was asked for is answered behind the last of them."""
        for event in self.layer.receive_data(memoryview(data), self.now):
            if not isinstance(event, PDataFragment):
                self._event(event)
                continue
            try:
                self._fragment(event)
            except RemoteProtocolError as error:
                self.layer.violation(error, self.now)
                break
        self.layer.expecting_data = self._assembler.expecting_data
        for context_id, response in self._responses:
            if self.layer.state is State.STA6:
                self._send(context_id, response)
                self.performed.close(response.message_id_being_responded_to or 0)
        self._responses.clear()

    def lost(self) -> None:
        """The peer has closed the connection."""
        self.layer.connection_closed(self.now)

    def output(self) -> bytes | None:
        """What has to be sent; no bytes if the connection is to be closed, None if there is nothing to do."""
        out = b"".join([*self._out, *self.layer.data_to_send()])
        self._out.clear()
        if not out and not self.layer.wants_close and self.layer.state is not State.STA1:
            return None
        return out

    def wait(self) -> bool:
        """Time passes until the next deadline, if there is one."""
        deadline = self.layer.next_deadline()
        if deadline is None:
            return False
        self.now = deadline
        self.layer.handle_timer(self.now)
        return True

    def _event(self, event: Event) -> None:
        match event:
            case AssociateIndication():
                verdict = answer(event.request, _POLICY)
                if isinstance(verdict, AAssociateRJ):
                    self.layer.reject(verdict, self.now)
                    return
                accept, negotiated = verdict
                self._maximum_length = negotiated.maximum_length
                self.performed = PerformedOperations(negotiated.operations_performed)
                self.layer.accept(accept, self.now)
            case AssociateConfirmation():
                try:
                    negotiated = confirm(_REQUEST, event.accept)
                except RemoteProtocolError as error:
                    self.layer.violation(error, self.now)
                    return
                if 1 in negotiated.contexts:
                    self._verify()
                else:
                    self.layer.release(self.now)
            case ReleaseIndication():
                self.layer.release_response(self.now)

    def _verify(self) -> None:
        opened = self.invoked.open(1, CommandField.C_ECHO_RQ, timeout=30.0, now=self.now)
        request = Command(
            CommandField.C_ECHO_RQ, message_id=opened.message_id, affected_sop_class_uid=_OFFERED[0]
        )
        self._send(1, request)

    def _send(self, context_id: int, command: Command) -> None:
        self._out += self.layer.data_to_send()
        self._out += Fragmenter(context_id, self._maximum_length).command(encode(command))

    def _fragment(self, fragment: PDataFragment) -> None:
        for part in self._assembler.feed(
            fragment.context_id, fragment.is_command, fragment.views, fragment.is_last
        ):
            if isinstance(part, MessageStarted):
                self._started = part
                if not part.command.has_data_set:
                    self._message(part)
            elif isinstance(part, DataReceived) and part.is_last and self._started is not None:
                self._message(self._started)

    def _message(self, started: MessageStarted) -> None:
        command = started.command
        if command.is_response:
            operation = self.invoked.receive(command, self.now)
            if operation is not None and operation.closed:
                self.layer.release(self.now)
        elif command.command_field is CommandField.C_CANCEL_RQ:
            self.performed.cancel(command.message_id_being_responded_to or 0)
        else:
            status = _SUCCESS
            try:
                self.performed.open(command)
            except DuplicateInvocation:
                status = _DUPLICATE_INVOCATION
            self._responses.append((started.context_id, response_to(command, status)))


def play_in_memory(case: Case, size: int = 1 << 30) -> Verdict:
    """Play one case with the core; `size` is how many bytes arrive at a time."""
    playing = play(case, called="SCP", calling="SCU")
    side = _Side(requestor=not case.is_acceptor)
    answer: bytes | None = None
    while True:
        try:
            action = playing.send(answer)
        except StopIteration as stop:
            verdict: Verdict = stop.value
            return verdict
        answer = b""
        match action:
            case bytes():
                for start in range(0, len(action), size):
                    side.receive(action[start : start + size])
            case Do.READ:
                answer = side.output()
                while answer is None and case.slow and side.wait():
                    answer = side.output()
            case Do.RECONNECT:
                side = _Side(requestor=not case.is_acceptor)
            case _:
                side.lost()
