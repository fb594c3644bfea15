"""The wire suite against the sans-IO association: no socket, and time that passes when it is told to."""

from __future__ import annotations

from asyncdicom.dimse.assembler import DataReceived, MessageStarted
from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import DuplicateRefused, Established, Event, ResponseReceived
from asyncdicom.dimse.messages import Command, CommandField, response_to
from asyncdicom.options import Limits
from asyncdicom.status import Status
from asyncdicom.ul.events import AssociateIndication
from asyncdicom.ul.negotiation import Policy, PresentationContext, answer, propose
from asyncdicom.ul.pdu import AAssociateRJ
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
_LIMITS = Limits(maximum_length=16384)
_EMPTY = memoryview(b"")


class _User:
    """Who uses the association: performs whatever it can understand, or verifies and releases."""

    def __init__(self, *, requestor: bool, budget: int) -> None:
        self.now = 0.0
        self.core = AssociationCore(requestor=requestor, limits=_LIMITS)
        self._budget = budget
        self._started: MessageStarted | None = None
        self._requests: list[tuple[int, Command]] = []
        self._out: list[bytes | memoryview] = []
        if requestor:
            self.core.associate(_REQUEST, self.now)
        self.core.connected(self.now)

    def receive(self, data: bytes) -> None:
        """Bytes come from the peer; what was asked for is answered behind the last of them."""
        self._happened(self.core.receive_data(memoryview(data), self.now, self._budget))
        while self.core.has_more:
            self._happened(self.core.receive_data(_EMPTY, self.now, self._budget))
        requests, self._requests = self._requests, []
        for context_id, request in requests:
            self.core.responding(request)
            if self.core.state is State.STA6:
                self._send(context_id, response_to(request, Status.SUCCESS))
            self.core.performed(request, self.now)

    def lost(self) -> None:
        """The peer has closed the connection."""
        self.core.connection_closed(self.now)

    def output(self) -> bytes | None:
        """What has to be sent; no bytes if the connection is to be closed, None if there is nothing to do."""
        out = b"".join([*self._out, *self.core.data_to_send()])
        self._out.clear()
        if not out and not self.core.wants_close and self.core.state is not State.STA1:
            return None
        return out

    def wait(self) -> bool:
        """Time passes until the next deadline, if there is one."""
        deadline = self.core.next_deadline()
        if deadline is None:
            return False
        self.now = deadline
        self._happened(self.core.handle_timer(self.now))
        return True

    def _happened(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case AssociateIndication():
                    verdict = answer(event.request, _POLICY)
                    if isinstance(verdict, AAssociateRJ):
                        self.core.reject(verdict, self.now)
                    else:
                        self.core.accept(*verdict, self.now)
                case Established() if self.core.is_requestor:
                    if 1 in event.negotiated.contexts:
                        self._verify()
                    else:
                        self.core.release(self.now)
                case MessageStarted():
                    self._started = event
                    if not event.command.has_data_set:
                        self._requested()
                case DataReceived() if event.is_last:
                    self._requested()
                case DuplicateRefused():
                    self._send(event.context_id, event.response)
                case ResponseReceived() if event.is_final:
                    self.core.release(self.now)

    def _requested(self) -> None:
        if self._started is not None:
            self._requests.append(self._started)

    def _verify(self) -> None:
        request = Command(CommandField.C_ECHO_RQ, affected_sop_class_uid=_OFFERED[0])
        operation = self.core.invoke(1, request, self.now, timeout=30.0)
        self._send(1, request)
        self.core.sent(operation, self.now)

    def _send(self, context_id: int, command: Command) -> None:
        self._out += self.core.data_to_send()
        self._out += self.core.begin(context_id, command)[1]


def play_in_memory(case: Case, size: int = 1 << 30, budget: int = 1 << 30) -> Verdict:
    """Play one case with the core; `size` is how many bytes arrive at a time.

    `budget`: how many messages or fragments it handles at a time.
    """
    playing = play(case, called="SCP", calling="SCU")
    side = _User(requestor=not case.is_acceptor, budget=budget)
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
                side = _User(requestor=not case.is_acceptor, budget=budget)
            case _:
                side.lost()
