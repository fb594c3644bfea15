"""Several processes have one archive: with its index in PostgreSQL, and real processes where they die."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import archive_worker
from helpers.archive_worker import instances
from helpers.postgres import Server

from asyncdicom import BytesSource
from asyncdicom.archive import Archive, ArchiveError, entering, scrub
from asyncdicom.archive.deleting import Deleted
from asyncdicom.archive.dimse import status_of
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index import leases
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.deliveries import Settlement
from asyncdicom.archive.index.leases import Lease, SharedLeases
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.archive.index.stability import Mark
from asyncdicom.archive.index.work import LEASE, State, Which, Work
from asyncdicom.archive.maintenance import verify
from asyncdicom.archive.reassign import Wanted
from asyncdicom.archive.reports import REPORT
from asyncdicom.archive.scrub import Scrub
from asyncdicom.net.reencoding import AmendedSource
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

WORKERS = 4


class Worker:
    """A process of `archive_worker`: what it has said, as it says it."""

    def __init__(self, folder: Path, url: str, *words: object) -> None:
        arguments = [str(folder), url, *map(str, words)]
        self.process = subprocess.Popen(
            [sys.executable, archive_worker.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stored: set[str] = set()
        self.refused: list[str] = []
        self.is_done = threading.Event()
        self.changed = threading.Condition()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.said = ""
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def _listen(self) -> None:
        if self.process.stderr is not None:
            self.said = self.process.stderr.read()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with self.changed:
                match line.split():
                    case [uid, "0"]:
                        self.stored.add(uid)
                    case [uid, _]:
                        self.refused.append(uid)
                    case ["stored"]:
                        self.is_done.set()
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, number: int) -> None:
        """Wait until so many were stored."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.stored) >= number or self.is_done.is_set(), 100)

    def wait_for_refusal(self, beyond: int) -> None:
        """Wait until more were refused, if it has not come to its end."""
        with self.changed:
            over = self.changed.wait_for(lambda: len(self.refused) > beyond or self.is_done.is_set(), 100)
            assert over

    def end(self) -> int:
        """Let it close; gives its exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        code = self.process.wait(100)
        self.kill()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        self._listening.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def workers(
    folder: Path, url: str, count: int, studies: int, number: int = WORKERS, durability: str = "process"
) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for n in range(number):
            started.append(Worker(folder, url, durability, n + 1, count, studies))
            stack.callback(started[-1].kill)
        yield started


def wanted(count: int, studies: int, numbers: range = range(1, WORKERS + 1)) -> set[str]:
    return {uid for n in numbers for uid, _, _ in instances(n, count, studies)}


def found(url: str, folder: Path) -> dict[str, Path]:
    """The instances that have a row, and their files."""
    index = PostgresIndex(url, durability="none", readers=1)
    with index._engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT sop_instance_uid, file FROM instance").all()
    index.close()
    return {uid: folder / "objects" / file for uid, file in rows}


def test_four_processes_share_an_archive(postgres: Server, tmp_path: Path, tools: Any) -> None:
    """No deadlock, nothing lost, nothing twice; each file has its row, and there are no more."""
    count, studies, folder, url = 120, 100, tmp_path / "archive", postgres.url()
    deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
    before = postgres.run(deadlocks)
    with workers(folder, url, count, studies) as started:
        for each in started:
            assert each.is_done.wait(100), each.said
        codes = [each.end() for each in started]
    assert codes == [0] * WORKERS, [each.said for each in started]
    assert [each.refused for each in started] == [[]] * WORKERS
    expected = wanted(count, studies)
    rows = found(url, folder)
    assert set(rows) == expected
    assert set(rows.values()) == set(tools.files_below(folder))
    index = PostgresIndex(url, durability="none", readers=1)
    counts = index.upkeep.counts()
    index.close()
    assert (counts["patient"], counts["study"], counts["series"]) == (studies,) * 3
    assert postgres.run(deadlocks) == before


def test_a_process_that_dies_costs_nothing_that_was_acknowledged(
    postgres: Server, tmp_path: Path, tools: Any
) -> None:
    """The others go on, and one that comes then deals with what it has left."""
    count, studies, folder, url = 120, 20, tmp_path / "archive", postgres.url()
    with workers(folder, url, count, studies, 2) as started:
        dying, *others = started
        dying.wait_for(20)
        dying.kill()
        for each in others:
            assert each.is_done.wait(100), each.said
            assert each.end() == 0, each.said
    asyncio.run(_swept(folder, url))
    stored = set[str]().union(*(each.stored for each in started))
    assert stored >= wanted(count, studies, range(2, 3))
    rows = found(url, folder)
    assert set(rows) >= stored
    assert set(rows.values()) == set(tools.files_below(folder))


async def _swept(folder: Path, url: str) -> None:
    async with Archive(folder, durability="none", index=url, scrub=0, sweep=False) as archive:
        await archive.reindex()


def test_a_server_that_goes_away_under_several_processes(
    own_server: Server, tmp_path: Path, tools: Any
) -> None:
    """It is restarted, then it crashes: what was answered with Success is there, the others come later."""
    count, studies, folder, url = 100, 20, tmp_path / "archive", own_server.url()
    with workers(folder, url, count, studies, 2, "power") as started:
        for goes in (own_server.stop, own_server.kill):
            for each in started:
                each.wait_for(len(each.stored) + 10)
            before = [len(each.refused) for each in started]
            goes()
            for each, number in zip(started, before, strict=True):
                each.wait_for_refusal(number)
            own_server.start()
        for each in started:
            assert each.is_done.wait(100), each.said
            assert each.end() == 0, each.said
    rows = found(url, folder)
    assert set(rows) == wanted(count, studies, range(1, 3))
    assert set(rows.values()) == set(tools.files_below(folder))


# two in this process, which is as good where none dies


@pytest.fixture
async def two(postgres: Server, tmp_path: Path) -> AsyncIterator[tuple[Archive, Archive]]:
    url = postgres.url()
    options: dict[str, Any] = {"durability": "none", "index": url, "scrub": 0, "sweep": False}
    async with Archive(tmp_path, **options) as one, Archive(tmp_path, **options) as other:
        yield one, other


async def test_who_joins_gives_the_start_no_other_number(
    two: tuple[Archive, Archive], tmp_path: Path, tools: Any
) -> None:
    one, other = two
    marker = (tmp_path / "archive.json").read_text()
    assert '"generation": 1' in marker
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.1")) == 0
    assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.2")) == 0
    assert await one.counts() == await other.counts()
    assert (await one.counts())["instance"] == 2
    assert one.is_shared
    assert (one.is_new, other.is_new) == (True, False)


async def test_when_all_are_gone_the_next_one_is_the_first(
    postgres: Server, tmp_path: Path, tools: Any
) -> None:
    url = postgres.url()
    for generation in (1, 2):
        async with (
            Archive(tmp_path, durability="none", index=url),
            Archive(tmp_path, durability="none", index=url),
        ):
            pass
        assert f'"generation": {generation}' in (tmp_path / "archive.json").read_text()


async def test_with_sqlite_a_second_process_is_told_what_it_needs(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none"):
        with pytest.raises(ArchiveError, match="several processes at once the index has to be in PostgreSQL"):
            await Archive(tmp_path, durability="none").open()


async def test_a_folder_that_somebody_has_for_himself_is_refused(postgres: Server, tmp_path: Path) -> None:
    descriptor = FileCalls().lock_directory(str(tmp_path))
    with pytest.raises(ArchiveError, match="which has it for itself"):
        await Archive(tmp_path, durability="none", index=postgres.url()).open()
    FileCalls().close(descriptor)
    url = postgres.url()
    async with Archive(tmp_path, durability="none", index=url):
        with pytest.raises(ArchiveError, match="in use by another archive process"):
            verify(str(tmp_path)).send(None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["folder", "database", "copy"])
async def test_folder_and_database_are_those_of_the_others(
    postgres: Server, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entering, "_PATIENCE", 0.3)
    url, folder = postgres.url(), tmp_path / "a"
    async with Archive(folder, durability="none", index=url):
        if what == "folder":
            (tmp_path / "b").mkdir()
            shutil.copy(folder / "archive.json", tmp_path / "b")
            with pytest.raises(ArchiveError, match="that have another folder"):
                await Archive(tmp_path / "b", durability="none", index=url).open()
        elif what == "database":
            with pytest.raises(ArchiveError, match="that have another index: name the same database"):
                await Archive(folder, durability="none", index=postgres.url()).open()
        else:
            (folder / "archive.json").write_text(
                (folder / "archive.json").read_text().replace('"generation": 1', '"generation": 7')
            )
            with pytest.raises(ArchiveError, match="is not what the other processes of"):
                await Archive(folder, durability="none", index=url).open()


async def test_a_database_that_another_archive_takes_over_is_written_to_no_more(
    postgres: Server, tmp_path: Path, tools: Any
) -> None:
    async with Archive(tmp_path, durability="none", index=postgres.url()) as archive:
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.1")) == 0
        archive._index.set_identity("0" * 32, 1)
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.2")) == 0  # still connected
        archive._ingest._writer.renew()
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3")) == 0xA700


# files


async def test_a_sweep_leaves_what_another_process_is_receiving(
    two: tuple[Archive, Archive], tmp_path: Path, tools: Any
) -> None:
    """It is in a folder of that process; a file in a folder of nobody is dealt with."""
    one, other = two
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> AsyncIterator[list[memoryview]]:
        data = memoryview(tools.data_set(SOPInstanceUID="1.2.1", PixelData=bytes(3 << 20)))
        yield [data[: 2 << 20]]
        begun.set()
        await go_on.wait()
        yield [data[2 << 20 :]]

    receiving = asyncio.ensure_future(
        one.receive(
            sop_class_uid=tools.ct,
            sop_instance_uid="1.2.1",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            batches=slowly(),
        )
    )
    await begun.wait()
    [half] = tools.files_below(tmp_path)
    dead = half.parent.parent / ("00" if half.parent.name != "00" else "01") / f"{'0' * 32}.dcm"
    dead.parent.mkdir()
    dead.write_bytes(half.read_bytes()[:1000])
    swept = await other.reindex()
    assert (swept.unfinished, half.exists(), dead.exists()) == (1, True, False)
    go_on.set()
    assert status_of(await receiving) == 0
    assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.2")) == 0
    assert len({path.parent for path in tools.files_below(tmp_path)}) == 2
    assert (await other.reindex()).told() == (await one.reindex()).told() == ""


async def test_a_file_on_its_way_to_quarantine_is_left_to_who_moves_it(
    two: tuple[Archive, Archive], tmp_path: Path, tools: Any
) -> None:
    one, other = two
    assert await tools.store(one, tools.data_set()) == 0
    [file] = tools.files_below(tmp_path)
    moving = tmp_path / "quarantine" / f"{'0' * 32}.dcm"
    moving.write_bytes(file.read_bytes())
    assert (await other.reindex()).told() == ""
    await one.close()
    assert "quarantine" in (await other.reindex()).told() or not moving.exists()


async def test_one_process_sweeps_at_a_time(two: tuple[Archive, Archive]) -> None:
    one, other = two
    held = Lease(one.leases, "sweep")
    assert held.keep()
    sweeping = asyncio.ensure_future(other.reindex())
    await asyncio.wait((sweeping,), timeout=1)
    assert not sweeping.done()
    held.give_back()
    assert (await sweeping).told() == ""


def test_a_lease_ends_and_is_taken_over(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    index = PostgresIndex(postgres.url(), durability="none", readers=2)
    first, second = SharedLeases(index._engine), SharedLeases(index._engine)
    now = 0.0
    mine = Lease(first, "work", clock=lambda: now)
    assert (mine.keep(), second.take("work"), first.held("wo")) == (True, False, {"work"})
    now = 14.0
    assert (mine.keep(), second.take("work")) == (True, False)
    monkeypatch.setattr(leases, "SECONDS", -1.0)
    now = 16.0
    assert mine.keep()  # it is renewed, and over at once
    monkeypatch.undo()
    assert (second.take("work"), mine.keep()) == (True, False)
    second.give_back("work")
    assert mine.keep()
    mine.give_back()
    assert first.held("") == set()
    assert (first.take("one"), second.take("other")) == (True, True)
    first.give_all_back()
    assert first.held("") == {"other"}
    first.free_all()  # as who finds itself alone does
    assert first.take("other")
    first.give_all_back()
    index.close()


_HOLDER = """
import asyncio, sys, time
from asyncdicom.archive import Archive
from asyncdicom.archive.index.leases import Lease

