"""Identifiers of levels and UIDs are encoded as pydicom would encode them, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdicom.data.plain import encode_plain, is_plain, plain_value
from asyncdicom.dataset import encode, from_mapping
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

SYNTAXES = (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
KEYWORDS = (
    "PatientID",
    "QueryRetrieveLevel",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "AvailableTransferSyntaxUID",
)
UIDS = st.text("0123456789.", max_size=20)
VALUES = st.none() | UIDS | st.lists(UIDS, max_size=3)


@settings(deadline=None)  # the first one imports pydicom
@given(st.dictionaries(st.sampled_from(KEYWORDS), VALUES), st.sampled_from(SYNTAXES))
def test_they_are_encoded_as_data_sets_are(mapping: dict[str, Any], syntax: str) -> None:
    assert is_plain(mapping)
    assert encode(mapping, syntax) == encode_plain(mapping, syntax) == encode(from_mapping(mapping), syntax)


@pytest.mark.parametrize(
    "mapping",
    [
        {"PatientName": "DOE*"},
        {"0020,000D": "1.2.3"},
        {"StudyInstanceUID": "1.2.3 "},
        {"PatientID": "ä"},
        {"PatientID": 4711},
        {"SOPInstanceUID": ["1.2", None]},
        {"SOPInstanceUID": b"1.2"},
    ],
)
def test_everything_else_is_left_to_data_sets(mapping: dict[str, Any]) -> None:
    assert not is_plain(mapping)
    assert encode_plain(mapping, EXPLICIT_VR_LITTLE_ENDIAN) is None


@pytest.mark.parametrize(("text", "value"), [("", ""), ("1.2", "1.2"), ("1.2\\1.3", ["1.2", "1.3"])])
def test_several_values_are_a_list(text: str, value: object) -> None:
    assert plain_value(text) == value


def test_a_long_list_is_encoded_so_too() -> None:
    syntax = IMPLICIT_VR_LITTLE_ENDIAN
    mapping = {"SOPInstanceUID": ["1.2.3"] * 20_000}
    assert encode_plain(mapping, syntax) == encode(from_mapping(mapping), syntax)


def test_they_need_no_pydicom() -> None:
    code = (
        "import sys; from asyncdicom.dataset import encode; "
        "encode({'StudyInstanceUID': '1.2'}, '1.2.840.10008.1.2'); sys.exit('pydicom' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
