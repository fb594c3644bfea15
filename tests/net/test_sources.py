"""What is sent: bytes, and files that may change meanwhile."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.peer import CT, eventually, listening

from asyncdicom import (
    AssociationAborted,
    BytesSource,
    DataSetError,
    FileSource,
    Request,
    associate,
    open_file,
    serve,
)
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.net.blocks import FILE_BLOCK_SIZE
from asyncdicom.net.cached import Memory, memory_of
from asyncdicom.net.disk import Batch, Buffer, Disk
from asyncdicom.net.sources import read_together
from asyncdicom.net.transport import Transport
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
@pytest.mark.parametrize("length", [10, 5 << 20])
async def test_a_file_that_became_a_fifo_holds_nobody_up(tmp_path: Path, length: int) -> None:
    path = part10(tmp_path / "one.dcm", bytes(length))
    source = await open_file(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError) as caught:
        [batch async for batch in source.open()]
    assert caught.value.errno == errno.ESPIPE


async def test_bytes_can_be_sent_again(tmp_path: Path) -> None:
    source = BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"abc")
    for _ in range(2):
        assert [b async for b in source.open()] == [[b"abc"]]
        assert source.at_hand() == b"abc"


# at hand


async def test_a_small_file_is_at_hand_and_a_large_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncdicom.net.sources._read", Disk())
    small, large = FILE_BLOCK_SIZE, FILE_BLOCK_SIZE + 1
    assert (await open_file(part10(tmp_path / "one.dcm", bytes(small)))).at_hand() == bytes(small)
    assert (await open_file(part10(tmp_path / "two.dcm", bytes(large)))).at_hand() is None


async def test_nothing_is_at_hand_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Disk()
    slow._quick_from = math.inf
    monkeypatch.setattr("asyncdicom.net.sources._read", slow)
    source = await open_file(part10(tmp_path / "one.dcm", b"abcd"))
    assert source.at_hand() is None
    source.read_ahead()
    assert [batch async for batch in source.open()] == [[b"abcd"]]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that a thread is to make; the test makes them."""
    calls: list[Any] = []

    class Threads:
        def submit(self, call: Any, *arguments: Any) -> None:
            calls.append(lambda: call(*arguments))

    monkeypatch.setattr("asyncdicom.net.sources.file_threads", Threads)
    return calls


def in_threads(
    path: Path,
    length: int = 4,
    *,
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
    offset: int = 0,
    memory: Memory | None = None,
) -> FileSource:
    return FileSource(
        path,
        sop_class_uid=CT,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=syntax,
        offset=offset,
        length=length,
        in_threads=True,
        memory=memory,
    )


async def test_what_was_read_ahead_is_at_hand_once(tmp_path: Path, threads: list[Any]) -> None:
    """Several small files are one call of one thread, and nobody waits for it."""
    (tmp_path / "one").write_bytes(b"abcd")
    (tmp_path / "two").write_bytes(b"efgh")
    sources = [in_threads(tmp_path / name) for name in ("one", "two", "none")]
    large = in_threads(tmp_path / "one", 1 << 30)
    read_together([*sources, large])
    (call,) = threads
    assert [source.at_hand() for source in sources] == [None] * 3
    call()
    assert [source.at_hand() for source in sources] == [b"abcd", b"efgh", None]
    with pytest.raises(FileNotFoundError):  # a file that cannot be read is told to whoever opens it
        await anext(sources[2].open())
    threads.clear()
    read_together([])
    read_together([large])
    assert threads == []
    assert sources[0].at_hand() is None  # it is read again, by a thread


async def test_what_nobody_wants_any_more_is_not_read(tmp_path: Path, threads: list[Any]) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"abcd")
    source, other = in_threads(path), in_threads(path)
    read_together([source, other])
    opened = asyncio.ensure_future(anext(source.open()))
    await asyncio.sleep(0)
    opened.cancel()
    await asyncio.wait([opened])
    (call,) = threads
    call()
    assert (source._whole, other.at_hand()) == (None, b"abcd")


