"""Studies that are stable: nothing has come for a while; late ones arm them again, and a restart keeps it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from sqlalchemy import select

from asyncdicom import BytesSource
from asyncdicom.archive import Archive, Outcome, StableStudy
from asyncdicom.archive.index.schema import stability
from asyncdicom.archive.index.stability import Arrived, Mark, write_told
from asyncdicom.archive.stability import Quiet
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"


def at(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="milliseconds")


def come(quiet: Quiet, *instances: tuple[int, int, float], now: float = 1e9) -> None:
    quiet.arrived([Arrived(number, study, at(when)) for number, study, when in instances], {}, now)


# Quiet


def test_a_study_is_stable_when_nothing_has_come_for_it_for_long_enough() -> None:
    quiet = Quiet(60, Mark())
    come(quiet, (1, 7, 100.0), (2, 8, 110.0), (3, 7, 130.0))
    assert quiet.stable(169.9) == []
    assert quiet.stable(170.0) == [8]
    assert quiet.stable(190.0) == [8, 7]


def test_a_late_instance_arms_it_again() -> None:
    quiet = Quiet(60, Mark())
    come(quiet, (1, 7, 100.0))
    quiet.told(7)
    assert quiet.stable(999.0) == []
    come(quiet, (2, 7, 200.0))
    assert quiet.stable(259.0) == []
    assert quiet.stable(260.0) == [7]


def test_what_has_come_since_the_look_is_waited_for() -> None:
    quiet = Quiet(60, Mark())
    come(quiet, (1, 7, 100.0))
    assert not quiet.is_still(7, at(150.0), 160.0)
    assert quiet.stable(209.0) == []
    assert quiet.is_still(7, at(150.0), 210.0)


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    quiet = Quiet(60, Mark())
    come(quiet, (1, 7, 5000.0), now=100.0)
    assert quiet.stable(160.0) == [7]


def test_what_was_told_before_a_restart_is_known() -> None:
    quiet = Quiet(60, Mark(1, at(1.0)))
    told = {7: Mark(3, at(3.0))}
    quiet.arrived([Arrived(2, 8, at(2.0)), Arrived(3, 7, at(3.0)), Arrived(4, 9, at(4.0))], told, 100.0)
    assert quiet.stable(100.0) == [8, 9]
    quiet.arrived([Arrived(5, 7, at(50.0))], told, 100.0)
    assert quiet.stable(200.0) == [8, 9, 7]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=30))
def test_through_is_before_all_that_is_still_to_be_told(steps: list[tuple[int, bool]]) -> None:
    quiet, untold = Quiet(0.0, Mark()), dict[int, list[int]]()
    for number, (study, is_told) in enumerate(steps, 1):
        come(quiet, (number, study, float(number)))
        untold.setdefault(study, []).append(number)
        if is_told:
            quiet.told(study)
            untold.pop(study)
        left = [each for numbers in untold.values() for each in numbers]
        assert quiet.through.id == (min(left) - 1 if left else number)


# An archive


async def keep(archive: Archive, study: str, *numbers: int) -> None:
    for number in numbers:
        uids = {"SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": f"{study}.1.{number}"}
        stored = await archive.store(data_set_of(StudyInstanceUID=study, **uids))
        assert stored.is_here


def data_set_of(**uids: str) -> BytesSource:
    values = {"SOPClassUID": CT, **uids}
    elements = [(tag_for_keyword(keyword) or 0, "UI", uid.encode()) for keyword, uid in values.items()]
    data = encode(sorted([*elements, (0x00100020, "LO", b"P1")]), EXPLICIT_VR_LITTLE_ENDIAN)
    return BytesSource(CT, uids["SOPInstanceUID"], EXPLICIT_VR_LITTLE_ENDIAN, data)


async def begin(archive: Archive, name: str = "default") -> None:
    """What has come until now was told: so it is when a name asks for the first time."""
    mark = await archive.read(archive._index.stability.start, name)
    await archive.read(archive._ingest.change, lambda writer: write_told(writer, name, mark))


async def take(archive: Archive, count: int, name: str = "default") -> list[tuple[str, int]]:
    """Give the next studies; the last one does not count as given, since no more is asked for."""
    found = []
    async with aclosing(archive.stable_studies(quiet=0.001, name=name)) as studies:
        async for study in studies:
            assert study.patient_id == "P1"
            found.append((study.study_instance_uid, study.instances))
            if len(found) == count:
                break
    return found


async def test_each_study_is_given_and_the_last_one_again_after_a_restart(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        await begin(archive)
        await keep(archive, "1.1", 1, 2)
        await keep(archive, "1.2", 1)
        assert await take(archive, 2) == [("1.1", 2), ("1.2", 1)]
    async with Archive(tmp_path, durability="none") as archive:
        await keep(archive, "1.3", 1)
        assert await take(archive, 2) == [("1.2", 1), ("1.3", 1)]
        await keep(archive, "1.1", 3)  # late: it is given again
        assert await take(archive, 2) == [("1.3", 1), ("1.1", 3)]


async def test_each_name_is_given_all_that_comes_after_it_asked_first(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        await begin(archive, "early")
        await keep(archive, "1.1", 1)
        await begin(archive, "late")
        await keep(archive, "1.2", 1)
        assert await take(archive, 1, "late") == [("1.2", 1)]
        assert await take(archive, 2, "early") == [("1.1", 1), ("1.2", 1)]


async def test_a_row_whose_number_is_given_again_is_not_missed(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none", on_conflict="replace") as archive:
        await begin(archive)
        await keep(archive, "1.1", 1)
        await keep(archive, "1.2", 1)
        assert await take(archive, 2) == [("1.1", 1), ("1.2", 1)]
        await keep(archive, "1.3", 1)
        assert await take(archive, 2) == [("1.2", 1), ("1.3", 1)]
        other = data_set_of(StudyInstanceUID="1.4", SeriesInstanceUID="1.4.1", SOPInstanceUID="1.3.1.1")
        stored = await archive.store(other)  # the last row goes, and its number is that of the new one
        assert stored.outcome is Outcome.REPLACED
        assert await take(archive, 1) == [("1.4", 1)]


async def test_a_study_that_is_gone_is_not_given(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none", on_conflict="replace") as archive:
        await begin(archive)
        await keep(archive, "1.1", 1)
        reader = archive._index.stability
        [arrived] = reader.arrived(Mark())
        other = data_set_of(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SOPInstanceUID="1.1.1.1")
        await archive.store(other)
        # SQLite gives its number to the other one.
        assert None in (reader.state(arrived.study), reader.state(arrived.study + 1))
        assert await take(archive, 1) == [("1.2", 1)]


async def test_a_name_is_for_one_at_a_time(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        await begin(archive)
        await keep(archive, "1.1", 1)
        async with aclosing(archive.stable_studies(quiet=0.001)) as studies:
            assert (await anext(studies)).study_instance_uid == "1.1"
            with pytest.raises(ValueError, match="already"):
                await take(archive, 1)
        assert await take(archive, 1) == [("1.1", 1)]
        with pytest.raises(ValueError, match="above 0"):
            await anext(archive.stable_studies(quiet=0.0))


async def test_it_ends_when_the_archive_is_closed(tmp_path: Path) -> None:
    async def watch() -> list[StableStudy]:
        return [study async for study in archive.stable_studies(quiet=0.001)]

    async with Archive(tmp_path, durability="none") as archive:
        watching = asyncio.ensure_future(watch())
        await begin(archive)
    assert await watching == []


async def test_what_was_told_does_not_grow(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        await begin(archive)
        for number in range(5):
            await keep(archive, f"1.{number}", 1)
        await take(archive, 5)
        with archive._index._engine.connect() as connection:
            rows = connection.execute(select(stability.c.study)).all()
    assert rows == [(0,)]  # all before the last one was told: one row says so


@pytest.mark.parametrize("number", [0, 3, 4, 16, 37])
async def test_a_name_is_told_of_so_many_studies_at_once(archive: Archive, number: int) -> None:
    told = [(study, Mark(study, "2026-01-01")) for study in range(1, number + 1)]
    for _ in range(2):  # the second time they are there
        await archive.read(
            archive._ingest.change, lambda writer: write_told(writer, "AI", Mark(0, "2025-01-01"), told)
        )
