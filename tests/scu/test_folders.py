"""Folders named by what instances say: never elsewhere, and never one for two values that differ."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncdicom.scu.folders import FolderTemplate

PATIENT_ID, STUDY, NUMBER, MODALITY = 0x00100020, 0x0020000D, 0x00200011, 0x00080060
TITLES = {"calling": "CT1", "called": "ME"}
VALUES = {PATIENT_ID: "PAT-1", STUDY: "1.2.3", NUMBER: "7", MODALITY: "CT"}
HOSTILE = st.one_of(
    st.text(max_size=100),
    st.text(st.sampled_from("01A-aB./\\~:\0 ^\n\x1b_é"), max_size=12),
    st.sampled_from(["..", ".", "", "CON", "no-PatientID", "NO-PATIENTID", "None", "A" * 64, "A" * 65]),
)


def names(template: str, values: dict[int, str], titles: dict[str, str] = TITLES) -> list[str]:
    return FolderTemplate(template).names(values, titles)


def test_what_may_be_a_name_stays() -> None:
    template = "{PatientID}/{StudyInstanceUID}/{SeriesNumber:04}-{Modality}"
    assert names(template, VALUES) == ["PAT-1", "1.2.3", "0007-CT"]
    assert names("in/{calling}_{called}/Study-{StudyInstanceUID}", VALUES) == ["in", "CT1_ME", "Study-1.2.3"]
    assert FolderTemplate.of_study("S").names(VALUES, TITLES) == ["S_1.2.3"]
    assert FolderTemplate.of_study("").names(VALUES, TITLES) == ["1.2.3"]


@pytest.mark.parametrize(
    ("value", "name"),
    [("3", "0003"), ("+3", "0003"), (" 3 ", "0003"), ("03", "0003"), ("12345", "12345"), ("3.5", "3.5")],
)
def test_a_number_has_so_many_digits(value: str, name: str) -> None:
    assert names("N{SeriesNumber:04}", {NUMBER: value}) == [f"N{name}"]


@pytest.mark.parametrize("value", ["", "  ", "\0", None])
def test_what_is_missing_is_told_in_a_word_of_its_own(value: str | None) -> None:
    values = {} if value is None else {PATIENT_ID: value, NUMBER: value}
    assert names("{PatientID}/{SeriesNumber:04}-{Modality}", values) == [
        "no-PatientID",
        "no-SeriesNumber-no-Modality",
    ]


@pytest.mark.parametrize(
    "value",
    ["DOE^JOHN", "doe", "..", ".X", "-X", "A/B", "A\\B", "CON", "A" * 161, "M\xfcller", "NO-ID", "A\x1b[2J"],
)
def test_what_may_not_be_a_name_can_be_recognised_and_told_apart(value: str) -> None:
    (name,) = names("{PatientID}", {PATIENT_ID: value})
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,30}_[0-9a-f]{32}", name)


@given(HOSTILE, HOSTILE)
def test_a_name_stays_in_its_folder(one: str, other: str) -> None:
    for name in names("{PatientID}/P{PatientID}-{Modality}", {PATIENT_ID: one, MODALITY: other}):
        assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,158}[A-Za-z0-9_-])?", name)
        for kind in (PurePosixPath, PureWindowsPath):
            assert (kind("folder") / name).parent == kind("folder")
        assert name.partition(".")[0].upper() not in ("CON", "NUL", "AUX", "PRN")


def same(one: str, other: str) -> bool:
    """Whether two values are one by PS3.5 6.2: padding says nothing."""
    return one.strip("\0 ") == other.strip("\0 ")


@given(st.tuples(HOSTILE, HOSTILE), st.tuples(HOSTILE, HOSTILE))
@example(("A-B", "C"), ("A", "B-C"))
@example(("A", "B"), ("a", "B"))
@example(("", "B"), ("no-PatientID", "B"))
@example(("", "B"), ("NO-PATIENTID", "B"))
@example(("A", ""), ("A", "no-Modality"))
@example(("DOE^J", "B"), ("DOE_J", "B"))
@example(("A" * 161, "B"), ("A" * 162, "B"))
def test_two_that_differ_never_share_a_folder(one: tuple[str, str], other: tuple[str, str]) -> None:
    made = [
        names("{PatientID}-{Modality}", {PATIENT_ID: each[0], MODALITY: each[1]})[0].lower()
        for each in (one, other)
    ]
    assert (made[0] == made[1]) == all(map(same, one, other))


def test_a_name_that_was_made_cannot_be_sent() -> None:
    (made,) = names("{PatientID}", {PATIENT_ID: "DOE^JOHN"})
    for sent in (made, made.upper()):
        assert names("{PatientID}", {PATIENT_ID: sent})[0].lower() != made


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("", "'' is no name for a folder"),
        ("/abs/{PatientID}", "'' is no name for a folder"),
        ("{PatientID}/", "'' is no name for a folder"),
        ("../{PatientID}", "'..' is no name for a folder"),
        ("con/{PatientID}", "'con' is no name for a folder"),
        (".{PatientID}", "does not begin with a dot"),
        ("{PatientID", "a brace without its other one"),
        ("{Patient ID}", "'Patient ID' is no keyword of an element; did you mean PatientID"),
        ("{PatientId}", "'PatientId' is no keyword of an element; did you mean PatientID"),
        ("{calling_ae}", "'calling_ae' is no keyword of an element; did you mean calling"),
        ("{xyzzy}", "'xyzzy' is no keyword of an element, nor one of calling, called"),
        ("{PatientID}{Modality}", "something has to be between two values"),
        ("a b/{PatientID}", "beside {...} there are letters"),
        ("{PatientID:04}", "{PatientID:04}: '04' is no format here; 04 is, for numbers such as SeriesNumber"),
        ("{SeriesNumber:>4}", "'>4' is no format here"),
        ("{SeriesNumber:}", "'' is no format here"),
        ("{PixelData}", "PixelData has the VR OB or OW"),
        ("{Rows}", "Rows has the VR US"),
        ("/".join(["a"] * 9), "more than 8 folders"),
        ("a" * 513, "longer than 512 characters"),
    ],
)
def test_what_is_no_template(template: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        FolderTemplate(template)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("template", "depth"),
    [("{PatientID}", 0), ("{PatientID}/{StudyInstanceUID}/{Modality}", 2), ("S-{StudyInstanceUID}", 1)],
)
def test_the_folder_of_a_study(template: str, depth: int) -> None:
    assert FolderTemplate(template).depth_of_study == depth