async def test_who_opens_what_is_being_read_waits_for_it(tmp_path: Path, threads: list[Any]) -> None:
    path = tmp_path / "one"
    path.write_bytes(b"abcd")
    source = in_threads(path)
    source.read_ahead()
    opened = asyncio.ensure_future(anext(source.open()))
    await asyncio.sleep(0)
    (call,) = threads
    call()
    assert await opened == [b"abcd"]


async def sent(*sources: Any) -> list[bytes]:
    """What arrives of some instances."""
    got: list[bytes] = []

    async def on_store(request: Request) -> int:
        got.append(await request.data.read())
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        for source in sources:
            assert (await association.c_store(source)).status == 0
    return got


async def test_an_image_of_512_kib_leaves_in_two_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head makes no third one, nor does the end of the message."""
    monkeypatch.setattr("asyncdicom.net.sources._read", Disk())
    written: list[int] = []
    write = Transport.write

    def counted(transport: Transport, buffers: Sequence[Buffer]) -> None:
        written.append(sum(map(len, buffers)))
        write(transport, buffers)

    monkeypatch.setattr(Transport, "write", counted)
    data = os.urandom((1 << 19) + 378)
    source = await open_file(part10(tmp_path / "one.dcm", data))
    assert await sent(source) == [data]
    assert len([length for length in written if length > 1000]) == 2


class Longer:
    """A source around another one that has more behind what that one calls its last batch."""

    def __init__(self, source: FileSource) -> None:
        self.sop_class_uid = source.sop_class_uid
        self.sop_instance_uid = source.sop_instance_uid
        self.transfer_syntax_uid = source.transfer_syntax_uid
        self._source = source

    async def open(self) -> AsyncGenerator[Batch, None]:
        async for batch in self._source.open():
            yield batch
        yield [b"more"]
        yield [b", and the end"]


async def test_a_source_may_have_more_than_the_one_that_it_is_around(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    source = await open_file(part10(tmp_path / "one.dcm", data))
    assert await sent(Longer(source)) == [data + b"more, and the end"]


class Doubled(BytesSource):
    """A source that is derived from one of ours, and opens otherwise."""

    async def open(self) -> AsyncGenerator[Batch, None]:
        yield [self.data, self.data]


class DoubledFile(FileSource):
    """The same of a file."""

    async def open(self) -> AsyncGenerator[Batch, None]:
        async for batch in super().open():
            yield [*batch, *batch]


async def test_what_is_derived_from_a_source_is_sent_as_it_opens(tmp_path: Path) -> None:
    file = await open_file(part10(tmp_path / "one.dcm", b"abcd"))
    doubled = DoubledFile(
        file.path,
        sop_class_uid=CT,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        offset=file.offset,
        length=file.length,
    )
    same = type("Same", (BytesSource,), {})(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"efgh")
    assert await sent(Doubled(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"ab"), doubled, same) == [
        b"abab",
        b"abcdabcd",
        b"efgh",
    ]


class OpenedOnly:
    """The least that can be sent."""

    sop_class_uid, sop_instance_uid, transfer_syntax_uid = CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN

    async def open(self) -> AsyncGenerator[Batch, None]:
        yield [b"ab"]
        yield [b"cd"]


class Answering(OpenedOnly):
    """A source of somebody else that has its data set at hand."""

    def at_hand(self) -> bytes:
        return b"efgh"


async def test_what_a_source_has_at_hand_is_sent_and_it_need_not_have_anything() -> None:
    assert await sent(OpenedOnly(), Answering()) == [b"abcd", b"efgh"]


@pytest.mark.parametrize("length", [0, 1, 2, 1 << 18, (1 << 18) + 1, (1 << 19) + 1])
@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
async def test_a_deflated_data_set_has_an_even_length(tmp_path: Path, length: int, syntax: str) -> None:
    """PS3.5 A.5; DCMTK aborts an association on which a fragment of odd length comes (PS3.8 E.1)."""
    data = bytes(range(1, 256)) * (length // 255 + 1)
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + data)
    source = FileSource(
        path,
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        transfer_syntax_uid=syntax,
        offset=4,
        length=length,
    )
    sent = b"".join([bytes(buffer) async for batch in source.open() for buffer in batch])
    padding = b"\0" if length % 2 and syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else b""
    assert sent == data[:length] + padding


@pytest.mark.parametrize("length", [10, (1 << 20) + 1])
async def test_what_is_read_in_threads_is_never_touched_in_the_event_loop(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(length))
    touched: set[int] = set()
    opened = os.open

    def note(*arguments: Any, **options: Any) -> int:
        touched.add(threading.get_ident())
        return opened(*arguments, **options)

    monkeypatch.setattr(os, "open", note)
    source = FileSource(
        path,
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        offset=0,
        length=length,
        in_threads=True,
    )
    assert source.at_hand() is None
    assert sum([len(buffer) async for batch in source.open() for buffer in batch]) == length
    assert touched
    assert threading.get_ident() not in touched


# what is in memory


class Touched:
    """Which threads have opened or read files by the calls that may wait, in order of appearance."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by: list[int] = []
        for name in ("open", "pread", "preadv"):
            monkeypatch.setattr(os, name, self._noting(getattr(os, name)))

    def _noting(self, call: Any) -> Any:
        def note(*arguments: Any, **options: Any) -> Any:
            if arguments[3:] != (os.RWF_NOWAIT,):
                self.by.append(threading.get_ident())
            return call(*arguments, **options)

        return note


