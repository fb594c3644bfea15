"""Data sets on their way: streams, files that appear whole or not at all, files that change meanwhile."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CT, Peer, eventually, listening, message, store_rq

from asyncdicom import (
    AssociationAborted,
    BytesSource,
    DataSetError,
    DataStream,
    FileSource,
    LocalProtocolError,
    Request,
    associate,
    open_file,
    serve,
)
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.net.disk import Disk
from asyncdicom.net.payload import write_all
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

MUCH = 1_000_000  # more than is gathered before it is written


def stream(*pieces: bytes, ended: bool = True) -> DataStream:
    data = DataStream(EXPLICIT_VR_LITTLE_ENDIAN, CT, "1.2.3")
    for piece in pieces:
        data.feed([memoryview(piece)], len(piece), False)
    if ended:
        data.feed([], 0, True)
    return data


# DataStream


async def test_a_batch_is_all_that_came() -> None:
    data = stream(b"abc", b"de", ended=False)
    assert [bytes(view) for view in await data.next_batch() or ()] == [b"abc", b"de"]
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    assert not waiting.done()
    data.feed([memoryview(b"f")], 1, True)
    assert [bytes(view) for view in await waiting or ()] == [b"f"]
    assert await data.next_batch() is None
    assert data.received == 6


async def test_a_cancellation_loses_nothing() -> None:
    data = stream(ended=False)
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    data.feed([memoryview(b"abc")], 3, True)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await data.read() == b"abc"


async def test_what_was_received_before_a_failure_comes_before_it() -> None:
    data = stream(b"abc", ended=False)
    data.fail(ConnectionError("gone"))
    assert await data.next_batch() is not None
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            await data.next_batch()
    assert not data.is_complete


async def test_a_failure_after_the_end_does_not_matter() -> None:
    data = stream(b"abc")
    data.fail(ConnectionError("gone"))
    assert await data.read() == b"abc"
    assert data.is_complete


async def test_two_tasks_cannot_read_one_data_set() -> None:
    data = stream(ended=False)
    first = asyncio.create_task(data.read())
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="two tasks"):
        await data.read()
    data.feed([memoryview(b"abc")], 3, True)
    assert await first == b"abc"


async def test_what_was_discarded_is_neither_data_nor_an_end() -> None:
    counted: list[int] = []
    data = DataStream(EXPLICIT_VR_LITTLE_ENDIAN, CT, "1.2.3", taken=counted.append)
    data.feed([memoryview(b"abc")], 3, False)
    data.discard()
    data.feed([memoryview(b"de")], 2, True)
    assert data.discarded == 5
    assert sum(counted) == 5
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await data.read()


async def test_who_waits_when_it_is_discarded_is_told() -> None:
    data = stream(ended=False)
    reading = asyncio.create_task(data.read())
    finishing = []
    await asyncio.sleep(0)
    data.discard()
    finishing.append(asyncio.create_task(data.finished()))
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await reading
    assert not finishing[0].done()
    data.feed([memoryview(b"abc")], 3, True)
    await finishing[0]


async def test_an_instance_is_a_source_too() -> None:
    data = stream(b"abc", b"de")
    assert (data.sop_class_uid, data.sop_instance_uid) == (CT, "1.2.3")
    assert b"".join([bytes(view) for batch in [b async for b in data.open()] for view in batch]) == b"abcde"


# save


async def test_save_needs_an_instance(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="C-STORE"):
        await DataStream(EXPLICIT_VR_LITTLE_ENDIAN).save(tmp_path / "x")


@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"abc"] * 3000])
async def test_save_writes_what_came(tmp_path: Path, pieces: list[bytes]) -> None:
    path = tmp_path / "one.dcm"
    assert await stream(*pieces).save(path) == sum(map(len, pieces))
    source = await open_file(path)
    assert path.read_bytes()[source.offset :] == b"".join(pieces)
    assert list(tmp_path.iterdir()) == [path]


async def test_nothing_has_the_name_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    data = stream(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(path))
    await eventually(lambda: list(tmp_path.iterdir()))
    assert not path.exists()
    data.feed([memoryview(b"b")], 1, True)
    assert await saving == MUCH + 1
    assert list(tmp_path.iterdir()) == [path]


async def test_save_leaves_nothing_after_a_cancellation(tmp_path: Path) -> None:
    data = stream(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await eventually(lambda: list(tmp_path.iterdir()))
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not list(tmp_path.iterdir())


async def test_save_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    data = stream(b"a" * MUCH, ended=False)
    saving = asyncio.create_task(data.save(tmp_path / "one.dcm"))
    await eventually(lambda: list(tmp_path.iterdir()))
    data.fail(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await saving
    assert not list(tmp_path.iterdir())


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await stream(b"abc").save(tmp_path / "no" / "one.dcm")


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
    monkeypatch.setattr("asyncdicom.net.payload._written", slow)
    data = stream(b"a" * 1000)
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
    data = stream(ended=False)
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
    monkeypatch.setattr("asyncdicom.net.payload._written", disk)
    data = stream(ended=False)
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
    data = stream(ended=False)
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


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_write_all_writes_all(buffers: list[bytes]) -> None:
    reader, writer = os.pipe()
    try:
        write_all(writer, buffers)
        os.close(writer)
        with open(reader, "rb", closefd=False) as file:
            assert file.read() == b"".join(buffers)
    finally:
        os.close(reader)


def test_write_all_goes_on_after_a_short_write() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reader, 7919):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    buffers = [bytes([number % 251]) * (number * 37 % 5000) for number in range(3000)]
    write_all(writer, buffers)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert got == b"".join(buffers)


# in_thread


async def test_a_call_in_a_thread_is_waited_for_also_when_cancelled() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        begun.set()
        go_on.wait()
        done.append(True)

    task = asyncio.create_task(in_thread(file_threads(), work))
    await eventually(begun.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_what_a_thread_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(file_threads(), lambda: 1 // 0)
    assert await in_thread(file_threads(), pow, 2, 10) == 1024


# files that change while they are sent


def part10(path: Path, data: bytes) -> Path:
    path.write_bytes(encode_file_meta(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN) + data)
    return path


async def test_a_file_that_shrinks_while_it_is_sent_aborts_the_association(tmp_path: Path) -> None:
    path = part10(tmp_path / "one.dcm", bytes(30_000_000))
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[CT]))
        peer = await listener.peer()
        await peer.accept()
        association = await task
        storing = asyncio.create_task(association.c_store(path))
        await eventually(lambda: peer.reader._buffer)  # type: ignore[attr-defined]
        os.truncate(path, 2_000_000)
        while (pdu := await peer.pdu())[0] == 4:
            pass
        assert pdu[0] == 7, "and nothing is made up for what is missing"
        await peer.close()
        with pytest.raises(AssociationAborted, match="became shorter"):
            await storing


async def test_a_small_file_that_shrinks_before_it_is_sent_costs_nothing(tmp_path: Path) -> None:
    async def on_store(request: Request) -> int:
        return 0

    path = part10(tmp_path / "one.dcm", bytes(1000))
    source = await open_file(path)
    os.truncate(path, 500)
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        with pytest.raises(DataSetError, match="became shorter"):
            await association.c_store(source)
        assert (await association.c_store(part10(path, b""))).status == 0


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 7])
async def test_a_file_source_gives_the_data_set(tmp_path: Path, length: int) -> None:
    data = os.urandom(length)
    source = await open_file(part10(tmp_path / "one.dcm", data))
    got = bytearray()
    async for batch in source.open():
        for buffer in batch:
            got += buffer
    assert got == data


async def test_a_file_source_closes_its_file_wherever_it_is_left(tmp_path: Path) -> None:
    source: FileSource = await open_file(part10(tmp_path / "one.dcm", bytes(5 << 20)))
    opened: AsyncGenerator[object, None] = source.open()
    await anext(opened)
    await opened.aclose()
    # `nothing_left` looks for open files


async def test_the_views_of_a_file_source_do_not_change_afterwards(tmp_path: Path) -> None:
    """The event loop may keep them until the peer reads."""
    data = os.urandom(5 << 20)
    source = await open_file(part10(tmp_path / "one.dcm", data))
    kept = [buffer async for batch in source.open() for buffer in batch]
    assert b"".join(kept) == data


async def test_bytes_can_be_sent_again(tmp_path: Path) -> None:
    source = BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"abc")
    for _ in range(2):
        assert [b async for b in source.open()] == [[b"abc"]]
