"""A lenient reader: an element that cannot be understood costs only itself."""

from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path
from struct import pack

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncdicom.data.elements import Element, Skipped, decode
from asyncdicom.data.resuming import MAXIMUM_PLACES
from asyncdicom.data.vr import IMPLICIT_VRS
from asyncdicom.exceptions import DataSetError

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header, sequence = ENCODED["dataset"], ENCODED["header"], ENCODED["sequence"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]

BEFORE = (0x00080052, "CS", b"STUDY ")
AFTER = [
    (0x00080060, "CS", b"MR"),
    (0x00100010, "PN", b"DOE^JOHN"),
    (0x00100020, "LO", b"123 "),
    (0x0020000D, "UI", b"1.2.3.4\0"),
]


def read(data: bytes, how: str) -> tuple[list[Element], int]:
    skipped = Skipped()
    with pytest.raises(DataSetError):
        decode(data, SYNTAXES[how])
    return decode(data, SYNTAXES[how], strict=False, skipped=skipped), skipped.count


def around(broken: bytes, how: str) -> bytes:
    whole: bytes = dataset([BEFORE], how) + broken + dataset(AFTER, how)
    return whole


REST = [Element(*BEFORE), *(Element(*element) for element in AFTER)]

BROKEN = {
    "no VR, a short length": b"\x08\0\x54\0\1\2\4\0abcd",
    "Implicit VR": pack("<HHL", 8, 0x54, 0x80) + b"x" * 0x80,
    "another VR with a long length": b"\x08\0\x54\0\1\2\0\0\4\0\0\0abcd",
    "a short length where it should be long": b"\x08\0\x54\0OB\4\0abcd",
    "a length of far too much": b"\x08\0\x54\0UN\0\0\xfe\xff\xff\xffabcd",
    "a length of a little too much": b"\x08\0\x54\0AE\xff\xffabcd",
    "an undefined length where there may be none": b"\x08\0\x54\0UT\0\0\xff\xff\xff\xffabcd",
    "an item outside of a sequence": pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd",
    "a sequence of a wrong length": b"\x08\0\x54\0SQ\0\0\xfe\xff\xff\0"
    + pack("<HHL", 0xFFFE, 0xE000, 12)
    + b"\x10\0\x10\0PN\4\0A^B ",
    "a sequence with an element instead of an item": header(0x00080054, "SQ", UNDEFINED, "explicit")
    + dataset(AFTER, "explicit")
    + header(0xFFFEE0DD, "", 0, "explicit"),
    "a sequence of which an item is broken": header(0x00080054, "SQ", UNDEFINED, "explicit")
    + header(0xFFFEE000, "", UNDEFINED, "explicit")
    + dataset([(0x00100010, "PN", b"NOT^THIS")], "explicit")
    + b"\x10\0\x20\0\1\2\3\4"
    + header(0xFFFEE00D, "", 0, "explicit")
    + header(0xFFFEE0DD, "", 0, "explicit"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_element_costs_only_itself(kind: str) -> None:
    assert read(around(BROKEN[kind], "explicit"), "explicit") == (REST, 1)


def test_a_vr_that_is_none_costs_not_even_its_value() -> None:
    data = around(b"\x08\0\x54\0ae\4\0abcd", "explicit")
    assert decode(data, SYNTAXES["explicit"]) == sorted([*REST, Element(0x00080054, "UN", b"abcd")])


@pytest.mark.parametrize("how", ["implicit", "big"])
def test_also_in_other_syntaxes(how: str) -> None:
    order = ">" if how == "big" else "<"
    broken = pack(order + "HH", 8, 0x54) + (b"AE\xff\xff" if how == "big" else b"\xff\xff\xff\1") + b"abcd"
    assert read(around(broken, how), how) == (REST, 1)


@pytest.mark.parametrize("rubbish", [b"\r\n", b"end of file", bytes(8) + b"\x1a", b"\xff" * 100])
@pytest.mark.parametrize("how", SYNTAXES)
def test_rubbish_behind_the_end(rubbish: bytes, how: str) -> None:
    assert read(dataset([BEFORE, *AFTER], how) + rubbish, how) == (REST, 1)


@pytest.mark.parametrize("how", SYNTAXES)
def test_a_data_set_that_is_cut_keeps_what_is_whole(how: str) -> None:
    data = dataset([BEFORE, *AFTER], how)
    assert read(data[:-1], how) == (REST[:-1], 1)
    assert read(data[:-9], how) == (REST[:-1], 1)


def test_what_is_in_an_item_is_never_taken_for_an_element_beside_it() -> None:
    item = dataset([(0x00100010, "PN", b"NOT^THIS"), (0x00100020, "LO", b"NOT THIS")], "explicit")
    for cut in range(12):  # the length of the sequence is too small, or its items are too long
        data = b"\x08\0\x54\0SQ\0\0" + pack("<L", 8 + len(item) - cut)
        data += pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
        elements = decode(around(data, "explicit"), SYNTAXES["explicit"], strict=False)
        assert not [element for element in elements if element.value.startswith(b"NOT")], cut


def test_every_one_of_many_is_counted() -> None:
    data = b"".join(
        dataset([(0x00090000 | number, "LO", b"ab")], "explicit") + pack("<HH", 9, number + 1) + b"\1\2\2\0ab"
        for number in range(0x1000, 0x1100, 2)
    )
    elements, count = read(data, "explicit")
    assert (len(elements), count) == (128, 128)


def test_the_search_is_bounded() -> None:
    data = (
        dataset([BEFORE], "explicit")
        + b"\x08\0\x54\0UN\0\0\xfe\xff\xff\xff"
        + b"CS\x08\0" * (MAXIMUM_PLACES // 2)
    )
    skipped = Skipped()
    tracemalloc.start()
    assert decode(data, SYNTAXES["explicit"], strict=False, skipped=skipped) == REST[:1]
    assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    tracemalloc.stop()
    assert skipped.looked_at == MAXIMUM_PLACES + 1


flat = st.lists(
    st.tuples(
        st.sampled_from(sorted(IMPLICIT_VRS)),
        st.sampled_from(["LO", "UI", "OB", "UT", "US"]),
        st.binary(max_size=20),
    ),
    unique_by=lambda element: element[0],
    min_size=2,
    max_size=8,
).map(sorted)


# Values whose bytes are neither letters nor small numbers: nothing in them looks like a header.
telling = st.lists(
    st.tuples(
        st.sampled_from([tag for tag in sorted(IMPLICIT_VRS) if tag >> 16 == 0x0010]),
        st.sampled_from(["LO", "UI", "US"]),
        st.lists(st.integers(0x80, 0xEF), max_size=20).map(bytes),
    ),
    unique_by=lambda element: element[0],
    min_size=2,
    max_size=8,
).map(sorted)


@given(elements=telling, at=st.integers(0, 7), vr=st.binary(min_size=2, max_size=2))
def test_whatever_stands_for_the_vr_of_one_element_the_others_are_read(elements, at, vr) -> None:
    assume(not vr.isalpha())
    at = at % len(elements)
    parts = [bytearray(dataset([element], "explicit")) for element in elements]
    parts[at][4:6] = vr
    found = decode(b"".join(parts), SYNTAXES["explicit"], strict=False)
    others = [Element(*element) for number, element in enumerate(elements) if number != at]
    assert [element for element in found if element.tag != elements[at][0]] == others


@given(data=st.binary(max_size=300), how=st.sampled_from(list(SYNTAXES)))
def test_noise_ends(data: bytes, how: str) -> None:
    try:
        decode(b"\x08\0\x05\0CS\0\0" + data, SYNTAXES[how], strict=False)
    except DataSetError:  # it begins as in another byte order
        return


@given(elements=flat, at=st.integers(0, 300), byte=st.integers(0, 255), how=st.sampled_from(list(SYNTAXES)))
def test_the_lenient_reader_reads_what_the_strict_one_reads(elements, at, byte, how) -> None:
    data = bytearray(dataset(elements, how))
    data[at % len(data)] = byte
    try:
        strict = decode(data, SYNTAXES[how])
    except DataSetError:
        return
    skipped = Skipped()
    assert decode(data, SYNTAXES[how], strict=False, skipped=skipped) == strict
    assert (skipped.count, skipped.why) == (0, "")


def test_a_sequence_without_its_end_is_told() -> None:
    open_sequence = header(0x00081140, "SQ", UNDEFINED, "explicit") + header(0xFFFEE000, "", 0, "explicit")
    elements, count = read(dataset([BEFORE], "explicit") + open_sequence, "explicit")
    assert (elements, count) == ([BEFORE], 1)


def test_what_was_skipped_is_said_in_words() -> None:
    skipped = Skipped()
    skipped.add("the first reason")
    assert str(skipped) == "1 element skipped; the first reason"
    skipped.add("another one", 2)
    assert str(skipped) == "3 elements skipped; the first reason"


TOLD = b"\x08\0\x55\0\1\2\4\0ab12"  # no VR; its length, taken as a short one, tells where it ends


@pytest.mark.parametrize(
    "behind",
    [
        header(0x00080060, "UT", UNDEFINED, "explicit"),
        header(0x00080060, "OB", 0, "explicit")[:8],
        header(0x00081140, "SQ", UNDEFINED, "explicit") + b"no item",
    ],
    ids=["a length that may not be undefined", "the beginning of a header", "a sequence without items"],
)
def test_what_is_no_proof_of_an_element_is_skipped_too(behind: bytes) -> None:
    elements, count = read(dataset([BEFORE], "explicit") + TOLD + behind, "explicit")
    assert (elements, count) == ([BEFORE], 1)


def test_a_sequence_is_a_proof_by_its_first_item() -> None:
    behind = sequence(0x00081140, "SQ", [(AFTER[1:2], True)], "explicit", True)
    elements, count = read(dataset([BEFORE], "explicit") + TOLD + behind, "explicit")
    assert ([element.tag for element in elements], count) == ([BEFORE[0], 0x00081140], 1)


def test_less_than_a_header_at_the_end_costs_only_itself() -> None:
    elements, count = read(dataset([BEFORE], "explicit") + b"\1\2\3", "explicit")
    assert (elements, count) == ([BEFORE], 1)


def test_behind_a_sequence_in_a_broken_one_the_outer_one_ends() -> None:
    """The first delimiter is that of the inner sequence: no element of the data set follows it."""
    how = "explicit"
    inner = header(0x00081140, "SQ", UNDEFINED, how) + dataset(AFTER, how) + header(0xFFFEE0DD, "", 0, how)
    item = header(0xFFFEE000, "", UNDEFINED, how) + inner + header(0xFFFEE00D, "", 0, how)
    broken = header(0x00080054, "SQ", UNDEFINED, how) + item + header(0xFFFEE0DD, "", 0, how)
    assert read(around(broken, how), how) == (REST, 1)


def test_a_sequence_that_is_broken_and_never_ends() -> None:
    data = dataset([BEFORE], "explicit") + header(0x00080054, "SQ", UNDEFINED, "explicit")
    data += dataset(AFTER, "explicit") + header(0xFFFEE0DD, "", 0, "explicit") + b"\1\2\3\4"
    assert read(data, "explicit") == ([Element(*BEFORE)], 1)


@pytest.mark.parametrize("count", [1, 7])
def test_less_than_a_header_at_the_end(count: int) -> None:
    assert read(dataset([BEFORE], "explicit") + b"\7" * count, "explicit") == ([Element(*BEFORE)], 1)


def test_items_that_do_not_tell_where_their_sequence_ends() -> None:
    """What follows may be in the items: nothing of it is taken for elements beside them."""
    sequence = header(0x00080054, "SQ", 0xFFFFFE, "explicit") + header(0xFFFEE000, "", 0xFFFFF0, "explicit")
    assert read(around(sequence, "explicit"), "explicit") == ([Element(*BEFORE)], 1)
