"""Bytes for the cases, right and wrong: every length can be made to lie.

Written apart from the codecs of `ul` and `dimse`, which the cases are to judge.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import pack

# Both stand for AE titles that are known when a case is played: they are replaced in whatever is sent.
CALLED = b"$CALLED-AE-TITLE"
CALLING = b"$CALLING-AETITLE"

APPLICATION_CONTEXT_NAME = b"1.2.840.10008.3.1.1.1"
VERIFICATION = b"1.2.840.10008.1.1"
CT = b"1.2.840.10008.5.1.4.1.1.2"
MR = b"1.2.840.10008.5.1.4.1.1.4"
PROCEDURAL_EVENT_LOGGING = b"1.2.840.10008.1.40"
STUDY_FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = b"1.2.840.10008.5.1.4.1.2.2.2"
IMPLICIT = b"1.2.840.10008.1.2"
EXPLICIT = b"1.2.840.10008.1.2.1"
DEFLATED = b"1.2.840.10008.1.2.1.99"

# A PDV control header (PS3.8 E.2).
DATA, COMMAND, LAST = 0, 1, 2


def pdu(pdu_type: int, body: bytes, length: int | None = None, second: int = 0) -> bytes:
    """A PDU; `length` is what its header claims, `second` its reserved byte."""
    return pack(">BBI", pdu_type, second, len(body) if length is None else length) + body


def item(item_type: int, value: bytes, length: int | None = None) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU; `length` is what it claims."""
    return pack(">BxH", item_type, len(value) if length is None else length) + value


def counted(value: bytes, length: int | None = None) -> bytes:
    """A value behind its 16-bit length, as inside of user information sub-items."""
    return pack(">H", len(value) if length is None else length) + value


def abstract(uid: bytes) -> bytes:
    """An abstract syntax sub-item."""
    return item(0x30, uid)


def transfer(uid: bytes) -> bytes:
    """A transfer syntax sub-item."""
    return item(0x40, uid)


def proposed(context_id: int, *sub_items: bytes) -> bytes:
    """A proposed presentation context, of Verification unless it is given sub-items."""
    subs = sub_items or (abstract(VERIFICATION), transfer(IMPLICIT))
    return item(0x20, bytes((context_id, 0, 0, 0)) + b"".join(subs))


def result(context_id: int, reason: int, *sub_items: bytes) -> bytes:
    """An answered presentation context of an A-ASSOCIATE-AC."""
    return item(0x21, bytes((context_id, 0, reason, 0)) + b"".join(sub_items))


APPLICATION = item(0x10, APPLICATION_CONTEXT_NAME)
CONTEXT = proposed(1)
MAXIMUM_LENGTH = item(0x51, pack(">I", 16384))
IMPLEMENTATION = item(0x52, b"2.25.1")
USER = item(0x50, MAXIMUM_LENGTH + IMPLEMENTATION)


def fixed(
    version: int = 1, called: bytes = CALLED, calling: bytes = CALLING, reserved: bytes = bytes(32)
) -> bytes:
    """The fixed part of an A-ASSOCIATE-RQ or -AC."""
    return pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + reserved


def rq(*parts: bytes, head: bytes | None = None, second: int = 0) -> bytes:
    """An A-ASSOCIATE-RQ with these items, by default one good context."""
    items = parts or (APPLICATION, CONTEXT, USER)
    return pdu(1, (fixed() if head is None else head) + b"".join(items), second=second)


