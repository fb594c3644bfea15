"""The flat data set codec (PS3.5 7): elements of the top level; sequences are skipped, never built.

``Nesting`` knows what is open where sequences and items have undefined lengths; the streaming scanner uses it
too. Nothing here recurses, and no length is believed before it is compared with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from asyncdicom.data.inflation import MAXIMUM_INFLATED, Buffer, deflate, inflating
from asyncdicom.data.resuming import Broken, resuming
from asyncdicom.data.steps import Steps, finish
from asyncdicom.data.vr import IMPLICIT_VRS, MAY_BE_UNDEFINED, PADDED_WITH_SPACE, VRS
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    TRANSFER_SYNTAXES,
    transfer_syntax,
)

UNDEFINED_LENGTH = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_DELIMITATION = 0xFFFEE00D
SEQUENCE_DELIMITATION = 0xFFFEE0DD


class Element(NamedTuple):
    """One data element. The value is raw: padded, in the byte order of its data set."""

    tag: int
    vr: str
    value: bytes


# (tag, VR or "" where it is not told, bytes of the header, bytes of the value); None where the header is cut.
Header = tuple[int, str, int, int]
ReadHeader = Callable[[Buffer, int, int], Header | None]


def show(tag: int) -> str:
    """A tag as the standard writes it: (0010,0020)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _explicit(byte_order: str) -> ReadHeader:
    unpack = Struct(byte_order + "HH2sH").unpack_from
    unpack_length = Struct(byte_order + "L").unpack_from

    def read(data: Buffer, position: int, available: int) -> Header | None:
        group, element, vr, length = unpack(data, position)
        if group == 0xFFFE:  # PS3.5 7.5: items and delimiters have no VR
            return 0xFFFE0000 | element, "", 8, unpack_length(data, position + 4)[0]
        name, long = VRS.get(vr) or _unknown_vr(group << 16 | element, vr, length)
        if not long:
            return group << 16 | element, name, 8, length
        if available < 12:
            return None
        return group << 16 | element, name, 12, unpack_length(data, position + 8)[0]

    return read


_FILLED = frozenset({0x00, 0xFF, *range(0x20, 0x7F)})  # bytes that stand where a VR should


def _unknown_vr(tag: int, vr: bytes, length: int) -> tuple[str, bool]:
    # PS3.5 6.2: new VRs have the long form, whose two reserved bytes are zero.
    if vr.isalpha() and vr.isupper():
        return "UN", length == 0
    # "??", "--", blanks and NULs are seen, in short form. A length of Implicit VR looks otherwise; where it
    # could look like one of them, its upper half is zero.
    if vr == b"\0\0" or (_FILLED.issuperset(vr) and (length or not {0x00, 0xFF} & set(vr))):
        return "UN", False
    raise DataSetError(f"{show(tag)} has no Value Representation: not Explicit VR")


def _implicit() -> ReadHeader:
    unpack = Struct("<HHL").unpack_from

    def read(data: Buffer, position: int, available: int) -> Header | None:
        group, element, length = unpack(data, position)
        return group << 16 | element, "", 8, length

    return read


_READ_IMPLICIT = _implicit()
_READ_EXPLICIT = _explicit("<")
_READ_BIG_ENDIAN = _explicit(">")


def read_header_of(transfer_syntax_uid: str) -> ReadHeader:
    """What reads the header of an element: ``read(data, position, available)``, with available >= 8."""
    syntax = transfer_syntax(transfer_syntax_uid)
    if syntax.implicit:
        return _READ_IMPLICIT
    return _READ_EXPLICIT if syntax.little_endian else _READ_BIG_ENDIAN


def check_start(data: Buffer, read: ReadHeader) -> None:
    """Refuse a data set that is plainly not in its declared transfer syntax, by its first 8 bytes.

    Such a data set can be read as another one with a huge first value, and then nobody would notice.
    """
    group = data[0] | data[1] << 8 if read is not _READ_BIG_ENDIAN else data[1] | data[0] << 8
    if group == 0x0800:
        raise DataSetError("the data set has the other byte order than its transfer syntax")
    if read is _READ_IMPLICIT and group == 0x0008 and data[3] == 0 and bytes(data[4:6]) in VRS:
        raise DataSetError("the data set is Explicit VR, its transfer syntax is Implicit VR")


