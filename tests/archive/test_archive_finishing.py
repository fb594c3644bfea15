"""Small instances are finished in groups: written, synced by one call, indexed; each for itself."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.file_calls import TogetherCalls
from asyncdicom.archive.finishing import GROUP, Finishing
from asyncdicom.archive.workers import Workers
from asyncdicom.net import aio


class Together(FileCalls):
    """Waits, before it syncs the first group, until the test lets it; notes what it syncs together."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, tuple[str, ...]]] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.failing: set[str] = set()  # the last parts of paths
        self.fails_once = False
        self._paths: dict[int, str] = {}

    def can_sync_together(self, path: str) -> bool:
        return True

    def create(self, path: str) -> int:
        descriptor = super().create(path)
        self._paths[descriptor] = path
        return descriptor

    def sync_all(self, descriptors: Sequence[int], folders: Sequence[str]) -> list[OSError | None]:
        self.groups.append((len(descriptors), tuple(folders)))
        self.began.set()
        assert self.go_on.wait(60)
        return super().sync_all(descriptors, folders)

    def sync_data(self, descriptor: int) -> None:
        with open(self._paths[descriptor], "rb") as file:
            content = file.read()
        if any(name.encode() in content for name in self.failing):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(descriptor)

    def sync_directory(self, path: str) -> None:
        if self.fails_once:
            self.fails_once = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if "folder" in self.failing and os.path.dirname(os.path.dirname(path)).endswith("objects"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_directory(path)


def _waiting(archive: Archive) -> int:
    assert archive._intake._finishing is not None
    return len(archive._intake._finishing._waiting)


def several(archive: Archive, tools: Any, count: int, **values: Any) -> list[asyncio.Future[Any]]:
    data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}", **values) for number in range(count)]
    return [asyncio.ensure_future(tools.store(archive, each)) for each in data]


async def test_what_waits_is_synced_together_with_its_folder(tmp_path: Path, tools: Any) -> None:
    calls = Together()
    async with Archive(tmp_path, files=calls) as archive:
        first = asyncio.ensure_future(tools.store(archive, tools.data_set()))
        assert await asyncio.to_thread(calls.began.wait, 60)
        second = asyncio.ensure_future(tools.store(archive, tools.data_set(SOPInstanceUID="1.2.4")))
        while len(tools.files_below(tmp_path)) < 2 or _waiting(archive):
            await asyncio.sleep(0.001)
        stores = several(archive, tools, 2 * GROUP)  # one thread waits for the disk, the other for its turn
        while _waiting(archive) < 2 * GROUP:
            await asyncio.sleep(0.001)
        calls.go_on.set()
        assert set(await asyncio.gather(first, second, *stores)) == {0}
    assert [count for count, _ in calls.groups] == [1, 1, GROUP, GROUP]
    assert all(len(folders) == 1 for _, folders in calls.groups)


async def test_a_sync_that_fails_costs_no_other_instance_anything(tmp_path: Path, tools: Any) -> None:
    calls = Together()
    calls.go_on.set()
    calls.failing = {"BAD"}
    async with Archive(tmp_path, files=calls) as archive:
        bad = asyncio.ensure_future(tools.store(archive, tools.data_set(PatientName="BAD")))
        stores = several(archive, tools, 5)
        assert await bad == 0xA700
        assert set(await asyncio.gather(*stores)) == {0}
        assert (await archive.counts())["instance"] == len(tools.files_below(tmp_path)) == 5


async def test_a_folder_whose_sync_fails_is_not_trusted(tmp_path: Path, tools: Any) -> None:
    calls = Together()
    async with Archive(tmp_path, files=calls) as archive:
        stores = several(archive, tools, 3)
        assert await asyncio.to_thread(calls.began.wait, 60)
        calls.failing = {"folder"}
        calls.go_on.set()
        assert set(map(int, await asyncio.gather(*stores))) == {0xA700}
        calls.failing = set()
        assert tools.files_below(tmp_path) == []
        assert set(await asyncio.gather(*several(archive, tools, 3))) == {0}
        assert (await archive.counts())["instance"] == 3


async def test_no_sync_succeeds_before_it_is_noted_that_another_one_failed(
    tmp_path: Path, tools: Any
) -> None:
    """What the first one was to write is lost, the second one of the same folder tells nothing of it."""
    calls = Together()
    async with Archive(tmp_path, files=calls) as archive:
        first = asyncio.ensure_future(tools.store(archive, tools.data_set()))
        assert await asyncio.to_thread(calls.began.wait, 60)
        second = asyncio.ensure_future(tools.store(archive, tools.data_set(SOPInstanceUID="1.2.4")))
        while len(tools.files_below(tmp_path)) < 2:
            await asyncio.sleep(0.001)
        calls.fails_once = True
        calls.go_on.set()
        assert [int(status) for status in await asyncio.gather(first, second)] == [0xA700] * 2
        assert tools.files_below(tmp_path) == []


async def test_without_room_nothing_is_written(tmp_path: Path, tools: Any) -> None:
    class Full(Together):
        def space(self, path: str) -> tuple[int, int]:
            return 1 << 40, 0

    async with Archive(tmp_path, files=Full()) as archive:
        assert set(map(int, await asyncio.gather(*several(archive, tools, 3)))) == {0xA700}
        assert tools.files_below(tmp_path) == []