def rq_user(*sub_items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with these user information sub-items."""
    return rq(APPLICATION, CONTEXT, item(0x50, b"".join(sub_items)))


def rq_context(*sub_items: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with a good context 1, and a context 3 of these sub-items."""
    return rq(APPLICATION, CONTEXT, proposed(3, *sub_items), USER)


def ac(*parts: bytes, head: bytes | None = None) -> bytes:
    """An A-ASSOCIATE-AC with these items behind the application context."""
    return pdu(2, (fixed() if head is None else head) + APPLICATION + b"".join(parts))


def pdv(context_id: int, control: int, data: bytes, length: int | None = None) -> bytes:
    """A presentation data value; `length` is what it claims."""
    return pack(">IBB", len(data) + 2 if length is None else length, context_id, control) + data


def p_data(*pdvs: bytes) -> bytes:
    """A P-DATA-TF."""
    return pdu(4, b"".join(pdvs))


def element(tag: int, value: bytes, length: int | None = None) -> bytes:
    """A data element in Implicit VR Little Endian."""
    return pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def explicit(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """A data element in Explicit VR Little Endian, of a VR with a 16-bit length or one of OB, OW, SQ, UN."""
    form = "<HH2sxxI" if vr in (b"OB", b"OW", b"SQ", b"UN") else "<HH2sH"
    return pack(form, tag >> 16, tag & 0xFFFF, vr, len(value) if length is None else length) + value


def even(value: bytes, pad: bytes = b"\0") -> bytes:
    """The value with one byte of padding if its length is odd."""
    return value + pad if len(value) % 2 else value


def us(number: int) -> bytes:
    """An unsigned short of a command set."""
    return pack("<H", number)


Fields = dict[int, bytes]
"""A command set: the element number in group 0000 and the value."""


def command(fields: Fields) -> bytes:
    """A command set with its group length."""
    body = b"".join(element(number, value) for number, value in fields.items())
    return element(0, pack("<I", len(body))) + body


def echo_fields(message_id: int = 1) -> Fields:
    """C-ECHO-RQ."""
    return {0x0002: even(VERIFICATION), 0x0100: us(0x0030), 0x0110: us(message_id), 0x0800: us(0x0101)}


def store_fields(instance: bytes, sop_class: bytes = CT, message_id: int = 1) -> Fields:
    """C-STORE-RQ."""
    return {
        0x0002: even(sop_class),
        0x0100: us(0x0001),
        0x0110: us(message_id),
        0x0700: us(0),
        0x0800: us(1),
        0x1000: even(instance),
    }


def message(context_id: int, encoded: bytes, data: bytes | None = None, size: int = 4000) -> bytes:
    """A message: its command set and its data set in P-DATA-TF PDUs of one PDV with up to `size` bytes."""
    parts = _fragments(context_id, COMMAND, encoded, size)
    if data is not None:
        parts += _fragments(context_id, DATA, data, size)
    return b"".join(parts)


def _fragments(context_id: int, kind: int, data: bytes, size: int) -> list[bytes]:
    starts = range(0, max(len(data), 1), size)
    return [
        p_data(pdv(context_id, kind | (LAST if start == starts[-1] else 0), data[start : start + size]))
        for start in starts
    ]


def echo(message_id: int = 1, context_id: int = 1) -> bytes:
    """A whole C-ECHO-RQ."""
    return message(context_id, command(echo_fields(message_id)))


def uid(case: str) -> bytes:
    """The SOP Instance UID that a case stores: the same each time, so that it is stored once."""
    return b"2.25.%d" % _number(case)


def _number(case: str) -> int:
    return int.from_bytes(b"wire test" + case.encode(), "big") << 2


Attributes = dict[int, tuple[bytes, bytes]]
"""A data set: tag -> VR, value."""


def attributes(case: str, **changes: bytes | None) -> Attributes:
    """A small CT image; `x0020000D=None` leaves out an attribute, a value replaces it."""
    number = _number(case)
    found: Attributes = {
        0x00080005: (b"CS", b"ISO_IR 100"),
        0x00080016: (b"UI", CT),
        0x00080018: (b"UI", uid(case)),
        0x00080060: (b"CS", b"CT"),
        0x00100010: (b"PN", b"CONFORMANCE^TEST"),
        0x00100020: (b"LO", b"CONFORMANCE"),
        0x0020000D: (b"UI", b"2.25.%d" % (number + 1)),
        0x0020000E: (b"UI", b"2.25.%d" % (number + 2)),
        0x00280010: (b"US", us(2)),
        0x00280011: (b"US", us(2)),
        0x7FE00010: (b"OW", bytes(range(8))),
    }
    for name, value in changes.items():
        tag = int(name[1:], 16)
        if value is None:
            del found[tag]
        else:
            found[tag] = (found.get(tag, (b"LO", b""))[0], value)
    return found


def _padded(vr: bytes, value: bytes) -> bytes:
    return even(value, b"\0" if vr in (b"UI", b"OB", b"OW", b"UN") else b" ")


def implicit_data(found: Attributes) -> bytes:
    """A data set in Implicit VR Little Endian."""
    return b"".join(element(tag, _padded(vr, value)) for tag, (vr, value) in sorted(found.items()))


def explicit_data(found: Attributes) -> bytes:
    """A data set in Explicit VR Little Endian."""
    return b"".join(explicit(tag, vr, _padded(vr, value)) for tag, (vr, value) in sorted(found.items()))


def store(case: str, data: bytes | None = None, context_id: int = 3, size: int = 4000) -> bytes:
    """A whole C-STORE-RQ of this case's instance; `data` is its data set if that is not the usual one."""
    if data is None:
        data = implicit_data(attributes(case))
    return message(context_id, command(store_fields(uid(case))), data, size)


def query(keys: Iterable[tuple[int, bytes]], message_id: int = 1) -> bytes:
    """A whole C-FIND-RQ for these keys at Study Root."""
    fields = {
        0x0002: even(STUDY_FIND),
        0x0100: us(0x0020),
        0x0110: us(message_id),
        0x0700: us(0),
        0x0800: us(1),
    }
    return message(FIND_CONTEXT, command(fields), b"".join(element(tag, value) for tag, value in keys))


def move(destination: bytes, keys: Iterable[tuple[int, bytes]]) -> bytes:
    """A whole C-MOVE-RQ at Study Root."""
    fields = {
        0x0002: even(STUDY_MOVE),
        0x0100: us(0x0021),
        0x0110: us(1),
        0x0600: destination,
        0x0700: us(0),
        0x0800: us(1),
    }
    return message(MOVE_CONTEXT, command(fields), b"".join(element(tag, value) for tag, value in keys))


STORE_CONTEXT, EXPLICIT_CONTEXT, DEFLATED_CONTEXT, FIND_CONTEXT, MOVE_CONTEXT = 3, 5, 7, 9, 11

REQUEST = rq(
    APPLICATION,
    CONTEXT,
    proposed(STORE_CONTEXT, abstract(CT), transfer(IMPLICIT)),
    proposed(EXPLICIT_CONTEXT, abstract(CT), transfer(EXPLICIT)),
    proposed(DEFLATED_CONTEXT, abstract(CT), transfer(DEFLATED)),
    proposed(FIND_CONTEXT, abstract(STUDY_FIND), transfer(IMPLICIT)),
    proposed(MOVE_CONTEXT, abstract(STUDY_MOVE), transfer(IMPLICIT)),
    USER,
)
"""The association on which a case is played that does not say otherwise."""

RELEASE_RQ, RELEASE_RP = pdu(5, bytes(4)), pdu(6, bytes(4))
ABORT = pdu(7, bytes(4))
