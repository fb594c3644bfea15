"""A sick disk: full, failing to sync, failing at any call. It never makes a false Success.

Nothing acknowledged is lost, nothing torn is ever served, C-ECHO is answered throughout, and stores succeed
again when the disk is well. Faults come from a real small disk, from strace into a real process, and from
`FileCalls`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.archive_process import (
    LONG,
    Qrscp,
    data_set,
    digest_of,
    files_below,
    long_test,
    needs_strace,
    opened,
    qrscp,
    strace,
    threads_of,
)

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.dimse import status_of

MEGABYTE = 1 << 20


@asynccontextmanager
async def watchdog(archive: Qrscp) -> AsyncIterator[list[float]]:
    """C-ECHO all the time; gives how long each took, in seconds."""
    times: list[float] = []
    stop = asyncio.Event()

    async def watch() -> None:
        while not stop.is_set():
            start = time.perf_counter()
            assert await archive.echo()
            times.append(time.perf_counter() - start)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.02)

    task = asyncio.ensure_future(watch())
    try:
        yield times
    finally:
        stop.set()
        await task
    assert times
    assert max(times) < 5


# a full disk


@asynccontextmanager
async def on_a_small_disk(tmp_path: Path, size: int, *options: str) -> AsyncIterator[Qrscp]:
    """An archive in a mount namespace of its own, on a file system of ``size`` bytes."""
    mount = tmp_path / "small"
    mount.mkdir()
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    prefix = ["unshare", "-Urm", "sh", "-c", script, str(mount)]
    trial = await asyncio.create_subprocess_exec(*prefix, "true", stderr=subprocess.DEVNULL)
    if await trial.wait():
        pytest.skip("unshare cannot mount a small file system here")
    async with qrscp(mount / "archive", *options, prefix=prefix) as archive:
        yield replace(archive, root=Path(f"/proc/{archive.pid}/root{mount}/archive"))


def fill(path: Path, leave: int) -> None:
    """Take all room on the disk of ``path`` but ``leave`` bytes."""
    free = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))


@long_test
def test_a_full_disk(tmp_path: Path) -> None:
    rooms = range(0, 4 * MEGABYTE, 16_384 if LONG else MEGABYTE)
    size_of_disk = (1024 if LONG else 64) * MEGABYTE
    sizes = (1000, 50_000, 900_000)

    async def work() -> None:
        numbers = map("1.2.3.1.1.{}".format, itertools.count())
        full = again = 0
        with opened(tmp_path / "journal") as journal:
            async with (
                on_a_small_disk(tmp_path, size_of_disk, "--minimum-free", "0") as archive,
                watchdog(archive) as echoes,
            ):
                ballast = archive.root.parent / "ballast"
                assert await archive.store(journal, next(numbers), data_set("1.2.3.1.1.0")) == 0
                for room in rooms:
                    fill(ballast, room)
                    for size in (*sizes, *sizes):
                        uids = [next(numbers) for _ in range(4)]
                        answers = await asyncio.gather(
                            *(archive.store(journal, uid, data_set(uid, size)) for uid in uids)
                        )
                        assert set(answers) <= {0x0000, 0xA700}
                        full += answers.count(0xA700)
                    uid, digest = min(journal.kept)
                    assert [digest_of(data) for data in await archive.fetch(uid)] == [digest]
                    ballast.unlink()
                    uid = next(numbers)
                    assert await archive.store(journal, uid, data_set(uid, sizes[-1])) == 0  # at once
                    assert journal.compare(archive.root) == files_below(archive.root)
                    again += 1
                    if os.statvfs(archive.root).f_bavail < 4000:  # what was kept has filled it
                        break
                assert full
        print(
            f"{full} stores failed on a full disk, {len(journal.kept)} kept, {again} recoveries, "
            f"{len(echoes)} C-ECHO"
        )

    asyncio.run(work())


def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    """Storing stops in time, and goes on when there is enough room: of 100 MiB, 5 and 7."""

    async def work() -> None:
        numbers = map("1.2.3.1.1.{}".format, itertools.count())
        with opened(tmp_path / "journal") as journal:
            async with on_a_small_disk(tmp_path, 100 * MEGABYTE) as archive:
                ballast = archive.root.parent / "ballast"
                for left, expected in ((8, 0), (4, 0xA700), (6, 0xA700), (8, 0), (6, 0)):
                    ballast.unlink(missing_ok=True)
                    fill(ballast, left * MEGABYTE)
                    uid = next(numbers)
                    status = await archive.store(journal, uid, data_set(uid, 300_000))
                    assert status == expected, (left, status)
                    assert await archive.echo()
                assert "4 MiB of its disk are free; it stores again when 7 MiB are" in archive.log.read_text()
                assert journal.compare(archive.root) == files_below(archive.root) == 3

    asyncio.run(work())


# faults at a system call

WHERE = {
    "files": ("openat", "writev", "io_getevents"),
    "index": ("pwrite64", "fdatasync"),
}
TIMES = {"pwrite64": 8}
ERRORS = ("EIO", "ENOSPC", "EDQUOT")


@needs_strace
@long_test
def test_a_fault_at_a_system_call(tmp_path: Path) -> None:
    points = [
        (thread, call, when)
        for thread, calls in WHERE.items()
        for call in calls
        for when in (*map(str, range(1, TIMES.get(call, 1) + 1)), "1+")  # once, or for as long as it lasts
    ]
    faults = (
        list(itertools.product(points, ERRORS)) if LONG else list(zip(points[::2], itertools.cycle(ERRORS)))
    )

    async def work() -> None:
        fired = 0
        numbers = itertools.count(100)
        with opened(tmp_path / "journal") as journal:
            async with qrscp(tmp_path / "archive") as archive:
                threads = await threads_of(archive, journal, "1.2.3.1.1.1")
                async with watchdog(archive) as echoes:
                    for (thread, call, when), error in faults:
                        uid = f"1.2.3.1.1.{next(numbers)}"
                        data, trace = data_set(uid, 3000), tmp_path / "trace"
                        inject = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
                        async with strace(threads[thread], *inject, output=trace):
                            status = await archive.store(journal, uid, data)
                        if "INJECTED" in trace.read_text():
                            fired += 1
                            assert status == 0xA700, (thread, call, when, error, status)
                        assert await archive.store(journal, uid, data) == 0  # well again at once
                        journal.compare(archive.root)
                await archive.kill()
            async with qrscp(tmp_path / "archive") as archive:
                journal.compare(archive.root)
        assert fired >= 0.8 * len(faults)
        print(f"{fired} of {len(faults)} faults, 0 false Success, {len(echoes)} C-ECHO")

    asyncio.run(work())


# faults of FileCalls


async def test_a_file_whose_sync_failed_is_never_synced_again(tmp_path: Path, tools: Any) -> None:
    class Once(FileCalls):
        def __init__(self) -> None:
            self.synced: list[int] = []
            self.removed: list[str] = []

        def sync_data(self, descriptor: int) -> None:
            self.synced.append(os.fstat(descriptor).st_ino)
            if len(self.synced) == 1:
                raise OSError(errno.EIO, "sync failed")

        def remove(self, path: str) -> None:
            self.removed.append(path)
            super().remove(path)

    calls = Once()
    async with Archive(tmp_path, files=calls) as archive:
        assert await tools.store(archive, tools.data_set()) == 0xA700
        assert len(calls.removed) == 1
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert len(calls.synced) == 2
        (path,) = tools.files_below(tmp_path)
        assert str(path) not in calls.removed


async def test_a_folder_whose_sync_failed_costs_those_it_had_and_no_others(
    tmp_path: Path, tools: Any
) -> None:
    class Once(FileCalls):
        """The first sync of a commit fails, when a second file is on its way in the same folder."""

        def __init__(self) -> None:
            self.arrived = threading.Event()
            self.failed = False

        def sync_directory(self, path: str) -> None:
            if threading.current_thread().name == "asyncdicom-index" and not self.failed:
                assert self.arrived.wait(30)
                self.failed = True
                raise OSError(errno.EIO, "sync failed")
            super().sync_directory(path)

    calls = Once()
    slow, go_on = tools.data_set(SOPInstanceUID="1.2.3.2", PixelData=bytes(600_000)), asyncio.Event()

    async def halting() -> AsyncIterator[list[memoryview]]:
        yield [memoryview(slow)[:500_000]]
        calls.arrived.set()
        await go_on.wait()
        yield [memoryview(slow)[500_000:]]

    async with Archive(tmp_path, files=calls) as archive:
        second = asyncio.ensure_future(
            archive.receive(
                sop_class_uid=tools.ct,
                sop_instance_uid="1.2.3.2",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                batches=halting(),
            )
        )
        assert await asyncio.to_thread(calls.arrived.wait, 30)
        assert await tools.store(archive, tools.data_set()) == 0xA700
        go_on.set()
        assert status_of(await second) == 0xA700  # though the next sync of the folder would have succeeded
        assert await tools.store(archive, slow) == 0x0000
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert len(tools.files_below(tmp_path)) == 2


class Failing:
    """A cursor that cannot commit, nor make sure that it did not."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT" or sql.startswith(("PRAGMA user_version", "SELECT pg_xact_status")):
            raise sqlite3.OperationalError("disk I/O error")
        return self.cursor.execute(sql, *arguments)


