"""Two encodings are compared element by element: are they the same data set (PS3.5 6.2, 7, A.1 to A.5)?

Both are read as streams: of a value no more is kept than a piece. What says nothing is passed over: padding
by VR, group lengths, Data Set Trailing Padding (FFFC,FFFC), zeros behind the last element, the way in which
lengths of sequences are told. Implicit and Explicit VR Little Endian, deflated or not, are compared by
value; other transfer syntaxes only with themselves. Whatever is in doubt is a difference.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable, Iterator

from asyncdicom.data.elements import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    ReadHeader,
    read_header_of,
)
from asyncdicom.data.steps import Steps
from asyncdicom.data.vr import IMPLICIT_VRS, PADDED_WITH_SPACE
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import transfer_syntax

__all__ = ["Likeness", "comparing"]

MAXIMUM_ELEMENTS = 1 << 16
"""Headers of one data set, at any depth: beyond that nobody compares, half a second of work."""
MAXIMUM_INFLATED = 1 << 30
"""Bytes that a deflated data set may give: beyond that nobody compares."""
MAXIMUM_DEPTH = 64
_STEP = 1000  # elements before somebody else may have a turn
_PIECE = 65536
_TRAILING_PADDING = 0xFFFCFFFC
_UNKNOWN = ("", "UN")


class Likeness(enum.Enum):
    """What a comparison of a stored data set with another one has found."""

    EQUAL = "all elements are equal"
    TORSO = "what is stored ends within an element, and all before it is equal"
    DIFFERENT = "they differ, or cannot be compared"


class _Different(Exception):
    """They differ, or nobody can tell."""


class _Cut(Exception):
    """A data set ends within an element."""

    def __init__(self, reader: _Reader) -> None:
        super().__init__()
        self.reader = reader


def comparing(
    stored: Iterable[bytes], stored_syntax: str, other: Iterable[bytes], other_syntax: str
) -> Steps[Likeness]:
    """Compare two data sets, given in pieces, in steps of a thousand elements. Raises nothing of its own."""
    mine, theirs = transfer_syntax(stored_syntax), transfer_syntax(other_syntax)
    by_value = all(s.little_endian and not s.encapsulated for s in (mine, theirs))
    if stored_syntax != other_syntax and not (by_value and {stored_syntax, other_syntax} <= _PLAIN):
        return Likeness.DIFFERENT
    a = _Reader(_inflated(stored) if mine.deflated else stored)
    b = _Reader(_inflated(other) if theirs.deflated else other)
    try:
        yield from _elements(
            (a, read_header_of(stored_syntax), None), (b, read_header_of(other_syntax), None), 0
        )
    except _Cut as cut:
        return Likeness.TORSO if cut.reader is a else Likeness.DIFFERENT
    except (_Different, DataSetError, zlib.error):
        return Likeness.DIFFERENT
    return Likeness.EQUAL


_PLAIN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    for piece in pieces:
        while piece and not inflate.eof:
            inflated = inflate.decompress(piece, _PIECE)
            size += len(inflated)
            if size > MAXIMUM_INFLATED:
                raise _Different
            yield inflated
            piece = inflate.unconsumed_tail
    if not inflate.eof:
        yield None  # it is cut


class _Reader:
    """One data set as a stream, which knows where it is."""

    def __init__(self, pieces: Iterable[bytes | None]) -> None:
        self._pieces = iter(pieces)
        self._buffer = b""
        self._at = 0  # in the buffer
        self.position = 0
        self.count = 0
        self._is_cut = False

    def ahead(self, size: int) -> int:
        """Have `size` bytes at hand, or as many as there are."""
        while (there := len(self._buffer) - self._at) < size:
            try:
                piece = next(self._pieces)
            except StopIteration:
                return there
            if piece is None:
                self._is_cut = True
            else:
                self._buffer = self._buffer[self._at :] + piece
                self._at = 0
        return size

    def peek(self, size: int) -> bytes:
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Take up to a piece of what comes; at least a byte of `size` bytes that have to be there."""
        if not self.ahead(1):
            raise _Cut(self)
        taken = self._buffer[self._at : self._at + min(size, _PIECE)]
        self._at += len(taken)
        self.position += len(taken)
        return taken

    def whole(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            taken += self.take(size - len(taken))
        return taken

    def skip(self, size: int) -> None:
        while size:
            size -= len(self.take(size))

    def header(self, read: ReadHeader) -> tuple[int, str, int]:
        """Take the next header: tag, VR ("" where it is not told), length of the value."""
        self.count += 1
        if self.count > MAXIMUM_ELEMENTS:
            raise _Different
        available = self.ahead(12)
        header = read(self.peek(12), 0, available) if available >= 8 else None
        if header is None:
            raise _Cut(self)
        tag, vr, size, length = header
        self._at += size
        self.position += size
        return tag, vr, length

    def is_at_end(self) -> bool:
        """Whether nothing but zeros follows."""
        there = self.ahead(8)
        if there < 8 and self._is_cut:
            raise _Cut(self)
        if any(self.peek(8)):
            return False
        while self.ahead(1):
            if any(self.take(_PIECE)):
                raise _Different
        return True


_Place = tuple[_Reader, ReadHeader, int | None]
"""A reader, how it reads headers here, and where this ends: None where a delimiter says so."""


def _next_element(place: _Place, depth: int) -> tuple[int, str, int] | None:
    """Take the next header that says something; None at the end."""
    reader, read, stop = place
    while True:
        if stop is not None and reader.position >= stop:
            if reader.position > stop:
                raise _Different
            return None
        if stop is None and not depth and reader.is_at_end():
            return None
        tag, vr, length = reader.header(read)
        if tag == ITEM_DELIMITATION and depth and stop is None:
            return None
        if tag >= 0xFFFE0000:
            if depth:
                raise _Different
            continue  # a stray delimiter
        if stop is not None and length != UNDEFINED_LENGTH and reader.position + length > stop:
            raise _Different  # longer than what it is in
        if tag & 0xFFFF and tag != _TRAILING_PADDING:
            return tag, vr, length
        if length == UNDEFINED_LENGTH:
            raise _Different
        reader.skip(length)


def _elements(a: _Place, b: _Place, depth: int) -> Steps[None]:
    if depth > MAXIMUM_DEPTH:
        raise _Different
    while True:
        if a[0].count % _STEP == 0:
            yield
        mine, theirs = _next_element(a, depth), _next_element(b, depth)
        if mine is None or theirs is None:
            if mine is not theirs:
                raise _Different
            return
        if mine[0] != theirs[0]:
            raise _Different
        yield from _values(a, b, mine, theirs, depth)


def _values(
    a: _Place, b: _Place, mine: tuple[int, str, int], theirs: tuple[int, str, int], depth: int
) -> Steps[None]:
    tag, lengths = mine[0], (mine[2], theirs[2])
    vr = _common_vr(tag, mine[1], theirs[1])
    undefined = UNDEFINED_LENGTH in lengths
    if mine[1] == theirs[1] == "UN" and not undefined:
        vr = "UN"
    if vr == "SQ" or (undefined and vr in _UNKNOWN):
        if any(own == "UN" and length != UNDEFINED_LENGTH for _, own, length in (mine, theirs)):
            raise _Different  # how its items are encoded is not told
        yield from _items(_inside(a, *mine[1:]), _inside(b, *theirs[1:]), depth)
    elif undefined:
        if lengths[0] != lengths[1]:
            raise _Different
        yield from _fragments(a, b)
    else:
        _compare(a[0], lengths[0], b[0], lengths[1], vr)


def _common_vr(tag: int, mine: str, theirs: str) -> str:
    if mine == theirs or theirs in _UNKNOWN:
        known = mine if mine not in _UNKNOWN else theirs
    elif mine in _UNKNOWN:
        known = theirs
    else:
        raise _Different
    return IMPLICIT_VRS.get(tag, known) if known in _UNKNOWN else known


def _inside(place: _Place, vr: str, length: int) -> _Place:
    reader, read, _ = place
    if vr == "UN":  # PS3.5 6.2.2 Note 5: its items are Implicit VR Little Endian
        read = _READ_IMPLICIT
    return reader, read, None if length == UNDEFINED_LENGTH else reader.position + length


_READ_IMPLICIT = read_header_of("1.2.840.10008.1.2")


def _next_item(place: _Place) -> _Place | None:
    reader, read, stop = place
    while True:
        if stop is not None and reader.position >= stop:
            if reader.position > stop:
                raise _Different
            return None
        tag, _, length = reader.header(read)
        if stop is not None and length != UNDEFINED_LENGTH and reader.position + length > stop:
            raise _Different
        if tag == ITEM:
            return reader, read, None if length == UNDEFINED_LENGTH else reader.position + length
        if tag == SEQUENCE_DELIMITATION and stop is None:
            return None
        if tag != ITEM_DELIMITATION:
            raise _Different


def _items(a: _Place, b: _Place, depth: int) -> Steps[None]:
    while True:
        mine, theirs = _next_item(a), _next_item(b)
        if mine is None or theirs is None:
            if mine is not theirs:
                raise _Different
            return
        yield from _elements(mine, theirs, depth + 1)


def _fragments(a: _Place, b: _Place) -> Steps[None]:
    """Compare encapsulated Pixel Data (PS3.5 A.4), fragment by fragment."""
    while True:
        if a[0].count % _STEP == 0:
            yield
        mine, theirs = a[0].header(a[1]), b[0].header(b[1])
        if mine[0] != theirs[0] or UNDEFINED_LENGTH in (mine[2], theirs[2]):
            raise _Different
        if mine[0] == SEQUENCE_DELIMITATION:
            return
        if mine[0] != ITEM:
            raise _Different
        _compare(a[0], mine[2], b[0], theirs[2], "OB")


def _compare(a: _Reader, length_a: int, b: _Reader, length_b: int, vr: str) -> None:
    """Compare two values; padding that only one has, or has otherwise, is none of them (PS3.5 6.2)."""
    if max(length_a, length_b) <= _PIECE:
        if _bare(a.whole(length_a), vr) != _bare(b.whole(length_b), vr):
            raise _Different
        return
    common = min(length_a, length_b)
    if vr not in _STRIPPED and max(length_a, length_b) - common > common % 2:
        raise _Different
    left = common
    while left:
        ahead = a.take(left)
        if b.whole(len(ahead)) != ahead:
            raise _Different
        left -= len(ahead)
    for reader, more in ((a, length_a - common), (b, length_b - common)):
        while more:
            padding = reader.take(more)
            if padding.strip(_STRIPPED.get(vr, b"\0")):
                raise _Different
            more -= len(padding)


_STRIPPED = dict.fromkeys(PADDED_WITH_SPACE, b" ") | {"UI": b"\0 "}


def _bare(value: bytes, vr: str) -> bytes:
    if vr in _STRIPPED:
        return value.rstrip(_STRIPPED[vr])
    return value + b"\0" if len(value) % 2 else value