class Warm:
    """A folder of which much is in memory, and who touches its files otherwise."""

    def __init__(self, memory: Memory, touched: Touched) -> None:
        self.memory = memory
        self.by = touched.by


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warm:
    memory = memory_of(str(tmp_path))
    if memory is None:
        pytest.skip("this system cannot be asked what is in memory")
    return Warm(memory, Touched(monkeypatch))


def if_cached(warm: Warm, path: Path, length: int, syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> FileSource:
    return in_threads(path, length, syntax=syntax, offset=4, memory=warm.memory)


async def whole(source: FileSource) -> bytes:
    return b"".join([bytes(buffer) async for batch in source.open() for buffer in batch])


def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in memory from now on."""

    def none(file: int, buffers: object, position: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        return preadv(file, buffers, position)  # type: ignore[arg-type]

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", none)


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN])
@pytest.mark.parametrize("length", [0, 1, 4, FILE_BLOCK_SIZE, FILE_BLOCK_SIZE + 1, (1 << 20) + 1])
async def test_what_is_in_memory_needs_no_thread(
    tmp_path: Path, warm: Warm, threads: list[Any], length: int, syntax: str
) -> None:
    data = os.urandom(length)
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + data)
    padding = b"\0" if length % 2 and syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN else b""
    warm.by.clear()
    source = if_cached(warm, path, length, syntax)
    read_together([source, if_cached(warm, path, length, syntax)])
    assert source.at_hand() == (data + padding if length <= FILE_BLOCK_SIZE else None)
    assert await whole(source) == data + padding  # as who wraps it does, whatever it has at hand
    assert (warm.by, threads) == ([], [])


@pytest.mark.parametrize("length", [10, FILE_BLOCK_SIZE + 1, (1 << 20) + 1])
async def test_what_is_not_in_memory_is_read_in_threads_and_ahead(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    data = os.urandom(length)
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + data)
    cold(monkeypatch)
    warm.by.clear()
    source = if_cached(warm, path, length)
    assert source.at_hand() is None
    assert await whole(source) == data
    assert threading.get_ident() not in warm.by
    several = [if_cached(warm, path, length) for _ in range(2)]
    read_together(several)
    assert [source._ahead is not None for source in several] == [length <= 1 << 20] * 2
    assert [await whole(source) for source in several] == [data] * 2
    assert threading.get_ident() not in warm.by


async def test_nothing_is_read_ahead_again_when_all_is_in_memory(
    tmp_path: Path, warm: Warm, threads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"HEADabcd")
    with monkeypatch.context() as patched:
        cold(patched)
        assert if_cached(warm, path, 4).at_hand() is None
    several = [if_cached(warm, path, 4) for _ in range(3)]
    read_together(several)
    threads.pop()()
    assert [source.at_hand() for source in several] == [b"abcd"] * 3
    read_together([if_cached(warm, path, 4)])
    assert threads == []


async def test_a_file_that_became_shorter_is_told_wherever_it_is(tmp_path: Path, warm: Warm) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + bytes(FILE_BLOCK_SIZE + 5))
    for length in (FILE_BLOCK_SIZE + 6, 2 * FILE_BLOCK_SIZE + 1, 1 << 30):
        with pytest.raises(DataSetError, match="became shorter"):
            await whole(if_cached(warm, path, length))
    path.write_bytes(b"HEADabc")
    source = if_cached(warm, path, 4)
    assert source.at_hand() is None
    with pytest.raises(DataSetError, match="became shorter"):
        await whole(source)


async def test_others_have_their_turn_while_a_great_file_in_memory_is_read(
    tmp_path: Path, warm: Warm
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"HEAD" + bytes(8 * FILE_BLOCK_SIZE))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    another = asyncio.ensure_future(other())
    await asyncio.sleep(0)
    assert len(await whole(if_cached(warm, path, 8 * FILE_BLOCK_SIZE))) == 8 * FILE_BLOCK_SIZE
    another.cancel()
    assert turns >= 4


async def test_behind_what_wraps_them_files_that_are_not_in_memory_are_read_ahead(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for nothing at hand."""
    path = tmp_path / "file"
    path.write_bytes(b"HEADabcd")
    cold(monkeypatch)
    assert await whole(if_cached(warm, path, 4)) == b"abcd"
    several = [if_cached(warm, path, 4) for _ in range(2)]
    read_together(several)
    assert all(source._ahead is not None for source in several)
    assert [await whole(source) for source in several] == [b"abcd"] * 2


async def test_what_is_said_of_other_files_is_not_said_of_these(
    tmp_path: Path, warm: Warm, threads: list[Any]
) -> None:
    """A slow disk beside, and a batch that nobody wants any more, tell nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"HEADabcd")
    read_together([in_threads(path), in_threads(path)])
    threads.pop()()
    read_together([if_cached(warm, path, 4)])
    assert threads == []


async def test_a_large_file_that_was_removed_is_closed_in_a_thread(
    tmp_path: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is given back then, which may take a disk."""
    path, length = tmp_path / "file", FILE_BLOCK_SIZE + 1
    path.write_bytes(b"HEAD" + bytes(length))
    closed: set[int] = set()
    close, read = os.close, os.preadv

    def removing(*arguments: Any) -> int:
        path.unlink(missing_ok=True)
        return read(*arguments)

    def note(descriptor: int) -> None:
        closed.add(threading.get_ident())
        close(descriptor)

    monkeypatch.setattr(os, "preadv", removing)
    monkeypatch.setattr(os, "close", note)
    assert await whole(if_cached(warm, path, length)) == bytes(length)
    await eventually(lambda: bool(closed))
    assert threading.get_ident() not in closed


async def test_a_second_cancellation_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * FILE_BLOCK_SIZE))
    go_on = threading.Event()
    source = in_threads(path, 4 * FILE_BLOCK_SIZE)
    read, reads = source._read, 0

    def slow(_: FileSource, *arguments: Any) -> memoryview:
        nonlocal reads
        reads += 1
        if reads > 1:
            assert go_on.wait(60)
        return read(*arguments)

    monkeypatch.setattr(FileSource, "_read", slow)
    before = len(os.listdir("/proc/self/fd"))

    async def consume() -> None:
        batches = source.open()
        try:
            await anext(batches)
            await anext(batches)
        finally:
            await batches.aclose()

    task = asyncio.ensure_future(consume())
    await eventually(lambda: reads == 2)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before)