async def test_an_uncertain_replacement_costs_neither(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, on_conflict="replace") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        writer: Any = archive._ingest._writer
        writer._cursor = Failing(writer._cursor)
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xA700
        assert len(tools.files_below(tmp_path)) == 2  # one of them has a row: nobody knows which
        await archive.reindex()
        assert len(tools.files_below(tmp_path)) == 2  # the sweep of this life does not judge it
    async with Archive(tmp_path, on_conflict="replace") as archive:
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
        (path,) = tools.files_below(tmp_path / "objects")
        assert path.read_bytes().endswith(tools.data_set())
        assert len(tools.files_below(tmp_path / "quarantine")) == 1  # complete, so it is kept


async def test_what_was_uncertain_goes_with_the_next_commit(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        writer: Any = archive._ingest._writer
        proper, writer._cursor = writer._cursor, Failing(writer._cursor)
        for uid in ("1.2.3.1.1.1", "1.2.3.2"):
            data = tools.data_set(SOPInstanceUID=uid, PatientName="OTHER")
            assert await tools.store(archive, data) == 0xA700
        assert len(tools.files_below(tmp_path)) == 3
        writer._cursor = proper
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.3")) == 0x0000
        assert len(tools.files_below(tmp_path)) == 2
        assert tools.names_in(tmp_path / "quarantine") == []


# leftovers


async def test_the_sweep_goes_on_while_others_are_served(tmp_path: Path, tools: Any) -> None:
    class Slow(FileCalls):
        """A folder takes as long to list as the test wants."""

        listing, go_on = threading.Event(), threading.Event()

        def list(self, path: str) -> list[str]:
            self.listing.set()
            assert self.go_on.wait(30)
            return super().list(path)

    async with Archive(tmp_path) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
    (kept,) = tools.files_below(tmp_path / "objects")
    kept.with_name(f"{1:032x}.dcm").write_bytes(b"half")
    (tmp_path / "quarantine" / f"{2:032x}.dcm").write_bytes(b"half")
    calls = Slow()
    async with Archive(tmp_path, files=calls) as archive:
        assert await asyncio.to_thread(calls.listing.wait, 30)
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.2")) == 0x0000
        assert len(await tools.find(archive, level="STUDY")) == 1
        assert len(tools.files_below(tmp_path)) == 5
        calls.go_on.set()
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
        assert len(tools.files_below(tmp_path)) == 3


async def test_a_damaged_index_is_told_and_sweeps_nothing(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have lost rows, and then the files it does not know are not leftovers."""
    async with Archive(tmp_path) as archive:
        for number in range(30):
            data = tools.data_set(SOPInstanceUID=f"1.2.3.{number}")
            assert await tools.store(archive, data) == 0x0000
    (kept, *_) = tools.files_below(tmp_path)
    kept.with_name("leftover.dcm").write_bytes(b"half")
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'instance_parent_index'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with (tmp_path / "index.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 100)
    async with Archive(tmp_path) as archive:
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
        assert len(tools.files_below(tmp_path)) == 31
    assert "nothing is swept" in caplog.text


def many(folder: Path, count: int) -> None:
    """Make ``count`` instances of one, and as many leftovers: all are the same file."""
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(instance)") if row[1] != "id"]
        (row,) = connection.execute(f"SELECT {', '.join(names)} FROM instance")
        values = dict(zip(names, row, strict=True))
        original, rows = folder / "objects" / values["file"], []
        for number in range(count):
            inner = folder / "objects" / "00" / f"{number // 1000:02x}"
            indexed, leftover = (inner / f"{kind}{number:031x}.dcm" for kind in "ab")
            if number % 1000 == 0:
                inner.mkdir(parents=True)
                original = Path(shutil.copy(original, leftover))  # a file cannot have all the names
            else:
                os.link(original, leftover)
            os.link(original, indexed)
            file = f"00/{inner.name}/{indexed.name}"
            rows.append(tuple({**values, "sop_instance_uid": f"1.2.9.{number}", "file": file}.values()))
        marks = ", ".join("?" * len(names))
        connection.executemany(f"INSERT INTO instance ({', '.join(names)}) VALUES ({marks})", rows)
        connection.commit()


@long_test
def test_many_leftovers_are_swept_while_serving(tmp_path: Path) -> None:
    count = 50_000 if LONG else 3000

    async def work() -> None:
        folder = tmp_path / "archive"
        with opened(tmp_path / "journal") as journal:
            async with qrscp(folder) as archive:
                assert await archive.store(journal, "1.2.3.1.1.1", data_set("1.2.3.1.1.1")) == 0
                await archive.kill()
            many(folder, count)
            before = files_below(folder)
            start = time.perf_counter()
            async with qrscp(folder) as archive, watchdog(archive) as echoes:
                for number in itertools.count(2):
                    uid = f"1.2.3.1.1.{number}"
                    assert await archive.store(journal, uid, data_set(uid)) == 0
                    if files_below(folder) == before - count + number - 1:
                        break
                    assert time.perf_counter() - start < 60
        seconds = time.perf_counter() - start
        print(f"{count} leftovers in {seconds:.1f} s, meanwhile {number - 1} stores, {len(echoes)} C-ECHO")

    asyncio.run(work())


def test_an_archive_with_unreadable_ancestors_opens(tmp_path: Path) -> None:
    class NotOurs(FileCalls):
        def sync_directory(self, path: str) -> None:
            if len(path) < len(str(tmp_path)):
                raise PermissionError(errno.EACCES, "not ours")
            super().sync_directory(path)

    async def work() -> None:
        async with Archive(tmp_path / "made" / "here", files=NotOurs()) as archive:
            assert (await archive.counts())["instance"] == 0

    asyncio.run(work())