def likely_syntax(data: Buffer) -> str | None:
    """Which uncompressed transfer syntax a data set seems to be encoded in, by its first header; or None.

    For who has nothing better to go by: a whole walk has to prove it.
    """
    if len(data) < 8:
        return None
    group = data[0] | data[1] << 8
    little_endian = group >> 8 < group & 0xFF  # no data set begins with a group behind 00FF
    explicit = bytes(data[4:6]) in VRS
    if not little_endian:
        return EXPLICIT_VR_BIG_ENDIAN if explicit and group else None
    if explicit:
        return EXPLICIT_VR_LITTLE_ENDIAN
    return IMPLICIT_VR_LITTLE_ENDIAN if data[6] == data[7] == 0 else None  # its first value is short


def passed_over(data: Buffer) -> int:
    """How many bytes at the beginning of a data set are elements of the groups 0000 and 0002.

    They do not belong there, and may be encoded otherwise than what follows.
    """
    position, room = 0, len(data) - 8
    while position <= room:
        first = bytes(data[position : position + 8])
        if first[:2] not in (b"\0\0", b"\2\0", b"\0\2") or not any(first):
            break
        explicit = _READ_BIG_ENDIAN if first[:2] == b"\0\2" else _READ_EXPLICIT
        read = explicit if first[4:6] in VRS else _READ_IMPLICIT
        header = read(data, position, len(data) - position)
        if header is None or header[3] > len(data) - position - header[2]:
            break
        position += header[2] + header[3]
    return position


class Nesting:
    """The sequences and items of undefined length that are open, and how headers are read there."""

    __slots__ = ("_maximum_depth", "_open", "depth", "read")

    def __init__(self, read: ReadHeader, maximum_depth: int) -> None:
        self.read = read
        self.depth = 0
        self._maximum_depth = maximum_depth
        self._open: list[tuple[bool, ReadHeader]] = []  # is an item, how headers are read after it

    def open(self, tag: int, vr: str) -> None:
        """An element of undefined length begins."""
        if vr not in MAY_BE_UNDEFINED:
            raise DataSetError(f"{show(tag)} {vr} has an undefined length")
        if self.depth == self._maximum_depth:
            raise DataSetError(f"{show(tag)}: sequences are nested deeper than {self._maximum_depth}")
        self.depth += 1
        self._open.append((False, self.read))
        if vr == "UN":  # PS3.5 6.2.2 Note 5: its items are Implicit VR Little Endian
            self.read = _READ_IMPLICIT

    def step(self, tag: int, vr: str, length: int) -> int:
        """A header inside: how many bytes of value to skip after it."""
        in_item = self._open[-1][0]
        if tag < 0xFFFE0000 and in_item:
            if length != UNDEFINED_LENGTH:
                return length
            self.open(tag, vr)
        elif tag == ITEM and not in_item:
            if length != UNDEFINED_LENGTH:
                return length
            self._open.append((True, self.read))
        elif tag == (ITEM_DELIMITATION if in_item else SEQUENCE_DELIMITATION):
            self.read = self._open.pop()[1]
            self.depth -= not in_item
        elif tag != ITEM_DELIMITATION:  # one after an item of defined length is superfluous, its length void
            raise DataSetError(f"{show(tag)} where {'an element' if in_item else 'an item'} was expected")
        return 0


Walked = tuple[int, str, int, int]
"""Tag, VR, and where the value starts and stops."""

_STEP = 1000  # headers that are read before somebody else may have a turn
MAXIMUM_ELEMENTS = 1 << 18
"""Of a data set that is decoded whole, those in sequences of undefined length included: 100 MB as objects."""


class Skipped:
    """What a lenient reader left out: how many elements, and why the first one."""

    __slots__ = ("count", "looked_at", "why")

    def __init__(self) -> None:
        self.count = 0
        self.why = ""
        self.looked_at = 0  # places where reading might have gone on

    def add(self, why: object, count: int = 1) -> None:
        """Count one more, or more of them."""
        self.count += count
        self.why = self.why or str(why)

    def __str__(self) -> str:
        return f"{self.count} element{'s' * (self.count != 1)} skipped; {self.why}"