async def main():
    async with Archive(sys.argv[1], index=sys.argv[2], durability="none", scrub=0, sweep=False) as archive:
        held = [Lease(archive.leases, name).keep() for name in ("sweep", "scrub")]
        print(all(held), flush=True)
        time.sleep(600)

asyncio.run(main())
"""


def _hold_and_die(folder: Path, url: str) -> None:
    command = [sys.executable, "-c", _HOLDER, str(folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
        finally:
            holder.kill()  # kill -9


async def test_the_sweep_and_the_scrub_of_who_is_killed_are_taken_over(
    postgres: Server, tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it has both leases: when they are over, another process goes on with both."""
    monkeypatch.setattr(scrub, "_OTHERS", 0.05)
    url = postgres.url()
    async with Archive(tmp_path, durability="none", index=url, scrub=0, sweep=False) as archive:
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.1")) == 0
        await asyncio.to_thread(_hold_and_die, tmp_path, url)
        scrubbing = Scrub(archive._blobs, archive._index, archive._ingest, rate=1 << 30, first=0.0)
        scrubbing.start()
        try:
            sweeping = asyncio.ensure_future(archive.reindex())
            await asyncio.wait((sweeping,), timeout=0.5)
            assert (sweeping.done(), scrubbing.rounds) == (False, 0)
            with archive._index._engine.connect() as connection:  # so much time passes
                connection.exec_driver_sql(f"UPDATE lease SET until = until - {leases.SECONDS}")
            async with asyncio.timeout(100):
                assert (await sweeping).told() == ""
                while not scrubbing.rounds:
                    await asyncio.sleep(0.02)
        finally:
            await asyncio.to_thread(scrubbing.close)


