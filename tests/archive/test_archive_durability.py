"""What a Success means, and what is left when something fails: with file calls that tests make fail."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import ask

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.dimse import status_of
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN


def committed(root: Path) -> int:
    """How many rows others can see; -1: there is no index yet."""
    found = ask(root, "SELECT (SELECT count(*) FROM instance) + count(*) FROM quarantine")
    return int(found[0][0]) if found else -1


def synchronous(archive: Archive) -> object:
    """What the engine does at a commit."""
    cursor: Any = archive._ingest._writer._cursor
    if isinstance(cursor, sqlite3.Cursor):
        connection = cursor.connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        return connection.execute("PRAGMA synchronous").fetchone()[0]
    return cursor.execute("SHOW synchronous_commit").fetchone()[0]


class Recording(FileCalls):
    """Notes the calls and how many rows others could see when each was made."""

    def __init__(self, root: Path) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self._root = root
        self._paths: dict[int, str] = {}

    def note(self, call: str, path: str) -> None:
        if (rows := committed(self._root)) >= 0:
            self.calls.append((call, os.path.relpath(path, self._root), rows))

    def create(self, path: str) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        self.note("create", path)
        return descriptor

    def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
        super().write(descriptor, views)
        self.note("write", self._paths[descriptor])

    def sync_data(self, descriptor: int) -> None:
        super().sync_data(descriptor)
        self.note("sync", self._paths[descriptor])

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        self.note("sync", path)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        if path := self._paths.pop(descriptor, ""):  # not that of a lock, which the sweep takes and leaves
            self.note("close", path)

    def move(self, source: str, target: str) -> None:
        super().move(source, target)
        self.note("move", target)


async def test_success_comes_after_data_folder_and_row_are_durable(tmp_path: Path, tools: Any) -> None:
    calls = Recording(tmp_path)
    async with Archive(tmp_path, files=calls) as archive:
        assert synchronous(archive) in (2, "on")  # FULL: COMMIT syncs the WAL
        calls.calls.clear()
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert committed(tmp_path) == 1
    (path,) = tools.files_below(tmp_path)
    file = path.relative_to(tmp_path)
    outer, inner = str(file.parent.parent), str(file.parent)
    assert calls.calls[:7] == [
        ("sync", "objects", 0),
        ("sync", outer, 0),
        ("create", str(file), 0),
        ("write", str(file), 0),
        ("sync", str(file), 0),
        ("close", str(file), 0),
        ("sync", inner, 0),
    ]


async def test_quarantine_is_as_durable(tmp_path: Path, tools: Any) -> None:
    calls = Recording(tmp_path)
    async with Archive(tmp_path, files=calls) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        calls.calls.clear()
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
        assert committed(tmp_path) == 2
    (path,) = tools.files_below(tmp_path / "quarantine")
    moved = [(call, path) for call, path, rows in calls.calls if rows == 1][-2:]
    assert moved == [("move", f"quarantine/{path.name}"), ("sync", "quarantine")]


@pytest.mark.parametrize(("durability", "settings"), [("process", (1, "local")), ("none", (0, "off"))])
async def test_weaker_durability_syncs_nothing(
    tmp_path: Path, tools: Any, durability: str, settings: tuple[int, str]
) -> None:
    calls = Recording(tmp_path)
    async with Archive(tmp_path, durability=durability, files=calls) as archive:
        assert synchronous(archive) in settings
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
    assert not [call for call in calls.calls if call[0] == "sync"]


def when_queued(archive: Archive, count: int) -> asyncio.Event:
    """Give an event that is set when ``count`` instances have been given to the writer thread."""
    event, submit, submitted = asyncio.Event(), archive._ingest.submit, 0
    loop = asyncio.get_running_loop()

    def note() -> None:
        nonlocal submitted
        submitted += 1
        if submitted == count:
            event.set()

    def counting(arrival: Any) -> None:
        submit(arrival)
        loop.call_soon_threadsafe(note)

    archive._ingest.submit = counting  # type: ignore[method-assign]
    return event


class SlowRounds(FileCalls):
    """The first round of the writer thread lasts until the test lets it go on."""

    def __init__(self) -> None:
        self.folders: list[str] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        if threading.current_thread().name == "asyncdicom-index":
            self.folders.append(path)
            self.entered.set()
            assert self.go_on.wait(30)


async def test_a_group_commit_syncs_a_folder_once(tmp_path: Path, tools: Any) -> None:
    calls = SlowRounds()
    async with Archive(tmp_path, files=calls) as archive:
        all_queued = when_queued(archive, 200)
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}") for number in range(200)]
        stores = [asyncio.ensure_future(tools.store(archive, each)) for each in data]
        await all_queued.wait()
        assert not any(store.done() for store in stores)
        calls.go_on.set()
        assert set(await asyncio.gather(*stores)) == {0}
        assert (await archive.counts())["instance"] == 200
    assert len(calls.folders) == 2  # those that came before the first round, then all others


def full(*_arguments: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def nothing_is_left(archive: Archive, root: Path, tools: Any, rows: int = 0) -> None:
    counts = await archive.counts()
    assert counts["instance"] + counts["quarantine"] == rows
    assert len(tools.files_below(root)) == rows


FAULTS = ["create", "write", "sync_data", "sync_directory", "close", "make_directory"]


@pytest.mark.parametrize("call", FAULTS)
@pytest.mark.parametrize("size", [100, 600_000])
async def test_a_full_disk_is_a_failure_and_leaves_nothing(
    tmp_path: Path, tools: Any, call: str, size: int
) -> None:
    calls = FileCalls()
    data = tools.data_set(PixelData=bytes(size))
    async with Archive(tmp_path, files=calls) as archive:
        proper: Callable[..., Any] = getattr(calls, call)

        def close(descriptor: int) -> None:
            proper(descriptor)
            full()

        setattr(calls, call, close if call == "close" else full)
        assert await tools.store(archive, data, 100_000) == 0xA700
        setattr(calls, call, proper)
        await nothing_is_left(archive, tmp_path, tools)
        assert await tools.store(archive, data) == 0x0000  # as soon as there is room again
        await nothing_is_left(archive, tmp_path, tools, rows=1)


async def test_a_full_disk_in_the_middle(tmp_path: Path, tools: Any) -> None:
    class Filling(FileCalls):
        room = 700_000

        def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
            super().write(descriptor, views)
            self.room -= sum(map(len, views))
            if self.room < 0:
                full()

    async with Archive(tmp_path, durability="none", files=Filling()) as archive:
        assert await tools.store(archive, tools.data_set(PixelData=bytes(2_000_000)), 100_000) == 0xA700
        await nothing_is_left(archive, tmp_path, tools)


@pytest.mark.parametrize("call", ["move", "sync_directory"])
async def test_quarantine_that_fails(tmp_path: Path, tools: Any, call: str) -> None:
    calls = FileCalls()
    async with Archive(tmp_path, files=calls) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        proper = getattr(calls, call)
        setattr(calls, call, full)
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xA700
        setattr(calls, call, proper)
        await nothing_is_left(archive, tmp_path, tools, rows=1)


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT INTO instance", "COMMIT"])
async def test_an_index_that_fails(
    tmp_path: Path, tools: Any, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Cursor:
        """Stands between the writer and SQLite."""

        failing = True

        def __init__(self, cursor: sqlite3.Cursor) -> None:
            self._cursor = cursor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            if self.failing and sql.startswith(statement):
                raise sqlite3.OperationalError("database or disk is full")
            return self._cursor.execute(sql, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> Any:
            if self.failing and sql.startswith(statement):
                raise sqlite3.OperationalError("database or disk is full")
            return self._cursor.executemany(sql, *arguments)

    async with Archive(tmp_path, durability="none") as archive:
        cursor: Any = Cursor(archive._ingest._writer._cursor)
        archive._ingest._writer._cursor = cursor
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{n}", PatientName="SECRET") for n in range(5)]
        statuses = await asyncio.gather(*(tools.store(archive, each) for each in data))
        assert set(map(int, statuses)) == {0xA700}
        await nothing_is_left(archive, tmp_path, tools)
        assert "SECRET" not in caplog.text
        cursor.failing = False
        assert set(await asyncio.gather(*(tools.store(archive, each) for each in data))) == {0}
        await nothing_is_left(archive, tmp_path, tools, rows=5)


async def test_an_instance_that_the_index_cannot_take_costs_the_others_nothing(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncdicom.archive.index.record import Record

    proper = Record.row

    def row(self: Record, level: str) -> dict[str, str]:
        if self.sop_instance_uid == "1.2.3.7":
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return proper(self, level)

    monkeypatch.setattr(Record, "row", row)
    async with Archive(tmp_path, durability="none") as archive:
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}") for number in range(20)]
        statuses = await asyncio.gather(*(tools.store(archive, each) for each in data))
        assert [int(status) for status in statuses] == [0xA700 if n == 7 else 0 for n in range(20)]
        await nothing_is_left(archive, tmp_path, tools, rows=19)


class Gated(FileCalls):
    """Writes wait in their thread until the test lets them go on."""

    def __init__(self) -> None:
        self.writing = threading.Event()
        self.go_on = threading.Event()
        self.log: list[str] = []

    def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
        self.log.append("write")
        self.writing.set()
        assert self.go_on.wait(30)
        super().write(descriptor, views)  # EBADF, or worse, if it was closed meanwhile
        self.log.append("written")

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self.log.append("close")

    def remove(self, path: str) -> None:
        super().remove(path)
        self.log.append("remove")


@pytest.mark.parametrize("cancellations", [1, 3])
@pytest.mark.parametrize("size", [100, 600_000])
async def test_a_cancelled_store_waits_for_its_write_and_leaves_nothing(
    tmp_path: Path, tools: Any, size: int, cancellations: int
) -> None:
    calls = Gated()
    async with Archive(tmp_path, durability="none", files=calls, sweep=False) as archive:
        calls.log.clear()
        task = asyncio.ensure_future(tools.store(archive, tools.data_set(PixelData=bytes(size)), 300_000))
        assert await asyncio.to_thread(calls.writing.wait, 30)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        calls.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls.log[:4] in (["write", "written", "close", "remove"], ["write", "written", "close"])
        assert calls.log[-1] == "remove"
        await nothing_is_left(archive, tmp_path, tools)


async def test_a_store_cancelled_while_it_waits_for_data_leaves_nothing(tmp_path: Path, tools: Any) -> None:
    written = asyncio.Event()

    async def stalled() -> AsyncIterator[list[memoryview]]:
        yield [memoryview(tools.data_set(PixelData=bytes(600_000)))[:500_000]]
        written.set()
        await asyncio.Event().wait()

    async with Archive(tmp_path, durability="none") as archive:
        store = archive.receive(
            sop_class_uid=tools.ct,
            sop_instance_uid="1.2.3.1.1.1",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            batches=stalled(),
        )
        task = asyncio.ensure_future(store)
        await written.wait()
        assert len(tools.files_below(tmp_path)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await nothing_is_left(archive, tmp_path, tools)


async def test_a_store_cancelled_in_the_queue_is_withdrawn(tmp_path: Path, tools: Any) -> None:
    calls = SlowRounds()
    async with Archive(tmp_path, files=calls) as archive:
        both_queued = when_queued(archive, 2)
        first = asyncio.ensure_future(tools.store(archive, tools.data_set()))
        assert await asyncio.to_thread(calls.entered.wait, 30)
        second = asyncio.ensure_future(tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")))
        await both_queued.wait()
        first.cancel()  # too late: its commit is under way, it stays whole
        second.cancel()
        await asyncio.sleep(0)
        calls.go_on.set()
        for task in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await task
        await nothing_is_left(archive, tmp_path, tools, rows=1)
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}
        (match,) = await tools.find(archive, level="IMAGE", **keys)
        assert match["SOPInstanceUID"] == "1.2.3.1.1.1"


def open_descriptors() -> int:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts descriptors in /proc")
    return len(os.listdir("/proc/self/fd"))


async def test_no_descriptor_is_left_open(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        await tools.store(archive, tools.data_set())
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))  # it opens the index for reading
        before = open_descriptors()
        for number in range(10):
            data = tools.data_set(SOPInstanceUID=f"1.2.3.{number}", PixelData=bytes(300_000))
            assert await tools.store(archive, data, 100_000) == 0x0000
            assert (await tools.store(archive, data[:53])).is_failure
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0xB007
        assert open_descriptors() == before


async def test_a_store_under_way_when_the_archive_closes_fails(tmp_path: Path, tools: Any) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def halting() -> AsyncIterator[list[memoryview]]:
        data = memoryview(tools.data_set(PixelData=bytes(600_000)))
        yield [data[:500_000]]
        reached.set()
        await go_on.wait()
        yield [data[500_000:]]

    archive = Archive(tmp_path, durability="none")
    await archive.open()
    store = archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid="1.2.3.1.1.1",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        batches=halting(),
    )
    task = asyncio.ensure_future(store)
    await reached.wait()
    descriptors = open_descriptors()
    await archive.close()
    go_on.set()
    assert status_of(await task) == 0xA700
    assert open_descriptors() < descriptors
    assert tools.files_below(tmp_path) == []
    assert await tools.store(archive, tools.data_set()) == 0xA700
    assert committed(tmp_path) == 0
