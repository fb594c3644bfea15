"""Instances whose transfer syntax the peer does not take leave in one that it takes (PS3.5 10.1)."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from helpers.peer import CT

from asyncdicom import (
    STUDY_ROOT,
    AssociationAborted,
    AssociationPool,
    BytesSource,
    DataSetError,
    PresentationContext,
    PresentationContextError,
    Proposable,
    Request,
    Retrieval,
    associate,
    file_source,
    retrieval_contexts,
    serve,
    storage_contexts,
)
from asyncdicom.data.amend import Amendment
from asyncdicom.data.elements import encode
from asyncdicom.data.inflation import deflate
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.data.reencode import reencode
from asyncdicom.net.reencoding import AmendedSource, ReencodedSource
from asyncdicom.services.storage import Storage
from asyncdicom.uid import (
    BECOMES,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_BASELINE_8BIT,
)

EXPLICIT = EXPLICIT_VR_LITTLE_ENDIAN
SYNTAXES = list(BECOMES)
TARGETS = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
NUMBERS = [f"1.2.{number}" for number in range(len(SYNTAXES))]


def data_set(uid: str, syntax: str, pixels: int = 100_000) -> bytes:
    return encode(
        [
            (0x00080016, "UI", CT.encode()),
            (0x00080018, "UI", uid.encode()),
            (0x00100010, "PN", b"A^B"),
            (0x7FE00010, "OB", bytes(pixels)),
        ],
        syntax,
    )


def sources(pixels: int = 100_000) -> list[BytesSource]:
    """One instance in each uncompressed transfer syntax."""
    return [
        BytesSource(CT, uid, syntax, data_set(uid, syntax, pixels))
        for uid, syntax in zip(NUMBERS, SYNTAXES, strict=True)
    ]


def sent_as(source: BytesSource, syntax: str) -> bytes:
    if source.transfer_syntax_uid == syntax:
        return bytes(source.data)
    return reencode(source.data, source.transfer_syntax_uid, syntax)


class Received:
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.syntaxes: set[str] = set()

    async def __call__(self, request: Request) -> int:
        self.data[request.affected_sop_instance_uid] = await request.data.read()
        self.syntaxes.add(request.transfer_syntax_uid)
        return 0


def taking(handler: Received, *syntaxes: str) -> Storage:
    service = Storage(handler)
    service.transfer_syntaxes = syntaxes
    return service


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


@pytest.mark.parametrize("syntax", TARGETS)
@pytest.mark.parametrize("pixels", [10, 3_000_000])
async def test_a_peer_that_takes_one_syntax_gets_everything(syntax: str, pixels: int) -> None:
    received, instances = Received(), sources(pixels)
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, syntax)]) as server,
        associate(address(server), contexts=storage_contexts(instances)) as association,
    ):
        for instance in instances:
            assert (await association.c_store(instance)).status == 0
    assert received.data == {each.sop_instance_uid: sent_as(each, syntax) for each in instances}
    assert received.syntaxes == {syntax}


async def test_what_is_taken_as_it_is_leaves_as_it_is() -> None:
    """Odd lengths, unknown VRs and all: nobody looks at it."""
    received = Received()
    instances = [
        BytesSource(CT, uid, syntax, b"as it is") for uid, syntax in zip(NUMBERS, SYNTAXES, strict=True)
    ]
    async with (
        serve("SCP@127.0.0.1:0", c_store=received) as server,
        associate(address(server), contexts=storage_contexts(instances)) as association,
    ):
        for instance in instances:
            await association.c_store(instance)
    assert received.data == {each.sop_instance_uid: b"as it is" for each in instances}
    assert received.syntaxes == set(SYNTAXES)


async def test_explicit_vr_is_preferred_because_it_keeps_the_vrs() -> None:
    received = Received()
    [instance] = [each for each in sources() if each.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN]
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, *TARGETS)]) as server,
        associate(address(server), contexts=storage_contexts([instance])) as association,
    ):
        await association.c_store(instance)
    assert received.syntaxes == {EXPLICIT_VR_LITTLE_ENDIAN}


async def test_compressed_instances_are_not_re_encoded() -> None:
    instance = BytesSource(CT, "1.2.3", JPEG_BASELINE_8BIT, data_set("1.2.3", EXPLICIT_VR_LITTLE_ENDIAN))
    contexts = [*storage_contexts([instance]), PresentationContext(CT, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(Received(), *TARGETS)]) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        with pytest.raises(PresentationContextError, match="only with Implicit VR Little Endian"):
            await association.c_store(instance)


async def test_a_pool_re_encodes_files(tmp_path: Path) -> None:
    received, paths = Received(), []
    for instance in sources(600_000):
        path = tmp_path / instance.sop_instance_uid
        meta = encode_file_meta(CT, instance.sop_instance_uid, instance.transfer_syntax_uid)
        path.write_bytes(meta + bytes(instance.data))
        paths.append(path)
    contexts = storage_contexts(map(file_source, paths))
    async with serve("SCP@127.0.0.1:0", services=[taking(received, IMPLICIT_VR_LITTLE_ENDIAN)]) as server:
        async with AssociationPool(address(server), contexts=contexts) as pool:
            await asyncio.gather(*map(pool.c_store, paths))
    assert received.data == {
        each.sop_instance_uid: sent_as(each, IMPLICIT_VR_LITTLE_ENDIAN) for each in sources(600_000)
    }


def giving(instances: list[BytesSource]) -> Any:
    async def handler(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval(instances)

    return handler


@pytest.mark.parametrize("syntax", TARGETS)
async def test_c_move_to_a_destination_that_takes_one_syntax(syntax: str) -> None:
    received, instances = Received(), sources()
    async with serve("WS@127.0.0.1:0", services=[taking(received, syntax)]) as ws:
        async with (
            serve(
                "SCP@127.0.0.1:0", c_move=giving(instances), destinations={"WS": f"127.0.0.1:{ws.port}"}
            ) as server,
            associate(address(server), contexts=[STUDY_ROOT]) as association,
        ):
            result = await association.c_move(IDENTIFIER_EXPLICIT, move_destination="WS")
    assert (result.completed, result.failed) == (len(instances), 0)
    assert received.data == {each.sop_instance_uid: sent_as(each, syntax) for each in instances}


@pytest.mark.parametrize("syntax", TARGETS)
async def test_c_get_by_a_peer_that_takes_one_syntax(syntax: str) -> None:
    received, instances = Received(), sources()
    contexts: list[Proposable] = [STUDY_ROOT, *retrieval_contexts([(CT, syntax)])]
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(instances)) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        result = await association.c_get(IDENTIFIER_EXPLICIT, c_store=received)
    assert (result.completed, result.failed) == (len(instances), 0)
    assert received.data == {each.sop_instance_uid: sent_as(each, syntax) for each in instances}


IDENTIFIER_EXPLICIT = encode([(0x00080052, "CS", b"STUDY")], EXPLICIT_VR_LITTLE_ENDIAN)


# what is no data set


def broken(uid: str, length: int, claims: int) -> BytesSource:
    head = data_set(uid, EXPLICIT_VR_LITTLE_ENDIAN, 0)[:-4]
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, head + pack("<L", claims) + bytes(length))


@pytest.mark.parametrize("length", [100, 3_000_000])
async def test_a_broken_instance_costs_only_itself(length: int) -> None:
    """Its bytes are looked at before the first one is sent."""
    received, good = Received(), sources(10)[1]
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, IMPLICIT_VR_LITTLE_ENDIAN)]) as server,
        associate(address(server), contexts=storage_contexts([good])) as association,
    ):
        with pytest.raises(
            DataSetError,
            match=r"re-encoded as Implicit VR .*, which the peer takes: \(7FE0,0010\) has a length of .*",
        ):
            await association.c_store(Sized(broken("1.2.3", length, length + 2)))
        assert (await association.c_store(good)).status == 0
    assert list(received.data) == [good.sop_instance_uid]


class Sized:
    """A source that tells its length, and one that gives it in small pieces."""

    def __init__(self, source: BytesSource, *, tells: bool = True) -> None:
        self.sop_class_uid = source.sop_class_uid
        self.sop_instance_uid = source.sop_instance_uid
        self.transfer_syntax_uid = source.transfer_syntax_uid
        self.data = bytes(source.data)
        if tells:
            self.length = len(self.data)

    def at_hand(self) -> None:
        return None

    async def open(self) -> Any:
        for start in range(0, len(self.data), 65536):
            yield [self.data[start : start + 65536]]


LONG = 3 << 20
PRIVATE = (0x00091001, "OB", bytes(LONG))


def ending(tail: bytes, *, before: bytes = b"", source: str = EXPLICIT_VR_LITTLE_ENDIAN) -> bytes:
    """A data set that ends with `tail`, some MiB behind its beginning."""
    head = [(0x00080016, "UI", CT.encode()), (0x00080018, "UI", b"1.2.3")]
    return encode([*head, PRIVATE], source) + before + tail


# A number of kinds of being cut or broken that show only behind the first MiB.
LATE = {
    "a value that is longer than the rest": ending(pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 100) + bytes(98)),
    "within a header": ending(pack("<HH2s", 0x7FE0, 0x10, b"OW")),
    "a sequence without its end": ending(pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)),
    "an item without its end": ending(
        pack("<HH2sHLHHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    ),
    "an element where an item is expected": ending(
        pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + pack("<HH2sH", 0x10, 0x20, b"LO", 0)
    ),
    "no header at all": ending(b"\xff" * 64),
    "compressed pixel data": ending(pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + bytes(64)),
    "something behind the end": ending(bytes(8) + b"rubbish!"),
}


def on_disk(folder: Path, data: bytes, uid: str = "1.2.3", syntax: str = EXPLICIT_VR_LITTLE_ENDIAN) -> Path:
    path = folder / f"{uid}.dcm"
    path.write_bytes(encode_file_meta(CT, uid, syntax) + data)
    return path


@pytest.mark.parametrize("kind", LATE)
async def test_what_is_wrong_behind_the_first_mib_costs_only_its_instance(kind: str, tmp_path: Path) -> None:
    received, good = Received(), sources(10)[1]
    path, in_memory = on_disk(tmp_path, LATE[kind]), BytesSource(CT, "1.2.4", EXPLICIT, LATE[kind])
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, IMPLICIT_VR_LITTLE_ENDIAN)]) as server,
        associate(address(server), contexts=storage_contexts([good])) as association,
    ):
        for broken in (path, in_memory):
            with pytest.raises(DataSetError, match="cannot be re-encoded as Implicit VR"):
                await association.c_store(broken)
        assert (await association.c_store(good)).status == 0
    assert list(received.data) == [good.sop_instance_uid]


async def test_a_deflated_file_that_ends_early_costs_only_itself(tmp_path: Path) -> None:
    """Nobody knows how long it is before it has been inflated."""
    rest = random.Random(1).randbytes(LONG)
    whole = deflate(encode([(0x00080016, "UI", CT.encode()), (0x00091001, "OB", rest)], EXPLICIT))
    path = on_disk(tmp_path, whole[:-1000], syntax=DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
    received, good = Received(), sources(10)[1]
    contexts = storage_contexts([good, file_source(path)])
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, IMPLICIT_VR_LITTLE_ENDIAN)]) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        with pytest.raises(DataSetError, match="the data set is truncated: 1000 bytes of its last"):
            await association.c_store(path)
        assert (await association.c_store(good)).status == 0


async def test_a_retrieval_goes_on_after_one_that_breaks_late() -> None:
    late = BytesSource(CT, "1.2.9", EXPLICIT, LATE["a sequence without its end"])
    received, instances = Received(), [sources(10)[1], late, sources(10)[3]]
    contexts: list[Proposable] = [STUDY_ROOT, *retrieval_contexts([(CT, IMPLICIT_VR_LITTLE_ENDIAN)])]
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(instances)) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        result = await association.c_get(IDENTIFIER_EXPLICIT, c_store=received)
    assert (result.completed, result.failed, result.failed_sop_instance_uids) == (2, 1, ("1.2.9",))


@pytest.mark.parametrize("kind", ["within a header", "a sequence without its end"])
async def test_what_is_amended_and_breaks_late_costs_only_itself(kind: str) -> None:
    """Its length is not known any more when it is re-encoded."""
    amendment = Amendment({0x00100020: ("LO", "P2")}, "20260102030405+0000", "asyncdicom")
    late = AmendedSource(BytesSource(CT, "1.2.9", EXPLICIT, LATE[kind]), amendment)
    received, good = Received(), AmendedSource(BytesSource(CT, "1.2.3", EXPLICIT, ending(b"")), amendment)
    async with (
        serve("SCP@127.0.0.1:0", services=[taking(received, IMPLICIT_VR_LITTLE_ENDIAN)]) as server,
        associate(address(server), contexts=storage_contexts([good])) as association,
    ):
        with pytest.raises(DataSetError, match="truncated"):
            await association.c_store(late)
        assert (await association.c_store(good)).status == 0
    assert list(received.data) == ["1.2.3"]
    assert b"P2" in received.data["1.2.3"]


class Counted(Sized):
    """It gives the same however often it is opened, and counts that."""

    is_repeatable = True
    opened = 0

    async def open(self) -> Any:
        self.opened += 1
        async for batch in super().open():
            yield batch


@pytest.mark.parametrize(
    ("data", "times"),
    [
        (data_set("1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, LONG), 1),  # its last value shows that it is whole
        (data_set("1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, 10), 1),
        (ending(pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + b"abcd"), 2),
        (ending(pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, LONG) + bytes(LONG)), 2),
    ],
)
async def test_a_long_one_is_looked_at_only_as_far_as_it_may_be_wrong(data: bytes, times: int) -> None:
    source = Counted(BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, data))
    batches = [b async for b in ReencodedSource(source, IMPLICIT_VR_LITTLE_ENDIAN).open()]
    assert b"".join(part for batch in batches for part in batch) == reencode(
        data, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
    )
    assert source.opened == times


async def test_what_can_be_read_once_and_breaks_in_the_middle_of_a_message_aborts() -> None:
    """A message that was begun cannot be taken back, and half an image must not look whole."""
    source = Sized(broken("1.2.3", 3_000_000, 3_000_002), tells=False)
    async with serve("SCP@127.0.0.1:0", services=[taking(Received(), IMPLICIT_VR_LITTLE_ENDIAN)]) as server:
        association = await associate(address(server), contexts=storage_contexts([source]))
        with pytest.raises(AssociationAborted, match=r"in the middle of a message: .* truncated"):
            await association.c_store(source)


async def test_a_retrieval_goes_on_after_a_broken_instance() -> None:
    received, instances = Received(), [sources(10)[1], broken("1.2.9", 10, 20), sources(10)[3]]
    contexts: list[Proposable] = [STUDY_ROOT, *retrieval_contexts([(CT, IMPLICIT_VR_LITTLE_ENDIAN)])]
    async with (
        serve("SCP@127.0.0.1:0", c_get=giving(instances)) as server,
        associate(address(server), contexts=contexts) as association,
    ):
        result = await association.c_get(IDENTIFIER_EXPLICIT, c_store=received)
    assert (result.completed, result.failed, result.failed_sop_instance_uids) == (2, 1, ("1.2.9",))


async def test_what_could_not_be_swapped_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = encode([(0x00091001, "UN", b"\1\2"), (0x00100010, "PN", b"A^B")], EXPLICIT_VR_BIG_ENDIAN)
    source = BytesSource(CT, "1.2.3", EXPLICIT_VR_BIG_ENDIAN, data)
    with caplog.at_level(logging.WARNING, "asyncdicom"):
        batches = [b async for b in ReencodedSource(source, EXPLICIT_VR_LITTLE_ENDIAN).open()]
    assert b"".join(part for batch in batches for part in batch) == reencode(
        data, EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN
    )
    [line] = [record.getMessage() for record in caplog.records]
    assert "1.2.3 was re-encoded" in line
    assert "1 big endian value" in line
    assert "A^B" not in line


async def test_long_headers_give_others_a_turn() -> None:
    elements = [(0x00100000 + n, "LO", b"") for n in range(1, 20001)]
    source = BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, encode(elements, EXPLICIT_VR_LITTLE_ENDIAN))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    async for _ in ReencodedSource(source, IMPLICIT_VR_LITTLE_ENDIAN).open():
        pass
    counting.cancel()
    assert turns >= 20000 // 600
