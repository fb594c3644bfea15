"""Re-encodings of one data set are equal, whatever changes is a difference, a torso is known."""

from __future__ import annotations

import runpy
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdicom.data.likeness import MAXIMUM_DEPTH, Likeness, comparing
from asyncdicom.data.steps import finish
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header = ENCODED["dataset"], ENCODED["header"]
EXPLICIT, IMPLICIT = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
JPEG = "1.2.840.10008.1.2.4.50"

TEXT, UID, BINARY = ["LO", "PN", "CS", "LT"], ["UI"], ["OB", "OW", "US"]
Elements = list[tuple[int, str, Any]]


def values(vr: str) -> st.SearchStrategy[bytes]:
    if vr in TEXT:
        return st.text("AB ^1", max_size=12).map(lambda text: text.strip().encode())
    if vr in UID:
        return st.sampled_from([b"1.2", b"1.2.3", b"1.2.840.1", b""])
    return st.binary(max_size=8).map(lambda value: value + bytes(len(value) % 2))


def elements(depth: int = 2) -> st.SearchStrategy[Elements]:
    vrs = st.sampled_from(TEXT + UID + BINARY)
    plain = vrs.flatmap(lambda vr: st.tuples(st.just(vr), values(vr)))
    kinds = [plain]
    if depth:
        items = st.lists(st.tuples(elements(depth - 1), st.booleans()), max_size=2)
        kinds.append(st.tuples(st.just("SQ"), st.tuples(items, st.booleans())))
    tags = st.sets(st.integers(0x00090001, 0x0009FFFF), max_size=4)
    return tags.flatmap(
        lambda chosen: st.tuples(*(st.one_of(kinds) for _ in chosen)).map(
            lambda some: [(tag, *each) for tag, each in zip(sorted(chosen), some, strict=True)]
        )
    )


def again(data: Any, given_elements: Elements, *, explicit: bool) -> Elements:
    """The same, told otherwise: padding, lengths of sequences, group lengths."""
    result: Elements = []
    if given_elements and data.draw(st.booleans()):
        result.append((0x00090000, "UL", b"\1\2\3\4"))
    for tag, vr, value in given_elements:
        if vr == "SQ":
            items = [(again(data, each, explicit=explicit), data.draw(st.booleans())) for each, _ in value[0]]
            # Implicit VR does not tell a sequence of defined length, unless the other one does
            result.append((tag, vr, (items, data.draw(st.booleans()) if explicit else True)))
        elif vr in TEXT and explicit:
            result.append((tag, vr, value + b" " * data.draw(st.integers(0, 3))))
        elif vr in UID and explicit:
            result.append((tag, vr, value + data.draw(st.sampled_from([b"", b"\0", b"\0\0"]))))
        else:
            result.append((tag, vr, value))
    return result


def compare(a: bytes, b: bytes, a_syntax: str = EXPLICIT, b_syntax: str = EXPLICIT, size: int = 64) -> str:
    return finish(comparing(pieces(a, size), a_syntax, pieces(b, size + 1), b_syntax)).name


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def changed(data: st.DataObject, given_elements: Elements) -> Elements:
    """One value is another one, at any depth; empty if there is none to change."""
    places = [
        n for n, (_, vr, value) in enumerate(given_elements) if vr != "SQ" or any(e for e, _ in value[0])
    ]
    if not places:
        return []
    at = data.draw(st.sampled_from(places))
    tag, vr, value = given_elements[at]
    if vr == "SQ":
        items = list(value[0])
        inner = [n for n, (each, _) in enumerate(items) if changed(data, each)]
        if not inner:
            return []
        number = data.draw(st.sampled_from(inner))
        other = changed(data, items[number][0])
        if not other:
            return []
        items[number] = (other, items[number][1])
        new: Any = (items, value[1])
    elif vr in TEXT + UID:
        new = value + b"7"
    else:
        new = value + b"\1\0" if not value else value[:-1] + bytes([value[-1] ^ 1])
    return [*given_elements[:at], (tag, vr, new), *given_elements[at + 1 :]]


@given(st.data(), elements(), st.booleans(), st.integers(1, 100))
@settings(max_examples=300)
def test_re_encodings_are_equal(data: st.DataObject, some: Elements, explicit: bool, size: int) -> None:
    how, syntax = ("explicit", EXPLICIT) if explicit else ("implicit", IMPLICIT)
    first = dataset(some, "explicit")
    second = dataset(again(data, some, explicit=explicit), how)
    second += data.draw(
        st.sampled_from([b"", header(0xFFFCFFFC, "OB", 4, how) + bytes(4), bytes(6), bytes(90)])
    )
    assert compare(first, second, EXPLICIT, syntax, size) == "EQUAL"
    assert compare(second, first, syntax, EXPLICIT, size) == "EQUAL"


