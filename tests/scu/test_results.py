"""What a `Client` gives: matches in a notebook, sums of what failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from asyncdicom import (
    DataSetError,
    DicomNetworkError,
    Instance,
    Matches,
    Retrieved,
    Status,
    Stored,
    StoreResult,
)
from asyncdicom.dataset import from_mapping


def test_a_notebook_shows_a_table_and_runs_nothing() -> None:
    step = {"Modality": "CT"}
    matches = Matches(
        [
            from_mapping({"PatientName": "<script>alert(1)</script>", "StudyDescription": "x" * 500}),
            from_mapping({"PatientID": "1&2", "ScheduledProcedureStepSequence": [step], "StudyDate": None}),
        ]
    )
    matches[0].add_new(0x00091001, "LO", 'a"b')
    matches[1][0x00200013] = RawDataElement(BaseTag(0x00200013), "IS", 1, b"?", 0, False, True)  # no number
    html = matches._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "1&amp;2" in html
    assert "a&quot;b" in html
    assert "<td>1 items</td>" in html
    assert "…" in html
    assert "x" * 120 not in html
    assert html.count("<tr>") == 3


def test_a_long_list_is_cut() -> None:
    html = Matches([from_mapping({"PatientID": str(number)}) for number in range(150)])._repr_html_()
    assert html.count("<tr>") == 101
    assert "150 matches, 100 shown" in html
    assert "<table>" in Matches()._repr_html_()


def test_an_instance_in_memory_that_cannot_be_decoded() -> None:
    broken = Instance("1.2", "1.3", "1.2.840.10008.1.2.1", 9, data=b"\x08\0\x05\0CS\xff\xff1")
    with pytest.raises(DataSetError):
        broken.dataset()
    assert repr(broken) == "Instance('1.2', 9 bytes)"
    assert "path='x'" in repr(Instance("1.2", "1.3", "1.2", 9, Path("x")))


def test_sums() -> None:
    assert Retrieved().raise_for_failures() is not None
    unnamed = Retrieved(number_failed=3, status=Status.SUB_OPERATIONS_WARNING, error_comment="disk full")
    with pytest.raises(DicomNetworkError, match="3 instances were not retrieved: disk full") as caught:
        unnamed.raise_for_failures()
    assert caught.value.result is unnamed
    result = StoreResult()
    result.add(Stored(None, "1.2", Status.SUCCESS, repeated=True))
    assert (result.raise_for_failures().sent, result.repeated) == (1, 1)
    result.add(Stored(None, "1.3", None, "gone"))
    with pytest.raises(DicomNetworkError, match=r"1 instances were not stored: 1\.3: gone"):
        result.raise_for_failures()
