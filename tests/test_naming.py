"""Names of files that are made of what peers send."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncdicom import safe_name
from asyncdicom.uid import new_uid

DEVICES = ("CON", "nul", "Aux", "PRN", "COM1", "com9", "LPT1", "com0")
HOSTILE = st.one_of(
    st.text(),
    st.text(st.sampled_from("0123456789./\\~:\0 \nxXaA_-١"), max_size=80),
    st.builds("{}{}".format, st.sampled_from(DEVICES), st.sampled_from(["", ".", ".1", ".dcm", " .1", ":1"])),
)


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.0", "1.02", "1..2", "1" * 64, "a-b_c", pytest.param(new_uid(), id="new")]
)
def test_what_is_safe_stays(uid: str) -> None:
    assert safe_name(uid) == uid


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("", "__"),
        ("..", "_.._"),
        ("-rf", "_-rf_"),
        ("../1", "_.._1_"),
        (".hidden", "_.hidden_"),
        ("1.", "1._"),
        ("C:1", "C_1_"),
        ("1.A", "1.A_"),
        ("1.2 ", "1.2__"),
        ("CON", "_CON_"),
        ("com1.2.840", "_com1.2.840_"),
        ("1" * 65, "1" * 30 + "_"),
    ],
)
def test_what_is_not_gets_a_name_that_can_be_recognised(text: str, begins: str) -> None:
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{32}", safe_name(text))


def test_what_only_looks_like_a_device_stays() -> None:
    assert [safe_name(text) for text in ("console", "com10.1", "1.con")] == ["console", "com10.1", "1.con"]


def test_a_name_that_was_made_cannot_be_asked_for() -> None:
    assert safe_name(safe_name("1.A")) != safe_name("1.A")
    assert safe_name(safe_name("1/2")) != safe_name("1/2")


@given(HOSTILE)
@example("nul.txt")
@example("\ud800")
def test_the_name_stays_in_its_folder(text: str) -> None:
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", name)
    for ending in ("", ".dcm"):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind("folder", name + ending)
            assert path.parent == kind("folder")
            assert path.name == name + ending
    assert name.partition(".")[0].lower() not in {device.lower() for device in DEVICES}


@given(HOSTILE, HOSTILE)
@example("1.A", "1.a")
@example("1/2", "1_2")
@example("1" * 65, "1" * 66)
@example("1.A", safe_name("1.A").lower())
@example("1.A", safe_name("1.A"))
def test_two_texts_never_share_a_name(one: str, other: str) -> None:
    assert (safe_name(one).lower() == safe_name(other).lower()) == (one == other)
