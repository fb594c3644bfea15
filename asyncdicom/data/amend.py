"""Who the patient is, is replaced in a data set while it streams by; what was there is told in it.

Original Attributes Sequence (0400,0561), PS3.3 C.12.1.1.9: the data set keeps what the archive has not
changed, byte for byte, and gets an item that says what was there, when it was replaced, by which system and
why. What is kept in memory is what is replaced.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import NamedTuple

from asyncdicom.data.charset import codec_of, encode_text
from asyncdicom.data.elements import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    Encoder,
    Nesting,
    check_start,
    check_stray,
    likely_syntax,
    read_header_of,
    show,
)
from asyncdicom.data.inflation import Buffer, Inflater
from asyncdicom.data.reencode import reencode
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
    transfer_syntax,
)

__all__ = ["MAXIMUM_HELD", "Amender", "Amendment"]

MAXIMUM_HELD = 1 << 20
"""Bytes of all values that are replaced or removed, as they were."""

_CHARACTER_SET = 0x00080005
_ORIGINAL_ATTRIBUTES = 0x04000561
_MODIFIED_ATTRIBUTES = 0x04000550
_ISSUER_OF_PATIENT_ID = 0x00100021
_FIRST_OF_DATA_SET = 0x00030000
_UTF_8 = "ISO_IR 192"

# What else tells who the patient is (PS3.3 C.2.2 and C.2.3, C.2.4): it is another one's now. What tells how
# that person was when the images were made (age, size, weight, allergies ...) stays.
_REMOVED = frozenset(
    {
        0x00100022, 0x00100024, 0x00100026, 0x00100027, 0x00100028, 0x00100032, 0x00100033, 0x00100034,
        0x00100035, 0x00100050, 0x00100101, 0x00100102, 0x00101000, 0x00101001, 0x00101002, 0x00101005,
        0x00101040, 0x00101050, 0x00101060, 0x00101080, 0x00101081, 0x00101090, 0x00101100, 0x00102150,
        0x00102152, 0x00102154, 0x00102155, 0x00102160, 0x001021F0, 0x00102297, 0x00102298, 0x00102299,
        0x00104000,
    }
)  # fmt: skip

_PASS, _HOLD, _DROP = range(3)
_STEP = 500  # headers: about a millisecond
_COPIED = 2048  # pieces below are copied, which costs less than one buffer more
_MAXIMUM_INFLATED, _MAXIMUM_RATIO = 4 << 30, 1040  # it passes: nothing of it is kept


class Amendment(NamedTuple):
    """What a data set is to say, and who says so since when."""

    values: Mapping[int, tuple[str, str]]
    """Tag -> VR and text. An empty text: the attribute has no value."""

    made: str
    """When it was decided: a DT."""

    system: str
    """Modifying System (0400,0563)."""

    reason: str = "CORRECT"
    """Reason for the Attribute Modification (0400,0565): COERCE or CORRECT."""


class Amender:
    """Feed it a data set in any pieces; what comes out is the same with the values of an amendment.

    The transfer syntax stays. Group lengths and groups that do not belong in a data set (0000, 0002) are left
    out. Text that the character set of the data set cannot hold is a `DataSetError`; one without any becomes
    one of UTF-8. What is in sequences stays as it is.
    """

    __slots__ = (
        "_after",
        "_amendment",
        "_appended",
        "_carry",
        "_checked",
        "_decided",
        "_deflate",
        "_encoder",
        "_held",
        "_held_size",
        "_holding",
        "_inflater",
        "_left",
        "_length",
        "_nesting",
        "_old",
        "_out",
        "_pending",
        "_sink",
        "_small",
        "_syntax",
        "_told",
    )

    def __init__(self, transfer_syntax_uid: str, amendment: Amendment, *, maximum_depth: int = 64) -> None:
        deflated = transfer_syntax(transfer_syntax_uid).deflated
        self._syntax = transfer_syntax_uid
        self._amendment = amendment
        self._nesting = Nesting(read_header_of(transfer_syntax_uid), maximum_depth)
        self._encoder = Encoder(transfer_syntax_uid)
        self._inflater = Inflater(_MAXIMUM_INFLATED, _MAXIMUM_RATIO) if deflated else None
        self._deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._length = 0  # of what came out deflated
        self._carry = b""  # an incomplete header
        self._checked = False
        self._left = 0  # bytes of value still to come
        self._sink = _PASS  # where they go
        self._held = 0  # the tag of what is held
        self._holding = bytearray()
        self._held_size = 0  # of all that was held
        self._old: dict[int, bytes] = {}  # whole elements
        self._decided = False  # whether the character set is known, and what is new is encoded
        self._pending: list[tuple[int, bytes]] = []  # new elements that come later
        self._told = False
        self._after = b""  # what follows the value that is passed on
        self._appended = b""  # what comes before the delimiter of the sequence that is passed on
        self._out: list[Buffer] = []
        self._small = bytearray()

    def feed(self, data: Buffer) -> Iterator[list[Buffer]]:
        """Yield what comes of the next piece, in lists of buffers, empty ones where others may have a turn.

        Buffers may be parts of `data`. Raises `DataSetError`; then what was given out is of no use.
        """
        for piece in (data,) if self._inflater is None else self._inflater.feed(data):
            yield from self._consume(memoryview(piece))

    def finish(self) -> list[Buffer]:
        """Give the end of the data set. Raises `DataSetError` where it ended before all was replaced."""
        self._settle()
        is_whole = not (self._left or self._nesting.depth or any(self._carry))
        is_whole = is_whole and (self._inflater is None or self._inflater.done)
        if is_whole and self._checked:
            self._come_to(0xFFFFFFFF)
        elif not self._told or self._appended or self._after:
            raise DataSetError("the data set is truncated before its patient could be replaced")
        else:
            self._put(self._carry)  # it is kept as it ends, and is sent so
        out = self._take()
        if self._inflater is not None:
            end = self._deflate.flush()
            out.append(end + b"\0" * ((self._length + len(end)) % 2))  # PS3.5 A.5
        return out

    # what comes out

    def _put(self, piece: Buffer) -> None:
        if len(piece) < _COPIED:
            self._small += piece
        else:
            self._flush()
            self._out.append(piece)

    def _flush(self) -> None:
        if self._small:
            self._out.append(self._small)
            self._small = bytearray()

    def _take(self) -> list[Buffer]:
        self._flush()
        out, self._out = self._out, []
        if self._inflater is None:
            return out
        deflated = b"".join(map(self._deflate.compress, out))
        self._length += len(deflated)
        return [deflated] if deflated else []

    # what comes in

    def _consume(self, view: memoryview) -> Iterator[list[Buffer]]:
        if self._carry:
            view = memoryview(self._carry + view)
            self._carry = b""
        position = steps = 0
        while position < len(view):
            if self._left:
                position += self._value(view[position : position + self._left])
                continue
            size = self._header(view, position, len(view) - position)
            if not size:
                self._carry = bytes(view[position:])
                break
            position += size
            steps += 1
            if steps % _STEP == 0:
                yield []
        yield self._take()

    def _value(self, piece: memoryview) -> int:
        self._left -= len(piece)
        self._sort(piece)
        return len(piece)

    def _sort(self, piece: Buffer) -> None:
        """Pass on, hold or drop a part of the element that is open."""
        if self._sink == _PASS:
            self._put(piece)
        elif self._sink == _HOLD:
            self._held_size += len(piece)
            if self._held_size > MAXIMUM_HELD:
                raise DataSetError(f"{show(self._held)} is too long to be replaced")
            self._holding += piece

    def _header(self, view: memoryview, position: int, available: int) -> int:
        """Take a header; how long it was, 0 if more of it is needed."""
        if available < 8:
            return 0
        if not self._checked:
            self._begin(view[position:])
        nesting = self._nesting
        header = nesting.read(view, position, available)
        if header is None:
            return 0
        tag, vr, size, length = header
        raw = view[position : position + size]
        if nesting.depth:
            self._left = nesting.step(tag, vr, length)
            if not nesting.depth and self._appended:
                self._put(self._appended)
                self._appended = b""
            self._sort(raw)
        elif tag >= 0xFFFE0000:
            check_stray(tag)
        else:
            self._settle()
            self._element(tag, vr, raw, length)
        return size

    def _begin(self, view: memoryview) -> None:
        if self._syntax not in TRANSFER_SYNTAXES and (likely := likely_syntax(view)) is not None:
            self._syntax = likely
            self._nesting.read = read_header_of(likely)
            self._encoder = Encoder(likely)
        check_start(view, self._nesting.read)
        self._checked = True

    def _element(self, tag: int, vr: str, raw: memoryview, length: int) -> None:
        """An element of the top level begins."""
        if tag < _FIRST_OF_DATA_SET or not tag & 0xFFFF:
            self._sink = _DROP
        else:
            self._come_to(tag)
            if tag == _ORIGINAL_ATTRIBUTES and not self._told:
                raw = self._continue_telling(vr, raw, length)
            is_patient = tag in self._amendment.values or tag in _REMOVED
            is_held = is_patient or (tag == _CHARACTER_SET and not self._decided)
            self._sink = _HOLD if is_held else _PASS
            self._held = tag
        self._sort(raw)
        if length == UNDEFINED_LENGTH:
            self._nesting.open(tag, vr)
        else:
            self._left = length

    def _settle(self) -> None:
        """The element that was open has ended."""
        if self._left or self._nesting.depth:
            return
        if self._sink == _HOLD:
            self._old[self._held] = bytes(self._holding)
            self._holding.clear()
        self._sink = _PASS
        self._put(self._after)
        self._after = b""

    # what is new

    def _come_to(self, tag: int) -> None:
        """Put out what comes before an element."""
        if tag <= _CHARACTER_SET:
            return
        if not self._decided:
            self._decide()
        while self._pending and self._pending[0][0] <= tag:
            self._put(self._pending.pop(0)[1])
        if tag > _ORIGINAL_ATTRIBUTES and not self._told:
            self._put(self._sequence(_ORIGINAL_ATTRIBUTES, self._item()))
            self._told = True

    def _decide(self) -> None:
        """Encode the new values in the character set of the data set."""
        self._decided = True
        declared = self._old.pop(_CHARACTER_SET, b"")
        header = self._nesting.read(declared, 0, len(declared)) if declared else None
        value = b"" if header is None else declared[header[2] :]
        character_set = value.decode("ascii", "replace").strip(" \0")
        new = self._encoded(character_set)
        if new is None and codec_of(character_set) == codec_of("") and "\\" not in character_set:
            new = self._encoded(_UTF_8)
            self._put(self._encoder.element(_CHARACTER_SET, "CS", _UTF_8.encode()))
            self._old[_CHARACTER_SET] = declared or self._encoder.element(_CHARACTER_SET, "CS", b"")
        else:
            self._put(declared)
        if new is None:
            raise DataSetError(f"its character set {character_set!r} cannot hold the text of its new patient")
        self._pending = new

    def _encoded(self, character_set: str) -> list[tuple[int, bytes]] | None:
        encoded = []
        for tag, (vr, text) in sorted(self._amendment.values.items()):
            value = encode_text(text, character_set, vr)
            if value is None:
                return None
            if value or tag != _ISSUER_OF_PATIENT_ID:  # the others are of type 2 (PS3.3 C.7.1.1)
                encoded.append((tag, self._encoder.element(tag, vr, value)))
        return encoded

    def _continue_telling(self, vr: str, raw: memoryview, length: int) -> memoryview:
        """The sequence is there: what is in it stays, and one item follows. Gives its header."""
        self._told = True
        item, order = self._item(), self._encoder.byte_order
        if vr == "UN":  # its items are in Implicit VR Little Endian (PS3.5 6.2.2)
            own = EXPLICIT_VR_LITTLE_ENDIAN if order == "<" else EXPLICIT_VR_BIG_ENDIAN
            item, order = reencode(item, own, IMPLICIT_VR_LITTLE_ENDIAN), "<"
        whole = _mark(order, ITEM, UNDEFINED_LENGTH) + item + _mark(order, ITEM_DELIMITATION)
        if length == UNDEFINED_LENGTH:
            self._appended = whole
            return raw
        self._after = whole + _mark(order, SEQUENCE_DELIMITATION)
        return memoryview(bytes(raw[:-4]) + b"\xff\xff\xff\xff")

    def _item(self) -> bytes:
        """What is told of this amendment, without the delimiters of an item."""
        old = {tag: raw for tag, raw in self._old.items() if tag != _CHARACTER_SET or raw}
        if _ISSUER_OF_PATIENT_ID not in old:  # it says of whom the ID was, also if there was none
            old[_ISSUER_OF_PATIENT_ID] = self._encoder.element(_ISSUER_OF_PATIENT_ID, "LO", b"")
        element, amendment = self._encoder.element, self._amendment
        return b"".join(
            [
                self._sequence(_MODIFIED_ATTRIBUTES, b"".join(raw for _, raw in sorted(old.items()))),
                element(0x04000562, "DT", amendment.made.encode("ascii")),
                element(0x04000563, "LO", amendment.system.encode("ascii")),
                element(0x04000564, "LO", b""),  # the source of the previous values: type 2
                element(0x04000565, "CS", amendment.reason.encode("ascii")),
            ]
        )

    def _sequence(self, tag: int, item: bytes) -> bytes:
        """Encode a sequence of one item."""
        order = self._encoder.byte_order
        header = self._encoder.element(tag, "SQ", b"")[:-4] + b"\xff\xff\xff\xff"
        start, end = _mark(order, ITEM, UNDEFINED_LENGTH), _mark(order, ITEM_DELIMITATION)
        return header + start + item + end + _mark(order, SEQUENCE_DELIMITATION)


def _mark(byte_order: str, tag: int, length: int = 0) -> bytes:
    return Struct(byte_order + "HHL").pack(tag >> 16, tag & 0xFFFF, length)
