"""The index in SQLite is opened: its settings, its schema, and which archive it belongs to."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
)

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.migrations import STEPS, migrate
from asyncdicom.archive.index.schema import METADATA, SCHEMA_VERSION, SPARSE_INDEXES
from asyncdicom.telemetry.log import Log

__all__ = ["SYNCHRONOUS", "is_damaged", "open_index"]

_LOG = Log("asyncdicom.archive")

SYNCHRONOUS = {"power": "FULL", "process": "NORMAL", "none": "OFF"}
"""SQLite's synchronous by durability; with WAL, NORMAL survives the process but not the power."""


_CACHED_STATEMENTS = 24
"""For each connection: all that the writer has; a prepared query is up to 100 KB."""


def open_index(path: str, *, durability: str, readers: int, calls: FileCalls | None = None) -> Engine:
    """Open the index, made on first use; one of an earlier version is brought to this one.

    Raises `ArchiveError` for one that a later version has made, and what SQLite or the disk say.
    """
    calls = calls if calls is not None else FileCalls()
    for name in (path, f"{path}-wal", f"{path}-shm"):  # SQLite gives those it makes the mode of the first
        calls.restrict(name, make=name == path)
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
            _check_schema(connection, path, calls)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_schema(connection: Connection, path: str, calls: FileCalls) -> None:
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise ArchiveError(f"the index has schema {version}, this version knows {SCHEMA_VERSION}: upgrade")
    if 0 < version < min(STEPS):
        raise ArchiveError(f"the index has schema {version}, from before the first release: use a new folder")
    if version in STEPS:
        driver: Any = connection.connection.driver_connection
        copy = migrate(driver, path, calls, version, SCHEMA_VERSION)
        _LOG.warning(
            "the index was brought from schema %d to %d; %s is what it was", version, SCHEMA_VERSION, copy
        )
    METADATA.create_all(connection)
    for index in SPARSE_INDEXES:
        index.create(connection, checkfirst=True)
    # Also if it is the same: this commit syncs what a killed process has left in the WAL. Its rows are
    # visible now, and a sender that tries again is told that the instance is here.
    connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")


def is_damaged(path: str, archive_id: Callable[[], str | None]) -> bool:
    """Tell whether the index at a path can be read by nobody, or is that of another archive.

    One that is not there, is busy, or cannot be read for now, is not damaged. ``archive_id`` gives that of
    the folder, if it has one; it is asked when the index can be read.
    """
    try:
        with closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return True
            wanted = archive_id()
            known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'archive'").fetchone()
            row = connection.execute("SELECT archive_id FROM archive").fetchone() if known else None
    except sqlite3.DatabaseError as error:
        return not isinstance(error, sqlite3.OperationalError) or not os.path.isfile(path)
    return wanted is not None and row is not None and row[0] != wanted
