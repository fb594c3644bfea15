"""Table C: command sets and operations (PS3.7)."""

from __future__ import annotations

from struct import pack

from .build import (
    APPLICATION,
    CALLED,
    CONTEXT,
    CT,
    FIND_CONTEXT,
    IMPLEMENTATION,
    IMPLICIT,
    MAXIMUM_LENGTH,
    MOVE_CONTEXT,
    MR,
    STORE_CONTEXT,
    VERIFICATION,
    Fields,
    abstract,
    attributes,
    command,
    counted,
    echo,
    echo_fields,
    element,
    even,
    implicit_data,
    item,
    message,
    move,
    proposed,
    query,
    rq,
    store,
    store_fields,
    transfer,
    uid,
    us,
)
from .case import ABORTED, AWAITING_RESPONSE, ESTABLISHED, FAILED, STORED, WARNED, Build, Case, Facts

_BOUNDS = "PS3.7 6.3.1: Implicit VR Little Endian, each element within the command set"
_GROUP = "PS3.7 6.3.1: only elements of group 0000; some peers add others, which mean nothing"
_GROUP_LENGTH = "PS3.7 E.1: Command Group Length; many peers have it wrong, the PDVs delimit a command anyway"
_ONCE = "PS3.5 7.1: tags ascend, and each occurs once"
_FIELD = "PS3.7 E.1: Command Field; without it there is nothing to answer"
_UNRECOGNIZED = "PS3.7 C.5.22: unrecognized operation, 0211H"
_STRAY = "PS3.7 9.3: a response belongs to a request"
_US = "PS3.5 6.2, US: 2 bytes"
_DUPLICATE = "PS3.7 C.5.6: duplicate invocation, 0210H"
_PRIORITY = "PS3.7 9.3.1: Priority is mandatory, and only a wish"
_INSTANCE = "PS3.7 C.5.11: invalid SOP instance, 0117H; nothing is stored"
_CLASS = "PS3.7 C.5.20: SOP class not supported in this presentation context, 0122H"
_MISMATCH = "PS3.4 B.2.3: data set does not match SOP class, A9xxH"
_ROLE = "PS3.7 D.3.3.4: who was not given a role does not take it"
_CANCEL = "PS3.7 9.3.2.3: a C-CANCEL that comes too late has no effect"
_DESTINATION = "PS3.4 C.4.2.1.5: move destination unknown, A801H"
_WINDOW = "PS3.7 D.3.3.3: no more operations than were negotiated, by default 1"

_STATUS_AND_ON = "status ????, goes on"
_KEYS = ((0x00080052, b"STUDY "), (0x0020000D, b"1.2.3.4\0"))
_ONE_REFUSED = "status 0000, status 0210, goes on | status 0210, status 0000, goes on"
_PATH = b"../../../../tmp/x\0"
_SEVENTY = b"1.2." + b"3" * 66


def _echo(*changes: tuple[int, bytes | None]) -> Fields:
    """C-ECHO-RQ with fields replaced, or left out (None)."""
    return _changed(echo_fields(), changes)


def _changed(fields: Fields, changes: tuple[tuple[int, bytes | None], ...]) -> Fields:
    for number, value in changes:
        if value is None:
            del fields[number]
        else:
            fields[number] = value
    return fields


def _sent(fields: Fields) -> bytes:
    return message(1, command(fields))


def _raw(*elements: bytes) -> bytes:
    """C-ECHO-RQ behind which these elements stand."""
    return message(1, command(echo_fields()) + b"".join(elements))


def _body(fields: Fields) -> bytes:
    return b"".join(element(number, value) for number, value in fields.items())


def _store(case: str, *changes: tuple[int, bytes | None], data: bytes | None = None) -> bytes:
    encoded = command(_changed(store_fields(uid(case)), changes))
    return message(STORE_CONTEXT, encoded, implicit_data(attributes(case)) if data is None else data)


def _cancel(message_id: int) -> bytes:
    return _sent({0x0100: us(0x0FFF), 0x0120: us(message_id), 0x0800: us(0x0101)})


def _response(*statuses: int, comment: bytes = b"") -> Build:
    """Answer a C-ECHO-RQ, once with each status."""

    def build(facts: Facts) -> bytes:
        return b"".join(_answer(facts, facts.message_id, status, comment) for status in statuses)

    return build


def _response_fields(message_id: int, status: int) -> Fields:
    """C-ECHO-RSP."""
    return {
        0x0002: even(VERIFICATION),
        0x0100: us(0x8030),
        0x0120: us(message_id),
        0x0800: us(0x0101),
        0x0900: us(status),
    }


def _answer(facts: Facts, message_id: int, status: int, comment: bytes = b"") -> bytes:
    fields = _response_fields(message_id, status) | ({0x0902: comment} if comment else {})
    return message(facts.contexts[0][0], command(fields))


def _stray(facts: Facts) -> bytes:
    return _answer(facts, 4242, 0) + _answer(facts, facts.message_id, 0)