@given(st.data(), elements(), st.booleans())
@settings(max_examples=300)
def test_any_changed_value_is_a_difference(data: st.DataObject, some: Elements, explicit: bool) -> None:
    how, syntax = ("explicit", EXPLICIT) if explicit else ("implicit", IMPLICIT)
    other = changed(data, some)
    if other:
        second = dataset(again(data, other, explicit=explicit), how)
        assert compare(dataset(some, "explicit"), second, EXPLICIT, syntax) == "DIFFERENT"


@given(st.data(), elements())
def test_any_beginning_is_a_torso_or_different(data: st.DataObject, some: Elements) -> None:
    whole = dataset(some, "explicit")
    torso = whole[: data.draw(st.integers(0, len(whole)))]
    ends = {sum(len(dataset([each], "explicit")) for each in some[:n]) for n in range(len(some) + 1)}
    right = "EQUAL" if torso == whole else "DIFFERENT" if len(torso) in ends else "TORSO"
    if any(torso[max(end for end in ends if end <= len(torso)) :]) or len(torso) in ends:
        assert compare(torso, whole) == right
    assert compare(whole, torso) in ("EQUAL", "DIFFERENT")


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from([EXPLICIT, IMPLICIT, JPEG]))
def test_rubbish_raises_nothing(a: bytes, b: bytes, syntax: str) -> None:
    assert compare(a, b, syntax, syntax) in Likeness.__members__
    assert compare(a, b, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, syntax) in Likeness.__members__


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def test_deflated_and_cut_in_its_stream() -> None:
    plain = dataset([(0x00100020, "LO", b"P1"), (0x7FE00010, "OW", bytes(range(256)) * 40)], "explicit")
    syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    assert compare(deflated(plain) + b"\0", plain, syntax) == "EQUAL"
    assert compare(deflated(plain)[:-20], plain, syntax) == "TORSO"
    assert compare(plain, deflated(plain)[:-20], EXPLICIT, syntax) == "DIFFERENT"


def encapsulated(*fragments: bytes) -> bytes:
    items = b"".join(header(0xFFFEE000, "", len(each), "explicit") + each for each in (b"", *fragments))
    begin, end = header(0x7FE00010, "OB", 0xFFFFFFFF, "explicit"), header(0xFFFEE0DD, "", 0, "explicit")
    return b"".join((begin, items, end))


def test_encapsulated_pixel_data() -> None:
    whole = encapsulated(b"abcd", b"efgh")
    assert compare(whole, encapsulated(b"abcd", b"efgh") + bytes(8), JPEG, JPEG) == "EQUAL"
    assert compare(whole, encapsulated(b"abcd", b"efgi"), JPEG, JPEG) == "DIFFERENT"
    assert compare(whole, encapsulated(b"abcd"), JPEG, JPEG) == "DIFFERENT"
    assert compare(whole[:-20], whole, JPEG, JPEG) == "TORSO"
    assert compare(whole, whole, JPEG, EXPLICIT) == "DIFFERENT"


LONG = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("vr", "a", "b", "right"),
    [
        ("OB", LONG, LONG, "EQUAL"),
        ("OB", LONG[:-1], LONG[:-1] + b"\0", "EQUAL"),
        ("OB", LONG, LONG + bytes(2), "DIFFERENT"),
        ("OB", LONG, LONG[:-1] + b"\0", "DIFFERENT"),
        ("UT", b"a" * 100_000, b"a" * 100_000 + b" " * 70_000, "EQUAL"),
        ("UT", b"a" * 100_000, b"a" * 100_000 + b" b", "DIFFERENT"),
        ("US", b"\0\x20", b"\0\0", "DIFFERENT"),
        ("LO", b"A\0", b"A ", "DIFFERENT"),
        ("UI", b"1.2\0", b"1.2 ", "EQUAL"),
    ],
)
def test_padding_is_judged_by_the_value_representation(vr: str, a: bytes, b: bytes, right: str) -> None:
    first, second = (dataset([(0x00091010, vr, value)], "explicit") for value in (a, b))
    assert compare(first, second, size=5000) == right


def test_what_would_take_too_long_is_not_compared() -> None:
    many = dataset([(0x00090010, "LO", b"")], "explicit") * ((1 << 16) + 1)
    assert compare(many, many + bytes(8), size=1 << 16) == "DIFFERENT"


# What is no data set, or cannot be told: never equal


UNDEFINED = 0xFFFFFFFF
GOOD = dataset([(0x00090010, "LO", b"AB")], "explicit")
SEQUENCE = 0x00400275


def begun(tag: int, vr: str, length: int, how: str = "explicit") -> bytes:
    encoded: bytes = header(tag, vr, length, how)
    return encoded


