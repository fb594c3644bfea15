"""The rows of what is in quarantine: listed, put in place of the stored one, removed with a tombstone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Engine, bindparam, delete, func, insert, select

from asyncdicom.archive.index.schema import instance, quarantine, tombstone
from asyncdicom.archive.index.upkeep import PAGE
from asyncdicom.archive.index.writer import Existing, Prepared, Writer

__all__ = ["QuarantineReader", "Quarantined", "bury", "swap", "usage"]

_COLUMNS = (
    "id",
    "file",
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "reason",
    "received",
    "calling_ae_title",
    "data_set_offset",
    "data_set_length",
    "digest",
)


class Quarantined(NamedTuple):
    """What the index says of a file in quarantine; offset and length in bytes, `received` in UTC."""

    id: int
    file: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    reason: str
    received: str
    calling_ae_title: str
    data_set_offset: int
    data_set_length: int
    digest: str


_SELECT = select(*(quarantine.c[name] for name in _COLUMNS))
_SHARED = [column.name for column in quarantine.c if column.name in instance.c and column.name != "id"]
_STORED = Prepared(select(*(instance.c[name] for name in _SHARED)).where(instance.c.id == bindparam("row")))
_WHOLE = Prepared(select(quarantine).where(quarantine.c.file == bindparam("name")))
_DELETE = Prepared(delete(quarantine).where(quarantine.c.file == bindparam("name")))
_BURY = Prepared(insert(tombstone).values({c.name: bindparam(c.name) for c in tombstone.c if c.name != "id"}))
_USAGE = Prepared(select(func.count(), func.coalesce(func.sum(quarantine.c.data_set_length), 0)))


class QuarantineReader:
    """Looks at the rows of the quarantine. Every method is one short transaction, for a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, after: int = 0) -> list[Quarantined]:
        """Give the next rows after an id."""
        statement = _SELECT.where(quarantine.c.id > after).order_by(quarantine.c.id).limit(PAGE)
        with self._engine.connect() as connection:
            return [Quarantined(*row) for row in connection.execute(statement)]

    def named(self, start: str) -> list[Quarantined]:
        """Give those whose file's name starts so, at most two: one is the answer, two are too many."""
        file = quarantine.c.file
        statement = _SELECT.where(file >= start, file < start + "\x7f").limit(2)
        with self._engine.connect() as connection:
            return [Quarantined(*row) for row in connection.execute(statement)]

    def usage(self) -> tuple[int, int]:
        """Count the files, and the bytes of their data sets."""
        statement = select(func.count(), func.coalesce(func.sum(quarantine.c.data_set_length), 0))
        with self._engine.connect() as connection:
            count, size = connection.execute(statement).one()
            return count, size

    def buried(self, names: Iterable[str]) -> set[str]:
        """Give those of ``names`` that an operator has removed."""
        statement = select(tombstone.c.file).where(tombstone.c.file.in_(list(names)))
        with self._engine.connect() as connection:
            return set(connection.scalars(statement))

    def tombstones(self) -> int:
        """Count what an operator has removed."""
        with self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(tombstone)).scalar_one()


def usage(writer: Writer) -> tuple[int, int]:
    """Count the files in quarantine and the bytes of their data sets, as this transaction sees them."""
    count, size = writer.execute(_USAGE, {}).fetchone()
    return count, size


def swap(
    writer: Writer,
    name: str,
    existing: Existing | None,
    row: Callable[[], Mapping[str, Any]],
    aside: str,
    reason: str,
) -> None:
    """Let the row of a file in quarantine become that of an instance, and the stored one's go there.

    ``row`` gives what the new instance has, all but when it came; it is called when the stored one's series,
    if that was alone in it, is gone. ``aside``: the name of the
    stored file in quarantine, or nothing where there is none to keep.
    """
    received = dict(zip((c.name for c in quarantine.c), _take(writer, name), strict=True))["received"]
    if existing is not None:
        stored = dict(zip(_SHARED, writer.execute(_STORED, {"row": existing.id}).fetchone(), strict=True))
        writer.remove(existing)
        if aside:
            writer.insert_quarantined([{**stored, "file": aside, "reason": reason}])
    writer.insert_instances([{**row(), "received": received}])


def bury(writer: Writer, name: str) -> None:
    """Remove a row, and keep what it said as a tombstone."""
    row = dict(zip((c.name for c in quarantine.c), _take(writer, name), strict=True))
    row.pop("id")
    writer.execute(_BURY, {**row, "purged": writer.now})


def _take(writer: Writer, name: str) -> Any:
    row = writer.execute(_WHOLE, {"name": name}).fetchone()
    if row is None:
        raise LookupError(name)
    writer.execute(_DELETE, {"name": name})
    return row
