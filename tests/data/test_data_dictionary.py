from __future__ import annotations

import runpy
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR

from asyncdicom.data import _dictionary
from asyncdicom.data.dictionary import vr_of

GENERATOR = runpy.run_path(str(Path(__file__).parents[1] / "standard" / "generate_data_dictionary.py"))
GENERATED = Path(_dictionary.__file__).read_text()
ELEMENTS = [tag for tag in DicomDictionary if 0x00030000 <= tag < 0xFFFE0000]


def test_the_dictionary_is_what_the_generator_writes() -> None:
    assert GENERATED.startswith("# Generated")
    if f"(pydicom {pydicom.__version__})" in GENERATED:
        assert GENERATOR["generate"]() == GENERATED


def test_every_element_has_the_vr_of_the_standard() -> None:
    assert len(ELEMENTS) > 4500
    known = {tag: vr_of(tag) for tag in ELEMENTS}
    differ = {hex(tag): vr for tag, vr in known.items() if vr not in ("UN", dictionary_VR(tag))}
    # Another pydicom may know more or fewer elements, or a VR that was corrected since.
    assert len(differ) < (5 if f"(pydicom {pydicom.__version__})" not in GENERATED else 1), differ


@given(
    st.builds(
        lambda group, element: group << 16 | element,
        st.sampled_from([0x0020, 0x0028, 0x1000, 0x1010, 0x5000, 0x501E, 0x6000, 0x60FE, 0x7F00, 0x7FDE]),
        st.one_of(
            st.sampled_from([0x0010, 0x3000, 0x3110, 0x0410, 0x0882, 0x2600, 0x0066]), st.integers(1, 0xFFFF)
        ),
    )
)
def test_repeating_groups_are_those_of_the_standard(tag: int) -> None:
    try:
        expected = dictionary_VR(tag)
    except KeyError:
        expected = "UN"
    assert vr_of(tag) == expected


@pytest.mark.parametrize(
    ("tag", "vr"),
    [
        (0x00090010, "LO"),  # a private creator
        (0x000900FF, "LO"),
        (0x00091001, "UN"),
        (0x60011000, "UN"),  # an odd group is private, whatever it looks like
        (0x00090000, "UL"),
        (0x00080000, "UL"),
        (0x00081999, "UN"),  # nobody knows it
    ],
)
def test_what_the_standard_does_not_tell(tag: int, vr: str) -> None:
    assert vr_of(tag) == vr