async def test_everybody_is_answered_whatever_happens(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[OSError | None]:
        raise MemoryError

    async with Archive(tmp_path) as archive:
        finishing = archive._intake._finishing
        if finishing is None:
            pytest.skip("this system does not sync together")
        proper = finishing._finish_all
        monkeypatch.setattr(finishing, "_finish_all", broken)
        assert set(map(int, await asyncio.gather(*several(archive, tools, 3)))) == {0xA700}
        monkeypatch.setattr(finishing, "_finish_all", proper)
        assert tools.files_below(tmp_path) == []
        assert set(await asyncio.gather(*several(archive, tools, 3))) == {0}


async def test_a_system_without_threads(tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    calls = Together()
    calls.go_on.set()
    async with Archive(tmp_path, files=calls, sweep=False) as archive:
        with monkeypatch.context() as patched:
            patched.setattr(Workers, "submit", no_more)
            assert await tools.store(archive, tools.data_set()) == 0xA700
        assert not _waiting(archive)
        assert await tools.store(archive, tools.data_set()) == 0
    assert calls.groups[0][0] == 1


async def test_one_by_one_where_the_system_has_no_more_to_give(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(size: int) -> aio.Aio:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async with Archive(tmp_path) as archive:
        monkeypatch.setattr(aio, "Aio", none_left)
        assert set(await asyncio.gather(*several(archive, tools, 3))) == {0}
        assert (await archive.counts())["instance"] == 3


def test_what_the_system_has_lent_is_given_back(tmp_path: Path) -> None:
    calls = TogetherCalls()
    if not calls.can_sync_together(str(tmp_path)):
        pytest.skip("this system does not sync together")
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        assert calls.sync_all([descriptor], [str(tmp_path)]) == [None, None]
        assert len(calls._free) == 1
        missing = calls.sync_all([descriptor], [str(tmp_path / "missing")])
        assert [type(error) for error in missing] == [FileNotFoundError] * 2
        assert not calls._free
        assert calls.sync_all([descriptor], [str(tmp_path)]) == [None, None]
    finally:
        os.close(descriptor)
    calls.end()
    assert not calls._free


async def test_what_comes_within_one_turn_of_the_loop_wakes_one_thread() -> None:
    class Counting(Workers):
        calls = 0

        def submit(self, call: object) -> None:
            self.calls += 1

    workers = Counting(1, "counting")
    finishing = Finishing(Any, Any, workers, lambda arrivals: None)  # type: ignore[arg-type]
    for _ in range(40):
        finishing.submit(None, None, lambda: None)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert workers.calls == 1
    assert len(finishing._take(100)) == 40


async def test_those_who_go_on_beside_stuck_ones_are_no_more_than_there_may_be() -> None:
    class Stuck(Workers):
        calls = 0

        def submit(self, call: object) -> None:
            self.calls += 1  # and none of them is ever made

    workers = Stuck(1, "stuck")
    finishing = Finishing(Any, Any, workers, lambda arrivals: None)  # type: ignore[arg-type]
    for _ in range(40):
        finishing.submit(None, None, lambda: None)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        finishing._look(0)
    assert finishing._looking is not None
    finishing._looking.cancel()
    assert workers.calls == 2 + 6


async def test_one_thread_at_a_time_writes(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others wait for the disk: threads that write take turns at the interpreter's lock."""

    class Noting(FileCalls):
        writing = most = 0

        def can_sync_together(self, path: str) -> bool:
            return True

        def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
            self.writing += 1
            self.most = max(self.most, self.writing)
            time.sleep(0.001)
            super().write(descriptor, views)
            self.writing -= 1

    monkeypatch.setattr("asyncdicom.archive.finishing._STUCK", 60.0)  # a machine that stops is not stuck
    calls = Noting()
    async with Archive(tmp_path, files=calls) as archive:
        data = [tools.data_set(SOPInstanceUID=f"1.2.3.{number}") for number in range(200)]

        async def store_some(at: int) -> set[int]:
            await asyncio.sleep(at / 1000)  # they do not all come in step
            return {int(await tools.store(archive, each)) for each in data[at::20]}

        assert set().union(*await asyncio.gather(*map(store_some, range(20)))) == {0}
    assert calls.most == 1


async def test_who_is_stuck_while_he_writes_holds_up_nobody_for_long(tmp_path: Path, tools: Any) -> None:
    class Stuck(Together):
        def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
            if not self.began.is_set():
                self.began.set()
                assert self.go_on.wait(60)
            super().write(descriptor, views)

        def sync_all(self, descriptors: Sequence[int], folders: Sequence[str]) -> list[OSError | None]:
            self.groups.append((len(descriptors), tuple(folders)))
            return FileCalls.sync_all(self, descriptors, folders)

    calls = Stuck()
    async with Archive(tmp_path, files=calls, sweep=False) as archive:
        finishing = archive._intake._finishing
        assert finishing is not None
        first = asyncio.ensure_future(tools.store(archive, tools.data_set()))
        assert await asyncio.to_thread(calls.began.wait, 60)
        for turn in range(3):  # only the first of these waits
            data = [tools.data_set(SOPInstanceUID=f"1.2.{turn}.{number}") for number in range(10)]
            assert set(await asyncio.gather(*(tools.store(archive, each) for each in data))) == {0}
        assert max(count for count, _ in calls.groups) > 1  # they are written in groups, as ever
        assert not first.done()
        calls.go_on.set()
        assert await first == 0
    assert (len(finishing._pen), len(finishing._free), len(finishing._spare)) == (1, 2, 6)
