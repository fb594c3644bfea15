"""Received files get their names, and replace nothing."""

from __future__ import annotations

import os
import struct
from io import FileIO
from pathlib import Path

import pytest
from cli.placed import written

from asyncdicom.data.steps import finish
from asyncdicom.scu.placing import UIDS, differs, examining, place


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
    study, series = UIDS["StudyInstanceUID"], UIDS["SeriesInstanceUID"]
    found = finish(examining(written(tmp_path / "part"), {study, series})).values
    assert differs(found, {study: frozenset({"1.1", "1.2"})}) is None
    assert differs(found, {study: frozenset({"1.1"})}) == "not asked for: its StudyInstanceUID is 1.2"
    assert differs(found, {series: frozenset({"1.1"})}) == "not asked for: its SeriesInstanceUID is missing"


class Watched(FileIO):
    """A file that counts what is read of it."""

    amount = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        Watched.amount += len(data)
        return data


@pytest.mark.parametrize(("cut", "missing"), [(0, None), (1, "the data set is truncated")])
def test_of_a_large_value_only_the_header_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, missing: str | None
) -> None:
    size = 8 << 20
    file = written(tmp_path / "part")
    with file.open("ab") as more:
        more.write(struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", size) + bytes(size - cut))
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Watched(path))
    study = UIDS["StudyInstanceUID"]
    assert finish(examining(file, {study})) == ({study: "1.2"}, missing)
    assert Watched.amount < size // 4


def test_what_has_many_elements_is_looked_through_in_steps(tmp_path: Path) -> None:
    file = written(tmp_path / "part")
    with file.open("ab") as more:
        for element in range(0x1000, 0x9000):
            more.write(struct.pack("<HH2sH", 0x7777, element, b"LO", 0))
    steps = list(examining(file, ()))
    assert len(steps) > 20
