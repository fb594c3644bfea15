from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.cli.naming import file_name


def test_a_uid() -> None:
    assert file_name("1.2.840.10008.0") == "1.2.840.10008.0.dcm"


@pytest.mark.parametrize(
    "uid", ["", ".", "..", "1..2", "1.02", "../1", "1/2", "1\\2", "1.2\0", "1.2 ", "a", "1" * 65]
)
def test_what_is_no_uid(uid: str) -> None:
    with pytest.raises(ValueError, match="is not a UID"):
        file_name(uid)


@given(st.text(st.sampled_from("0123456789./\\~\0 \nx١")) | st.text())
def test_whatever_comes_the_name_has_only_digits_and_dots(uid: str) -> None:
    try:
        name = file_name(uid)
    except ValueError:
        return
    assert set(name.removesuffix(".dcm")) <= set("0123456789.")
    assert PurePath("folder", name).parent == PurePath("folder")
    assert len(name) <= 68
