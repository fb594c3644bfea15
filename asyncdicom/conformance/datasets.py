"""Table D: data sets, as the archives and the query services behind a peer see them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from struct import pack

from .build import (
    DEFLATED_CONTEXT,
    EXPLICIT_CONTEXT,
    FIND_CONTEXT,
    STORE_CONTEXT,
    Attributes,
    attributes,
    element,
    even,
    explicit,
    explicit_data,
    implicit_data,
    query,
    store,
)
from .case import ABORTED, ESTABLISHED, FAILED, STORED, WARNED, Case, Facts

_BEHIND = "PS3.4 B.2.3; what stands behind the attributes of an index may be kept unread"
_READABLE = "PS3.4 B.2.3: cannot understand, Cxxx, or data set does not match SOP class, A9xx; never Success"
_LENIENT = "PS3.5 7.1 forbids it; the field does it, and the bytes can be kept as they are"
_VR = "PS3.5 6.2: an unknown VR has a 32-bit length, if it can be read at all"
_GROUPS = "PS3.5 7.1: groups 0000 and 0002 have no place in a data set"
_ORDER = "PS3.5 7.1: tags ascend, and each occurs once"
_NESTING = "PS3.5 7.5 sets no limit to nesting: whatever the answer, no stack may overflow"
_DELIMITER = "PS3.5 7.5: delimitation items are found in sequences, and have no length"
_OPEN = "PS3.5 7.5.2: what has an undefined length ends with a delimitation item"
_PIXELS = "PS3.5 A.4: encapsulated Pixel Data belongs to other transfer syntaxes; it can be kept as it is"
_DEFLATED = "PS3.5 A.5: whatever the answer, inflating is bounded"
_REQUIRED = "PS3.4 B.2.3 and C.6: without its keys an instance cannot be found again"
_TEXT = "PS3.5 6.2: too long, or in another character set; nobody may stumble over it"
_MATCHING = "PS3.4 C.2.2.2.4: whatever the answer, it comes in time"
_LEVEL = "PS3.4 C.4.1.1.3: identifier does not match SOP class, A900H"

_UNREADABLE = "status C???, goes on | status A9??, goes on"
_REFUSED = f"{FAILED} | {ABORTED}"
_ANY = f"{STORED} | {FAILED} | {WARNED}"
_CT_STUDY = 0x0020000D

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE = 0x00081115


def _instance(case: str, **changes: bytes | None) -> bytes:
    """An instance some of whose attributes are others."""
    return store(case, implicit_data(attributes(case, **changes)))


def _at_the_end(case: str, tail: bytes) -> bytes:
    """An instance without Pixel Data behind which these bytes stand."""
    return store(case, implicit_data(attributes(case, x7FE00010=None)) + tail)


def _before(case: str, tag: int, inserted: bytes) -> bytes:
    """An instance with these bytes in front of the first element of `tag` or more."""
    found = attributes(case)
    front: Attributes = {each: value for each, value in found.items() if each < tag}
    behind: Attributes = {each: value for each, value in found.items() if each >= tag}
    return store(case, implicit_data(front) + inserted + implicit_data(behind))


def _explicitly(case: str, tail: bytes, **changes: bytes | None) -> bytes:
    return store(case, explicit_data(attributes(case, **changes)) + tail, EXPLICIT_CONTEXT)


def _nested(case: str, depth: int) -> Callable[[Facts], bytes]:
    def build(facts: Facts) -> bytes:
        opened = element(_SEQUENCE, b"", _UNDEFINED) + element(_ITEM, b"", _UNDEFINED)
        closed = element(_ITEM_END, b"") + element(_SEQUENCE_END, b"")
        return _before(case, 0x00100000, opened * depth + closed * depth)

    return build


def _deflated(case: str, *, cut: int = 0, corrupt: bool = False, zeros: int = 0) -> Callable[[Facts], bytes]:
    """Deflated, and then made worse; `zeros`: so many MiB of them in front of the keys of the patient."""

    def build(facts: Facts) -> bytes:
        found = attributes(case)
        front: Attributes = {tag: value for tag, value in found.items() if tag < 0x00100000}
        behind: Attributes = {tag: value for tag, value in found.items() if tag >= 0x00100000}
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        parts = [explicit_data(front)]
        if zeros:
            parts += [explicit(0x000900FF, b"UN", b"", zeros << 20), *[bytes(1 << 20)] * zeros]
        data = b"".join(packer.compress(part) for part in [*parts, explicit_data(behind)]) + packer.flush()
        if corrupt:
            data = data[:8] + b"\xff" * 8 + data[16:]
        return store(case, even(data[: len(data) - cut]), DEFLATED_CONTEXT)

    return build


def _find(*keys: tuple[int, bytes]) -> bytes:
    return query(((0x00080052, b"STUDY "), *keys))


_BIG_ENDIAN = b"".join(
    pack(">HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value) + len(value) % 2)
    + value
    + b"\0" * (len(value) % 2)
    for tag, (vr, value) in sorted(attributes("D-12", x7FE00010=None).items())
)

_ENCAPSULATED = (
    explicit(0x7FE00010, b"OB", b"", _UNDEFINED)
    + element(_ITEM, b"")
    + element(_ITEM, b"\xff\xd8\xff\xd9")
    + element(_SEQUENCE_END, b"")
)

# fmt: off
CASES = (
    Case("D-01a", "a data set that ends inside the header of an element", ESTABLISHED,
         _at_the_end("D-01a", b"\x28\0\x10"), _UNREADABLE, _REFUSED, _READABLE, needs=STORE_CONTEXT,
         service=True),
    Case("D-01b", "a data set that ends inside a value", ESTABLISHED,
         _at_the_end("D-01b", element(0x00281050, b"12", 8)), _UNREADABLE, _REFUSED, _READABLE,
         needs=STORE_CONTEXT, service=True),
    Case("D-01c", "Pixel Data that ends too early", ESTABLISHED,
         _at_the_end("D-01c", element(0x7FE00010, bytes(8), 4096)), _UNREADABLE, f"{_REFUSED} | {STORED}",
         _BEHIND, needs=STORE_CONTEXT, service=True),
    Case("D-02a", "a text that claims 2 GiB", ESTABLISHED,
         _before("D-02a", 0x00100000, element(0x00080080, b"ab", 0x7FFFFFFE)), _UNREADABLE, _REFUSED,
         _READABLE, needs=STORE_CONTEXT, service=True),
    Case("D-02b", "a text that claims 4 GiB", ESTABLISHED,
         _before("D-02b", 0x00100000, element(0x00080080, b"ab", 0xFFFFFFFE)), _UNREADABLE, _REFUSED,
         _READABLE, needs=STORE_CONTEXT, service=True),
    Case("D-03", "a value of odd length", ESTABLISHED,
         _before("D-03", 0x00100000, element(0x00080080, b"abc")), STORED, _REFUSED, _LENIENT,
         needs=STORE_CONTEXT, service=True),
    Case("D-04a", "an element of the VR ??", ESTABLISHED,
         _explicitly("D-04a", pack("<HH2sxxI", 0x7FE1, 0x1010, b"??", 4) + b"abcd"), _ANY, ABORTED, _VR,
         needs=EXPLICIT_CONTEXT, service=True),
    Case("D-04b", "the VR ZZ in front of the keys", ESTABLISHED,
         store("D-04b", explicit(0x00080001, b"ZZ", b"ab") + explicit_data(attributes("D-04b")),
               EXPLICIT_CONTEXT),
         _ANY, ABORTED, _VR, needs=EXPLICIT_CONTEXT, service=True),
    Case("D-05a", "File Meta Information inside a data set", ESTABLISHED,
         store("D-05a", element(0x00020010, b"1.2.840.10008.1.2\0") + implicit_data(attributes("D-05a"))),
         STORED, _REFUSED, _GROUPS, needs=STORE_CONTEXT, service=True),
    Case("D-05b", "a command element inside a data set", ESTABLISHED,
         store("D-05b", element(0x00000100, b"\1\0") + implicit_data(attributes("D-05b"))), STORED,
         _REFUSED, _GROUPS, needs=STORE_CONTEXT, service=True),
    Case("D-06a", "tags that do not ascend", ESTABLISHED,
         _before("D-06a", 0x00280000, element(0x00080080, b"abcd")), STORED, _REFUSED, _ORDER,
         needs=STORE_CONTEXT, service=True),
    Case("D-06b", "two SOP Instance UIDs that differ", ESTABLISHED,
         _before("D-06b", 0x00080060, element(0x00080018, b"1.2.3.4.5\0")), _UNREADABLE,
         f"{FAILED} | {STORED}", _ORDER, needs=STORE_CONTEXT, service=True),
    Case("D-07a", "sequences 60 deep", ESTABLISHED, _nested("D-07a", 60), STORED, _REFUSED, _NESTING,
         needs=STORE_CONTEXT, service=True),
    Case("D-07b", "sequences 10,000 deep", ESTABLISHED, _nested("D-07b", 10000), _ANY, ABORTED, _NESTING,
         needs=STORE_CONTEXT, service=True),
    Case("D-08a", "an Item Delimitation Item outside of a sequence", ESTABLISHED,
         _before("D-08a", 0x00100000, element(_ITEM_END, b"")), _ANY, ABORTED, _DELIMITER,
         needs=STORE_CONTEXT, service=True),
    Case("D-08b", "a Sequence Delimitation Item with a length", ESTABLISHED,
         _before("D-08b", 0x00100000,
                 element(_SEQUENCE, b"", _UNDEFINED) + element(_SEQUENCE_END, b"", 0x7FFFFFF0)),
         _ANY, ABORTED, _DELIMITER, needs=STORE_CONTEXT, service=True),
    Case("D-09a", "a sequence of undefined length that does not end", ESTABLISHED,
         _at_the_end("D-09a", element(0x00400275, b"", _UNDEFINED) + element(_ITEM, b"")), _UNREADABLE,
         f"{_REFUSED} | {STORED}", _BEHIND, needs=STORE_CONTEXT, service=True),
    Case("D-09b", "an item of undefined length that does not end", ESTABLISHED,
         _before("D-09b", 0x00100000, element(_SEQUENCE, b"", _UNDEFINED) + element(_ITEM, b"", _UNDEFINED)),
         _UNREADABLE, _REFUSED, _OPEN, needs=STORE_CONTEXT, service=True),
    Case("D-10", "encapsulated Pixel Data in Explicit VR Little Endian", ESTABLISHED,
         _explicitly("D-10", _ENCAPSULATED, x7FE00010=None),
         STORED, _REFUSED, _PIXELS, needs=EXPLICIT_CONTEXT, service=True),
    Case("D-11a", "a deflated data set with rubbish in it", ESTABLISHED, _deflated("D-11a", corrupt=True),
         _UNREADABLE, _REFUSED, _DEFLATED, needs=DEFLATED_CONTEXT, service=True),
    Case("D-11b", "a deflated data set that ends too early", ESTABLISHED, _deflated("D-11b", cut=40),
         _UNREADABLE, _REFUSED, _DEFLATED, needs=DEFLATED_CONTEXT, service=True),
    Case("D-11c", "64 MiB of zeros, deflated, in front of the keys", ESTABLISHED,
         _deflated("D-11c", zeros=64), _ANY, ABORTED, _DEFLATED, needs=DEFLATED_CONTEXT, service=True),
    Case("D-12", "Explicit VR Big Endian in a Little Endian context", ESTABLISHED,
         store("D-12", _BIG_ENDIAN, EXPLICIT_CONTEXT), _UNREADABLE, _REFUSED, _READABLE,
         needs=EXPLICIT_CONTEXT, service=True),
    Case("D-13a", "no Study Instance UID", ESTABLISHED,
         _instance("D-13a", x0020000D=None), "status A9??, goes on", _ANY,
         _REQUIRED, needs=STORE_CONTEXT, service=True),
    Case("D-13b", "no SOP Instance UID", ESTABLISHED,
         _instance("D-13b", x00080018=None), _UNREADABLE, _REFUSED, _REQUIRED,
         needs=STORE_CONTEXT, service=True),
    Case("D-13c", "no Patient ID", ESTABLISHED,
         _instance("D-13c", x00100020=None), STORED, f"{_REFUSED} | {WARNED}",
         "PS3.3 C.7.1.1: type 2, and often not there", needs=STORE_CONTEXT, service=True),
    Case("D-14a", "a Patient's Name of 64 KiB", ESTABLISHED,
         _instance("D-14a", x00100010=b"N" * 65536), STORED, _REFUSED, _TEXT,
         needs=STORE_CONTEXT, service=True),
    Case("D-14b", "a Study Instance UID of 200 components", ESTABLISHED,
         _instance("D-14b", x0020000D=b"1" + b".2" * 199),
         "status A9??, goes on", _ANY, _TEXT, needs=STORE_CONTEXT, service=True),
    Case("D-14c", "NULs in a Patient ID", ESTABLISHED,
         _instance("D-14c", x00100020=b"A\0B\0"), STORED, _REFUSED, _TEXT,
         needs=STORE_CONTEXT, service=True),
    Case("D-14d", "UTF-8 that is none", ESTABLISHED,
         _instance("D-14d", x00080005=b"ISO_IR 192", x00100010=b"\xc3\x28\xff\xfe"),
         STORED, _REFUSED, _TEXT, needs=STORE_CONTEXT, service=True),
    Case("D-14e", "a character set that nobody knows", ESTABLISHED,
         _instance("D-14e", x00080005=b"ISO_IR 9999"), STORED, _REFUSED,
         _TEXT, needs=STORE_CONTEXT, service=True),
    Case("D-15a", "a query with 1,000 wildcards", ESTABLISHED, _find((0x00100010, b"*?" * 500 + b"X ")),
         f"{STORED} | {_UNREADABLE}", f"{FAILED} | {ABORTED}", _MATCHING, needs=FIND_CONTEXT, service=True),
    Case("D-15b", "a query with 30,000 wildcards", ESTABLISHED, _find((0x00100010, b"*?" * 30000 + b"X ")),
         f"{STORED} | {_UNREADABLE}", f"{FAILED} | {ABORTED}", _MATCHING, needs=FIND_CONTEXT, service=True),
    Case("D-16a", "a query without a level", ESTABLISHED, query([(0x00100010, b"")]), "status A900, goes on",
         f"{FAILED} | {STORED}", _LEVEL, needs=FIND_CONTEXT, service=True),
    Case("D-16b", "a query at a level that does not exist", ESTABLISHED,
         query([(0x00080052, b"NOWHERE "), (0x00100010, b"")]), "status A900, goes on",
         f"{FAILED} | {STORED}", _LEVEL, needs=FIND_CONTEXT, service=True),
    Case("D-16c", "a query for the date range -", ESTABLISHED, _find((0x00080020, b"- ")),
         f"{STORED} | {_UNREADABLE}", FAILED, "PS3.4 C.2.2.2.5: a range has a beginning or an end",
         needs=FIND_CONTEXT, service=True),
    Case("D-16d", "a query for the dates 20250101-2024", ESTABLISHED, _find((0x00080020, b"20250101-2024 ")),
         f"{STORED} | {_UNREADABLE}", FAILED, "PS3.5 6.2, DA: 8 digits", needs=FIND_CONTEXT, service=True),
    Case("D-16e", "a query that is rubbish", ESTABLISHED, query([(0xFFFFFFFF, b"\xff" * 20)]), _UNREADABLE,
         f"{FAILED} | {STORED}", _LEVEL, needs=FIND_CONTEXT, service=True),
    Case("D-18", "an empty data set", ESTABLISHED, store("D-18", b""), _UNREADABLE, _REFUSED, _READABLE,
         needs=STORE_CONTEXT, service=True),
)
# fmt: on
