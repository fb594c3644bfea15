"""The scrub: what it finds, that it goes on where it was, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive
from asyncdicom.archive.index.place import Place, write_place
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.archive.scrub import Scrub


def scrub(archive: Archive) -> Scrub:
    """A scrub that begins at once; that of the archive itself waits a minute."""
    parts: Any = archive
    return Scrub(parts._blobs, parts._index, parts._ingest, rate=1 << 30, first=0.0)


async def once_round(archive: Archive) -> Place:
    one = scrub(archive)
    one.start()
    while not one.rounds:
        await asyncio.sleep(0)
    await asyncio.to_thread(one.close)
    parts: Any = archive
    place: Place = parts._index.place()
    return place


async def test_it_tells_and_counts_what_is_bad(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        for number in range(5):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.0", Rows="x")) == 0xB007
        place = await once_round(archive)
        assert (place.last_missing, place.last_damaged) == (0, 0)
        first, second, *_ = tools.files_below(tmp_path / "objects")
        (aside,) = tools.files_below(tmp_path / "quarantine")
        first.unlink()
        for path in (second, aside):
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        parts: Any = archive
        parts._ingest.change(lambda writer: write_place(writer, Place()))
        place = await once_round(archive)
        assert (place.last_missing, place.last_damaged) == (1, 2)
        assert caplog.text.count("put it back from a copy") == 3
        assert "1 files are missing, 2 damaged" in caplog.text
        stat = await archive.read(archive.care.stat)
        assert (stat["missing"], stat["damaged"]) == (1, 2)


async def test_it_goes_on_where_it_was_and_waits_a_day(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none", scrub=0) as archive:
        for number in range(5):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000
        parts: Any = archive
        place = Place(name="instance", after=3, damaged=7)
        parts._ingest.change(lambda writer: write_place(writer, place))
        looked: list[int] = []

        class Watched(Reader):
            def file_rows(self, name: str, after: int = 0) -> Any:
                rows = super().file_rows(name, after)
                looked.extend(row.id for row in rows)
                return rows

        parts._index.upkeep = Watched(parts._index._engine)
        one = scrub(archive)
        assert one._go_round() == 0
        assert looked == [4, 5]
        assert parts._index.place().last_damaged == 7
        assert 86_000 < one._go_round() <= 86_400
        assert looked == [4, 5]


@pytest.mark.parametrize("rate", [0, 1])
async def test_the_end_of_the_archive_does_not_wait_for_it(tmp_path: Path, tools: Any, rate: int) -> None:
    async with Archive(tmp_path, durability="none", scrub=rate) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        running = [t for t in threading.enumerate() if t.name == "asyncdicom-scrub"]
        assert len(running) == rate
        if rate:
            one = scrub(archive)
            one._wait._rate = 1
            one.start()
            while one._place.name != "instance":
                await asyncio.sleep(0)
            await asyncio.to_thread(one.close)
    assert [t for t in threading.enumerate() if t.name == "asyncdicom-scrub"] == []
