"""The rows of what is in quarantine: listed, put in place of the stored one, removed with a tombstone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Engine, bindparam, delete, func, insert, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import quarantine, tombstone
from asyncdicom.archive.index.upkeep import PAGE
from asyncdicom.archive.index.writer import Writer

__all__ = ["QuarantineReader", "Quarantined", "bury", "take"]


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


_SELECT = select(*(quarantine.c[name] for name in Quarantined._fields))
_WHOLE = Prepared(select(quarantine).where(quarantine.c.file == bindparam("name")))
_DELETE = Prepared(delete(quarantine).where(quarantine.c.file == bindparam("name")))
_BURY = Prepared(insert(tombstone).values({c.name: bindparam(c.name) for c in tombstone.c if c.name != "id"}))


class QuarantineReader:
    """Looks at the rows of the quarantine. Every method is one short transaction, for a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, after: int = 0) -> list[Quarantined]:
        """Give the next rows after an id."""
        statement = _SELECT.where(quarantine.c.id > after).order_by(quarantine.c.id).limit(PAGE)
        with TRANSLATED, self._engine.connect() as connection:
            return [Quarantined(*row) for row in connection.execute(statement)]

    def named(self, start: str) -> list[Quarantined]:
        """Give those whose file's name starts so, at most two: one is the answer, two are too many."""
        file = quarantine.c.file
        statement = _SELECT.where(file >= start, file < start + "\x7f").limit(2)
        with TRANSLATED, self._engine.connect() as connection:
            return [Quarantined(*row) for row in connection.execute(statement)]

    def usage(self) -> tuple[int, int]:
        """Count the files, and the bytes of their data sets."""
        statement = select(func.count(), func.coalesce(func.sum(quarantine.c.data_set_length), 0))
        with TRANSLATED, self._engine.connect() as connection:
            count, size = connection.execute(statement).one()
            return count, int(size)

    def buried(self, names: Iterable[str]) -> set[str]:
        """Give those of ``names`` that an operator has removed."""
        statement = select(tombstone.c.file).where(tombstone.c.file.in_(list(names)))
        with TRANSLATED, self._engine.connect() as connection:
            return set(connection.scalars(statement))

    def tombstones(self) -> int:
        """Count what an operator has removed."""
        with TRANSLATED, self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(tombstone)).scalar_one()


def take(writer: Writer, name: str) -> Quarantined:
    """Remove a row, and give what it said. Raises ``LookupError`` when there is none for a file."""
    row = _take(writer, name)
    return Quarantined._make(row[column] for column in Quarantined._fields)


def bury(writer: Writer, name: str) -> None:
    """Remove a row, and keep what it said as a tombstone. Raises as `take`."""
    row = _take(writer, name)
    row.pop("id")
    writer.execute(_BURY, {**row, "purged": writer.now})


def _take(writer: Writer, name: str) -> dict[str, Any]:
    row = writer.execute(_WHOLE, {"name": name}).fetchone()
    if row is None:
        raise LookupError(name)
    writer.execute(_DELETE, {"name": name})
    return dict(zip((c.name for c in quarantine.c), row, strict=True))
