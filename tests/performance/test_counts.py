"""Calls for each PDU and each message, and what a message takes of the event loop: counted, not timed."""

from __future__ import annotations

import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from helpers.peer import CT, STUDY_CONTEXTS, instance
from performance.ceilings import CALLS, MESSAGES, Work

from asyncdicom import (
    VERIFICATION,
    Association,
    Proposable,
    Request,
    associate,
    file_source,
    serve,
)
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.dimse.fragmenter import Fragmenter
from asyncdicom.net.disk import Disk
from asyncdicom.net.performer import Performer
from asyncdicom.ul.decoder import Decoder
from asyncdicom.ul.encoder import p_data_header

MATCH = bytes.fromhex("0800520006000000") + b"IMAGE "


@contextmanager
def counting() -> Iterator[list[str]]:
    """Gives a list that has an entry for each call of a function, Python's or C's, made within."""
    calls: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(event)

    gc.disable()  # others may have asked to be called at each collection
    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        gc.enable()


def count_calls(work: Callable[[], object]) -> int:
    with counting() as calls:
        work()
    return len(calls)


# PDUs, without any IO


def decode(pdus: int) -> int:
    data = memoryview((p_data_header(1, False, False, 1000) + bytes(1000)) * pdus)
    decoder = Decoder(16384)
    return count_calls(lambda: decoder.feed(data))


def encode(pdus: int) -> int:
    data = memoryview(bytes(1000 * pdus))
    return count_calls(lambda: Fragmenter(1, 1006).data([data], final=False))


def walk_elements(count: int) -> int:
    data = memoryview(b"".join(element(0x00190010 + n, b"LO", b"abcd") for n in range(count)))
    scanner = Scanner("1.2.840.10008.1.2.1", frozenset([0x00080018]), whole=True)
    return count_calls(lambda: (scanner.feed(data), scanner.finish()))


def walk_pixels(count: int) -> int:
    size, piece = count << 18, memoryview(bytes(1 << 18))
    head = pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size)
    scanner = Scanner("1.2.840.10008.1.2.1", frozenset([0x00080018]), whole=True)
    scanner.feed(memoryview(head))

    def walk() -> None:
        for _ in range(count):
            scanner.feed(piece)
        scanner.finish()

    return count_calls(walk)


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


WORK = {
    "a PDU decoded": decode,
    "a PDU encoded": encode,
    "an element walked": walk_elements,
    "a piece of Pixel Data walked": walk_pixels,
}


@pytest.mark.parametrize(("what", "work"), WORK.items())
def test_calls_for_each_pdu(what: str, work: Callable[[int], int]) -> None:
    each = (work(300) - work(100)) / 200
    print(f"{what}: {each}")
    assert 0 < each <= CALLS[what]


# messages, both sides on one loop


class CountingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, which counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = dict.fromkeys(("tasks", "futures", "handles", "timers", "wake_ups"), 0)

    def create_task(self, *args: Any, **kwargs: Any) -> Any:
        self.counted["tasks"] += 1
        return super().create_task(*args, **kwargs)

    def create_future(self) -> Any:
        self.counted["futures"] += 1
        return super().create_future()

    def call_at(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self.counted["timers"] += 1
        return super().call_at(*args, **kwargs)

    def _add_callback(self, handle: Any) -> None:  # what a socket that is ready puts into the queue
        self.counted["handles"] += 1
        super()._add_callback(handle)  # type: ignore[misc]

    def call_soon(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self.counted["handles"] += 1
        return super().call_soon(*args, **kwargs)

    def _run_once(self) -> None:
        self.counted["wake_ups"] += 1
        super()._run_once()  # type: ignore[misc]


async def echo(association: Association, count: int, folder: Path) -> None:
    for _ in range(count):
        await association.c_echo()


async def find(association: Association, count: int, folder: Path) -> None:
    found = 0
    async with association.c_find(b"%08d" % count, raw=True) as matches:
        async for _ in matches:
            found += 1
    assert found == count


async def store(association: Association, count: int, folder: Path) -> None:
    source = file_source(folder / "to-send.dcm")
    for _ in range(count):
        assert (await association.c_store(source)).status == 0


def measure(work: Callable[[Association, int, Path], Awaitable[None]], folder: Path) -> Work:
    """What one more message takes."""

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        for _ in range(int(await request.data.read())):
            yield MATCH

    async def on_store(request: Request) -> int:
        await request.data.save(folder / "received.dcm")
        return 0

    source = instance(39 * 1024)
    meta = encode_file_meta(CT, source.sop_instance_uid, source.transfer_syntax_uid)
    (folder / "to-send.dcm").write_bytes(meta + source.data)
    contexts: list[Proposable] = [*STUDY_CONTEXTS, CT, VERIFICATION]

    async def run(loop: CountingLoop, little: int, much: int) -> Work:
        async with (
            serve("SCP@127.0.0.1:0", c_find=on_find, c_store=on_store) as server,
            associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association,
        ):
            results = []
            for count in (little, little, much):
                before = dict(loop.counted)
                calls = await counted(partial(work, association, count, folder))
                results.append(
                    {"calls": calls} | {key: loop.counted[key] - before[key] for key in loop.counted}
                )
        return Work(*((results[2][key] - results[1][key]) / (much - little) for key in Work._fields))

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run(loop, 20, 120))


async def counted(work: Callable[[], Awaitable[None]]) -> int:
    with counting() as calls:
        await work()
    return len(calls)


@pytest.mark.parametrize(
    ("what", "work"), [("a C-ECHO", echo), ("a match", find), ("a C-STORE of 39 KiB", store)]
)
def test_what_a_message_takes(
    what: str,
    work: Callable[[Association, int, Path], Awaitable[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncdicom.net.disk._SLOW", math.inf)  # a busy machine must not change the way,
    monkeypatch.setattr("asyncdicom.net.sources._read", Disk())  # nor must what ran before
    monkeypatch.setattr("asyncdicom.net.part_file._written", Disk())
    found, ceiling = measure(work, tmp_path), MESSAGES[what]
    print(f"{what}: {found}")
    too_much = [key for key in Work._fields if getattr(found, key) > getattr(ceiling, key)]
    assert not too_much, f"{found} where at most {ceiling} is allowed"
    assert found.calls > 0


def test_a_task_more_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Performer, "_answer_at_once", lambda *_: False)
    assert measure(echo, tmp_path).tasks > MESSAGES["a C-ECHO"].tasks
