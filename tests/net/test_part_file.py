"""Files that appear whole or not at all."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.peer import Peer, eventually, message, store_rq
from net.streams import received

from asyncdicom import DataStream, LocalProtocolError, Request, open_file, serve
from asyncdicom.net.disk import Disk
from asyncdicom.net.threads import file_threads
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

MUCH = 1_000_000  # more than is gathered before it is written


async def test_save_needs_an_instance(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="C-STORE"):
        await DataStream(EXPLICIT_VR_LITTLE_ENDIAN).save(tmp_path / "x")


@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"abc"] * 3000])
async def test_save_writes_what_came(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "one.dcm"
    assert await received(*pieces).save(path) == sum(map(len, pieces))
    source = await open_file(path)
    assert path.read_bytes()[source.offset :] == b"".join(pieces)
    assert list(tmp_path.iterdir()) == [path]


async def test_nothing_has_the_name_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    data = received(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(path))
    await eventually(lambda: list(tmp_path.iterdir()))
    assert not path.exists()
    data.feed([memoryview(b"b")], 1, True)
    assert await saving == MUCH + 1
    assert list(tmp_path.iterdir()) == [path]


async def test_save_leaves_nothing_after_a_cancellation(tmp_path: Path) -> None:
    data = received(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await eventually(lambda: list(tmp_path.iterdir()))
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not list(tmp_path.iterdir())


async def test_save_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    data = received(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await eventually(lambda: list(tmp_path.iterdir()))
    data.fail(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await saving
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["new/one.dcm", "new/and/deep/one.dcm"])
async def test_a_missing_folder_is_made(tmp_path: Path, name: str) -> None:
    assert await received(b"abc").save(tmp_path / name) == 3
    assert (tmp_path / name).read_bytes().endswith(b"abc")
    assert not stat.S_IMODE((tmp_path / name).parent.stat().st_mode) & 0o027, "as the files in it"


async def test_a_missing_folder_below_the_current_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await received(b"abc").save("new/one.dcm")
    await received(b"def").save("one.dcm")
    assert (tmp_path / "new" / "one.dcm").exists()


async def test_many_make_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Disk()
    slow._quick_from = math.inf  # all its calls are made in threads
    monkeypatch.setattr("asyncdicom.net.part_file._written", slow)
    names = [tmp_path / "a" / "b" / str(number) for number in range(40)]
    await asyncio.gather(*(received(b"abc").save(name) for name in names))
    assert sorted((tmp_path / "a" / "b").iterdir()) == sorted(names)


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        await received(b"abc").save(tmp_path / "file" / "one.dcm")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")
    with pytest.raises(FileExistsError):
        await received(b"abc").save(tmp_path / "link" / "one.dcm")
    assert not (tmp_path / "nowhere").exists()


async def test_a_save_that_is_cancelled_leaves_no_file_in_a_new_folder(tmp_path: Path) -> None:
    data = received(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "new" / "one.dcm"))
    await eventually(lambda: list(tmp_path.glob("new/*")))
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not list((tmp_path / "new").iterdir())


@contextmanager
def threads_are_busy() -> Iterator[None]:
    """All threads for files have something else to do until the end of the block."""
    end = threading.Event()
    others = [file_threads().submit(end.wait) for _ in range(64)]
    try:
        yield
    finally:
        end.set()
        for other in others:
            other.result()


async def test_cancelled_while_the_last_write_is_under_way_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Disk()
    slow._quick_from = math.inf  # all its calls are made in threads
    monkeypatch.setattr("asyncdicom.net.part_file._written", slow)
    data = received(b"a" * 1000)
    with threads_are_busy():
        saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
        await asyncio.sleep(0.01)
        saving.cancel()
        await asyncio.sleep(0.01)
        assert not saving.done(), "a thread must not write into a file that was forgotten"
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not list(tmp_path.iterdir())


async def test_while_the_disk_is_quick_what_comes_is_written_before_the_handler_wakes(tmp_path: Path) -> None:
    data = received(ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await asyncio.sleep(0)
    data.feed([memoryview(b"abc")], 3, False)
    data.feed([memoryview(b"de")], 2, False)
    [part] = tmp_path.iterdir()
    assert part.read_bytes().endswith(b"abcde")
    assert data.waiting == 0
    data.feed([memoryview(b"f")], 1, True)
    assert await saving == 6
    assert [path.name for path in tmp_path.iterdir()] == ["one.dcm"]
    assert (tmp_path / "one.dcm").read_bytes().endswith(b"abcdef")


async def test_what_comes_while_a_thread_writes_comes_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    monkeypatch.setattr("asyncdicom.net.part_file._written", disk)
    data = received(ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await asyncio.sleep(0)
    disk._quick_from = math.inf
    with threads_are_busy():
        data.feed([memoryview(b"a" * MUCH)], MUCH, False)
        await asyncio.sleep(0.01)
        disk._quick_from = 0.0
        data.feed([memoryview(b"b")], 1, True)
        assert data.waiting == 1
    assert await saving == MUCH + 1
    assert (tmp_path / "one.dcm").read_bytes().endswith(b"ab")


async def test_a_write_that_fails_when_it_comes_fails_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = received(ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await asyncio.sleep(0)
    data.feed([memoryview(b"abc")], 3, False)

    def full(file: int, buffers: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "writev", full)
    data.feed([memoryview(b"def")], 3, False)
    data.feed([memoryview(b"ghi")], 3, True)
    with pytest.raises(OSError, match="full"):
        await saving
    assert not list(tmp_path.iterdir())


async def test_an_aborted_store_leaves_no_file(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def on_store(request: Request) -> int:
        try:
            await request.data.save(tmp_path / "one.dcm")
        finally:
            ended.set()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.write(message(3, store_rq(1), bytes(MUCH))[:-1000])
            await eventually(lambda: list(tmp_path.iterdir()))
            peer.reset()
        await ended.wait()
    assert not list(tmp_path.iterdir())