def in_item(body: bytes, *, item: int | None = None, sequence: int | None = None) -> bytes:
    """A sequence of one item, whose lengths may be wrong."""
    inside = begun(0xFFFEE000, "", len(body) if item is None else item) + body
    return begun(SEQUENCE, "SQ", len(inside) if sequence is None else sequence) + inside


NO_DATA_SETS = {
    "something behind zeros": GOOD + bytes(16) + b"1",
    "an element longer than its item": in_item(begun(0x00090010, "LO", 8) + b"AB"),
    "a header across the end of its item": in_item(GOOD, item=4),
    "a sequence across the end of its item": in_item(
        begun(0x00091010, "SQ", UNDEFINED) + begun(0xFFFEE0DD, "", 0), item=12
    ),
    "an item across the end of its sequence": begun(SEQUENCE, "SQ", 8)
    + begun(0xFFFEE000, "", UNDEFINED)
    + GOOD
    + begun(0xFFFEE00D, "", 0),
    "a delimiter within an item": in_item(begun(0xFFFEE0DD, "", 0)),
    "a group length without an end": begun(0x00090000, "UN", UNDEFINED),
    "an item longer than its sequence": in_item(GOOD, item=90, sequence=18),
    "a header across the end of its sequence": in_item(b"", sequence=4),
    "something else than an item": begun(SEQUENCE, "SQ", 10) + GOOD,
    "an item without a value in Pixel Data": begun(0x7FE00010, "OB", UNDEFINED)
    + begun(0xFFFEE000, "", UNDEFINED),
    "something else than a fragment": begun(0x7FE00010, "OB", UNDEFINED) + begun(0xFFFEE00D, "", 0),
}


@pytest.mark.parametrize("data", NO_DATA_SETS.values(), ids=NO_DATA_SETS)
def test_what_is_no_data_set_is_never_equal_to_itself(data: bytes) -> None:
    rest = b"" if data[:2] != b"\xe0\x7f" else GOOD
    assert compare(data + rest, data + rest) == "DIFFERENT"


def nested(depth: int) -> bytes:
    return GOOD if not depth else in_item(nested(depth - 1))


def test_what_cannot_be_told() -> None:
    unknown = begun(0x00091010, "UN", 18) + in_item(GOOD)[12:]
    known = begun(0x00091010, "SQ", 18) + in_item(GOOD)[12:]
    assert compare(unknown, known) == "DIFFERENT"  # how the items of the first are encoded is not told
    open_end = begun(0x7FE00010, "OB", UNDEFINED) + begun(0xFFFEE0DD, "", 0)
    assert compare(open_end, begun(0x7FE00010, "OB", 0)) == "DIFFERENT"
    assert compare(in_item(GOOD), in_item(GOOD + begun(0x00090011, "LO", 0))) == "DIFFERENT"
    assert compare(in_item(GOOD), begun(SEQUENCE, "SQ", 0)) == "DIFFERENT"
    assert compare(GOOD, dataset([(0x00090010, "OB", b"AB")], "explicit")) == "DIFFERENT"
    assert compare(GOOD, dataset([(0x00090011, "LO", b"AB")], "explicit")) == "DIFFERENT"
    assert compare(nested(MAXIMUM_DEPTH), nested(MAXIMUM_DEPTH)) == "EQUAL"
    assert compare(nested(MAXIMUM_DEPTH + 1), nested(MAXIMUM_DEPTH + 1)) == "DIFFERENT"


def test_items_of_a_un_are_in_implicit_vr() -> None:
    some = [(0x00091010, "UN", ([([(0x00090010, "LO", b"AB")], False)], True))]
    assert compare(dataset(some, "explicit"), dataset(some, "explicit")) == "EQUAL"
    stray = begun(0xFFFEE00D, "", 0)
    assert compare(GOOD + stray, GOOD) == "EQUAL"  # a delimiter that ends nothing
    inside = begun(0xFFFEE000, "", len(GOOD)) + GOOD
    assert compare(begun(SEQUENCE, "SQ", 26) + inside + stray, in_item(GOOD)) == "EQUAL"
    opaque = dataset([(0x00091010, "UN", b"abcd")], "explicit")
    assert compare(opaque, opaque) == "EQUAL"


def test_of_many_fragments_others_get_their_turn() -> None:
    data = encapsulated(*[b"ab"] * 3000)
    steps = comparing(pieces(data, 4096), JPEG, pieces(data, 4096), JPEG)
    assert sum(1 for _ in steps) > 1


def test_what_inflates_to_too_much_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.data.likeness.MAXIMUM_INFLATED", 1000)
    data = deflated(dataset([(0x7FE00010, "OW", bytes(2000))], "explicit"))
    deflate = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    assert compare(data, data, deflate, deflate) == "DIFFERENT"
