"""Data sets without File Meta Information: found out where that is safe, refused with the reason else."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.bare import examine
from asyncdicom.data.elements import likely_syntax, passed_over
from asyncdicom.data.part10 import FileMeta
from asyncdicom.exceptions import DataSetError

ENCODED = runpy.run_path(str(Path(__file__).with_name("encoded.py")))
dataset, header, sequence = ENCODED["dataset"], ENCODED["header"], ENCODED["sequence"]
SYNTAXES, UNDEFINED = ENCODED["SYNTAXES"], ENCODED["UNDEFINED"]

CT = "1.2.840.10008.5.1.4.1.1.2"
UIDS = [(0x00080016, "UI", CT.encode() + b"\0"), (0x00080018, "UI", b"1.2.3\0")]
CHARSET, NAME, PIXELS = (0x00080005, "CS", b""), (0x00100010, "PN", b"A^B "), (0x7FE00010, "OW", bytes(1000))
ITEMS = (0x00081140, "SQ", ([([NAME], True), ([NAME], False)], True))


def cut(data: bytes, size: int = 100) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize(
    "elements",
    [UIDS, [*UIDS, NAME, PIXELS], [CHARSET, *UIDS, NAME], [CHARSET, *UIDS, ITEMS, NAME, PIXELS]],
    ids=["UIDs", "an image", "a character set", "a sequence"],
)
def test_what_can_be_read_safely(how, elements) -> None:
    data = dataset(elements, how)
    for size in (16, 100, 5000):
        assert examine(cut(data, size), 7) == FileMeta(CT, "1.2.3", SYNTAXES[how], 7)
        assert examine(cut(data + bytes(100), size), 7) == FileMeta(CT, "1.2.3", SYNTAXES[how], 7)


REFUSED = {
    "nothing": (b"", "does not begin"),
    "text": (b"BEGIN:VCARD and so on", "does not begin"),
    "zeros": (bytes(100), "does not begin"),
    "an image of another kind": (b"\x89PNG\r\n\x1a\n" + bytes(100), "does not begin"),
    "text that begins like a data set": (b"\x08\0\x05\0 hello, is this DICOM?", "does not begin"),
    "no SOP Class UID": (dataset([UIDS[1], NAME], "explicit"), "no SOP Class UID"),
    "no SOP Instance UID": (dataset([UIDS[0], NAME], "implicit"), "no SOP Class UID"),
    "a UID that is none": (dataset([UIDS[0], (0x00080018, "UI", b"1/../2")], "explicit"), "no SOP Class UID"),
    "its end is missing": (dataset([*UIDS, NAME, PIXELS], "explicit")[:-1], "truncated"),
    "rubbish at its end": (dataset([*UIDS, NAME], "explicit") + b"rubbish and more", "Explicit VR Little"),
    "compressed": (
        dataset([*UIDS, NAME], "explicit")
        + header(0x7FE00010, "OB", UNDEFINED, "explicit")
        + header(0xFFFEE000, "", 0, "explicit")
        + header(0xFFFEE0DD, "", 0, "explicit"),
        "compressed",
    ),
    "two UIDs": (dataset([*UIDS, (0x00080018, "UI", b"1.2.4\0")], "explicit"), "twice"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused_with_the_reason(why) -> None:
    data, said = REFUSED[why]
    with pytest.raises(DataSetError, match=said):
        examine(cut(data), 0)


@given(data=st.binary(max_size=200))
def test_noise_raises_nothing_else(data) -> None:
    for begin in (b"", b"\x08\0\x16\0UI", b"\x08\0\x16\0"):
        likely_syntax(begin + data)
        assert 0 <= passed_over(begin + data) <= len(begin + data)
        try:
            examine(cut(begin + data, 50), 0)
        except DataSetError:
            continue


@pytest.mark.parametrize("how", SYNTAXES)
@pytest.mark.parametrize("before", SYNTAXES)
def test_elements_of_groups_0_and_2_are_passed_over(how, before) -> None:  # the field, 1.10
    others = [(0x00020002, "UI", b"1.2\0"), (0x00020010, "UI", b"1.2.3\0")]
    if before != "big":
        others = [(0x00000000, "UL", b"\4\0\0\0"), (0x00000100, "US", b"\1\0"), *others]
    begin = dataset(others, before)
    assert passed_over(begin + dataset(UIDS, how)) == len(begin)
    assert passed_over(dataset(UIDS, how)) == 0
    assert passed_over(begin[:-1]) < len(begin)
