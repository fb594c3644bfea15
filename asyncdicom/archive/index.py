"""The index in SQLite: opening it, looking at it as a whole, writing to it.

Statements are SQLAlchemy Core. The writer's are compiled once and then go straight to the driver: building
them anew for every instance would cost more than SQLite takes to run them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    URL,
    ClauseElement,
    Connection,
    Engine,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    exists,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import sqlite

from asyncdicom.archive.record import Identity, Record
from asyncdicom.archive.schema import (
    METADATA,
    SCHEMA_VERSION,
    SPARSE_INDEXES,
    instance,
    patient,
    quarantine,
    series,
    study,
)
from asyncdicom.exceptions import DicomNetworkError

__all__ = ["ArchiveError", "Existing", "Prepared", "Reader", "Writer", "open_index"]

SYNCHRONOUS = {"power": "FULL", "process": "NORMAL", "none": "OFF"}
"""SQLite's synchronous by durability; with WAL, NORMAL survives the process but not the power."""


class ArchiveError(DicomNetworkError):
    """The archive's folder cannot be used: what is wrong and what to do, in one line."""


_CACHED_STATEMENTS = 24
"""For each connection: all that the writer has; a prepared query is up to 100 KB."""


def open_index(path: str, *, durability: str, readers: int) -> Engine:
    """Open the index, made on first use. Raises `ArchiveError` for one that a later version has made."""
    # hide_parameters: what was asked for or stored must not get into a log with an error message
    engine = create_engine(
        URL.create("sqlite", database=path),
        pool_size=readers + 1,
        max_overflow=1,
        hide_parameters=True,
        connect_args={"cached_statements": _CACHED_STATEMENTS},
        query_cache_size=0,  # what is compiled is kept where it is used: this cache knows no bytes
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves; a SELECT alone is its own transaction
        for pragma in (
            "journal_mode = WAL",
            f"synchronous = {SYNCHRONOUS[durability]}",
            "busy_timeout = 5000",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    try:
        with engine.connect() as connection:
            _check_schema(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_schema(connection: Connection) -> None:
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise ArchiveError(f"the index has schema {version}, this version knows {SCHEMA_VERSION}: upgrade")
    if 0 < version < SCHEMA_VERSION:
        raise ArchiveError(f"the index has schema {version}, from before the first release: use a new folder")
    METADATA.create_all(connection)
    for index in SPARSE_INDEXES:
        index.create(connection, checkfirst=True)
    # Also if it is the same: this commit syncs what a killed process has left in the WAL. Its rows are
    # visible now, and a sender that tries again is told that the instance is here.
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


# reading


class Reader:
    """Looks at the index as a whole. Every method is one short transaction, for a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def files_in(self, folder: str) -> set[str]:
        """Give the names of the indexed files in ``quarantine``, or in one folder ``objects/ab/cd``."""
        _, _, below = folder.partition("/")
        file = instance.c.file
        names = select(func.substr(file, len(below) + 2)).where(file > f"{below}/", file < f"{below}0")
        with self._engine.connect() as connection:
            return set(connection.scalars(names if below else select(quarantine.c.file)))

    def counts(self) -> dict[str, int]:
        """Count the rows of every table."""
        with self._engine.connect() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (patient, study, series, instance, quarantine)
            }

    def damage(self, is_enough: Callable[[], bool]) -> str:
        """Look through all pages of the index, and tell the first thing that is wrong; empty if it is sound.

        Takes seconds for a million instances. Raises an ``SQLAlchemyError`` when ``is_enough()``.
        """
        with self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(is_enough, 100_000)
            try:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            finally:
                driver.set_progress_handler(None, 0)
        return "" if found == "ok" else " ".join(found.split())


# writing


class Prepared:
    """A statement compiled once, with the order of its parameters."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled: Any = statement.compile(dialect=sqlite.dialect())
        self.sql = str(compiled)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._names = compiled.positiontup
        self._pick = operator.itemgetter(*self._names) if self._names else lambda row: ()

    def bind(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Give the values of the parameters in their order."""
        values = self._pick({**self._constants, **row} if self._constants else row)
        return (values,) if len(self._names) == 1 else values


def _insertion(table: Table) -> Prepared:
    return Prepared(insert(table).values({c.name: bindparam(c.name) for c in table.c if c.name != "id"}))


def _equal(table: Table, *names: str) -> list[Any]:
    return [table.c[name] == bindparam(name) for name in names]


_FIND_INSTANCE = Prepared(
    select(
        instance.c.id,
        instance.c.parent,
        instance.c.transfer_syntax_uid,
        instance.c.digest,
        instance.c.file,
    ).where(*_equal(instance, "sop_instance_uid"))
)
_FIND_QUARANTINED = Prepared(select(quarantine.c.id).where(*_equal(quarantine, "sop_instance_uid", "digest")))
_FIND = {
    patient: Prepared(
        select(patient.c.id).where(*_equal(patient, "patient_id", "issuer_of_patient_id", "only_study"))
    ),
    study: Prepared(select(study.c.id).where(*_equal(study, "parent", "study_instance_uid"))),
    series: Prepared(select(series.c.id).where(*_equal(series, "parent", "series_instance_uid"))),
}
_INSERT = {table: _insertion(table) for table in (patient, study, series, instance, quarantine)}
_PARENT = {table: Prepared(select(table.c.parent).where(*_equal(table, "id"))) for table in (series, study)}
_DELETE_INSTANCE = Prepared(delete(instance).where(*_equal(instance, "id")))
_DELETE_IF_EMPTY = {
    table: Prepared(
        delete(table).where(*_equal(table, "id"), ~exists(select(1).where(below.c.parent == table.c.id)))
    )
    for table, below in ((series, instance), (study, series), (patient, study))
}


class Existing(NamedTuple):
    """What the index has for a SOP Instance UID."""

    id: int
    parent: int
    transfer_syntax_uid: str
    digest: str
    file: str


class Writer:
    """The one writer; all methods belong to its thread, between `begin` and `commit` or `roll_back`."""

    _REMEMBERED = 20_000

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fairy: Any = engine.raw_connection()
        self._cursor: Any = self._fairy.cursor()
        self._series: dict[Identity, int] = {}  # those that are committed
        self._new_series: dict[Identity, int] = {}
        self._now = ""

    def begin(self) -> None:
        """Begin a transaction."""
        self._cursor.execute("BEGIN IMMEDIATE")
        self._now = datetime.now(UTC).isoformat(timespec="milliseconds")

    def commit(self) -> None:
        """Make what was written since `begin` visible, and durable as far as promised."""
        self._cursor.execute("COMMIT")
        if len(self._series) > self._REMEMBERED:
            self._series.clear()
        self._series.update(self._new_series)
        self._new_series.clear()

    def roll_back(self) -> None:
        """Undo what was written since `begin`; never raises."""
        self._new_series.clear()
        try:
            if self._fairy.driver_connection.in_transaction:
                self._cursor.execute("ROLLBACK")
        except Exception:
            self._reopen()

    def _reopen(self) -> None:
        self._fairy.invalidate()
        self._fairy = self._engine.raw_connection()
        self._cursor = self._fairy.cursor()

    def overwrite_tail(self) -> None:
        """Commit a transaction without content, over whatever a failed COMMIT may have left in the WAL."""
        self._cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Give the connection back."""
        self._fairy.close()

    def find(self, sop_instance_uid: str) -> Existing | None:
        """Look an instance up."""
        row = self._cursor.execute(_FIND_INSTANCE.sql, (sop_instance_uid,)).fetchone()
        return None if row is None else Existing(*row)

    def is_quarantined(self, sop_instance_uid: str, digest: str) -> bool:
        """Tell whether the same bytes are in quarantine under the same UID."""
        return self._cursor.execute(_FIND_QUARANTINED.sql, (sop_instance_uid, digest)).fetchone() is not None

    def series_of(self, record: Record) -> int:
        """Give the id of the series of ``record``; rows that are not there yet are inserted."""
        identity = record.identity
        known = self._series.get(identity) or self._new_series.get(identity)
        if known is None:
            parent = self._row_id(patient, {"only_study": identity.only_study}, record, "PATIENT")
            parent = self._row_id(study, {"parent": parent}, record, "STUDY")
            known = self._row_id(series, {"parent": parent}, record, "SERIES")
            self._new_series[identity] = known
        return known

    def _row_id(self, table: Table, own: Mapping[str, Any], record: Record, level: str) -> int:
        key = _FIND[table].bind({**record.identity._asdict(), **own})
        row = self._cursor.execute(_FIND[table].sql, key).fetchone()
        if row is None:  # the first received values stay
            values = {**record.row(level), **own}
            self._cursor.execute(_INSERT[table].sql, _INSERT[table].bind(values))
            return int(self._cursor.lastrowid)
        return int(row[0])

    def insert_instances(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert instances; ``rows`` have every column but id and received."""
        self._insert_all(instance, rows)

    def insert_quarantined(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert rows about files in quarantine; they have every column but id and received."""
        self._insert_all(quarantine, rows)

    def _insert_all(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        bound = [_INSERT[table].bind({**row, "received": self._now}) for row in rows]
        if bound:
            self._cursor.executemany(_INSERT[table].sql, bound)

    def remove(self, existing: Existing) -> None:
        """Remove an instance, and series, study and patient if they are empty then."""
        self._cursor.execute(_DELETE_INSTANCE.sql, (existing.id,))
        row_id: int | None = existing.parent
        for table in (series, study, patient):
            parent = None
            if table is not patient:
                parent = self._cursor.execute(_PARENT[table].sql, (row_id,)).fetchone()[0]
            self._cursor.execute(_DELETE_IF_EMPTY[table].sql, (row_id,))
            if not self._cursor.rowcount:
                break
            row_id = parent
        self._series.clear()
        self._new_series.clear()
