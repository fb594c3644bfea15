"""Data sets from one uncompressed transfer syntax to another while they stream by, never decoded (PS3.5 A).

Bytes go in, buffers come out; what is kept is a header, a few small values and the open sequences. Long
values are not copied but for a byte order that changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from asyncdicom.data.dictionary import vr_of
from asyncdicom.data.elements import (
    ITEM,
    ITEM_DELIMITATION,
    SEQUENCE_DELIMITATION,
    UNDEFINED_LENGTH,
    check_start,
    read_header_of,
    show,
)
from asyncdicom.data.inflation import Buffer, Inflater
from asyncdicom.data.scope import NO_END, NOTED, Patch, Scope, are_words, one_vr
from asyncdicom.data.swap import UNITS, swapped
from asyncdicom.data.vr import PADDED_WITH_SPACE, VRS
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    BECOMES,
    EXPLICIT_VR_BIG_ENDIAN,
    GE_PRIVATE_BIG_ENDIAN_PIXEL_DATA,
    IMPLICIT_VR_LITTLE_ENDIAN,
    name_of,
    transfer_syntax,
)

__all__ = ["MAXIMUM_HELD", "Reencoder", "reencode"]

# VR -> code, whether its length takes 32 bits, padding, bytes that change places (Big Endian).
_FORMS: dict[str, tuple[bytes, bool, bytes, int]] = {
    vr: (code, long, b" " if vr in PADDED_WITH_SPACE else b"\0", UNITS.get(vr, 1))
    for code, (vr, long) in VRS.items()
}
_PLAIN = {vr: form[:2] for vr, form in _FORMS.items() if vr != "SQ"}
_PLAIN_BIG_ENDIAN = {vr: form for vr, form in _PLAIN.items() if vr not in UNITS and vr != "UN"}
_NOTHING = (0, "", 0, 0)
_IMPLICIT = Struct("<HHL").pack
_SHORT = Struct("<HH2sH").pack
_LONG = Struct("<HH2sHL").pack
_UNDEFINED_ITEM = _IMPLICIT(0xFFFE, 0xE000, UNDEFINED_LENGTH)
_EMPTY_ITEM = _IMPLICIT(0xFFFE, 0xE000, 0)
_END_OF_ITEM = _IMPLICIT(0xFFFE, 0xE00D, 0)
_END_OF_SEQUENCE = _IMPLICIT(0xFFFE, 0xE0DD, 0)
_ITEM_TAGS = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}  # by little endian
_FOREIGN_GROUPS = (0x0000, 0x0002)  # those of command sets and File Meta Information
_ZEROS = bytes(8)
_READ_IMPLICIT = read_header_of(IMPLICIT_VR_LITTLE_ENDIAN)
_READ_BIG_ENDIAN = read_header_of(EXPLICIT_VR_BIG_ENDIAN)

_STEP = 500  # headers: about a millisecond
_ENOUGH = 65536  # bytes that are worth to be given out before there is nothing more to read
_COPIED = 2048  # pieces below are copied, which costs less than one buffer more

MAXIMUM_HELD = 65536
"""Bytes that wait for the element that decides about a VR."""
_MAXIMUM_RATIO = 1040  # of what is inflated: no more than that is possible


class Reencoder:
    """Feed it a data set in any pieces; what comes out is the same in another transfer syntax.

    `source` and `target` are transfer syntaxes as in `BECOMES`; `length` is that of the data set where it is
    known: then a value that is longer than what is left is refused before it begins. `maximum_depth` is that
    of sequences in sequences, `maximum_inflated` how many bytes a deflated one may have: they pass, nothing
    of them is kept.

    Sequences and items leave with undefined length, values with an even one, group lengths and groups that do
    not belong in a data set (0000, 0002) not at all. Where Implicit VR becomes Explicit VR, the VRs are those
    of PS3.6: private and unknown elements are UN (PS3.5 6.2.2), US or SS and OB or OW follow Pixel
    Representation and Bits Allocated of the nearest data set around. A UN of undefined length is Implicit VR
    inside, before and after. Zeros behind the last element are dropped.
    """

    __slots__ = (
        "_base",
        "_carry",
        "_checked",
        "_depth",
        "_drop",
        "_has_big_pixels",
        "_inflater",
        "_is_noting",
        "_left",
        "_maximum_depth",
        "_need",
        "_out",
        "_padding",
        "_root",
        "_scope",
        "_size",
        "_small",
        "_steps",
        "_tail",
        "_unit",
        "_waiting",
        "_zeros",
        "guessed",
        "unswapped",
    )

    def __init__(
        self,
        source: str,
        target: str,
        *,
        length: int | None = None,
        maximum_depth: int = 64,
        maximum_inflated: int = 4 << 30,
    ) -> None:
        if target not in BECOMES.get(source, ()):
            raise DataSetError(f"{name_of(source)} cannot be re-encoded as {name_of(target)}")
        syntax = transfer_syntax(source)
        implicit = transfer_syntax(target).implicit
        limit = NO_END if length is None or syntax.deflated else length
        self.unswapped = 0
        """Values of VR UN that came in big endian order and left as they were (PS3.5 6.2.2)."""
        self.guessed = 0
        """VRs that were written before what decides about them came: it was too far away."""
        self._inflater = Inflater(maximum_inflated, _MAXIMUM_RATIO) if syntax.deflated else None
        self._has_big_pixels = source == GE_PRIVATE_BIG_ENDIAN_PIXEL_DATA
        self._is_noting = syntax.implicit and (self._has_big_pixels or not implicit)
        self._maximum_depth = maximum_depth
        self._root = self._scope = Scope(None, read_header_of(source), implicit=implicit, limit=limit)
        self._depth = 0
        self._base = 0  # bytes that came before those that are looked at
        self._carry = bytearray()  # an incomplete header
        self._need = 8  # bytes that it takes
        self._left = 0  # bytes of value still to come
        self._drop = False  # that nobody wants
        self._unit = 1  # that change places
        self._tail = b""  # of them, those of an incomplete unit
        self._padding = b""  # behind the value
        self._out: list[Buffer] = []
        self._small = bytearray()  # the last of it, which still grows
        self._size = 0  # of what is in _out
        self._waiting = 0  # VRs in there that may still change
        self._steps = 0
        self._checked = False
        self._zeros = False

    def feed(self, data: Buffer) -> Iterator[list[Buffer]]:
        """Yield what comes of the next piece, in lists of buffers, empty ones where others may have a turn.

        Buffers may be parts of `data`. Raises `DataSetError` for what is no data set in the transfer syntax;
        then what was given out before is of no use.
        """
        for piece in (data,) if self._inflater is None else self._inflater.feed(data):
            yield from self._consume(memoryview(piece))
            yield [] if self._waiting else self._take()

    @property
    def is_in_last_value(self) -> bool:
        """Whether only the rest of a value is to come, which ends where the data set does."""
        return self._scope is self._root and 0 < self._left == self._root.limit - self._base

    def finish(self) -> list[Buffer]:
        """Give the end of the data set. Raises `DataSetError` where that is missing."""
        carry, scope = self._carry, self._scope
        if self._left:
            raise DataSetError(f"the data set is truncated: {self._left} bytes of its last value are missing")
        if any(carry) or (carry and scope is not self._root):
            raise DataSetError("the data set is truncated: it ends within the header of an element")
        if scope is not self._root:
            raise DataSetError(
                f"the data set is truncated: {show(scope.tag)} has no Sequence Delimitation Item"
            )
        if self._inflater is not None and not self._inflater.done:
            raise DataSetError("the deflated data set is truncated")
        self._waiting -= scope.passed(NO_END)
        return self._take()

    # what comes out

    def _take(self) -> list[Buffer]:
        self._flush()
        out, self._out, self._size = self._out, [], 0
        return out

    def _flush(self) -> None:
        if self._small:
            self._out.append(self._small)
            self._size += len(self._small)
            self._small = bytearray()

    def _put(self, piece: Buffer) -> None:
        if len(piece) < _COPIED:
            self._small += piece
        else:
            self._flush()
            self._out.append(piece)
            self._size += len(piece)

    # what comes in

    def _consume(self, view: memoryview) -> Iterator[list[Buffer]]:
        carry = self._carry
        while carry:
            missing = self._need - len(carry)
            carry += view[:missing]
            view = view[missing:]
            if len(carry) < self._need:
                return
            self._steps = _STEP
            done = self._parse(memoryview(bytes(carry)), 0)
            self._base += done
            del carry[:done]
        position = 0
        while True:
            self._steps = _STEP
            position = self._parse(view, position)
            if self._steps:
                break
            is_enough = not self._waiting and self._size + len(self._small) >= _ENOUGH
            yield self._take() if is_enough else []
        self._base += position
        carry += view[position:]

    def _parse(self, data: memoryview, position: int) -> int:
        """Go through `data` as far as it goes, or for a step; how far that was."""
        end = len(data)
        while self._steps:
            if self._left:
                position = self._value(data, position)
                if self._left:
                    break
            while self._base + position == self._scope.end:
                self._close()
            if not (self._waiting or self._scope.is_sequence):
                position = self._skim(data, position, end)
                if self._base + position == self._scope.end:
                    continue
            if end - position < 8:
                self._need = 8
                break
            self._steps -= 1
            done = self._header(data, position, end - position)
            if not done:
                break
            position += done
        return position

    def _skim(self, data: memoryview, position: int, end: int) -> int:
        """Re-encode what needs no thought, which is nearly all there is; how far that was.

        It is what is short, even and whole, with a VR for which nothing has to be known or swapped.
        """
        scope, small, steps = self._scope, self._small, self._steps
        read, implicit, is_noting = scope.read, scope.implicit, self._is_noting
        plain = _PLAIN_BIG_ENDIAN if read is _READ_BIG_ENDIAN else _PLAIN
        stop = min(end, scope.limit - self._base)
        if not self._checked:
            return position
        while steps > 1 and stop - position >= 12:
            try:
                tag, vr, size, length = read(data, position, 12) or _NOTHING
            except DataSetError:
                break  # unless it is zeros behind the end, this is told by who looks closer
            form = plain.get(vr or vr_of(tag))
            after = position + size + length
            if form is None or length > _COPIED or length & 1 or after > stop:
                break
            if not 0x00030000 <= tag < 0xFFFE0000 or not tag & 0xFFFF or (is_noting and tag in NOTED):
                break
            code, is_long = form
            if implicit:
                small += _IMPLICIT(tag >> 16, tag & 0xFFFF, length)
            elif is_long:
                small += _LONG(tag >> 16, tag & 0xFFFF, code, 0, length)
            else:
                small += _SHORT(tag >> 16, tag & 0xFFFF, code, length)
            small += data[position + size : after]
            position = after
            steps -= 1
        self._steps = steps
        return position

    def _value(self, data: memoryview, position: int) -> int:
        """Pass a value on, or what there is of it."""
        piece = data[position : position + self._left]
        self._left -= len(piece)
        if not self._drop:
            self._put(piece if self._unit == 1 else self._swap(piece))
            if not self._left:
                self._small += self._tail + self._padding
                self._tail = b""
        return position + len(piece)

    def _swap(self, piece: memoryview) -> memoryview:
        whole: Buffer = self._tail + piece if self._tail else piece
        stop = len(whole) - len(whole) % self._unit
        self._tail = bytes(whole[stop:])
        return swapped(whole[:stop], self._unit)

    # elements

    def _header(self, data: memoryview, position: int, available: int) -> int:
        """Take the header of an element or item; how long it was, 0 if more of it is needed."""
        scope = self._scope
        if scope is self._root:
            if not self._checked:
                check_start(data[position:], scope.read)
                self._checked = True
            elif data[position : position + 8] == _ZEROS or self._zeros:
                return self._pass_zeros(data[position:])
        header = scope.read(data, position, available)
        if header is None:
            self._need = 12
            return 0
        tag, vr, size, length = header
        start = self._base + position + size
        stop = start if length == UNDEFINED_LENGTH else start + length
        if tag >= 0xFFFE0000 and start <= scope.limit:
            self._delimiter(tag, stop, length)
            return size
        if stop > scope.limit:
            raise DataSetError(
                f"{show(tag)} has a length of {stop - start}, {stop - scope.limit} more than is there"
            )
        if scope.is_sequence:
            raise DataSetError(f"{show(tag)} where an item was expected")
        if self._waiting:
            self._pass(tag, length)
        is_told, vr = bool(vr), vr or vr_of(tag)
        if length == UNDEFINED_LENGTH:
            self._open(tag, _vr_of_sequence(tag, vr, is_told=is_told), -1)
        elif tag >> 16 in _FOREIGN_GROUPS or not tag & 0xFFFF:
            self._left, self._drop = length, True
        elif vr == "SQ" and length:
            if available < size + 4 <= size + length:
                self._need = size + 4
                return 0
            if data[position + size : position + size + 4] == _ITEM_TAGS[scope.read is not _READ_BIG_ENDIAN]:
                self._open(tag, vr, stop)
            else:
                self._element(tag, "UN", length)  # no items: what it is, nobody knows
        else:
            if self._is_noting and tag in NOTED and length > 1:
                if available < size + 2:
                    self._need = size + 2
                    return 0
                first = data[position + size] | data[position + size + 1] << 8
                self._waiting -= scope.note(tag, first)
            self._element(tag, vr, length)
        return size

    def _element(self, tag: int, vr: str, length: int) -> None:
        """Write the header of an element; its value follows."""
        scope, choice = self._scope, None
        if len(vr) > 2:
            vr, choice = one_vr(tag, vr, scope)
        code, is_long, padding, unit = _FORMS[vr]
        even = length + length % 2
        if scope.implicit:
            self._small += _IMPLICIT(tag >> 16, tag & 0xFFFF, even)
        elif is_long:
            self._small += _LONG(tag >> 16, tag & 0xFFFF, code, 0, even)
        elif even > 0xFFFE:  # PS3.5 6.2.2 Note 2
            self._small += _LONG(tag >> 16, tag & 0xFFFF, b"UN", 0, even)
        else:
            self._small += _SHORT(tag >> 16, tag & 0xFFFF, code, even)
        if choice is not None and not scope.implicit and (is_long or even <= 0xFFFE):
            place = len(self._small) - (8 if is_long else 4)
            self._waiting += scope.wait(tag, Patch(self._small, place, choice))
        if scope.read is not _READ_BIG_ENDIAN:
            unit = 2 if self._has_big_pixels and are_words(tag, scope) else 1
        elif vr == "UN" and length:
            self.unswapped += 1
        self._left, self._drop, self._unit = length, False, unit
        self._padding = padding if length % 2 else b""

    def _pass(self, tag: int, length: int) -> None:
        """An element begins while VRs wait for others: what is kept for them has a bound."""
        self._waiting -= self._scope.passed(tag)
        self._hold(length)

    def _hold(self, length: int) -> None:
        """So many bytes more are kept, if VRs still wait; too many, and they wait no longer."""
        if self._waiting and self._size + len(self._small) + length > MAXIMUM_HELD:
            self.guessed += self._scope.forget()
            self._waiting = 0

    def _pass_zeros(self, data: memoryview) -> int:
        self._zeros = True
        if any(data):
            raise DataSetError("there is something behind the end of the data set")
        return len(data)

    # sequences

    def _open(self, tag: int, vr: str, end: int) -> None:
        """A sequence begins; `end` is where it ends, -1 where a delimiter tells."""
        scope = self._scope
        if self._depth == self._maximum_depth:
            raise DataSetError(f"{show(tag)}: sequences are nested deeper than {self._maximum_depth}")
        self._depth += 1
        if scope.implicit:
            self._small += _IMPLICIT(tag >> 16, tag & 0xFFFF, UNDEFINED_LENGTH)
        else:
            self._small += _LONG(tag >> 16, tag & 0xFFFF, vr.encode(), 0, UNDEFINED_LENGTH)
        is_unknown = vr == "UN"  # PS3.5 6.2.2 Note 5: its items are Implicit VR Little Endian
        self._scope = Scope(
            scope,
            _READ_IMPLICIT if is_unknown else scope.read,
            implicit=is_unknown or scope.implicit,
            is_sequence=True,
            tag=tag,
            end=end,
            limit=scope.limit if end < 0 else end,
        )

    def _delimiter(self, tag: int, stop: int, length: int) -> None:
        """An item begins, or it or a sequence ends. An item that claims too much ends with its sequence."""
        scope = self._scope
        if tag == ITEM and scope.is_sequence:
            self._hold(0)  # there may be any number of empty ones
            if not length:
                self._small += _EMPTY_ITEM
                return
            self._small += _UNDEFINED_ITEM
            limit = scope.limit if length == UNDEFINED_LENGTH else min(stop, scope.limit)
            end = -1 if length == UNDEFINED_LENGTH else limit
            self._scope = Scope(
                scope, scope.read, implicit=scope.implicit, tag=scope.tag, end=end, limit=limit
            )
        elif tag == (SEQUENCE_DELIMITATION if scope.is_sequence else ITEM_DELIMITATION):
            if scope.end < 0 and scope is not self._root:  # else it is superfluous
                self._close()
        elif tag != ITEM_DELIMITATION and (tag != SEQUENCE_DELIMITATION or scope is not self._root):
            raise DataSetError(
                f"{show(tag)} where {'an item' if scope.is_sequence else 'an element'} was expected"
            )

    def _close(self) -> None:
        scope = self._scope
        if self._waiting:
            self._waiting -= scope.passed(NO_END)
        if scope.is_sequence:
            self._depth -= 1
            self._small += _END_OF_SEQUENCE
        else:
            self._small += _END_OF_ITEM
        self._scope = scope.outer or self._root


def _vr_of_sequence(tag: int, vr: str, *, is_told: bool) -> str:
    """The VR that an element of undefined length leaves with: SQ, or UN where only its form tells."""
    if tag & 0xFFFF and tag >> 16 not in (*_FOREIGN_GROUPS, 0x7FE0):
        if vr in ("SQ", "UN"):
            return vr
        if not is_told:
            return "UN"
    raise DataSetError(f"{show(tag)} {vr} has an undefined length, in an uncompressed transfer syntax")


def reencode(data: Buffer, source: str, target: str) -> bytes:
    """A whole data set at once; see `Reencoder`."""
    reencoder = Reencoder(source, target, length=len(data))
    pieces = [piece for batch in reencoder.feed(data) for piece in batch]
    return b"".join([*pieces, *reencoder.finish()])
