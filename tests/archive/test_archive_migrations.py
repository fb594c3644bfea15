"""An index of an earlier version is brought to this one, also by one who is killed on the way.

`archive_schema_2.txt` (SQL) and `archive_schema_2_files.txt` are what the version before the archive's ID has
written: two instances and one in quarantine. A file is its path and its bytes behind the preamble. Those of
schema 3 are from before files that end within an element were marked; one more of the quarantine was purged.
Those of schema 4 are the same, from before the outbox, those of schema 5 from before studies were put under
another patient, those of schema 6 from before instances were deleted.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, ArchiveError, FileCalls
from asyncdicom.archive.index.migrations import STEPS, migrate
from asyncdicom.archive.index.schema import SCHEMA_VERSION
from asyncdicom.archive.maintenance import verify
from asyncdicom.archive.operations import METHODS

DATA = Path(__file__).parents[1] / "data"


def of_schema(number: int, root: Path) -> Path:
    """Make the archive that an earlier version has left; gives its index."""
    for line in (DATA / f"archive_schema_{number}_files.txt").read_text().splitlines():
        name, content = line.split()
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + bytes.fromhex(content))
    index = root / "index.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        connection.executescript((DATA / f"archive_schema_{number}.txt").read_text())
        connection.execute(f"PRAGMA user_version = {number}")
    return index


def schema(index: Path) -> tuple[int, set[str]]:
    """The version of an index, and its tables and indexes with their columns."""
    with closing(sqlite3.connect(index)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        rows = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        found = {" ".join(row) for row in rows}
        for table in [name.removeprefix("table ") for name in found if name.startswith("table ")]:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            found.add(f"{table}: {sorted(column[1:6] for column in columns)}")
    return version, found


async def answers(root: Path, tools: Any) -> None:
    """It opens, has this version's schema, and answers with what the earlier version has stored."""
    async with Archive(root) as archive:
        assert (await archive.reindex()).told() == ""
        (match,) = await tools.find(archive, PatientName="")
        assert match["PatientName"] == "DOE^JOHN"
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1", "SOPInstanceUID": ""}
        found = await tools.find(archive, level="IMAGE", **keys)
        assert {each["SOPInstanceUID"] for each in found} == {"1.2.3.0", "1.2.3.1"}
        counts = await archive.counts()
        assert (counts["instance"], counts["quarantine"]) == (2, 1)
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.2")) == 0x0000
    assert [each for each in verify(str(root)) if not each.is_sound] == []


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
async def test_an_earlier_index_is_brought_up(tmp_path: Path, tools: Any, number: int) -> None:
    index = of_schema(number, tmp_path / "old")
    before = schema(index)
    await answers(tmp_path / "old", tools)
    async with Archive(tmp_path / "new"):
        pass
    assert schema(index) == schema(tmp_path / "new" / "index.sqlite")
    assert schema(index.with_name(f"index.sqlite.schema-{number}")) == before
    assert before[0] == number
    assert ("table archive" in before[1]) == (number > 2)


@pytest.mark.parametrize("without", ["", "tombstone", "scrub"])
async def test_what_was_in_quarantine_before_can_be_dealt_with(
    tmp_path: Path, tools: Any, without: str
) -> None:
    index = of_schema(3, tmp_path)
    with closing(sqlite3.connect(index)) as connection:
        if without:
            connection.execute(f"DROP TABLE {without}")
    async with Archive(tmp_path) as archive:
        for method in ("accept", "accept", "purge"):  # that one, then the other one, which is purged
            [listed, *_] = [line async for line in METHODS["quarantine list"](archive, {})]
            done = METHODS[f"quarantine {method}"](archive, {"names": [listed["name"]]})
            assert len([line async for line in done]) == 2
        counts = await archive.read(archive.care.stat)
        assert counts["purged"] == (1 if without == "tombstone" else 2)
        assert (counts["instance"], counts["quarantine"]) == (2, 0)
    with closing(sqlite3.connect(index)) as connection:
        for table in ("instance", "tombstone"):
            assert connection.execute(f"SELECT DISTINCT incomplete FROM {table}").fetchall() == [(0,)]


class Killed(Exception):
    """The process is dead: it makes no call any more."""


class Life:
    """So many calls, SQL and files together."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def call(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1


class Connection:
    """The driver's connection of one who is killed."""

    def __init__(self, connection: sqlite3.Connection, life: Life) -> None:
        self._connection = connection
        self._life = life

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def cursor(self) -> Any:
        return Cursor(self._connection.cursor(), self._life)


class Cursor:
    def __init__(self, cursor: sqlite3.Cursor, life: Life) -> None:
        self._cursor = cursor
        self._life = life

    def execute(self, *arguments: Any) -> Any:
        self._life.call()
        return self._cursor.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class Files(FileCalls):
    def __init__(self, life: Life) -> None:
        self._life = life

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            self._life.call()
        return super().__getattribute__(name)


async def test_killed_at_every_call(tmp_path: Path, tools: Any) -> None:
    versions = []
    for number in range(100):
        root = tmp_path / str(number)
        index = of_schema(2, root)
        life, is_done = Life(number), False
        with closing(sqlite3.connect(index, isolation_level=None)) as connection:
            dying: Any = Connection(connection, life)
            try:
                migrate(dying, str(index), Files(life), 2, SCHEMA_VERSION)
                is_done = True
            except Killed:
                pass
        versions.append(schema(index)[0])
        await answers(root, tools)
        if is_done:
            break
    assert is_done
    assert versions == sorted(versions)
    assert set(versions) == {2, SCHEMA_VERSION}


async def test_a_disk_that_is_full_changes_nothing(tmp_path: Path, tools: Any) -> None:
    class Full(FileCalls):
        def sync_data(self, descriptor: int) -> None:
            raise OSError(28, "No space left on device")

    index = of_schema(2, tmp_path)
    before = schema(index)
    with pytest.raises(ArchiveError, match="No space left"):
        await Archive(tmp_path, files=Full()).open()
    assert schema(index) == before
    await answers(tmp_path, tools)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 1])
async def test_another_schema_is_refused_in_one_line(tmp_path: Path, version: int) -> None:
    index = of_schema(2, tmp_path)
    with closing(sqlite3.connect(index)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = schema(index)
    with pytest.raises(ArchiveError) as refused:
        await Archive(tmp_path).open()
    assert "\n" not in str(refused.value)
    assert f"schema {version}" in str(refused.value)
    assert schema(index) == before


def test_the_steps_are_numbered_without_a_gap() -> None:
    assert sorted(STEPS) == list(range(2, SCHEMA_VERSION))
