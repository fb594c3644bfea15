"""Two sides talk: every step is taken from the input, on a wire that may delay, cut, change or lose bytes.

A step is 4 bytes: what, and three numbers. While nobody tampers with the wire, neither side accuses the
other, and whatever was sent arrives once, in order and unchanged. However it went, both sides end.
"""

from __future__ import annotations

from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.exceptions import AssociationReleased
from asyncdicom.ul.negotiation import Policy, PresentationContext, propose
from asyncdicom.ul.statetable import State
from fuzz.check import Head, check, check_equal
from fuzz.side import Side

HEAD = 6
LAYOUT = "steps"
MAXIMUM = 1024
LINES = (400_000, 1200)  # a script of 100 bytes can send several data sets of KiB in PDUs of 8 bytes
MEMORY = (4 << 20, 1 << 13)

_LENGTHS = (16384, 0, 8, 9, 64, 1000, 262144, 12)
_WINDOWS = (1, 0, 2, 5)
_CT, _FIND, _GET, _ECHO = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.2.2.1",
    "1.2.840.10008.5.1.4.1.2.2.3",
    "1.2.840.10008.1.1",
)
_SYNTAX = ("1.2.840.10008.1.2",)
_KINDS = (
    (CommandField.C_ECHO_RQ, _ECHO, False),
    (CommandField.C_STORE_RQ, _CT, True),
    (CommandField.C_FIND_RQ, _FIND, True),
    (CommandField.C_GET_RQ, _GET, True),
)
_STATUSES = (0x0000, 0xFF00, 0xFF00, 0xFF01, 0xFE00, 0xA700, 0xB000)


class Wire:
    """Both sides and what is under way between them."""

    def __init__(self, head: Head) -> None:
        lengths = head.choose(_LENGTHS), head.choose(_LENGTHS)
        windows = [head.choose(_WINDOWS) for _ in range(4)]
        request = propose(
            [PresentationContext(uid, _SYNTAX, True, uid == _CT) for uid in (_ECHO, _CT, _FIND, _GET)],
            called_ae_title="B",
            calling_ae_title="A",
            maximum_length=lengths[0],
            operations_invoked=windows[0],
            operations_performed=windows[1],
        )
        policy = Policy(
            dict.fromkeys((_ECHO, _CT, _FIND, _GET), _SYNTAX),
            {_CT: _SYNTAX},
            maximum_length=lengths[1],
            operations_invoked=windows[2],
            operations_performed=windows[3],
        )
        self.sides = (
            Side(request=request, policy=policy, answers=False),
            Side(request=None, policy=policy, answers=False),
        )
        self.pipes = [bytearray(), bytearray()]  # from the side of that number
        self.tampered = False  # with the wire: then anything may happen
        self._begun = 0

    def step(self, what: int, one: int, two: int, three: int) -> None:
        """Take one step."""
        me = one & 1
        side = self.sides[me]
        match what % 16:
            case 0 | 1 | 2 | 3 | 4:
                self.deliver(me, None if what % 16 < 3 else two << 8 | three)
            case 5 | 6 | 7:
                self._invoke(side, two, three)
            case 8 | 9:
                side.respond(two, _STATUSES[three % len(_STATUSES)], bytes(one) if one > 127 else b"")
            case 10:
                side.cancel()
            case 11:
                side.release()
            case 12:
                side.core.abort(side.now)
            case 13:
                for each in self.sides:
                    each.pass_time(two / 4)
            case 14 if self.pipes[me] and two & 1:
                self.tampered = True
                self.pipes[me][three % len(self.pipes[me])] ^= two
            case 15 if two > 200:
                self.tampered = True
                self.pipes[me].clear()
                self.sides[1 - me].closed()
        self._collect()

    def _collect(self) -> None:
        for number, side in enumerate(self.sides):
            self.pipes[number] += side.output()

    def deliver(self, sender: int, count: int | None) -> None:
        """Some bytes, or all, arrive at the other side."""
        pipe = self.pipes[sender]
        data = bytes(pipe if count is None else pipe[:count])
        del pipe[: len(data)]
        if data:
            self.sides[1 - sender].receive(data)
        self._collect()

    def _invoke(self, side: Side, kind: int, size: int) -> None:
        self._begun += 1
        if self._begun > 64:
            return
        field, uid, with_data = _KINDS[kind % len(_KINDS)]
        for context in side.core.contexts.values():
            if context.abstract_syntax == uid and context.as_scu:
                break
        else:
            return
        command = Command(field, affected_sop_class_uid=uid)
        if with_data:
            command.priority, command.has_data_set = 0, True
        if field is CommandField.C_STORE_RQ:
            command.affected_sop_instance_uid = f"1.2.{size}"
        side.invoke(
            context.context_id, command, bytes(range(256)) * (size // 16) + bytes(size) if with_data else None
        )

    def settle(self) -> None:
        """Deliver until nothing moves any more."""
        for _ in range(100):
            if not any(self.pipes):
                return
            self.deliver(0, None)
            self.deliver(1, None)
        check(False, "the two never stop talking")

    @property
    def aborted(self) -> bool:
        """Whether a side ended the association out of order: then something may be lost."""
        return any(not isinstance(error, AssociationReleased) for side in self.sides for error in side.ended)


def _check_messages(wire: Wire, *, whole: bool) -> None:
    for sender, receiver in (wire.sides, wire.sides[::-1]):
        check(len(receiver.got) <= len(sender.sent), "more messages than were sent")
        for got, sent in zip(receiver.got, sender.sent, strict=False):
            check(got.is_like(sent), f"{got} was sent as {sent}")
        if whole:
            check_equal(len(receiver.got), len(sender.sent), "number of messages")


def _finish(wire: Wire) -> None:
    """In order: answer what is open, release, close."""
    a, b = wire.sides
    wire.settle()
    for _ in range(200):
        if not (a.open or b.open):
            break
        for side in wire.sides:
            side.respond(0, 0x0000)
        wire._collect()
        wire.settle()
    if not any(s.expired or s.ended or s.core.state is not State.STA6 for s in wire.sides):
        _check_messages(wire, whole=True)
        check(a.core.is_quiet and b.core.is_quiet, "an operation without an end")
        a.release()
        wire._collect()
        wire.settle()
        check(a.released and b.released, "not released")
        check(a.core.state is State.STA1 and b.core.state is State.STA13, "not over after the release")


def _play(data: bytes) -> Wire:
    head = Head(data, HEAD)
    wire = Wire(head)
    wire._collect()
    for at in range(0, len(head.body) - 3, 4):
        wire.step(*head.body[at : at + 4])
    return wire


def once(data: bytes) -> None:
    """What is measured."""
    _play(data)


def run(data: bytes) -> object:
    """All checks."""
    wire = _play(data)
    if not wire.tampered:
        _check_messages(wire, whole=False)
        _finish(wire)
        _check_messages(wire, whole=False)
        accused = [side.violations for side in wire.sides]
        check_equal(accused, [[], []], "violations where nobody did anything wrong")
    for side in wire.sides:
        side.pass_time(400.0)
        check(side.core.wants_close or side.core.state in (State.STA1, State.STA6), "does not end")
        side.output()
        side.closed()
    return (
        wire.tampered,
        wire.aborted,
        tuple(
            (min(len(s.sent), 3), tuple(s.expired[:1]), s.released, bool(s.violations)) for s in wire.sides
        ),
    )
