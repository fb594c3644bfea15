from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.elements import Element, decode, decoding, encode
from asyncdicom.data.inflation import inflate
from asyncdicom.data.scanner import Scanner
from asyncdicom.data.vr import VRS
from asyncdicom.exceptions import DataSetError

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header, sequence = ENCODED["dataset"], ENCODED["header"], ENCODED["sequence"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]
IMPLICIT, EXPLICIT, BIG = SYNTAXES.values()
DEFLATED = "1.2.840.10008.1.2.1.99"

LEVEL = (0x00080052, "CS", b"STUDY ")
NAME = (0x00100010, "PN", b"DOE^J*")
ITEMS = [([(0x00080100, "SH", b"T-A0")], True), ([], False)]


@pytest.mark.parametrize("how", SYNTAXES)
def test_an_identifier_both_ways(how) -> None:
    elements = [LEVEL, NAME, (0x00100020, "LO", b""), (0x00080018 | 1 << 21, "UI", b"1.2\0")]
    data = dataset(elements, how)
    in_the_dictionary = {0x00280018: "UN"} if how == "implicit" else {}
    assert decode(data, SYNTAXES[how]) == [
        (tag, in_the_dictionary.get(tag, vr), v) for tag, vr, v in elements
    ]
    assert encode(elements, SYNTAXES[how]) == data


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_the_value_of_a_sequence_is_its_items(how, undefined) -> None:
    data = sequence(0x00081140, "SQ", ITEMS, how, undefined) + dataset([NAME], how)
    items = sequence(0x00081140, "SQ", ITEMS, how, False)[8 if how == "implicit" else 12 :]
    decoded = decode(data, SYNTAXES[how])
    assert decoded == [(0x00081140, "SQ", items), NAME]
    assert decode(encode(decoded, SYNTAXES[how]), SYNTAXES[how]) == decoded


def test_unknown_elements_of_undefined_length_are_implicit_inside() -> None:  # PS3.5 6.2.2
    data = sequence(0x00091001, "UN", ITEMS, "explicit", True) + dataset([NAME], "explicit")
    items = sequence(0x00091001, "UN", ITEMS, "implicit", False)[8:]
    assert decode(data, EXPLICIT) == [(0x00091001, "UN", items), NAME]


def test_odd_values_are_padded() -> None:  # PS3.5 6.2
    padding = {vr: encode([(0x00080005, vr, b"1")], IMPLICIT)[-1:] for vr, _ in VRS.values()}
    spaces = {vr for vr, byte in padding.items() if byte == b" "}
    assert set(padding.values()) == {b" ", b"\0"}
    assert spaces == {*"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UR UT".split()}  # noqa: SIM905


def test_long_and_short_headers_of_every_vr() -> None:  # PS3.5 7.1.2
    for vr, _ in VRS.values():
        for how in ("explicit", "big"):
            assert encode([(0x00091010, vr, b"")], SYNTAXES[how]) == header(0x00091010, vr, 0, how)


def test_what_a_short_length_cannot_tell_becomes_un() -> None:  # PS3.5 6.2.2
    for length, vr in ((65534, "LT"), (65535, "UN"), (65536, "UN")):
        (element,) = decode(encode([(0x00104000, "LT", b"x" * length)], EXPLICIT), EXPLICIT)
        assert (element.vr, element.value.rstrip(b" \0")) == (vr, b"x" * length)


@pytest.mark.parametrize("vr", ["", "??", "X", "é"])
def test_a_vr_that_does_not_exist_is_not_encoded(vr) -> None:
    with pytest.raises(DataSetError):
        encode([(0x00080005, vr, b"")], EXPLICIT)


def test_deflated() -> None:
    data = encode([LEVEL, NAME], DEFLATED)
    assert len(data) % 2 == 0
    assert inflate(data, 1000, 200) == dataset([LEVEL, NAME], "explicit")
    assert decode(data, DEFLATED) == [LEVEL, NAME]
    bomb = encode([(0x00091010, "OB", bytes(1 << 20))], DEFLATED)
    for broken in (data[:-3], b"", b"\xff\xff" + data, bomb):
        with pytest.raises(DataSetError):
            decode(broken, DEFLATED)
    assert len(decode(encode([(0x00091010, "OB", bytes(range(256)) * 9)], DEFLATED), DEFLATED)) == 1


def test_group_2_is_left_out() -> None:
    assert decode(dataset([(0x00020010, "UI", b"1.2\0"), NAME], "explicit"), EXPLICIT) == [NAME]
    open_sequence = header(0x00020010, "SQ", UNDEFINED, "explicit") + header(0xFFFEE0DD, "", 0, "explicit")
    assert decode(open_sequence + dataset([NAME], "explicit"), EXPLICIT) == [NAME]


def test_group_lengths_have_a_vr() -> None:
    assert decode(header(0x00080000, "", 4, "implicit") + bytes(4), IMPLICIT) == [
        Element(0x00080000, "UL", bytes(4))
    ]


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 12, 16, 100_000])
def test_bytes_of_zero_behind_the_end_are_ignored(how, count) -> None:
    data = dataset([LEVEL], how) + bytes(count)
    assert decode(data, SYNTAXES[how]) == [Element(*LEVEL)]