def walking(
    data: Buffer,
    transfer_syntax_uid: str,
    *,
    maximum_depth: int = 64,
    maximum_elements: int | None = None,
    skipped: Skipped | None = None,
) -> Iterator[Walked | None]:
    """Yield (tag, VR, start, stop) of each value of the top level of a data set that is not deflated.

    After every thousand headers comes a None: the place to let others work. The value of a sequence is its
    items, without the delimiter. Elements of the groups 0000 and 0002 are left out, they do not belong there;
    so are bytes of zero behind the last element. Raises ``DataSetError`` for whatever else does not fit in
    ``data``, and for more than ``maximum_elements`` headers, at any depth. With ``skipped`` an element that
    cannot be read costs only itself: it is counted there, and reading goes on behind it.
    """
    end = len(data)
    position = start = at = outer_tag = count = 0
    outer_vr = ""
    nesting = Nesting(read_header_of(transfer_syntax_uid), maximum_depth)
    read = nesting.read
    zeros = _Zeros(data)
    if end >= 8:
        check_start(data, read)
    while position < end:
        count += 1
        if count % _STEP == 0:
            if maximum_elements is not None and count > maximum_elements:
                raise DataSetError(f"the data set has more than {maximum_elements} elements")
            yield None
        if not nesting.depth:
            at = position
        try:
            header = nesting.read(data, position, end - position) if end - position >= 8 else None
            if header is None:
                raise DataSetError(f"the data set ends within the header of an element, at byte {end}")
            tag, vr, size, length = header
            position += size
            if nesting.depth:
                position += nesting.step(tag, vr, length)
                if not nesting.depth and outer_tag >= 0x00030000:
                    yield outer_tag, outer_vr, start, position - size
            elif tag >= 0xFFFE0000:
                check_stray(tag)
            elif length == UNDEFINED_LENGTH:
                outer_tag, outer_vr, start = tag, vr or "SQ", position
                nesting.open(tag, vr)
            else:
                if length <= end - position and tag >= 0x00030000:
                    outer_tag, start = tag, position
                    yield (
                        tag,
                        vr or IMPLICIT_VRS.get(tag, "UN" if tag & 0xFFFF else "UL"),
                        position,
                        position + length,
                    )
                elif not tag and zeros.begin(at):
                    return
                position += length
            if position > end:
                raise DataSetError(
                    f"{show(tag)} has a length of {length}, {position - end} more than is there"
                )
        except DataSetError as error:
            if not nesting.depth and zeros.begin(at):
                return
            if skipped is None:
                raise
            skipped.add(error)
            position, skipped.looked_at = yield from resuming(
                Broken(
                    data,
                    read,
                    None if read is _READ_IMPLICIT else VRS,
                    read is not _READ_BIG_ENDIAN,
                    at,
                    start,
                    outer_tag,
                    skipped.looked_at,
                ),
                is_nested=nesting.depth > 0,
            )
            nesting = Nesting(read, maximum_depth)
    if nesting.depth:
        if skipped is None:
            raise DataSetError(f"{show(outer_tag)} has no Sequence Delimitation Item")
        skipped.add(f"{show(outer_tag)} has no Sequence Delimitation Item")


class _Zeros:
    """Bytes of zero behind the last element: some writers fill up with them, they are no element."""

    __slots__ = ("_begin", "_data")

    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._begin: int | None = None

    def begin(self, position: int) -> bool:
        """Whether nothing else follows from `position` on."""
        if self._begin is None:  # looked for once: a data set may seem to have many ends
            self._begin = len(bytes(self._data).rstrip(b"\0"))
        return position >= self._begin > 0  # nothing but zeros is no data set


def check_stray(tag: int) -> None:
    """Delimiters outside a sequence mean nothing and are tolerated; an item there is an error."""
    if tag not in (ITEM_DELIMITATION, SEQUENCE_DELIMITATION):
        raise DataSetError(f"{show(tag)} outside a sequence")


def syntax_to_read(data: Buffer, transfer_syntax_uid: str, *, strict: bool) -> Steps[str]:
    """The transfer syntax to read ``data`` in, which is inflated already: the one that was told.

    Where nobody knows that one, it is the one that the data set looks like; for who is not ``strict`` it is
    that one if all of the data set can be read in it alone.
    """
    if strict and transfer_syntax_uid in TRANSFER_SYNTAXES:
        return transfer_syntax_uid
    likely = likely_syntax(data)
    if likely is None or read_header_of(likely) is read_header_of(transfer_syntax_uid):
        return transfer_syntax_uid
    if strict:
        return likely
    for syntax in (transfer_syntax_uid, likely):
        try:
            for walked in walking(data, syntax, maximum_elements=MAXIMUM_ELEMENTS):
                if walked is None:
                    yield
        except DataSetError:
            continue
        return syntax
    return transfer_syntax_uid