# what one changes, the others know


async def test_what_one_process_deletes(two: tuple[Archive, Archive], tmp_path: Path, tools: Any) -> None:
    """The other knows it at once; what comes again is stored again, and lifts the tombstone."""
    one, other = two
    data = [tools.data_set(SOPInstanceUID=f"1.2.{n}") for n in range(4)]
    for each in data:
        assert await tools.store(one, each) == 0
    assert (await one.delete("IMAGE", "1.2.0")).instances == 1
    assert (await other.delete("IMAGE", "1.2.1")).instances == 1
    assert (await one.delete("IMAGE", "1.2.2")).instances == 1
    assert await tools.store(other, data[0]) == 0
    assert await tools.store(one, data[1]) == 0
    assert (await one.counts())["instance"] == 3
    lines = (tmp_path / "deleted.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3 + 2
    for each in (one, other):
        assert (await each.reindex()).told() == ""


async def test_two_processes_delete_at_once(two: tuple[Archive, Archive], tmp_path: Path, tools: Any) -> None:
    """Together with what is stored meanwhile: what is there at the end is what the file says, too."""
    one, _ = two
    for n in range(40):
        assert await tools.store(one, tools.data_set(SOPInstanceUID=f"1.2.{n}")) == 0
    deleting = [each.delete("STUDY", "1.2.3.1") for each in two]
    deleting += [two[n % 2].delete("IMAGE", f"1.2.{n}") for n in range(40)]
    storing = [tools.store(two[n % 2], tools.data_set(SOPInstanceUID=f"1.2.{n}")) for n in range(40, 60)]
    results = await asyncio.gather(*deleting, *storing, return_exceptions=True)
    assert all(each == 0 or not isinstance(each, Exception) or "is here" in str(each) for each in results)
    gone = sum(each.instances for each in results if isinstance(each, Deleted))
    left = (await one.counts())["instance"]
    assert gone + left == 60
    assert len(tools.files_below(tmp_path)) == left
    lines = (tmp_path / "deleted.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["deleted"]) for line in lines[1:]) == gone


async def test_what_one_process_has_promised_another_does_not_delete(
    two: tuple[Archive, Archive], tools: Any
) -> None:
    one, other = two
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.1")) == 0
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.2")) == 0
    work = [Work(REPORT, "PEER", payload="{}")]
    with pytest.raises(IndexFailed, match="deleted meanwhile"):
        await other.outbox.enqueue(work, promised=["1.2.1", "1.2.9"])
    assert await other.read(other.deliveries.counts) == []
    await other.outbox.enqueue(work, promised=["1.2.1", "1.2.2", "1.2.1"])
    assert len(await other.read(other.deliveries.counts)) == 1


async def test_a_study_that_one_process_has_put_under_another_patient(
    two: tuple[Archive, Archive], tools: Any
) -> None:
    one, other = two
    assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.1")) == 0
    becomes = {"patient_id": "P2", "patient_name": "ROE^JANE"}
    wanted = Wanted("1.2.3.1", None, None, becomes)
    await one.upkeep(partial(one.care.reassigning.study, wanted, dry=False))
    assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.2")) == 0
    [found] = await tools.find(other, PatientID="", NumberOfStudyRelatedInstances="")
    assert (found["PatientID"], found["NumberOfStudyRelatedInstances"]) == ("P2", "2")
    source = BytesSource(tools.ct, "1.2.2", EXPLICIT_VR_LITTLE_ENDIAN, b"")
    assert isinstance(await other.assigned(source), AmendedSource)
    await other.upkeep(partial(other.care.reassigning.undo, _only(await _names(one)), dry=False))
    assert [each.undone != "" for each in await one.upkeep(one.care.reassigning.known)] == [True]
    assert await one.assigned(source) is source


async def _names(archive: Archive) -> list[str]:
    return [each.name for each in await archive.upkeep(archive.care.reassigning.known)]


def _only(names: list[str]) -> str:
    [name] = names
    return name


async def test_a_reassignment_that_fails_takes_nothing_of_another_process_along(
    two: tuple[Archive, Archive], tmp_path: Path, tools: Any
) -> None:
    one, other = two
    for n in range(2):
        data = tools.data_set(SOPInstanceUID=f"1.2.{n}", StudyInstanceUID=f"1.2.3.{n}")
        assert await tools.store(one, data) == 0
    wanted = [Wanted(f"1.2.3.{n}", None, None, {"patient_id": "P2", "patient_name": "ROE"}) for n in range(2)]
    reassigning = other.care.reassigning
    await one.upkeep(partial(one.care.reassigning.study, wanted[0], dry=False))
    reassigning._restore([])  # what it knew before that
    known = await other.upkeep(reassigning.known)
    assert len(known) == 1
    assert known[0].name in (tmp_path / "reassigned.json").read_text()


@pytest.mark.parametrize("on_mismatch", ["separate", "quarantine"])
async def test_the_first_instances_of_a_study_for_two_patients(
    postgres: Server, tmp_path: Path, tools: Any, on_mismatch: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Two processes have both found that nobody has the study: the second one to make it finds the first."""
    url = postgres.url()
    options: dict[str, Any] = {"durability": "none", "index": url, "on_mismatch": on_mismatch}
    async with Archive(tmp_path, **options) as one, Archive(tmp_path, **options) as other:
        decided, go_on = threading.Event(), threading.Event()
        writer: Any = one._ingest._writer
        apply = writer.apply

        def wait(changes: Any) -> None:
            if not decided.is_set():
                decided.set()
                go_on.wait(20)
            apply(changes)

        writer.apply = wait
        first = asyncio.ensure_future(tools.store(one, tools.data_set(SOPInstanceUID="1.2.1")))
        await asyncio.to_thread(decided.wait)
        try:
            assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.2", PatientID="P2")) == 0
        finally:
            go_on.set()
        assert await first == (0xB007 if on_mismatch == "quarantine" else 0)
        assert (await one.counts())["quarantine"] == (on_mismatch == "quarantine")
    assert "another patient has this Study Instance UID" in caplog.text


async def test_an_instance_that_two_processes_replace(postgres: Server, tmp_path: Path, tools: Any) -> None:
    """Each takes the place of the one before: a row, a file, nothing empty is left."""
    options: dict[str, Any] = {"durability": "none", "index": postgres.url(), "on_conflict": "replace"}
    async with Archive(tmp_path, **options) as one, Archive(tmp_path, **options) as other:
        data = [
            tools.data_set(
                StudyInstanceUID=f"1.3.{n % 5}", SeriesInstanceUID=f"1.3.{n % 5}.1", PatientID=f"P{n}"
            )
            for n in range(30)
        ]
        answers = await asyncio.gather(
            *(tools.store((one, other)[n % 2], each) for n, each in enumerate(data))
        )
        assert set(answers) == {0}
        counts = await one.counts()
        assert [counts[name] for name in ("patient", "study", "series", "instance")] == [1] * 4
        assert len(tools.files_below(tmp_path)) == 1


# the outbox


async def test_what_one_process_has_claimed_another_leaves_until_the_lease_ends(
    two: tuple[Archive, Archive],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = two
    await one.outbox.enqueue([Work("store", "PEER"), Work("store", "PEER")])
    [claimed] = await one.outbox.claim("store", "PEER", 1)
    url = one._url
    async with Archive(tmp_path, durability="none", index=url, scrub=0) as third:
        [second] = await third.outbox.claim("store", "PEER", 5)
        assert second.id != claimed.id
        assert await other.outbox.claim("store", "PEER", 5) == []
        other.outbox.clock = lambda: time.time() + LEASE + 1
        await other.outbox._look_at_others()
        again = await other.outbox.claim("store", "PEER", 5)
        assert {each.id for each in again} == {claimed.id, second.id}
        assert "2 deliveries are taken over" in caplog.text


@pytest.mark.parametrize("study", ["", "1.2.3"])
async def test_what_two_processes_claim_at_the_same_time_one_of_them_gets(
    two: tuple[Archive, Archive], tools: Any, study: str
) -> None:
    """Also where all of a study is asked for, and of no other one."""
    uids = [f"1.9.{number}" for number in range(30)]
    for uid in uids:
        assert await tools.store(two[0], tools.data_set(SOPInstanceUID=uid, StudyInstanceUID="1.2.3")) == 0
    assert await tools.store(two[0], tools.data_set(SOPInstanceUID="2.9", StudyInstanceUID="1.2.4")) == 0
    work = Work("store", "PEER", priority=2)
    await two[0].outbox.enqueue_for_instance("2.9", "a" * 64, [work._replace(priority=0)])
    await two[0].outbox.enqueue_for_instances([(uid, "a" * 64, work) for uid in uids])
    claims = [two[n % 2].outbox.claim("store", "PEER", 3, of_study=study) for n in range(24)]
    claimed = [each for some in await asyncio.gather(*claims) for each in some]
    wanted = uids if study else [*uids, "2.9"]
    assert sorted(each.sop_instance_uid or "" for each in claimed) == sorted(wanted)


async def test_work_is_claimed_in_its_order_by_two_processes(two: tuple[Archive, Archive]) -> None:
    await two[0].outbox.enqueue([Work("store", "PEER", order_key=f"K{n % 3}") for n in range(30)])
    claims = [two[n % 2].outbox.claim("store", "PEER", 1, Which.IN_ORDER) for n in range(12)]
    claimed = [each for some in await asyncio.gather(*claims) for each in some]
    assert len(claimed) == len({each.id for each in claimed}) == 3


async def test_others_hear_of_work_and_of_what_is_paused(two: tuple[Archive, Archive]) -> None:
    """Also where no hint comes through."""
    one, other = two
    await asyncio.to_thread(other._index.hints.close)
    heard: list[Any] = []
    other.outbox.subscribe(heard.append)
    await other.outbox._look_at_others()
    assert heard == []
    await one.outbox.pause("PEER", paused=True)
    await other.outbox._look_at_others()
    assert (heard, other.outbox.paused) == ([None], {"PEER"})
    await one.outbox.pause("PEER", paused=False)
    await one.outbox.enqueue([Work("store", "PEER")])
    await other.outbox._look_at_others()
    assert (heard, other.outbox.paused) == ([None, None], set())
    [claimed] = await one.outbox.claim("store", "PEER", 1)
    due = time.time() + 1000
    await one.outbox.settle([Settlement(claimed.id, State.WAITING, due, 1)])
    await other.outbox._look_at_others()
    assert other.outbox._next_due == due


# stable studies


async def test_an_instance_that_is_committed_late_is_not_missed(
    two: tuple[Archive, Archive], tools: Any
) -> None:
    """Its number is smaller than that of another one: nothing is given as long as it is open."""
    one, other = two
    reader = one._index.stability
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.1")) == 0
    before = await one.read(reader.start, "name")
    assert len(await one.read(reader.arrived, Mark())) == 1
    inside, go_on = threading.Event(), threading.Event()
    writer: Any = one._ingest._writer
    insert = writer._insert_all

    def wait(table: Any, rows: Any) -> None:
        insert(table, rows)
        if not inside.is_set():
            inside.set()
            go_on.wait(20)

    writer._insert_all = wait
    late = asyncio.ensure_future(tools.store(one, tools.data_set(SOPInstanceUID="1.2.2")))
    await asyncio.to_thread(inside.wait)
    assert await tools.store(other, tools.data_set(SOPInstanceUID="1.2.3")) == 0
    try:
        assert await other.read(reader.arrived, before) == []
        [study] = {each.study for each in await one.read(reader.arrived, Mark())}
        state = await one.read(reader.state, study)
        assert state is not None
        assert (state.instances, state.last) == (2, before.id)
    finally:
        go_on.set()
        assert await late == 0
    assert len(await other.read(reader.arrived, before)) == 2


async def test_a_name_goes_on_where_another_one_was(two: tuple[Archive, Archive], tools: Any) -> None:
    """What both have been told is told to nobody again; what is not stable yet is told to who is new."""
    one, other = two
    await one.stability.take_over("of mine ", {"of mine 1": 3600.0})
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.1")) == 0
    await other.stability.take_over("of mine ", {"of mine 2": 0.0, "of mine 3": 3600.0})
    assert await tools.store(one, tools.data_set(SOPInstanceUID="1.2.2")) == 0
    start = one._index.stability.start
    assert [start(f"of mine {n}").id for n in (2, 3)] == [0, 0]
    await one.stability.take_over("of mine ", {"of mine 2": 0.0})
    await one.stability.take_over("of mine ", {})
    await asyncio.sleep(0.002)  # times are in milliseconds
    await one.stability.take_over("of mine ", {"of mine 4": 0.0})
    assert start("of mine 4").id == start("nobody").id > 0


async def test_a_name_is_given_its_studies_by_one_process(two: tuple[Archive, Archive], tools: Any) -> None:
    one, other = two
    given: asyncio.Queue[str] = asyncio.Queue()

    async def listen(archive: Archive, who: str) -> None:
        async for study in archive.stable_studies(quiet=0.1, name="name"):
            given.put_nowait(f"{who} {study.study_instance_uid}")

    first = asyncio.ensure_future(listen(one, "one"))
    while not one.leases.held("stable "):
        await asyncio.sleep(0.01)
    second = asyncio.ensure_future(listen(other, "other"))
    assert await asyncio.to_thread(other.stability.asked_for) == {"name"}
    assert await tools.store(other, tools.data_set(StudyInstanceUID="1.2.1")) == 0
    assert await given.get() == "one 1.2.1"
    first.cancel()
    await asyncio.wait((first,))
    Lease(one.leases, "stable name").give_back()
    assert await tools.store(one, tools.data_set(StudyInstanceUID="1.2.2", SOPInstanceUID="1.2.9")) == 0
    assert (await given.get()).startswith("other")
    second.cancel()
    await asyncio.wait((second,))