@pytest.mark.parametrize("how", SYNTAXES)
def test_elements_of_groups_that_do_not_belong_there_are_left_out(how) -> None:
    others = [(0x00000100, "US", b"\1\0"), (0x00000002, "UI", b"1.2\0"), (0x00020010, "UI", b"1.2.\0\0")]
    data = dataset([*others, LEVEL, *others], how)
    assert decode(data, SYNTAXES[how]) == [Element(*LEVEL)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        dataset([LEVEL], "explicit")[:-1],
        header(0x00080005, "OB", 0, "explicit")[:8],
        header(0x00080005, "OB", 0xFFFFFFFE, "explicit"),
        header(0x00081140, "SQ", UNDEFINED, "explicit"),
        header(0x00081140, "SQ", UNDEFINED, "explicit") + header(0xFFFEE000, "", 100, "explicit") + bytes(99),
        header(0x00080005, "UT", UNDEFINED, "explicit"),
        header(0xFFFEE000, "", 0, "explicit"),
        bytes(8) + b"x",
        dataset([LEVEL], "implicit"),
        dataset([LEVEL], "big"),
        (header(0x00081140, "SQ", UNDEFINED, "explicit") + header(0xFFFEE000, "", UNDEFINED, "explicit"))
        * 65,
    ],
)
def test_malformed(data) -> None:
    tracemalloc.start()
    with pytest.raises(DataSetError):
        decode(data, EXPLICIT)
    assert tracemalloc.get_traced_memory()[1] < 65536
    tracemalloc.stop()


tags = st.integers(0x00080000, 0x0FFFFFFF)
flat = st.lists(
    st.tuples(tags, st.sampled_from([vr for vr, _ in VRS.values()]), st.binary(max_size=30)), max_size=8
)


@given(elements=flat, syntax=st.sampled_from([EXPLICIT, BIG]))
def test_what_is_encoded_is_decoded(elements, syntax) -> None:
    elements = [(0x00080005, "CS", b""), *elements]
    decoded = decode(encode(elements, syntax), syntax)
    assert [(e.tag, e.vr) for e in decoded] == [(tag, vr) for tag, vr, _ in elements]
    for element, (_, _, value) in zip(decoded, elements, strict=True):
        assert len(element.value) % 2 == 0
        assert element.value in (value, value + b" ", value + b"\0")


@given(data=st.binary(max_size=200), syntax=st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]))
def test_noise_raises_nothing_else(data, syntax) -> None:
    try:
        decode(data, syntax)
    except DataSetError:
        return


@given(elements=flat, how=st.sampled_from(list(SYNTAXES)), at=st.integers(0, 300), byte=st.integers(0, 255))
def test_the_scanner_finds_what_decode_finds(elements, how, at, byte) -> None:
    """Two loops over the same headers must agree, also about what is wrong."""
    data = bytearray(dataset([(0x00080005, "CS", b""), *elements], how))
    if at < len(data):
        data[at] = byte
    scanner = Scanner(SYNTAXES[how], frozenset(), whole=True)
    try:
        decode(data, SYNTAXES[how])
    except DataSetError:
        decoded = False
    else:
        decoded = True
    try:
        if not scanner.feed(bytes(data)):
            scanner.finish()
    except DataSetError:
        scanned = False
    else:
        scanned = True
    assert scanned == decoded or scanner.done


@pytest.mark.parametrize("where", ["at the top", "in a sequence"])
def test_a_data_set_may_have_only_so_many_elements(where) -> None:
    """Counted by the thousand, at any depth: where a step ends."""
    many = [(0x00091000 + number, "LO", b"") for number in range(3000)]
    data = dataset(many, "explicit") if where == "at the top" else None
    if data is None:
        data = sequence(0x00081140, "SQ", [(many, True)], "explicit", True)
    assert len(decode(data, EXPLICIT, maximum_elements=4000)) == (3000 if where == "at the top" else 1)
    with pytest.raises(DataSetError, match="more than 1500 elements"):
        decode(data, EXPLICIT, maximum_elements=1500)


def test_a_long_data_set_is_decoded_in_steps() -> None:
    many = [(0x00091000 + number, "LO", b"") for number in range(3000)]
    steps = decoding(dataset(many, "explicit"), EXPLICIT)
    for _ in range(3):
        next(steps)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert len(end.value.value) == 3000


def test_a_syntax_that_nobody_knows_is_the_one_that_the_data_set_looks_like() -> None:
    for how, syntax in SYNTAXES.items():
        assert decode(dataset([LEVEL, NAME], how), "1.2.3.4") == decode(dataset([LEVEL, NAME], how), syntax)


def test_another_syntax_has_to_read_the_whole_data_set() -> None:
    many = [(0x00091000 + number, "LO", b"") for number in range(1500)]
    assert len(decode(dataset([LEVEL, *many], "implicit"), EXPLICIT, strict=False)) == 1501
    with pytest.raises(DataSetError):
        decode(dataset([LEVEL, *many], "implicit")[:-1], EXPLICIT)
