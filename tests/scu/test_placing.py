"""Received files get their names, and replace nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.placed import written

from asyncdicom.scu.placing import UIDS, differs, place


@pytest.fixture(params=["links", "no links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*paths: object) -> None:
        raise PermissionError(1, "this file system has none")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", none)


@pytest.mark.usefixtures("links")
def test_nothing_is_replaced(tmp_path: Path) -> None:
    target, part = tmp_path / "1.2.3.dcm", tmp_path / "part"
    assert place(written(part), target).what == "new"
    first = target.read_bytes()
    assert place(written(part, sender="CT2"), target)[:2] == (target, "same"), (
        "who sent it makes no difference"
    )
    other = place(written(part, b"34"), target)
    assert other.what == "other"
    assert place(written(part, b"34"), target).what == "same", "also kept once"
    torso = place(written(part, b""), target)  # as of a truncated one
    assert torso.what == "other"
    assert target.read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {target.name, other.path.name, torso.path.name}


@pytest.mark.parametrize("what", ["link", "folder", "rubbish"])
def test_what_has_the_name_is_left_alone(tmp_path: Path, what: str) -> None:
    target, elsewhere = tmp_path / "1.2.3.dcm", tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    if what == "link":
        target.symlink_to(elsewhere)
    elif what == "folder":
        target.mkdir()
    else:
        target.write_bytes(b"not DICOM")
    placed = place(written(tmp_path / "part"), target)
    assert placed.what == "other"
    assert placed.path.parent == tmp_path
    assert elsewhere.read_bytes() == b"mine"


def test_what_was_not_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "part")
    study, series = UIDS["StudyInstanceUID"], UIDS["SeriesInstanceUID"]
    assert differs(file, {study: frozenset({"1.1", "1.2"})}) is None
    assert differs(file, {study: frozenset({"1.1"})}) == "not asked for: its StudyInstanceUID is 1.2"
    assert differs(file, {series: frozenset({"1.1"})}) == "not asked for: its SeriesInstanceUID is missing"