def _bad_response(facts: Facts) -> bytes:
    return message(facts.contexts[0][0], b"\0\0\0\0\xff\xff\xff\x7f")


_SCP_ONLY = rq(
    APPLICATION,
    CONTEXT,
    proposed(STORE_CONTEXT, abstract(CT), transfer(IMPLICIT)),
    item(0x50, MAXIMUM_LENGTH + IMPLEMENTATION + item(0x54, counted(CT) + b"\0\1")),
)

# fmt: off
CASES = (
    Case("C-01a", "an element that ends behind the command set", ESTABLISHED,
         _raw(element(0x0902, b"ab", 200)), "abort 2 6", ABORTED, _BOUNDS),
    Case("C-01b", "an element of undefined length", ESTABLISHED, _raw(element(0x0902, b"ab", 0xFFFFFFFF)),
         "abort 2 6", ABORTED, _BOUNDS),
    Case("C-01c", "half the header of an element", ESTABLISHED, _raw(b"\0\0\2\x09"), "abort 2 6",
         f"{ABORTED} | {STORED}", _BOUNDS),
    Case("C-02", "an element of group 0008", ESTABLISHED, _raw(element(0x00080005, b"ISO_IR 100")),
         STORED, ABORTED, _GROUP),
    Case("C-03a", "a wrong Command Group Length", ESTABLISHED,
         message(1, element(0, pack("<I", 9999)) + _body(echo_fields())), STORED, ABORTED, _GROUP_LENGTH),
    Case("C-03b", "no Command Group Length", ESTABLISHED, message(1, _body(echo_fields())), STORED, ABORTED,
         _GROUP_LENGTH),
    Case("C-04a", "elements in descending order", ESTABLISHED, _sent(dict(reversed(echo_fields().items()))),
         STORED, ABORTED, _ONCE),
    Case("C-04b", "an element twice", ESTABLISHED, _raw(element(0x0110, us(7))), "abort 2 6",
         f"{ABORTED} | {STORED}", _ONCE),
    Case("C-05a", "no Command Field", ESTABLISHED, _sent(_echo((0x0100, None))), "abort 0 0 | abort 2 6",
         f"{ABORTED} | status 0211, goes on", _FIELD),
    Case("C-05b", "Command Field 0000H", ESTABLISHED, _sent(_echo((0x0100, us(0)))), "abort 0 0 | abort 2 6",
         f"{ABORTED} | status 0211, goes on", _FIELD),
    Case("C-05c", "Command Field 7777H", ESTABLISHED, _sent(_echo((0x0100, us(0x7777)))),
         "abort 0 0 | abort 2 6 | status 0211, goes on", ABORTED, _UNRECOGNIZED),
    Case("C-05d", "N-DELETE where only C-ECHO makes sense", ESTABLISHED,
         _sent({0x0003: even(VERIFICATION), 0x0100: us(0x0150), 0x0110: us(1), 0x0800: us(0x0101),
                0x1001: even(b"1.2.3.4.5")}),
         "status 0211, goes on", f"{ABORTED} | {FAILED}", _UNRECOGNIZED, service=True),
    Case("C-06a", "a response to nothing", ESTABLISHED,
         _sent(_response_fields(77, 0)),
         "goes on", ABORTED, _STRAY),
    Case("C-06b", "a response to another Message ID", AWAITING_RESPONSE, _stray, "release", "*abort * *",
         _STRAY),
    Case("C-07a", "Message ID of 1 byte", ESTABLISHED, _sent(_echo((0x0110, b"\1"))), "abort 2 6",
         f"{ABORTED} | {_STATUS_AND_ON}", _US),
    Case("C-07b", "Message ID of 4 bytes", ESTABLISHED, _sent(_echo((0x0110, b"\1\0\0\0"))), "abort 2 6",
         f"{ABORTED} | {_STATUS_AND_ON}", _US),
    Case("C-07c", "Message ID of 0 bytes", ESTABLISHED, _sent(_echo((0x0110, b""))), "abort 2 6",
         f"{ABORTED} | {_STATUS_AND_ON}", _US),
    Case("C-08a", "the Message ID of a C-ECHO-RQ twice, at once", ESTABLISHED, echo() + echo(),
         f"status 0000, status 0000, goes on | {_ONE_REFUSED}", ABORTED,
         _DUPLICATE + "; an operation that has been answered is not open"),
    Case("C-08b", "the Message ID of a query twice, at once", ESTABLISHED, query(_KEYS) * 2, _ONE_REFUSED,
         f"{ABORTED} | status 0000, status 0000, goes on", _DUPLICATE, needs=FIND_CONTEXT),
    Case("C-09a", "no Priority", ESTABLISHED, _store("C-09a", (0x0700, None)), STORED,
         f"{ABORTED} | {FAILED}", _PRIORITY, needs=STORE_CONTEXT),
    Case("C-09b", "Priority 7", ESTABLISHED, _store("C-09b", (0x0700, us(7))), STORED,
         f"{ABORTED} | {FAILED}", _PRIORITY, needs=STORE_CONTEXT),
    Case("C-10a", "no Affected SOP Instance UID", ESTABLISHED, _store("C-10a", (0x1000, None)),
         "status 0117, goes on", f"{FAILED} | {ABORTED}", _INSTANCE, needs=STORE_CONTEXT, service=True),
    Case("C-10b", "an empty Affected SOP Instance UID", ESTABLISHED, _store("C-10b", (0x1000, b"")),
         "status 0117, goes on", f"{FAILED} | {ABORTED}", _INSTANCE, needs=STORE_CONTEXT, service=True),
    Case("C-10c", "an Affected SOP Instance UID of 70 characters", ESTABLISHED,
         _store("C-10c", (0x1000, _SEVENTY), data=implicit_data(attributes("C-10c", x00080018=_SEVENTY))),
         "status 0117, goes on", f"{FAILED} | {ABORTED}", _INSTANCE, needs=STORE_CONTEXT, service=True),
    Case("C-10d", "an Affected SOP Instance UID that is a path", ESTABLISHED,
         _store("C-10d", (0x1000, _PATH), data=implicit_data(attributes("C-10d", x00080018=_PATH))),
         "status 0117, goes on", f"{FAILED} | {ABORTED}", _INSTANCE, needs=STORE_CONTEXT, service=True),
    Case("C-11", "a SOP class that is not the context's", ESTABLISHED,
         _store("C-11", (0x0002, even(MR)), data=implicit_data(attributes("C-11", x00080016=MR))),
         "status 0122, goes on", f"{FAILED} | {ABORTED} | {STORED}", _CLASS, needs=STORE_CONTEXT,
         service=True),
    Case("C-12", "command and data set disagree about the SOP Instance UID", ESTABLISHED,
         _store("C-12", (0x1000, even(uid("C-12x")))), "status A9??, goes on",
         f"{FAILED} | {WARNED} | {STORED}", _MISMATCH, needs=STORE_CONTEXT, service=True),
    Case("C-13", "a C-STORE-RQ by who proposed to be the SCP only", ESTABLISHED, store("C-13"),
         "status 0122, goes on | abort 2 5", f"{FAILED} | {ABORTED} | {STORED}", _ROLE, request=_SCP_ONLY,
         needs=STORE_CONTEXT, service=True),
    Case("C-14", "C-CANCEL-RQ of an operation that never was", ESTABLISHED, _cancel(4711), "goes on", "",
         _CANCEL),
    Case("C-15", "1,500 C-CANCEL-RQs of operations that never were", ESTABLISHED, _cancel(4711) * 1500,
         "abort 2 6", f"{ABORTED} | goes on", _CANCEL + "; nobody has 1,500 of them"),
    Case("C-16", "C-MOVE to a destination that nobody knows", ESTABLISHED, move(b"NOBODY HAS THIS ", _KEYS),
         "status A801, goes on", f"{FAILED}", _DESTINATION, needs=MOVE_CONTEXT, service=True),
    Case("C-18", "C-MOVE to the peer itself", ESTABLISHED, move(CALLED, _KEYS),
         "status A801, goes on | status 0124, goes on", f"{FAILED} | {STORED}", _DESTINATION + "; a loop",
         needs=MOVE_CONTEXT, service=True),
    Case("C-19a", "40 C-ECHO-RQs at once", ESTABLISHED, b"".join(map(echo, range(1, 41))),
         f"{'status 0000, ' * 40}goes on | *abort 2 5", ABORTED, _WINDOW),
    Case("C-19b", "40 queries at once", ESTABLISHED, b"".join(query(_KEYS, each) for each in range(1, 41)),
         "*abort 2 5", f"{ABORTED} | {'status 0000, ' * 40}goes on", _WINDOW, needs=FIND_CONTEXT),
    Case("C-20a", "an Error Comment of 200 characters", AWAITING_RESPONSE, _response(0, comment=b"x" * 200),
         "release", "", "PS3.5 6.2, LO: 64 characters; only for people to read"),
    Case("C-20b", "an Error Comment that is no text", AWAITING_RESPONSE,
         _response(0, comment=b"\xff\x1b\r\n"), "release", "", "PS3.5 6.2, LO; only for people to read"),
    Case("C-21", "an unknown status", AWAITING_RESPONSE, _response(0x1234), "release", ABORTED,
         "PS3.7 C: whatever is not known is a failure of the operation, not of the association"),
    Case("C-22", "Pending in answer to C-ECHO, then Success", AWAITING_RESPONSE, _response(0xFF00, 0),
         "release", ABORTED, "PS3.7 9.3.5: C-ECHO has one response"),
    Case("C-24", "a response that cannot be read", AWAITING_RESPONSE, _bad_response, "abort 2 6", ABORTED,
         _BOUNDS),
)
# fmt: on
