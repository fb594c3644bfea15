"""No payload byte is copied in Python between socket and file, or between two sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.peer import CT, instance
from performance.memory_spy import MemorySpy

from asyncdicom import FileSource, Request, associate, file_source, serve, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.net import part_file
from asyncdicom.net.blocks import BlockPool
from asyncdicom.net.stream import DataStream
from asyncdicom.net.transport import Transport
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

SMALL, LARGE = 39 * 1024, 5_000_000
LONGEST_HEADER = 1024  # headers, commands and File Meta Information are made, and not received
UID = "1.2.3.4"


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> MemorySpy:
    return MemorySpy(monkeypatch)


def write_file(folder: Path, size: int) -> FileSource:
    texts = [(0x00080016, "UI", CT), (0x00080018, "UI", UID), (0x00100020, "LO", "P1")]
    texts += [(0x0020000D, "UI", "1.2.3"), (0x0020000E, "UI", "1.2.3.1")]
    elements = [(tag, vr, text.encode()) for tag, vr, text in texts]
    data = encode([*elements, (0x7FE00010, "OW", bytes(size))], EXPLICIT_VR_LITTLE_ENDIAN)
    path = folder / "to-send.dcm"
    path.write_bytes(encode_file_meta(CT, UID, EXPLICIT_VR_LITTLE_ENDIAN) + data)
    return file_source(path)


async def send(port: int, source: Any) -> None:
    async with associate(f"SCP@127.0.0.1:{port}", contexts=storage_contexts([source])) as association:
        assert (await association.c_store(source)).status == 0


# The ways of a data set: each gives its length and which way is looked at.


async def from_file(folder: Path, size: int) -> tuple[int, str]:
    async def drop(request: Request) -> int:
        async for _ in request.data.batches():
            pass
        return 0

    source = write_file(folder, size)
    async with serve("SCP@127.0.0.1:0", c_store=drop) as server:
        await send(server.port, source)
    return source.length, "sent"


async def to_file(folder: Path, size: int) -> tuple[int, str]:
    async def save(request: Request) -> int:
        await request.data.save(folder / "received.dcm")
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=save) as server:
        await send(server.port, instance(size))
    return size, "written"


async def to_archive(folder: Path, size: int) -> tuple[int, str]:
    source = write_file(folder, size)
    async with Archive(str(folder / "archive"), durability="none") as archive:
        async with serve_archive(archive, "SCP@127.0.0.1:0") as server:
            await send(server.port, source)
    return source.length, "written"


async def through_gateway(folder: Path, size: int) -> tuple[int, str]:
    async def drop(request: Request) -> int:
        async for _ in request.data.batches():
            pass
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=drop) as behind:

        async def forward(request: Request) -> int:
            contexts = storage_contexts([request.data])
            async with associate(f"SCP@127.0.0.1:{behind.port}", contexts=contexts) as onward:
                return (await onward.c_store(request.data)).status

        async with serve("SCP@127.0.0.1:0", c_store=forward) as gateway:
            await send(gateway.port, instance(size))  # from memory: these bytes came from nowhere
    return size, "gateway"


Way = Callable[[Path, int], Awaitable[tuple[int, str]]]
WAYS: list[Way] = [from_file, to_file, to_archive, through_gateway]


async def check(way: Way, spy: MemorySpy, folder: Path, size: int) -> None:
    length, looked_at = await way(folder, size)
    given = spy.written if looked_at == "written" else spy.sent
    elsewhere = [count for count in given.elsewhere if count > LONGEST_HEADER]
    if looked_at == "gateway":  # what the first sender gave
        assert sum(elsewhere) <= length, f"{sum(elsewhere) - length} bytes were copied"
    else:
        assert not elsewhere, f"{sum(elsewhere)} bytes were copied"
    assert given.in_place == length


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("way", WAYS)
async def test_bytes_go_out_from_where_they_came_in(
    way: Way, size: int, spy: MemorySpy, tmp_path: Path
) -> None:
    await check(way, spy, tmp_path, size)


class Mutant(NamedTuple):
    """One copy more, and where it has to be noticed."""

    where: Any
    name: str
    copying: Callable[[Any], Any]
    noticed: tuple[Way, ...]


def copied(views: Any) -> list[memoryview]:
    return [memoryview(bytes(view)) for view in views]


MUTANTS = {
    "the transport copies what it received": Mutant(
        BlockPool,
        "take",
        lambda take: lambda pool, count: memoryview(bytes(take(pool, count))),
        (to_file, to_archive, through_gateway),
    ),
    "the stream copies what it is fed": Mutant(
        DataStream,
        "feed",
        lambda feed: lambda stream, views, *more: feed(stream, copied(views), *more),
        (to_file, to_archive, through_gateway),
    ),
    "the stream copies what it gives": Mutant(
        DataStream,
        "_take",
        lambda take: lambda stream: copied(take(stream)),
        (to_file, to_archive, through_gateway),
    ),
    "the file joins what it writes": Mutant(
        part_file,
        "write_all",
        lambda write: lambda file, buffers: write(file, [b"".join(buffers)]),
        (to_file,),
    ),
    "the source copies what it read": Mutant(
        FileSource,
        "_read",
        lambda read: lambda *arguments: memoryview(bytes(read(*arguments))),
        (from_file,),
    ),
    "the fragmenter copies what it cuts": Mutant(
        Fragmenter,
        "data",
        lambda data: lambda cutter, views, final: data(cutter, copied(views), final=final),
        (from_file, through_gateway),
    ),
    "the transport copies what it sends": Mutant(
        Transport,
        "write",
        lambda write: lambda transport, buffers: write(transport, [b"".join(buffers)]),
        (from_file, through_gateway),
    ),
}


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, mutant in MUTANTS.items() for way in mutant.noticed]
)
async def test_one_copy_more_is_noticed(
    name: str, way: Way, spy: MemorySpy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = MUTANTS[name]
    monkeypatch.setattr(mutant.where, mutant.name, mutant.copying(getattr(mutant.where, mutant.name)))
    with pytest.raises(AssertionError, match="were copied"):
        await check(way, spy, tmp_path, LARGE)
