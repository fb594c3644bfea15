"""What was acknowledged stays findable, whatever happens to the folder between two starts."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import below
from helpers.index_asking import copy_index, lose_index, put_index_back

from asyncdicom.archive import Archive, ArchiveError, FileCalls
from asyncdicom.archive.maintenance import set_damaged_index_aside

Damage = Callable[[Path, Path], None]


async def keep(root: Path, tools: Any, numbers: range) -> None:
    async with Archive(root, durability="none") as archive:
        for number in numbers:
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000


async def swept(archive: Archive) -> Any:
    assert archive._sweep is not None
    return await archive._sweep


async def found(archive: Archive, tools: Any) -> set[str]:
    """The UIDs that a query finds and whose files are what the index says."""
    keys = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1", "SOPInstanceUID": ""}
    return {match["SOPInstanceUID"] for match in await tools.find(archive, level="IMAGE", **keys)}


def copied(root: Path, copy: Path) -> None:
    """Keep index and instances as they are now."""
    shutil.copytree(below(root / "objects"), copy / "objects")
    copy_index(root, copy)


def an_old_index_is_put_back(root: Path, copy: Path) -> None:
    put_index_back(root, copy)


def the_index_is_lost(root: Path, copy: Path) -> None:
    lose_index(root)


def index_and_marker_are_lost(root: Path, copy: Path) -> None:
    lose_index(root)
    for marker in {root / "archive.json", below(root) / "archive.json"}:
        marker.unlink()


def the_index_is_empty(root: Path, copy: Path) -> None:
    lose_index(root)
    (root / "index.sqlite").write_bytes(b"")


def a_folder_has_another_name(root: Path, copy: Path) -> None:
    (name,) = (path.name for path in (copy / "objects").iterdir())  # of the first 10
    objects = below(root / "objects")
    free = next(each for each in ("00", "01", "02") if not (objects / each).exists())
    (objects / name).rename(objects / free)


def folders_are_copied(root: Path, copy: Path) -> None:
    for outer in list(below(root / "objects").iterdir()):
        names = (outer.with_name(f"{number:02x}") for number in range(256))
        shutil.copytree(outer, next(path for path in names if not path.exists()))


@pytest.mark.parametrize(
    "damage",
    [
        an_old_index_is_put_back,
        the_index_is_lost,
        index_and_marker_are_lost,
        the_index_is_empty,
        a_folder_has_another_name,
        folders_are_copied,
    ],
)
async def test_everything_is_found_again(tmp_path: Path, tools: Any, damage: Damage) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    await keep(root, tools, range(10))
    copied(root, copy)
    await keep(root, tools, range(10, 40))
    damage(root, copy)
    async with Archive(root, durability="none") as archive:
        assert (await swept(archive)).failed == 0
        assert await found(archive, tools) == {f"1.2.3.{number}" for number in range(40)}
        assert (await archive.reindex()).told() == ""
    assert await tools.unsound(root) == []


async def test_an_index_without_its_wal(tmp_path: Path, tools: Any) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    async with Archive(root) as archive:
        for number in range(5):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000
        shutil.copytree(root, copy)
    (copy / "index.sqlite-wal").unlink()
    async with Archive(copy) as archive:
        await swept(archive)
        assert await found(archive, tools) == {f"1.2.3.{number}" for number in range(5)}


async def test_an_older_index_is_told(tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    await keep(root, tools, range(2))
    copied(root, copy)
    await keep(root, tools, range(2, 4))
    an_old_index_is_put_back(root, copy)
    async with Archive(root) as archive:
        assert (await swept(archive)).indexed == 2
    assert "is an older copy" in caplog.text


async def test_the_index_of_another_archive_is_refused_and_can_be_replaced(
    tmp_path: Path, tools: Any
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    await keep(one, tools, range(3))
    await keep(other, tools, range(5, 6))
    shutil.copy(other / "index.sqlite", one)
    with pytest.raises(ArchiveError, match=r"another archive.*reindex"):
        await Archive(one).open()
    assert set_damaged_index_aside(str(one)).endswith(".damaged-1")
    async with Archive(one, existing=True) as archive:
        await swept(archive)
        assert await found(archive, tools) == {f"1.2.3.{number}" for number in range(3)}


async def test_missing_mounts(tmp_path: Path, tools: Any) -> None:
    root = tmp_path / "archive"
    with pytest.raises(ArchiveError, match="is its disk mounted"):
        await Archive(root, existing=True).open()
    await keep(root, tools, range(1))
    (root / "objects").rename(tmp_path / "objects")
    with pytest.raises(ArchiveError, match="is its disk mounted"):
        await Archive(root).open()
    (root / "objects").symlink_to(tmp_path / "objects")
    with pytest.raises(ArchiveError, match="is a link"):
        await Archive(root).open()


async def test_foreign_things_are_left_alone(tmp_path: Path, tools: Any) -> None:
    root, elsewhere = tmp_path / "archive", tmp_path / "elsewhere"
    await keep(root, tools, range(1))
    (elsewhere / "cd").mkdir(parents=True)
    theirs = elsewhere / "cd" / f"{1:032x}.dcm"
    theirs.write_bytes(b"theirs")
    free = next(name for name in ("ab", "cd") if not (root / "objects" / name).exists())
    (root / "objects" / free).symlink_to(elsewhere)
    (root / "quarantine" / "notes.txt").write_text("see the physicist")
    (root / "quarantine" / f"{2:032x}.dcm").symlink_to(theirs)
    async with Archive(root) as archive:
        assert (await swept(archive)).foreign == 2
    assert theirs.read_bytes() == b"theirs"
    assert (root / "quarantine" / "notes.txt").exists()
    assert (root / "quarantine" / f"{2:032x}.dcm").is_symlink()


async def test_what_a_file_without_a_row_comes_to(tmp_path: Path, tools: Any) -> None:
    root = tmp_path / "archive"
    await keep(root, tools, range(1))
    (kept,) = tools.files_below(root)
    whole = kept.read_bytes()
    offset = whole.index(tools.data_set(SOPInstanceUID="1.2.3.0"))
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    unfinished = whole[: offset - 16] + bytes(16) + whole[offset:]
    for number, content in enumerate(
        [b"", unfinished[:-3], unfinished, flipped, whole[:-3], b"text" * 100, whole]
    ):
        kept.with_name(f"{number:032x}.dcm").write_bytes(content)
    async with Archive(root) as archive:
        came_to = await swept(archive)
    assert (came_to.unfinished, came_to.set_aside, came_to.copies) == (2, 4, 1)
    assert len(tools.names_in(root / "lost")) == 4


async def test_a_file_whose_end_cannot_be_told_is_never_removed(tmp_path: Path, tools: Any) -> None:
    """One that has no digest yet may have been kept, if what cannot be read is behind what is indexed."""
    root, strange = tmp_path / "archive", b"\xe1\x7f\x10\x10\x01\x02" + b"rubbish" * 10
    async with Archive(root, durability="none") as archive:
        uid = "1.2.3.1.1.1"
        assert await tools.store(archive, tools.data_set() + strange, sop_instance_uid=uid) == 0x0000
    (kept,) = tools.files_below(root)
    whole = kept.read_bytes()
    offset = whole.index(tools.data_set())
    kept.with_name(f"{1:032x}.dcm").write_bytes(whole[: offset - 16] + bytes(16) + whole[offset:])
    lose_index(root)
    async with Archive(root) as archive:
        came_to = await swept(archive)
        assert (came_to.indexed, came_to.set_aside, came_to.unfinished) == (1, 1, 0)
        assert len(await tools.find(archive, PatientID="P1")) == 1


# the same instance again


@pytest.mark.parametrize("damage", ["missing", "flipped", "short", "a folder"])
async def test_a_good_copy_heals(tmp_path: Path, tools: Any, damage: str) -> None:
    await keep(tmp_path, tools, range(2))
    data = tools.data_set(SOPInstanceUID="1.2.3.0")
    (path,) = (path for path in tools.files_below(tmp_path) if path.read_bytes().endswith(data))
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content[:-1] + (b"" if damage == "short" else b"\xff"))
    async with Archive(tmp_path) as archive:
        await swept(archive)
        assert await tools.store(archive, data) == 0x0000
        assert await tools.store(archive, data) == 0x0000
        assert await archive.counts() == {
            "patient": 1,
            "study": 1,
            "series": 1,
            "instance": 2,
            "quarantine": 0,
        }
    assert await tools.unsound(tmp_path) == []


async def test_a_conflict_that_is_gone_is_kept_again(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        for _ in range(3):
            assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
            shutil.rmtree(below(tmp_path / "quarantine"))
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
    assert await tools.unsound(tmp_path) == []


# one bad row, and a writer that goes on


async def test_a_conflict_that_fails_costs_the_others_nothing(tmp_path: Path, tools: Any) -> None:
    class NoMoves(FileCalls):
        def move(self, source: str, target: str) -> None:
            raise OSError(5, "Input/output error")

    async with Archive(tmp_path, files=NoMoves()) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}") for number in range(20)]
        data.insert(7, tools.data_set(PatientName="OTHER"))
        statuses = await asyncio.gather(*(tools.store(archive, each) for each in data))
    assert [int(status) for status in statuses] == [0xA700 if n == 7 else 0 for n in range(21)]


@pytest.mark.parametrize("error", [MemoryError, SystemExit, ValueError, StopIteration])
async def test_the_index_writer_answers_everybody_and_goes_on(
    tmp_path: Path, tools: Any, error: type[BaseException]
) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        ingest: Any = archive._ingest
        for place in ("_settle", "_come_again", "_tell_failures", "_commit"):
            proper = getattr(ingest, place)

            def broken(*_: Any) -> Any:
                raise error

            setattr(ingest, place, broken)
            for number in range(3):
                await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}"))
            setattr(ingest, place, proper)
            assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.9")) == 0x0000
    assert await tools.unsound(tmp_path) == []


async def test_a_log_that_fails_costs_nobody_an_answer(tmp_path: Path, tools: Any) -> None:
    import logging

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(28, "No space left on device")

    handler = Broken()
    logging.getLogger("asyncdicom.archive").addHandler(handler)
    try:
        async with Archive(tmp_path) as archive:
            assert await tools.store(archive, tools.data_set()) == 0x0000
            assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
            assert (
                await tools.store(archive, b"no data set at all, but text", sop_instance_uid="1.2") == 0xC000
            )
    finally:
        logging.getLogger("asyncdicom.archive").removeHandler(handler)


# modes


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_modes_do_not_depend_on_the_umask(tmp_path: Path, tools: Any, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with Archive(tmp_path / "archive") as archive:
            for number in range(2):
                data = tools.data_set(SOPInstanceUID=f"1.2.3.{number}")
                assert await tools.store(archive, data) == 0x0000
            for path in [tmp_path / "archive", *(tmp_path / "archive").rglob("*")]:
                wanted = 0o750 if path.is_dir() else 0o640
                assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    finally:
        os.umask(before)
    (tmp_path / "archive" / "index.sqlite").chmod(0o666)
    async with Archive(tmp_path / "archive"):
        assert stat.S_IMODE((tmp_path / "archive" / "index.sqlite").stat().st_mode) == 0o640


class Synced(FileCalls):
    """Notes which folders were synced."""

    def __init__(self) -> None:
        self.folders: set[str] = set()

    def sync_directory(self, path: str) -> None:
        self.folders.add(path)
        super().sync_directory(path)


async def test_folders_that_nobody_has_synced_are_synced_before_their_files_count(
    tmp_path: Path, tools: Any
) -> None:
    """An archive without durability has made them, or somebody has copied them there."""
    await keep(tmp_path, tools, range(3))
    lose_index(tmp_path)
    inner = {str(path.parent) for path in (tmp_path / "objects").rglob("*.dcm")}
    calls = Synced()
    async with Archive(tmp_path, files=calls) as archive:
        assert (await swept(archive)).indexed == 3
    assert inner
    assert calls.folders >= inner | {os.path.dirname(path) for path in inner} | {str(tmp_path / "objects")}


async def test_foreign_dicom_files_in_the_folder_are_told_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = tmp_path / "2019" / "CT" / "1.dcm"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(bytes(128) + b"DICM")
    async with Archive(tmp_path, durability="none"):
        pass
    assert "holds DICOM files that are not the archive's" in caplog.text
    assert f"asyncdicom archive {tmp_path} import FOLDER" in caplog.text
    assert foreign.exists()
