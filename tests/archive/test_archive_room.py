"""The low-water mark of the archive's disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.blobs.room import MINIMUM_FREE, Room

GIB = 1 << 30


class Disk(FileCalls):
    def __init__(self, total: int = 1000 * GIB, free: int = 1000 * GIB) -> None:
        self.total, self.free = total, free

    def space(self, path: str) -> tuple[int, int]:
        return self.total, self.free


def has_room(room: Room) -> bool:
    try:
        room.check()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("minimum", "total", "limit"),
    [(None, 1000 * GIB, MINIMUM_FREE), (None, 20 * GIB, GIB), (12345, 20 * GIB, 12345)],
)
def test_it_stops_at_the_limit_and_goes_on_above_it(minimum: int | None, total: int, limit: int) -> None:
    disk = Disk(total)
    room = Room("/", disk, minimum)
    for free, expected in (
        (limit, True),
        (limit - 1, False),
        (limit, False),
        (limit * 7 // 5 - 1, False),
        (limit * 7 // 5, True),
        (limit, True),
    ):
        disk.free = free
        assert has_room(room) is expected, free


def test_it_can_be_switched_off() -> None:
    assert has_room(Room("/", Disk(GIB, 0), 0))


async def test_an_archive_refuses_and_goes_on(tmp_path: Path, tools: Any) -> None:
    disk = Disk()
    async with Archive(tmp_path, files=disk, minimum_free=GIB) as archive:
        disk.free = GIB - 1
        assert await tools.store(archive, tools.data_set()) == 0xA700
        assert not tools.files_below(tmp_path)
        disk.free = 2 * GIB
        assert await tools.store(archive, tools.data_set()) == 0x0000


async def test_the_disk_fills_while_an_object_arrives(tmp_path: Path, tools: Any) -> None:
    """It is not taken to its end: it may be large."""

    class Filling(Disk):
        def write(self, descriptor: int, views: Any) -> None:
            super().write(descriptor, views)
            self.free = 0

    async with Archive(tmp_path, files=Filling()) as archive:
        assert await tools.store(archive, tools.data_set(PixelData=bytes(1_000_000)), size=300_000) == 0xA700
        assert not tools.files_below(tmp_path)
