"""The tables of the index as PostgreSQL has them: those of SQLite, made and extended by several at once.

Texts are compared byte by byte (COLLATE "C"). An index of a text that peers send holds its beginning: an
entry of a B-tree has at most 2,700 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.schema import METADATA, SCHEMA_VERSION
from asyncdicom.archive.index.sql import HEAD, is_long

__all__ = ["STEPS", "TABLES", "bring"]

TABLES = MetaData()
"""All tables, in PostgreSQL's types."""


# An entry of SQLite's indexes ends with the number of its row, one of PostgreSQL's does not. Those by which
# rows are given in the order of their numbers have it as a column, and another name: so they are made anew
# where an earlier version has made them without it.
_IN_ORDER = {
    "delivery_ready_index": "delivery_ready_in_order_index",
    "delivery_failed_index": "delivery_failed_in_order_index",
}


def _indexed(column: Column[Any]) -> Any:
    return func.left(column, HEAD) if is_long(column) else column


def _copy(table: Table) -> Table:
    copy = Table(
        table.name,
        TABLES,
        *(_copied(column) for column in table.columns),
        *(
            ForeignKeyConstraint([key.parent.name], [key.target_fullname])
            for key in sorted(table.foreign_keys, key=str)
        ),
        *(
            UniqueConstraint(*(column.name for column in constraint.columns))
            for constraint in table.constraints
            if isinstance(constraint, UniqueConstraint) and not any(map(is_long, constraint.columns))
        ),
    )
    for index in table.indexes:
        columns = [_indexed(copy.c[column.name]) for column in index.columns]
        if index.name in _IN_ORDER:
            columns.append(copy.c.id)
        Index(
            _IN_ORDER.get(str(index.name), index.name),
            *columns,
            unique=index.unique,
            postgresql_where=index.dialect_kwargs.get("sqlite_where"),
        )
    return copy


def _copied(column: Column[Any]) -> Column[Any]:
    copy: Column[Any] = column._copy()
    copy.index = copy.unique = None  # those of the table have it
    if isinstance(column.type, Text):
        copy.type = Text(collation="C")
    elif column.type._type_affinity is BigInteger()._type_affinity:
        copy.type = BigInteger()
    return copy


for _table in METADATA.sorted_tables:
    _copy(_table)

_patient = TABLES.tables["patient"]
_KEY = [_patient.c[name] for name in ("patient_id", "issuer_of_patient_id", "told_apart")]
Index(
    "patient_key",
    *(func.left(column, HEAD) for column in _KEY[:2]),
    func.left(_KEY[2], 64),
    *(func.hashtextextended(column, 0) for column in _KEY),
    unique=True,
)

# What one process does at a time: see `leases`. One process alone, as SQLite has it, needs no such table.
Table(
    "lease",
    TABLES,
    Column("name", Text(collation="C"), primary_key=True),
    Column("holder", Text(collation="C"), nullable=False),
    Column("until", Float, nullable=False),  # seconds since 1970, by the server's clock
)

STEPS: dict[int, Callable[[Connection], None]] = {}
"""What leads from a schema to the next one beside what is added; numbered as in SQLite."""

_LOCK = 0x4449434D  # one at a time, in a database: "DICM"


@cache
def _statements() -> tuple[str, ...]:
    """Give what makes all of it."""
    dialect: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
    made: list[Any] = [CreateTable(table) for table in TABLES.sorted_tables]
    made += [CreateIndex(index) for table in TABLES.sorted_tables for index in _in_order(table)]
    return tuple(str(each.compile(dialect=dialect)) for each in made)


def _in_order(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def bring(connection: Connection) -> int:
    """Make what is missing, in one transaction, one process at a time; gives the schema that was there, or 0.

    Changes only add, but for indexes that others take the place of: processes of the version before go on
    meanwhile. Raises `ArchiveError` for the schema of a later version.
    """
    statements = _statements()
    shape = hashlib.sha256("\n".join(statements).encode()).hexdigest()
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL, shape TEXT NOT NULL)")
        )
        row = connection.execute(text("SELECT version, shape FROM schema_version")).first()
        version, known = (0, "") if row is None else row
        if version > SCHEMA_VERSION:
            raise ArchiveError(
                f"the index has schema {version}, this version knows {SCHEMA_VERSION}: upgrade"
            )
        if row is None:
            cursor: Any = connection.connection.cursor()
            cursor.execute(";\n".join(statements))
            cursor.close()
        elif known != shape:
            TABLES.create_all(connection)
            for table in TABLES.sorted_tables:
                _add_what_is_missing(connection, table)
            for name in _IN_ORDER:
                connection.execute(text(f"DROP INDEX IF EXISTS {name}"))
            for number in range(version, SCHEMA_VERSION):
                STEPS.get(number, _nothing)(connection)
        if known != shape:
            connection.execute(text("DELETE FROM schema_version"))
            connection.execute(
                text("INSERT INTO schema_version VALUES (:version, :shape)"),
                {"version": SCHEMA_VERSION, "shape": shape},
            )
    return int(version)


def _nothing(connection: Connection) -> None:
    """All that a step adds is there already."""


def _add_what_is_missing(connection: Connection, table: Table) -> None:
    looking: Any = inspect(connection)
    known = {column["name"] for column in looking.get_columns(table.name)}
    for column in table.columns:
        if column.name not in known:
            words = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f'ALTER TABLE "{table.name}" ADD COLUMN {words}'))
    for index in table.indexes:
        index.create(connection, checkfirst=True)
