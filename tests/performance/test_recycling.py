"""Blocks and file descriptors are used again, but never while somebody still sees or uses them.

ASYNCDICOM_LONG=1 receives 1 GiB instead of 256 MiB.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from helpers.peer import CT, eventually, instance

from asyncdicom import Association, Request, Source, associate, serve
from asyncdicom.exceptions import AssociationError
from asyncdicom.net.disk import Batch, Disk
from asyncdicom.net.threads import file_threads
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

MIB = 1 << 20
MUCH = (1024 if os.environ.get("ASYNCDICOM_LONG") else 256) * MIB


class Flood(Source):
    """An instance of which every byte is FFH."""

    sop_class_uid, sop_instance_uid, transfer_syntax_uid = CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN

    def __init__(self, size: int) -> None:
        self._size = size

    async def open(self) -> AsyncGenerator[Batch, None]:
        block = b"\xff" * MIB
        for _ in range(self._size // MIB):
            yield [block]


async def keep_and_receive(much: int) -> int:
    """Keep views of some instances, receive much more, and give how many of them have changed."""
    kept: list[tuple[memoryview, bytes]] = []

    async def on_store(request: Request) -> int:
        async for batch in request.data.batches():
            if request.affected_sop_instance_uid != Flood.sop_instance_uid:
                kept.extend((view, bytes(view)) for view in (batch[0], batch[-1]))
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        for size in (100, 5_000, 39_000, 300_000, 3_000_000):
            await association.c_store(instance(size))
            await association.c_store(Flood(3 * MIB))
        assert (await association.c_store(Flood(much))).status == 0
    return sum(view != content for view, content in kept)


async def test_a_kept_view_never_changes() -> None:
    """A recycled block would show one patient's bytes inside another's."""
    assert await keep_and_receive(MUCH) == 0


async def test_a_block_that_is_used_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncdicom.net.blocks._is_unseen", lambda block: True)
    assert await keep_and_receive(64 * MIB) > 0


class HeldBack:
    """`os.writev`, of which the first call waits in its thread until the block is left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._writev = os.writev
        monkeypatch.setattr(os, "writev", self)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.may_go_on.set()

    def __call__(self, file: int, buffers: Any) -> int:
        if self.begun.is_set():
            return self._writev(file, buffers)
        self.begun.set()
        self.may_go_on.wait()
        try:
            return self._writev(file, buffers)
        finally:
            self.ended.set()


async def files_hit_by_a_cancelled_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Abort a store while its thread writes, open other files meanwhile, and give how many of them change."""
    slow = Disk()
    slow._quick_from = math.inf  # all its calls are made in threads
    monkeypatch.setattr("asyncdicom.net.part_file._written", slow)
    write = HeldBack(monkeypatch)

    receiving: list[Association] = []

    async def on_store(request: Request) -> int:
        receiving.append(request.association)
        await request.data.save(folder / "doomed.dcm")
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        doomed = await associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT])
        # Two pieces to be written, and little enough for the A-ABORT behind them to be read.
        storing = asyncio.create_task(doomed.c_store(instance(600_000)))
        with write:
            await eventually(write.begun.is_set)
            await doomed.abort()
            with pytest.raises(AssociationError):
                await storing
            await eventually(lambda: not receiving[0].is_established)  # and its handler is cancelled
            for _ in range(30):  # whatever its end has asked the threads to do has been done
                await asyncio.wrap_future(file_threads().submit(lambda: None))
            names = [folder / f"{number}" for number in range(50)]
            files = [os.open(name, os.O_WRONLY | os.O_CREAT, 0o600) for name in names]
        await eventually(write.ended.is_set)
        hit = sum(os.fstat(file).st_size > 0 for file in files)
        for file, name in zip(files, names, strict=True):
            os.close(file)
            name.unlink()
        await eventually(lambda: not list(folder.iterdir()))
    return hit


async def test_a_cancelled_write_never_lands_in_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await files_hit_by_a_cancelled_write(tmp_path, monkeypatch) == 0


async def test_a_write_that_is_left_alone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def careless(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.wrap_future(executor.submit(function, *arguments))

    monkeypatch.setattr("asyncdicom.net.disk.in_thread", careless)
    assert await files_hit_by_a_cancelled_write(tmp_path, monkeypatch) == 1
