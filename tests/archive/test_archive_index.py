"""The border of the index: what one group is committed as, and how it fails."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import asyncdicom.archive.index as index_package
from asyncdicom.address import Address
from asyncdicom.archive import ArchiveError, FileCalls
from asyncdicom.archive.index.base import (
    Changes,
    Existing,
    FileEntry,
    Healing,
    IndexFailed,
    Insertion,
    RowFailed,
    Uncertain,
    aside,
)
from asyncdicom.archive.index.peers import Learned, note_learned, read_learned
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.sqlite import FILE, Index
from asyncdicom.archive.index.writer import Writer
from asyncdicom.data.elements import Element


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(str(tmp_path), durability="none", readers=1, calls=FileCalls())
    yield opened
    opened.close()


@pytest.fixture
def writer(index: Index) -> Iterator[Writer]:
    opened = index.writer()
    yield opened
    opened.close()


def insertion(uid: str, series: str = "1.2.1", instead_of: Existing | None = None) -> Insertion:
    values = {0x00080016: "1.2.840", 0x00080018: uid, 0x0020000D: "1.2", 0x0020000E: series, 0x00100020: "P"}
    elements = {tag: Element(tag, "UI", value.encode()) for tag, value in values.items()}
    entry = FileEntry("1.2.840.10008.1.2.1", f"ab/cd/{uid}.dcm", 400, 10, f"digest of {uid}", 0, "SCU")
    return Insertion(Record(elements, little_endian=True), entry, instead_of)


def commit(writer: Writer, *changes: Insertion) -> list[str]:
    def decide(group: Sequence[Insertion]) -> tuple[list[str], Changes]:
        return [each.record.sop_instance_uid for each in group], Changes(list(group))

    return writer.commit(changes, decide)


def tree(root: Path) -> list[tuple[str, str]]:
    """Series and instance of all that a query can find."""
    connection = sqlite3.connect(root / FILE)
    found = connection.execute(
        "SELECT series_instance_uid, sop_instance_uid "
        "FROM instance JOIN series ON series.id = instance.parent "
        "JOIN study ON study.id = series.parent JOIN patient ON patient.id = study.parent ORDER BY 1, 2"
    ).fetchall()
    connection.close()
    return found


def found(writer: Writer, uid: str) -> Existing:
    existing = writer.find(uid)
    assert existing is not None
    return existing


def test_a_group_is_one_commit_with_an_answer_for_each(tmp_path: Path, writer: Writer) -> None:
    assert commit(writer, insertion("1.2.9"), insertion("1.2.8", "1.2.0")) == ["1.2.9", "1.2.8"]
    assert tree(tmp_path) == [("1.2.0", "1.2.8"), ("1.2.1", "1.2.9")]
    assert found(writer, "1.2.9").entry == insertion("1.2.9").entry


@pytest.mark.parametrize("order", [1, -1])
def test_what_comes_beside_a_replacement_keeps_its_series(tmp_path: Path, writer: Writer, order: int) -> None:
    """The only instance of a series is replaced while another of that series is stored in the same group."""
    commit(writer, insertion("1.2.7", "1.2.1"), insertion("1.2.6", "1.2.5"))
    both = [insertion("1.2.8", "1.2.1"), insertion("1.2.7", "1.2.4", found(writer, "1.2.7"))]
    commit(writer, *both[::order])
    assert tree(tmp_path) == [("1.2.1", "1.2.8"), ("1.2.4", "1.2.7"), ("1.2.5", "1.2.6")]


def test_a_row_of_quarantine_says_the_same_as_that_of_the_instance(index: Index, writer: Writer) -> None:
    commit(writer, insertion("1.2.7"))
    existing = found(writer, "1.2.7")
    writer.change(lambda writer: writer.apply(Changes([], [aside(existing, "aside.dcm", "why")])))
    [row] = index.quarantine.page()
    assert (row.file, row.reason, row.received) == ("aside.dcm", "why", existing.received)
    assert writer.quarantine_usage() == (1, 10)
    again = writer.find_quarantined("1.2.7", existing.digest)
    assert again is not None
    assert again.is_quarantined
    assert again.entry == existing.entry._replace(file="aside.dcm")


def test_a_row_gets_another_file(writer: Writer) -> None:
    commit(writer, insertion("1.2.7"))
    entry = insertion("1.2.7").entry._replace(file="new.dcm", data_set_offset=500)
    writer.change(lambda writer: writer.apply(Changes(healed=[Healing(found(writer, "1.2.7"), entry)])))
    assert found(writer, "1.2.7").entry == entry


class Failing:
    """A cursor that fails at some statements."""

    def __init__(self, cursor: Any, at: str, error: Exception) -> None:
        self._cursor = cursor
        self._at = at
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, *arguments: Any) -> Any:
        if self._at and sql.startswith(self._at):
            raise self._error
        return self._cursor.execute(sql, *arguments)


@pytest.mark.parametrize("at", ["BEGIN", "SELECT", "INSERT", "COMMIT"])
def test_errors_of_the_driver_do_not_leave_the_index(tmp_path: Path, writer: Writer, at: str) -> None:
    inside: Any = writer
    proper = inside._cursor
    inside._cursor = Failing(proper, at, sqlite3.OperationalError("disk I/O error"))
    for call in (
        lambda: commit(writer, insertion("1.2.7")),
        lambda: writer.change(lambda writer: writer.apply(Changes([insertion("1.2.7")]))),
    ):
        with pytest.raises(IndexFailed, match=r"^disk I/O error$") as caught:
            call()
        assert isinstance(caught.value, ArchiveError)
        assert not isinstance(caught.value, RowFailed)
        assert tree(tmp_path) == []
    inside._cursor = proper
    commit(writer, insertion("1.2.7"))
    assert len(tree(tmp_path)) == 1


def test_a_row_that_cannot_be_is_told_from_a_disk_that_is_full(tmp_path: Path, writer: Writer) -> None:
    commit(writer, insertion("1.2.7"))
    with pytest.raises(RowFailed, match="UNIQUE constraint failed"):
        commit(writer, insertion("1.2.8"), insertion("1.2.7"))
    assert tree(tmp_path) == [("1.2.1", "1.2.7")]


def test_a_commit_that_cannot_be_made_sure_of_is_uncertain(writer: Writer) -> None:
    inside: Any = writer
    proper = inside._cursor
    inside._cursor = Failing(
        Failing(proper, "COMMIT", sqlite3.OperationalError("disk I/O error")),
        "PRAGMA user_version",
        sqlite3.OperationalError("disk I/O error"),
    )
    with pytest.raises(Uncertain):
        commit(writer, insertion("1.2.7"))
    with pytest.raises(IndexFailed):  # it can be made again
        writer.change(lambda writer: writer.apply(Changes([insertion("1.2.7")])))


def test_what_reads_fails_in_the_same_way(tmp_path: Path, index: Index) -> None:
    with sqlite3.connect(tmp_path / FILE) as connection:
        for table in ("tombstone", "quarantine", "instance", "scrub"):
            connection.execute(f"DROP TABLE {table}")
    connection.close()
    for call in (
        index.identity,
        index.place,
        index.upkeep.counts,
        index.upkeep.folders,
        index.quarantine.page,
        index.quarantine.usage,
        index.quarantine.tombstones,
        lambda: index.upkeep.known("objects/ab/cd", ["1.dcm"]),
        lambda: index.upkeep.files_in("quarantine"),
        lambda: index.upkeep.file_rows("instance"),
        lambda: index.quarantine.named("12345678"),
        lambda: index.quarantine.buried(["1.dcm"]),
    ):
        with pytest.raises(IndexFailed, match="no such table"):
            call()


def test_no_index_can_be_made_of_something_else(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no index at all" * 100)
    with pytest.raises(IndexFailed, match="file is not a database"):
        Index(str(tmp_path), durability="none", readers=1, calls=FileCalls())


def test_what_inserts_many_rows_at_once_is_sql_whatever_else_it_says(writer: Writer) -> None:
    """Of every statement of the index: also of those that say what a conflict leads to."""
    for module in pkgutil.iter_modules(index_package.__path__):
        importlib.import_module(f"{index_package.__name__}.{module.name}")
    connection = writer._fairy.driver_connection
    told = 0
    for statement in [each for each in gc.get_objects() if isinstance(each, Prepared)]:
        for sql in statement.together.values():
            told += len(connection.execute(f"EXPLAIN {sql}", (None,) * sql.count("?")).fetchall()) > 0
    assert told >= 2 * 5


@pytest.mark.parametrize("number", [1, 3, 4, 5, 16, 20, 37])
def test_so_many_are_noted_at_once(index: Index, writer: Writer, number: int) -> None:
    learned = [Learned("window", Address(f"AE{n}", "host", 104), 9e9) for n in range(number)]
    for _ in range(2):  # the second time they are there
        writer.change(lambda writer: note_learned(writer, learned, 1.0))
    assert len(read_learned(index._engine, 2.0)) == number
