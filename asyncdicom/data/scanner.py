"""Picks listed elements out of a data set while it streams by (PS3.5 7), in bounded memory.

It is on the path of every stored instance: what is not wanted is skipped by arithmetic, and after the last
wanted tag nothing is looked at any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from struct import Struct

from asyncdicom.data.elements import (
    UNDEFINED_LENGTH,
    Element,
    Header,
    Nesting,
    ReadHeader,
    check_start,
    check_stray,
    likely_syntax,
    read_header_of,
    show,
)
from asyncdicom.data.inflation import MAXIMUM_HEADERS, MAXIMUM_INFLATED, MAXIMUM_RATIO, Buffer, Inflater
from asyncdicom.data.vr import IMPLICIT_VRS, VRS
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import TRANSFER_SYNTAXES, transfer_syntax

# Skims over what needs no thought: elements of defined length in ascending order that end within the data.
# This is nearly all there is, so it is the loop that counts. Takes the data, where to begin, its end, the tag
# before, the last wanted tag, the wanted ones, where to put them, and how many bytes of a value are kept.
# Gives where it stopped and the tag before. As the tags ascend, it finds nothing twice.
Skim = Callable[[Buffer, int, int, int, int, frozenset[int], dict[int, Element], int], tuple[int, int]]
_STEP = 8192
_LAST_TAG = 0xFFFDFFFF  # items and delimiters come after it
_SHORT_VRS = {vr: name for vr, (name, long) in VRS.items() if not long}


def _skim_explicit(byte_order: str) -> Skim:
    unpack = Struct(byte_order + "HH2sH").unpack_from

    def skim(
        data: Buffer,
        position: int,
        end: int,
        previous: int,
        last: int,
        wanted: frozenset[int],
        found: dict[int, Element],
        maximum: int,
    ) -> tuple[int, int]:
        short, make = _SHORT_VRS, tuple.__new__  # what `Element()` calls, by way of a function in Python
        while (room := end - position - 8) >= 0:
            group, element, vr, length = unpack(data, position)
            tag = group << 16 | element
            if not previous < tag <= last or vr not in short or length > room:
                break
            start = position + 8
            if tag in wanted:
                if length > maximum:
                    break
                found[tag] = make(Element, (tag, short[vr], bytes(data[start : start + length])))
            previous = tag
            position = start + length
        return position, previous

    return skim


def _skim_implicit(
    data: Buffer,
    position: int,
    end: int,
    previous: int,
    last: int,
    wanted: frozenset[int],
    found: dict[int, Element],
    maximum: int,
) -> tuple[int, int]:
    unpack = _UNPACK_IMPLICIT
    while (room := end - position - 8) >= 0:
        group, element, length = unpack(data, position)
        tag = group << 16 | element
        if not previous < tag <= last or length > room:  # an undefined length is no less
            break
        start = position + 8
        if tag in wanted:
            vr = IMPLICIT_VRS.get(tag, "UN")
            if length > maximum:
                break
            if vr != "SQ":
                found[tag] = Element(tag, vr, bytes(data[start : start + length]))
        previous = tag
        position = start + length
    return position, previous


def _skim_nothing(data: Buffer, position: int, end: int, previous: int, *_: object) -> tuple[int, int]:
    return position, previous


def _counting(read: ReadHeader, inflater: Inflater) -> ReadHeader:
    """Read headers, and count them: a few deflated bytes may hold a million, and each costs the same time."""
    count = 0

    def counted(data: Buffer, position: int, available: int) -> Header | None:
        nonlocal count
        count += 1
        if count > MAXIMUM_HEADERS and count > MAXIMUM_HEADERS + inflater.read:
            what = f"{inflater.read} bytes gave {count} elements"
            raise DataSetError(f"the deflated data set is a bomb: {what}")
        return read(data, position, available)

    return counted


_ZEROS = bytes(8)
_UNPACK_IMPLICIT = Struct("<HHL").unpack_from
_SKIM_EXPLICIT = {True: _skim_explicit("<"), False: _skim_explicit(">")}


@lru_cache(64)
def _last_of(tags: frozenset[int]) -> int:
    return max(tags, default=0)


class IncompleteDataSet(DataSetError):
    """The data set ends within an element, or before its deflated stream does."""


class Scanner:
    """Feed it a data set in any pieces; ``finish`` gives the wanted elements, ``found`` those so far.

    ``tags`` are of the top level; sequences are never kept. Of a value longer than ``maximum_value`` bytes
    its beginning is kept and the tag noted in ``truncated``. It is ``done`` at the first tag behind the last
    wanted one (when the tags ascended so far, as PS3.5 7.1 asks) or at Pixel Data. A deflated data set is
    inflated up to ``maximum_inflated`` bytes and ``maximum_ratio`` to one, and may have `MAXIMUM_HEADERS`
    element headers and one more for each deflated byte.

    With ``whole`` it goes on to the end and is never ``done``: then ``finish`` also tells whether the last
    element ends where the data set does. Bytes of zero behind the last element are no element. What is
    deflated is inflated to its end, without a limit, and not looked at behind the last wanted tag.
    ``strange`` counts elements without a readable VR: they are skipped, unless they are wanted.
    ``repeated`` has the wanted tags that came with different values: the last one counts.
    ``undefined`` has the wanted tags whose length is not told: sequences, and compressed Pixel Data.

    Private transfer syntaxes are as many as their makers: a data set in one that nobody knows is read as it
    looks.
    """

    __slots__ = (
        "_ascending",
        "_carry",
        "_checked",
        "_error",
        "_inflater",
        "_is_unknown",
        "_last",
        "_last_wanted",
        "_maximum_value",
        "_need",
        "_nesting",
        "_previous",
        "_skim",
        "_skip",
        "_wanted",
        "_whole",
        "_zeros",
        "done",
        "found",
        "repeated",
        "strange",
        "truncated",
        "undefined",
    )

    def __init__(
        self,
        transfer_syntax_uid: str,
        tags: frozenset[int],
        *,
        maximum_value: int = 65536,
        maximum_inflated: int = MAXIMUM_INFLATED,
        maximum_ratio: int = MAXIMUM_RATIO,
        maximum_depth: int = 64,
        whole: bool = False,
    ) -> None:
        self.done = False
        self.found: dict[int, Element] = {}
        self.truncated: set[int] = set()
        self.repeated: set[int] = set()
        self.strange = 0
        self.undefined: set[int] = set()
        self._wanted = tags
        self._whole = whole
        self._zeros = False  # behind the last element
        self._last_wanted = _last_of(tags)
        self._last = _LAST_TAG if whole else self._last_wanted
        self._maximum_value = maximum_value
        syntax = transfer_syntax(transfer_syntax_uid)
        self._inflater = Inflater(maximum_inflated, maximum_ratio) if syntax.deflated else None
        read = read_header_of(transfer_syntax_uid)
        self._skim = _skim_implicit if syntax.implicit else _SKIM_EXPLICIT[syntax.little_endian]
        if self._inflater is not None:  # each header is read, since each is counted
            read, self._skim = _counting(read, self._inflater), _skim_nothing
        self._nesting = Nesting(read, maximum_depth)
        self._is_unknown = transfer_syntax_uid not in TRANSFER_SYNTAXES
        self._error: DataSetError | None = None
        self._carry = (
            bytearray()
        )  # the beginning of a header, or a header and the beginning of a wanted value
        self._need = 8  # bytes that _carry must have before it is worth a look
        self._skip = 0  # bytes of value still to come that nobody wants
        self._previous = 0x0002FFFF  # the groups below are not for data sets and are looked at closely
        self._ascending = True
        self._checked = False

    @property
    def is_behind(self) -> bool:
        """Whether the last wanted tag is passed: what comes now says only where the data set ends."""
        previous = self._previous
        return self.done or previous >> 16 == 0x7FE0 or (self._ascending and previous > self._last_wanted)

    @property
    def skips(self) -> int:
        """How many of the next bytes are of a value that nobody wants: they cost nothing."""
        return self._skip if self._inflater is None and not self._carry else 0

    def skip(self, maximum: int) -> int:
        """Pass over as many of them as there are, at most `maximum`, without their bytes; gives how many."""
        count = min(self.skips, maximum)
        self._skip -= count
        return count

    def feed(self, view: Buffer) -> bool:
        """Look at the next piece; True when nothing more is needed. Raises ``DataSetError``."""
        for _ in self.feeding(view):
            pass
        return self.done

    def feeding(self, view: Buffer) -> Iterator[None]:
        """As `feed`, in steps of 8 KiB, which hold a thousand elements at most."""
        if self.done:
            return
        if self._error is not None:
            raise self._error
        try:
            for piece in (view,) if self._inflater is None else self._inflater.feed(view):
                if self._inflater is not None and self._whole and self.is_behind:
                    yield
                    continue
                start, end = 0, len(piece)
                while start < end and not self.done:
                    if self._skip and not self._carry:
                        jump = min(self._skip, end - start)
                        self._skip -= jump
                        start += jump
                        continue
                    self._consume(piece[start : start + _STEP])
                    start += _STEP
                    yield
                if self.done:
                    return
                if self._inflater is not None and self._whole and self.is_behind:
                    self._inflater.lift_limits()
        except DataSetError as error:
            self._error = error
            raise
        finally:
            if self.done:
                self._carry.clear()

    def finish(self) -> dict[int, Element]:
        """The wanted elements that were there. Raises ``DataSetError`` where the data set ends too early."""
        if self._error is not None:
            raise self._error
        if not self.done:
            if not self._checked and not self._carry:
                raise DataSetError("the data set is empty")
            deflated_open = self._inflater is not None and not self._inflater.done
            if self._whole and self._checked and not any(self._carry):
                self._carry.clear()
            if self._whole and self._inflater is not None and self.is_behind:
                if deflated_open:
                    raise IncompleteDataSet("the deflated data set is truncated")
            elif self._carry or self._skip or self._nesting.depth or deflated_open:
                raise IncompleteDataSet("the data set is truncated")
        return self.found

    def _consume(self, view: Buffer) -> None:
        carry = self._carry
        while carry and not self.done:
            missing = self._need - len(carry)
            carry += view[:missing]
            view = view[missing:]
            if len(carry) < self._need:
                return
            del carry[: self._parse(carry)]
        if not self.done:
            position = self._parse(view)
            if not self.done:
                carry += view[position:]

    def _parse(self, data: Buffer) -> int:
        """Go through the whole elements in ``data``; how many bytes they took."""
        position, end = 0, len(data)
        if self._zeros:
            return self._pass_zeros(data, 0)
        nesting, skim, wanted, last = self._nesting, self._skim, self._wanted, self._last
        previous, skip, whole = self._previous, self._skip, self._whole
        found, maximum = self.found, self._maximum_value
        if not self._checked and end >= 8:
            if self._is_unknown:
                skim = self._become(likely_syntax(data))
            check_start(data, nesting.read)
            self._checked = True
        while True:
            if skip > end - position:
                skip, position = skip - (end - position), end
                break
            position, skip = position + skip, 0
            if not nesting.depth:
                position, previous = skim(data, position, end, previous, last, wanted, found, maximum)
                self._previous = previous
            available = end - position
            if available < 8:
                self._need = 8
                break
            if (
                whole
                and not nesting.depth
                and previous > 0x0002FFFF
                and data[position : position + 8] == _ZEROS
            ):
                position = self._pass_zeros(data, position)
                break
            header = nesting.read(data, position, available)
            if header is None:
                self._need = 12
                break
            tag, vr, size, length = header
            if vr == "UN" and size == 8:  # a UN that says so has a header of 12 bytes
                self.strange += 1
            if nesting.depth:
                position += size
                skip = nesting.step(tag, vr, length)
                continue
            if tag > last:
                if tag >= 0xFFFE0000:
                    check_stray(tag)
                    position += size
                    continue
                if self._ascending or tag >> 16 == 0x7FE0:
                    self.done = True
                    break
            elif tag in wanted and length != UNDEFINED_LENGTH:
                kept = length if length <= maximum else maximum
                if available < size + kept:
                    self._need = size + kept
                    break
                self._keep(tag, vr, bytes(data[position + size : position + size + kept]), length)
            if tag <= previous:
                if tag >= 0x00030000:  # those below do not belong into a data set, and are passed over
                    self._ascending = tag == previous and self._ascending
            else:
                self._previous = previous = tag
            position += size
            if length == UNDEFINED_LENGTH:
                if tag in wanted:
                    self.undefined.add(tag)
                nesting.open(tag, vr)
            else:
                skip = length
        self._previous, self._skip = previous, skip
        return position

    def _become(self, transfer_syntax_uid: str | None) -> Skim:
        """Read on in another transfer syntax, if there is one."""
        if transfer_syntax_uid is not None:
            syntax = transfer_syntax(transfer_syntax_uid)
            self._nesting.read = read_header_of(transfer_syntax_uid)
            self._skim = _skim_implicit if syntax.implicit else _SKIM_EXPLICIT[syntax.little_endian]
        return self._skim

    def _pass_zeros(self, data: Buffer, position: int) -> int:
        self._zeros = True
        if bytes(data[position:]).strip(b"\0"):
            raise DataSetError("there is something behind the end of the data set")
        return len(data)

    def _keep(self, tag: int, vr: str, value: bytes, length: int) -> None:
        if vr in ("", "UN"):
            vr = IMPLICIT_VRS.get(tag, "UN")
        if vr == "SQ":
            return
        before = self.found.get(tag)
        if before is not None and vr == "UI" and before.value.rstrip(b"\0 ") != value.rstrip(b"\0 "):
            raise DataSetError(f"{show(tag)} is there twice, with different UIDs")
        if before is not None and before.value.rstrip(b"\0 ") != value.rstrip(b"\0 "):
            self.repeated.add(tag)
        if length > len(value):
            self.truncated.add(tag)
        self.found[tag] = Element(tag, vr, value)
