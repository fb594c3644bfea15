"""The quarantine in an operator's hands: accept, purge, bounds; whatever breaks, nothing is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import below

from asyncdicom.archive import Archive, ArchiveError, FileCalls, Stored
from asyncdicom.archive.arrival import Arrival, Outcome
from asyncdicom.archive.dimse import status_of
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.stored import answer_to

MISMATCHES = ("another patient has this Study Instance UID", "the Patient ID is there twice")


async def lines(archive: Archive, method: str, **arguments: Any) -> list[Any]:
    return [line async for line in METHODS[method](archive, arguments)]


async def names(archive: Archive) -> list[str]:
    return [line["name"] for line in (await lines(archive, "quarantine list"))[:-1]]


async def patient_names(archive: Archive, tools: Any) -> set[str]:
    return {match["PatientName"] for match in await tools.find(archive, PatientName="")}


def contents(root: Path, tools: Any) -> dict[str, list[bytes]]:
    """The ends of the files of each folder, whole as they have come."""
    found: dict[str, list[bytes]] = {"objects": [], "quarantine": []}
    for path in tools.files_below(root):
        found[path.relative_to(below(root)).parts[0]].append(path.read_bytes())
    return found


def holds(files: list[bytes], data: bytes) -> bool:
    return any(file.endswith(data) for file in files)


async def conflict(root: Path, tools: Any) -> tuple[bytes, bytes]:
    first = tools.data_set(PatientName="FIRST", PatientID="1")
    other = tools.data_set(PatientName="OTHER", PatientID="2", StudyInstanceUID="1.2.3.9")
    async with Archive(root, durability="none") as archive:
        assert await tools.store(archive, first) == 0x0000
        assert await tools.store(archive, other) == 0xB007
    return first, other


async def test_accept_and_accept_back(tmp_path: Path, tools: Any) -> None:
    first, other = await conflict(tmp_path, tools)
    async with Archive(tmp_path) as archive:
        for accepted, stored, name in ((other, first, "OTHER"), (first, other, "FIRST")):
            (aside,) = await names(archive)
            await lines(archive, "quarantine accept", names=[aside[:8]])
            assert await patient_names(archive, tools) == {name}
            assert (await archive.reindex()).told() == ""
            files = contents(tmp_path, tools)
            assert [len(each) for each in files.values()] == [1, 1]
            assert holds(files["objects"], accepted)
            assert holds(files["quarantine"], stored)
            assert await tools.store(archive, accepted) == 0x0000
            assert await tools.store(archive, stored) == 0xB007
        (line, _) = await lines(archive, "quarantine list")
        assert line["calling_ae_title"] == "MODALITY"
        assert "accepted" in line["reason"]
    assert await tools.unsound(tmp_path) == []


async def test_a_damaged_one_is_not_accepted(tmp_path: Path, tools: Any) -> None:
    await conflict(tmp_path, tools)
    (path,) = tools.files_below(tmp_path / "quarantine")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    async with Archive(tmp_path) as archive:
        (aside,) = await names(archive)
        for name in (aside, "0" * 32, "", "../../etc", "%" * 8):
            with pytest.raises(ArchiveError):
                await lines(archive, "quarantine accept", names=[name])
        assert await patient_names(archive, tools) == {"FIRST"}
        assert await names(archive) == [aside]


async def test_purged_is_gone_and_known(tmp_path: Path, tools: Any) -> None:
    _, other = await conflict(tmp_path, tools)
    async with Archive(tmp_path) as archive:
        await lines(archive, "quarantine purge", names=await names(archive))
        (counts,) = await lines(archive, "stat")
        assert (counts["quarantine"], counts["purged"], counts["instance"]) == (0, 1, 1)
        assert await tools.store(archive, other) == 0xB007
    assert len(contents(tmp_path, tools)["quarantine"]) == 1


class Broken(Exception):
    """The process has died."""


class Dying(FileCalls):
    """Dies at a file call that changes something, and makes no more of them."""

    _CHANGES = ("link", "remove", "move", "sync_directory", "sync_data", "create", "write")

    def __init__(self) -> None:
        self.left = -1  # calls until then; negative: never

    def __getattribute__(self, name: str) -> Any:
        if name in Dying._CHANGES:
            if self.left == 0:
                raise Broken
            self.left -= 1
        return super().__getattribute__(name)


@pytest.mark.parametrize("method", ["quarantine accept", "quarantine purge"])
async def test_killed_at_every_file_call(tmp_path: Path, tools: Any, method: str) -> None:
    """Either all of it is done or nothing, and both data sets are there (unless one was to be removed)."""
    seen = set()
    for number in range(30):
        root = tmp_path / str(number)
        first, other = await conflict(root, tools)
        calls, is_done = Dying(), False
        async with Archive(root, files=calls, sweep=False) as archive:
            (aside,) = await names(archive)
            calls.left = number
            try:
                await lines(archive, method, names=[aside])
                is_done = True
            except Broken:
                pass
            calls.left = 0  # nor does it tidy up
        async with Archive(root) as archive:
            await archive.reindex()
            files, now = contents(root, tools), await patient_names(archive, tools)
        assert await tools.unsound(root) == []
        if method == "quarantine purge":
            assert holds(files["objects"], first)
        else:
            assert [len(each) for each in files.values()] == [1, 1]
            assert now == ({"OTHER"} if holds(files["objects"], other) else {"FIRST"})
            assert holds(files["quarantine"], first if now == {"OTHER"} else other)
        seen.add((is_done, len(files["quarantine"]), *now))
        if is_done:
            break
    assert is_done
    assert len(seen) > 1


@pytest.mark.parametrize("step", ["_begin", "_remove", "_insert_all", "_commit"])
async def test_an_index_that_fails_changes_nothing(tmp_path: Path, tools: Any, step: str) -> None:
    first, other = await conflict(tmp_path, tools)
    async with Archive(tmp_path) as archive:
        parts: Any = archive
        writer = parts._ingest._writer
        proper = getattr(writer, step)

        def fail(*_: Any, **__: Any) -> None:
            setattr(writer, step, proper)
            raise sqlite3.OperationalError("disk I/O error")

        setattr(writer, step, fail)
        with pytest.raises(ArchiveError, match="disk I/O error"):
            await lines(archive, "quarantine accept", names=await names(archive))
        assert await patient_names(archive, tools) == {"FIRST"}
        await archive.reindex()
        files = contents(tmp_path, tools)
        assert [len(each) for each in files.values()] == [1, 1]
        assert holds(files["objects"], first)
        assert holds(files["quarantine"], other)
        await lines(archive, "quarantine accept", names=await names(archive))
        assert await patient_names(archive, tools) == {"OTHER"}


class NoLinks(FileCalls):
    def link(self, source: str, target: str, *, sync: bool) -> None:
        """As on a file system without such things."""
        from unittest.mock import patch

        with patch("os.link", side_effect=PermissionError):
            super().link(source, target, sync=sync)


async def test_a_file_system_without_links(tmp_path: Path, tools: Any) -> None:
    _, other = await conflict(tmp_path, tools)
    async with Archive(tmp_path, files=NoLinks()) as archive:
        await lines(archive, "quarantine accept", names=await names(archive))
    files = contents(tmp_path, tools)
    assert [len(each) for each in files.values()] == [1, 1]
    assert holds(files["objects"], other)


# bounds


REFUSALS = {Outcome.UNREADABLE, Outcome.WRONG, Outcome.NO_ROOM}  # of what never came to the index


@pytest.mark.parametrize("outcome", sorted(REFUSALS, key=str))
def test_a_refusal_is_a_failure(outcome: Outcome) -> None:
    assert status_of(Stored(outcome, "why")).is_failure


def test_every_outcome_has_an_answer_that_fits() -> None:
    arrival = Arrival.__new__(Arrival)
    comments = []
    for outcome in set(Outcome) - {Outcome.WITHDRAWN, Outcome.UNTRUSTED} - REFUSALS:
        for arrival.mismatch in ("", *MISMATCHES):
            for arrival.is_conflict in (True, False):
                stored = answer_to(arrival, outcome)
                assert bool(stored.comment) != stored.is_here
                assert status_of(stored).is_success == stored.is_here
                comments.append(stored.comment)
    assert max(map(len, comments)) == 64
    assert {f"{each}: quarantine full" for each in MISMATCHES} < set(comments)


async def test_a_full_quarantine_refuses_another_patient(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(
        tmp_path, durability="none", on_mismatch="quarantine", maximum_quarantined=1
    ) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        answers = []
        for number in range(3):
            uid = f"1.2.9.{number}"
            data = tools.data_set(SOPInstanceUID=uid, PatientID="P2", PatientName="OTHER")
            answers.append(await tools.stored(archive, data))
        why = "another patient has this Study Instance UID"
        full = (0xA700, f"{why}: quarantine full")
        assert [(status_of(each), each.comment) for each in answers] == [
            (0xB007, f"{why}: quarantined"),
            full,
            full,
        ]
        assert archive.happened == {"mismatch": 1, "quarantine_full": 2}
        (counts,) = await lines(archive, "stat")
        assert (counts["mismatch"], counts["refused_conflicts"], counts["conflicts"]) == (1, 2, 0)
        assert f"1.2.9.2 refused, {why} and the quarantine is full" in caplog.text
        await tools.left_below(tmp_path, 2)


@pytest.mark.parametrize(
    ("files", "sizes", "less", "kept"), [(2, 9, 0, 2), (9, 2, 0, 2), (9, 2, 1, 1), (5, 5, 0, 5)]
)
async def test_a_full_quarantine_refuses(
    tmp_path: Path, tools: Any, files: int, sizes: int, less: int, kept: int
) -> None:
    size = sizes * len(tools.data_set(PatientName="OTHER0")) - less
    async with Archive(
        tmp_path, durability="none", maximum_quarantined=files, maximum_quarantined_bytes=size
    ) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        answers = []
        for number in range(6):
            stored = await tools.stored(archive, tools.data_set(PatientName=f"OTHER{number}"))
            answers.append(int(status_of(stored)))
            what = "quarantined" if status_of(stored) == 0xB007 else "quarantine full"
            assert stored.comment == f"other data are here under this SOP Instance UID: {what}"
        assert answers == sorted(answers, reverse=True)
        assert set(answers) == {0xB007, 0xA700}
        assert answers.count(0xB007) == kept
        assert await tools.store(archive, tools.data_set(PatientName="OTHER0")) == 0xB007  # it is there
        (counts,) = await lines(archive, "stat")
        assert counts["quarantine"] == kept
        assert counts["refused_conflicts"] == answers.count(0xA700)
        assert len(contents(tmp_path, tools)["objects"]) == 1
        await lines(archive, "quarantine purge", names=(await names(archive))[:1])
        assert await tools.store(archive, tools.data_set(PatientName="OTHER9")) == 0xB007


async def test_the_quarantine_is_told_at_start(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await conflict(tmp_path, tools)
    async with Archive(tmp_path):
        assert "1 instances" in caplog.text
        assert "quarantine list" in caplog.text


class TwoDisks(FileCalls):
    def move(self, source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")


async def test_two_disks_are_told_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Archive(tmp_path, files=TwoDisks()):
        assert "are on two disks or mounts" in caplog.text


async def test_an_empty_quarantine_is_told_at_start(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await conflict(tmp_path, tools)
    for path in tools.files_below(tmp_path / "quarantine"):
        path.unlink()
    async with Archive(tmp_path):
        assert "is its disk mounted" in caplog.text