def decode(
    data: Buffer,
    transfer_syntax_uid: str,
    *,
    strict: bool = True,
    skipped: Skipped | None = None,
    maximum_depth: int = 64,
    maximum_inflated: int = MAXIMUM_INFLATED,
    maximum_elements: int | None = None,
) -> list[Element]:
    """The elements of the top level of a data set, in the order they have there.

    The value of a sequence is its encoded items. Raises ``DataSetError``; never reads or allocates more than
    ``data`` has, or ``maximum_inflated`` bytes of a deflated one. Not ``strict``: an element that cannot be
    read costs only itself, and is counted in ``skipped``.
    """
    return finish(
        decoding(
            data,
            transfer_syntax_uid,
            skipped=None if strict else skipped or Skipped(),
            maximum_depth=maximum_depth,
            maximum_inflated=maximum_inflated,
            maximum_elements=maximum_elements,
        )
    )


def decoding(
    data: Buffer,
    transfer_syntax_uid: str,
    *,
    skipped: Skipped | None = None,
    maximum_depth: int = 64,
    maximum_inflated: int = MAXIMUM_INFLATED,
    maximum_elements: int | None = None,
) -> Steps[list[Element]]:
    """As `decode`, in steps of a thousand headers or 64 KiB of inflated bytes; lenient with ``skipped``.

    More than ``maximum_elements`` headers, at any depth, raise ``DataSetError``.
    """
    if transfer_syntax(transfer_syntax_uid).deflated:
        data = yield from inflating(data, maximum_inflated)
    transfer_syntax_uid = yield from syntax_to_read(data, transfer_syntax_uid, strict=skipped is None)
    elements = []
    for walked in walking(
        data,
        transfer_syntax_uid,
        maximum_depth=maximum_depth,
        maximum_elements=maximum_elements,
        skipped=skipped,
    ):
        if walked is None:
            yield
        else:
            tag, vr, start, stop = walked
            elements.append(Element(tag, vr, bytes(data[start:stop])))
    return elements


class Encoder:
    """Encodes elements one by one; values are raw and get padded to even length (PS3.5 6.2)."""

    __slots__ = ("_implicit", "_long", "_short", "_syntax", "byte_order")

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._syntax = transfer_syntax(transfer_syntax_uid)
        self.byte_order = "<" if self._syntax.little_endian else ">"
        self._implicit = Struct("<HHL").pack
        self._short = Struct(self.byte_order + "HH2sH").pack
        self._long = Struct(self.byte_order + "HH2sHL").pack

    def element(self, tag: int, vr: str, raw: bytes) -> bytes:
        """Encode one element. Raises ``DataSetError`` as `encode` does."""
        value = raw if len(raw) % 2 == 0 else raw + (b" " if vr in PADDED_WITH_SPACE else b"\0")
        group, element, length = tag >> 16, tag & 0xFFFF, len(value)
        if self._syntax.implicit and length < UNDEFINED_LENGTH:
            return self._implicit(group, element, length) + value
        code = vr.encode("ascii", "replace")
        if length >= UNDEFINED_LENGTH or code not in VRS:
            raise DataSetError(f"{show(tag)} cannot be encoded: VR {vr!r}, {length} bytes")
        if VRS[code][1]:
            return self._long(group, element, code, 0, length) + value
        if length > 0xFFFE:  # PS3.5 6.2.2 Note 2
            return self._long(group, element, b"UN", 0, length) + value
        return self._short(group, element, code, length) + value

    def finish(self, encoded: Iterable[bytes]) -> bytes:
        """Make a data set of encoded elements that are sorted by tag."""
        whole = b"".join(encoded)
        return deflate(whole) if self._syntax.deflated else whole


def encode(elements: Iterable[tuple[int, str, bytes]], transfer_syntax_uid: str) -> bytes:
    """Encode elements that are sorted by tag; values are raw and get padded to even length (PS3.5 6.2).

    The value of a sequence is its items, encoded in the same transfer syntax. Raises ``DataSetError`` for a
    VR that does not exist or a value longer than its length field can tell.
    """
    encoder = Encoder(transfer_syntax_uid)
    return encoder.finish([encoder.element(tag, vr, raw) for tag, vr, raw in elements])
