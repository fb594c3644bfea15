"""Data sets: `data.scanner` and `data.elements` against each other, in all kinds of transfer syntax.

Both raise `DataSetError` and nothing else, however the bytes are cut; where both read, they read the same.
What `decode` gave can be encoded and reads the same. Text of any value in any character set is a str.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import pairwise

from asyncdicom.data.charset import decode_text
from asyncdicom.data.elements import Element, check_start, decode, encode, read_header_of
from asyncdicom.data.scanner import Scanner
from asyncdicom.data.vr import IMPLICIT_VRS
from asyncdicom.exceptions import DataSetError
from fuzz.check import Finding, Head, check, check_equal, pieces, words

HEAD = 4
LAYOUT = "data_set"
MAXIMUM = 65536
LINES = (4000, 8)
MEMORY = (1 << 20, 16)

# The last byte of the UID says how the body becomes a data set: "+" deflates it first.
SYNTAXES = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.1.99+",
    "1.2.840.10008.1.2.4.50",
    "1.2.3.4.5",
)
WANTED = (
    frozenset(IMPLICIT_VRS),
    frozenset({0x00080016, 0x00080018, 0x0020000D, 0x0020000E}),
    frozenset({0x00080005, 0x00100010, 0x00100020, 0x00280008}),
    frozenset({0x7FE00010, 0x00091001}),
    frozenset[int](),
)
_BINARY = frozenset(["SQ", "UN", "OB", "OW", "OD", "OF", "OL", "OV", "UL"])


def _set_up(head: Head) -> tuple[str, frozenset[int], bytes]:
    uid, wanted, body = head.choose(SYNTAXES), head.choose(WANTED), head.body
    if uid.endswith("+"):
        compressor = zlib.compressobj(1, wbits=-15)
        uid, body = uid[:-1], compressor.compress(body) + compressor.flush()
    return uid, wanted, body


Scan = tuple[dict[int, Element], set[int], bool, str]


def _scan(cuts: Iterable[memoryview], uid: str, wanted: frozenset[int], maximum_value: int) -> Scan:
    scanner = Scanner(uid, wanted, maximum_value=maximum_value)
    error = ""
    try:
        for piece in cuts:
            check(scanner.feed(piece) == scanner.done, "what feed() says")
        found = scanner.finish()
        check_equal(found, scanner.found, "found")
    except DataSetError as problem:
        error = words(problem)
    for tag, element in scanner.found.items():
        check(tag in wanted and element.tag == tag, "found what nobody wanted")
        check(len(element.value) <= maximum_value, "a value longer than asked for")
    return scanner.found, scanner.truncated, scanner.done, error


def _agree(elements: list[Element] | None, scan: Scan, wanted: frozenset[int]) -> None:
    found, truncated, done, error = scan
    if elements is None:
        check(error or done, "the scanner reads to its end what decode() cannot read")
        return
    may_fail = "twice" in error or error == "the data set is empty"
    check(not error or may_fail, f"the scanner cannot read what decode() can: {error}")
    values: dict[int, list[Element]] = {}
    for element in elements:
        values.setdefault(element.tag, []).append(element)
    for tag, element in found.items():
        same = [e.value[: len(element.value)] for e in values[tag] if e.vr in (element.vr, "UN")]
        check(element.value in same, f"{tag:08X} is another value for the scanner")
        check(tag in truncated or element.value in [e.value for e in values[tag]], "cut, but not said to be")
    tags = [element.tag for element in elements]
    if not error and all(a < b for a, b in pairwise(tags)):
        missed = [e.tag for e in elements if e.tag in wanted and e.vr not in _BINARY and e.tag not in found]
        check(not missed, f"not found: {[f'{tag:08X}' for tag in missed]}")


def _encode(elements: list[Element], uid: str) -> None:
    try:
        encoded = encode(elements, uid)
    except DataSetError as error:
        raise Finding(f"what was read cannot be written: {error}") from error
    try:
        check_start(encoded[:8].ljust(8, b"\0"), read_header_of(uid))
    except DataSetError:
        return  # without what `decode` leaves out, the first element looks like another transfer syntax
    again = decode(encoded, uid)
    check_equal([e.tag for e in again], [e.tag for e in elements], "tags there and back")
    for before, after in zip(elements, again, strict=True):
        # In Implicit VR an undefined length says SQ, which is lost where its length gets defined.
        lost = before.vr == "SQ" and uid == SYNTAXES[0]
        check(before.vr == after.vr or lost, "a VR there and back")
        check(after.value[: len(before.value)] == before.value, "a value there and back")
        check(len(after.value) == len(before.value) + len(before.value) % 2, "its length there and back")


def _text(elements: list[Element]) -> None:
    character_set = next((e.value.decode("latin-1") for e in elements if e.tag == 0x00080005), "")
    for element in elements[:20]:
        text = decode_text(element.value[:2000], character_set, element.vr)
        check(isinstance(text, str) and len(text) <= len(element.value) + 1, "text longer than its bytes")


def once(data: bytes) -> None:
    """What is measured."""
    uid, wanted, body = _set_up(Head(data, HEAD))
    scanner = Scanner(uid, wanted)
    try:
        scanner.feed(body)
        scanner.finish()
        decode(body, uid)
    except DataSetError:
        return


def run(data: bytes) -> object:
    """All checks."""
    head = Head(data, HEAD)
    uid, wanted, body = _set_up(head)
    seed, maximum_value = head.byte(), head.choose((65536, 64, 0, 7))
    whole = _scan([memoryview(body)], uid, wanted, maximum_value)
    cut = _scan(pieces(body, seed), uid, wanted, maximum_value)
    if not uid.endswith(".99") or not (whole[3] or cut[3]):
        # What zlib gave before the place where a deflated data set is corrupt depends on the pieces.
        check_equal(cut, whole, f"scanned, cut differently (seed {seed})")
    elements: list[Element] | None = None
    why = ""
    try:
        elements = decode(body, uid)
    except DataSetError as error:
        why = words(error)
    _agree(elements, whole, wanted)
    if elements is not None:
        _encode(elements, uid)
        _text(elements)
    return (
        uid[-3:],
        len(whole[0]) > 0,
        whole[2],
        whole[3],
        why,
        elements is not None and min(len(elements), 9),
    )
