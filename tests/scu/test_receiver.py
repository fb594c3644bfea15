"""What storescp, getscu and movescu do with what comes: hostile names, too much of it, no room for it."""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from cli.nodes import CT, PLAIN, Instance
from cli.placed import written

from asyncdicom import AssociationError, BytesSource, associate, safe_name, serve, storage_contexts
from asyncdicom.net.disk import Batch
from asyncdicom.scu.placing import place
from asyncdicom.scu.receiver import Receiver

UIDS = ["CON", "nul.1", "..", "C:1", "1.A", "1.a", "-rf", ".hidden", "1.2.3"]


async def store(receiver: Receiver, *sources: BytesSource) -> list[tuple[int, str | None]]:
    async with serve("SCP@127.0.0.1:0", c_store=receiver) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, contexts=storage_contexts(sources)) as association:
            responses = [await association.c_store(source) for source in sources]
    return [(response.status, response.error_comment) for response in responses]


async def test_names_of_files_are_safe(tmp_path: Path) -> None:
    receiver = Receiver(str(tmp_path / "in"))
    answers = await store(receiver, *(Instance("1", "1.1", uid).source() for uid in UIDS))
    assert answers == [(0, None)] * len(UIDS)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {f"{safe_name(uid)}.dcm" for uid in UIDS}
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


class Pieces(BytesSource):
    """A data set of 5 MiB, after which something happens before its last piece."""

    def __init__(self, then: Callable[[], Awaitable[object]]) -> None:
        super().__init__(CT, "1.2.3", PLAIN, b"")
        self.then = then

    async def open(self) -> AsyncGenerator[Batch, None]:
        for _ in range(5):
            yield [bytes(1 << 20)]
        await self.then()
        yield [bytes(8)]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"maximum_size": 3 << 20, "minimum_free": 0}, "a data set of more than 3145728 bytes"),
        ({"minimum_free": 1 << 60}, "only "),
    ],
)
async def test_what_is_too_much_is_refused_while_it_comes(
    tmp_path: Path, limits: dict[str, int], why: str
) -> None:
    receiver = Receiver(str(tmp_path), **limits)  # type: ignore[arg-type]

    async def refused() -> None:
        async with asyncio.timeout(30):
            while not receiver.refused:
                await asyncio.sleep(0.001)

    ((status, comment),) = await store(receiver, Pieces(refused))
    assert status == 0xA700
    assert str(comment).startswith(why)
    assert list(tmp_path.iterdir()) == []
    assert receiver.refused["1.2.3"].startswith(why)


async def test_what_ends_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    source = Pieces(lambda: association.abort())
    async with serve("SCP@127.0.0.1:0", c_store=Receiver(str(tmp_path))) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, contexts=storage_contexts([source])) as association:
            with pytest.raises(AssociationError):
                await association.c_store(source)
    assert list(tmp_path.iterdir()) == []


def test_a_uid_that_looks_like_the_name_of_another_one_costs_nobody_a_file(tmp_path: Path) -> None:
    """The name of other data under a UID is made of their digest, which a peer can know."""
    part, first = tmp_path / "part", tmp_path / "1.2.3.dcm"
    place(written(part), first)
    target = place(written(part, b"34"), first).path
    target.unlink()
    place(written(part, b"evil"), target)
    placed = place(written(part, b"34"), first)
    assert placed.what == "other"
    assert len({first.read_bytes(), target.read_bytes(), placed.path.read_bytes()}) == 3


def test_a_pipe_of_that_name_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.2.3.dcm")
    assert place(written(tmp_path / "part"), tmp_path / "1.2.3.dcm").what == "other"


WHOLE = bytes(Instance("1", "1.1", "1.2.3").source().data)
DEFLATED = "1.2.840.10008.1.2.1.99"


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


ENCODED = deflated(WHOLE)
STRANGE = b"\x08\x00\x05\x00--\x04\x00abcd"  # no such VR, but it is plain where it ends
MANY = b"".join(struct.pack("<HH2sH", 0x7777, element, b"LO", 0) for element in range(0x1000, 0x9000))
NOTHING_ELSE = b"\x08\x00\x05\x00\x07\x99\xff\xff"  # of this nobody can tell


@pytest.mark.parametrize(
    ("data", "syntax", "why"),
    [
        (WHOLE, PLAIN, None),
        (WHOLE + bytes(20), PLAIN, None),
        (STRANGE + WHOLE, PLAIN, None),
        (STRANGE + WHOLE[:-1], PLAIN, "the data set is truncated"),
        (NOTHING_ELSE + WHOLE[:-1], PLAIN, None),
        (WHOLE[:-1], PLAIN, "the data set is truncated"),
        (MANY, PLAIN, None),
        (MANY[:-1], PLAIN, "the data set is truncated"),
        (WHOLE[:20], PLAIN, "the data set is truncated"),
        (WHOLE[:4], PLAIN, "the data set is truncated"),
        (b"", PLAIN, "the data set is empty"),
        (ENCODED, DEFLATED, None),
        (ENCODED + b"\0", DEFLATED, None),
        (ENCODED[:-9], DEFLATED, "the deflated data set is truncated"),
        (zlib.compress(WHOLE)[:-9], DEFLATED, None),
    ],
)
async def test_what_ends_within_an_element(tmp_path: Path, data: bytes, syntax: str, why: str | None) -> None:
    (tmp_path / "1.2.3.dcm").write_bytes(b"a good one")
    source = BytesSource(CT, "1.2.3", syntax, data)
    answers = await store(Receiver(str(tmp_path)), source)
    assert answers == [(0, None) if why is None else (0xC000, why)]
    assert len(list(tmp_path.iterdir())) == (2 if why is None else 1)
    assert (tmp_path / "1.2.3.dcm").read_bytes() == b"a good one"

    answers = await store(Receiver(str(tmp_path), keep_incomplete=True), source)
    assert answers == [(0, None) if why is None else (0xB007, why)]
    kept = [path for path in tmp_path.iterdir() if path.name == "1.2.3.dcm.incomplete"]
    assert [path.read_bytes().endswith(data) for path in kept] == ([] if why is None else [True])


async def test_finding_the_end_takes_a_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is not judged, so it is kept; here everything takes too long."""
    monkeypatch.setattr("asyncdicom.scu.placing._PATIENCE", -1.0)
    sources = [BytesSource(CT, "1", PLAIN, WHOLE[:-1]), BytesSource(CT, "2", DEFLATED, ENCODED[:-9])]
    assert await store(Receiver(str(tmp_path)), *sources) == [(0, None)] * 2
