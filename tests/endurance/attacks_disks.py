"""Attacks by disks: one without room, one that does not answer any more."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from endurance.attack import PATIENCE, Attack, Counts
from endurance.attacks_kept import Served, given, image, images, send, served

from asyncdicom import DicomNetworkError
from asyncdicom.archive import FileCalls
from asyncdicom.archive.maintenance import verify


class FullDisk(FileCalls):
    """A disk that has room for so many bytes of instances, and tells nobody before."""

    left = 1 << 30

    def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
        for view in views:
            fits = memoryview(view)[: max(self.left, 0)]
            super().write(descriptor, [fits])
            self.left -= len(fits)
            if len(fits) < len(view):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def no_free_space(folder: Path) -> Counts:
    """The disk is full in the middle of an instance; somebody makes room; it is full again."""
    disk = FullDisk()
    kept: dict[str, bytes] = {}
    unanswered = refused = 0
    async with served(folder, files=disk) as node:
        for turn in range(3):
            disk.left = 1000  # enough for one and a half
            some = images(10 * turn + 1, 10 * turn + 6)
            for (uid, data), status in zip(some.items(), await send(node, some), strict=True):
                unanswered += status == -1
                if status == 0:
                    kept[uid] = data
            assert disk.left <= 0  # it was full
            disk.left = 1 << 20
            more = images(10 * turn + 7, 10 * turn + 7)
            refused += (await send(node, more)).count(0) != 1
            kept |= more
        back = await given(node)
    return {
        "acknowledged and lost": sum(back.get(uid) != data for uid, data in kept.items()),
        "stores without an answer": unanswered,
        "refused with room": refused,
        "files without a row": len(list(folder.rglob("*.dcm"))) - len(kept),
        "not as their row says": sum(not each.is_sound for each in verify(str(folder))),
    }


class HangingDisk(FileCalls):
    """A disk that does not answer who writes some instances, until it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.hanging = 0

    def write(self, descriptor: int, views: Sequence[bytes | memoryview]) -> None:
        if any(b"HANGS" in bytes(view) for view in views):
            self.hanging += 1
            self.answers.wait(10 * PATIENCE)
        super().write(descriptor, views)


async def disk_that_hangs(folder: Path) -> Counts:
    """Whoever stores one of 4 instances, waits for the disk. Others ask, find, get and store meanwhile."""
    disk = HangingDisk()
    async with served(folder, files=disk) as node:
        await node.keep(images(1, 8))
        slow = dict(image(number, x00100020=b"HANGS ") for number in range(20, 24))
        storing = [asyncio.ensure_future(send(node, {uid: data}, 9 * PATIENCE)) for uid, data in slow.items()]
        try:
            async with asyncio.timeout(4 * PATIENCE):
                while disk.hanging < 2:  # all who write small ones in groups; the others wait behind these
                    await asyncio.sleep(0.02)
            unserved = await asyncio.gather(*(is_unserved(ask) for ask in neighbours(node)))
            assert not any(each.done() for each in storing)
        finally:
            disk.answers.set()
        statuses = [status for [status] in await asyncio.gather(*storing)]
    return {"neighbours not served": sum(unserved), "slow ones not kept": len(statuses) - statuses.count(0)}


def neighbours(node: Served) -> list[Callable[[], Any]]:
    async def echo() -> bool:
        async with node.associate() as association:
            return (await association.c_echo()).status.is_success

    async def find() -> bool:
        return len(await node.found()) >= 8

    async def get() -> bool:
        return len(await given(node)) >= 8

    async def store() -> bool:
        return await send(node, dict([image(100)])) == [0]

    return [echo, find, get, store]


async def is_unserved(ask: Callable[[], Any]) -> bool:
    with suppress(TimeoutError, DicomNetworkError):
        async with asyncio.timeout(PATIENCE):
            return not await ask()
    return True


ATTACKS = (
    Attack("no free space", "the disk is full within an instance, three times; room is made between",
           no_free_space,
           {"acknowledged and lost": 0, "stores without an answer": 0, "refused with room": 0,
            "files without a row": 0, "not as their row says": 0}),
    Attack("disk that hangs", "4 C-STOREs whose files cannot be written; others ask, find, get and store",
           disk_that_hangs, {"neighbours not served": 0, "slow ones not kept": 0}),
)  # fmt: skip
