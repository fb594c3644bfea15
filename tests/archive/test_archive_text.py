from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncdicom.archive.index.schema import BY_TAG, LEVELS
from asyncdicom.archive.index.text import fold_name, normalise, text_of, values_of
from asyncdicom.data.elements import Element


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("DA", "1993.08.22", "19930822"),
        ("TM", "10:30:15.5", "103015.5"),
        ("IS", "+007", "7"),
        ("IS", "-007", "-7"),
        ("IS", "1e5", "1e5"),
        ("IS", "", ""),
        ("IS", "٣", "٣"),
        ("LO", "007", "007"),
        ("LT", "x" * 2000, "x" * 1024),
    ],
)
def test_normalise(vr: str, value: str, expected: str) -> None:
    assert normalise(value, vr) == expected


@given(st.text(), st.sampled_from(sorted({attribute.vr for _, attribute in BY_TAG.values()})))
def test_normalising_twice_is_normalising_once(value: str, vr: str) -> None:
    once = normalise(value, vr)
    assert normalise(once, vr) == once
    assert len(once) <= 1024


LETTERS = st.text(st.characters(categories=("L", "Nd")) | st.sampled_from("^= "))


@given(LETTERS)
@example("\ufc5e")  # decomposes into a space and two marks
def test_folding_twice_is_folding_once(name: str) -> None:
    once = fold_name(name)
    assert fold_name("=".join(once)) == once


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("LO", b" A B \0", "A B"),
        ("LT", b"  indented \0", "  indented"),
        ("UI", b"1.2.3\0", "1.2.3"),
        ("SH", b"a\0b", "ab"),
        ("US", b"\0\2", "512"),
        ("US", b"\0\2\1\0\7", "512\\1"),
        ("US", b"", ""),
        ("PN", "Äneas".encode("latin-1"), "Äneas"),
    ],
)
def test_text_of(vr: str, value: bytes, expected: str) -> None:
    assert text_of(Element(0, "UN", value), vr, "ISO_IR 100", little_endian=True) == expected


def test_text_of_big_endian() -> None:
    assert text_of(Element(0, "US", b"\2\0"), "US", "", little_endian=False) == "512"


def test_values_of() -> None:
    assert values_of("A\\ B ", "LO") == ["A", "B"]
    assert values_of("A\\B", "LT") == ["A\\B"]


def test_the_columns_of_all_levels_are_named_once() -> None:
    for attributes in LEVELS.values():
        names = [name for a in attributes for name in (a.column, *a.companions)]
        assert len(names) == len(set(names))
        assert not {"id", "parent", "file", "digest"} & set(names)


def test_the_attributes_are_those_of_the_dictionary() -> None:
    from pydicom.datadict import dictionary_keyword, dictionary_VM, dictionary_VR

    for tag, (_, attribute) in BY_TAG.items():
        assert dictionary_keyword(tag) == attribute.keyword
        assert attribute.vr in dictionary_VR(tag)
        assert (dictionary_VM(tag) != "1") is attribute.many
