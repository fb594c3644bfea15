"""An index of an earlier version is brought to this one, step by step.

First the whole index is copied (``index.sqlite.schema-2``), then all steps and the new number are one
transaction: whoever is killed on the way finds the old index or the new one, never a half.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

from asyncdicom.archive.file_calls import FileCalls

__all__ = ["STEPS", "copy_index", "migrate"]


def _to_3(cursor: Any) -> None:
    """The archive's ID and the number of its start."""
    cursor.execute(
        "CREATE TABLE archive (id INTEGER NOT NULL, archive_id TEXT NOT NULL, generation INTEGER NOT NULL, "
        "PRIMARY KEY (id))"
    )


def _to_4(cursor: Any) -> None:
    """Which files end within an element, unknown of those that are here; and a name that says more."""
    found = cursor.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for table in ("instance", "quarantine", "tombstone"):  # the last one is not in every index of schema 3
        if (table,) in found:
            cursor.execute(f"ALTER TABLE {table} ADD COLUMN incomplete INTEGER DEFAULT 0 NOT NULL")
    cursor.execute("ALTER TABLE patient RENAME COLUMN only_study TO told_apart")


def _to_5(cursor: Any) -> None:
    """Work that is owed to others. An earlier version would let it lie."""
    cursor.execute(
        "CREATE TABLE delivery (id INTEGER NOT NULL, kind TEXT NOT NULL, destination TEXT NOT NULL, "
        "instance INTEGER, revision INTEGER NOT NULL, order_key TEXT, payload TEXT, "
        "priority INTEGER NOT NULL, due FLOAT NOT NULL, attempts INTEGER NOT NULL, state INTEGER NOT NULL, "
        "leased_until FLOAT, status INTEGER, comment TEXT NOT NULL, first_error_at FLOAT, PRIMARY KEY (id))"
    )
    for name, columns, where in (
        ("once", "instance, kind, destination, revision", "instance IS NOT NULL"),
        ("ready", "destination, kind, priority", "state = 0"),
        ("waiting", "due", "state = 1"),
        ("leased", "leased_until", "state = 2"),
        ("failed", "destination, kind", "state = 3"),
        ("order", "destination, kind, order_key, state", "order_key IS NOT NULL"),
    ):
        unique = "UNIQUE " if name == "once" else ""
        cursor.execute(f"CREATE {unique}INDEX delivery_{name}_index ON delivery ({columns}) WHERE {where}")
    cursor.execute(
        "CREATE TABLE destination (name TEXT NOT NULL, paused INTEGER NOT NULL, PRIMARY KEY (name))"
    )


def _to_6(cursor: Any) -> None:
    """Studies that are under another patient. An earlier version would not tell a receiver."""
    cursor.execute(
        "CREATE TABLE reassignment (id INTEGER NOT NULL, name TEXT NOT NULL, "
        "study_instance_uid TEXT NOT NULL, "
        "patient_id TEXT NOT NULL, issuer_of_patient_id TEXT NOT NULL, told_apart TEXT NOT NULL, "
        "was TEXT NOT NULL, becomes TEXT NOT NULL, made TEXT NOT NULL, undone TEXT NOT NULL, "
        "PRIMARY KEY (id), UNIQUE (name))"
    )
    cursor.execute("ALTER TABLE instance ADD COLUMN reassigned INTEGER DEFAULT 0 NOT NULL")


def _to_7(cursor: Any) -> None:
    """Instances that were deleted. An earlier version would index a file of theirs that comes back."""
    cursor.execute(
        "CREATE TABLE deletion (id INTEGER NOT NULL, sop_instance_uid TEXT NOT NULL, "
        "sop_class_uid TEXT NOT NULL, study_instance_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, "
        "file TEXT NOT NULL, data_set_offset INTEGER NOT NULL, data_set_length INTEGER NOT NULL, "
        "digest TEXT NOT NULL, received TEXT NOT NULL, calling_ae_title TEXT NOT NULL, "
        "deleted TEXT NOT NULL, why TEXT NOT NULL, lifted TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (file))"
    )
    cursor.execute("CREATE INDEX deletion_instance_index ON deletion (sop_instance_uid)")
    cursor.execute(
        "CREATE TABLE deletion_log (id INTEGER NOT NULL, size INTEGER NOT NULL, last TEXT NOT NULL, "
        "highest INTEGER NOT NULL, PRIMARY KEY (id))"
    )


STEPS: dict[int, Callable[[Any], None]] = {2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6, 6: _to_7}
"""What leads from each schema to the next one."""


def migrate(connection: Any, path: str, calls: FileCalls, version: int, wanted: int) -> str:
    """Bring the index at ``path`` from one schema to another; gives the path of the copy of what it was.

    ``connection`` is the driver's, in autocommit mode. Raises ``sqlite3.Error`` or ``OSError``; then nothing
    has changed.
    """
    copy = f"{path}.schema-{version}"
    copy_index(connection, copy, calls)
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for number in range(version, wanted):
                STEPS[number](cursor)
            cursor.execute(f"PRAGMA user_version = {wanted}")
            cursor.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
    return copy


def copy_index(connection: Any, target: str, calls: FileCalls) -> None:
    """Copy the whole index, as it is now, to a path; others go on writing. The path has it all or nothing."""
    half = f"{target}.half"
    calls.remove(half)
    calls.restrict(half, make=True)  # SQLite takes one that is empty
    with closing(connection.cursor()) as cursor:
        cursor.execute("VACUUM INTO ?", (half,))
    descriptor = calls.open_to_read(half)
    try:
        calls.sync_data(descriptor)
    finally:
        calls.close(descriptor)
    calls.move(half, target)
    calls.sync_directory(os.path.dirname(target))
