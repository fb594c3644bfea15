"""How far the scrub has come: one row of the index."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine, bindparam, literal_column, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import scrub
from asyncdicom.archive.index.sql import upserting
from asyncdicom.archive.index.writer import Writer

__all__ = ["Place", "read_place", "write_place"]


class Place(NamedTuple):
    """Where the scrub is, and what it has found."""

    name: str = ""
    """The table that it is in; empty between two times round."""

    after: int = 0
    """The id of the last row that it has looked at."""

    missing: int = 0
    damaged: int = 0
    """Files it has found so this time."""

    last_missing: int = 0
    last_damaged: int = 0
    """The same of the last time round."""

    ended: str = ""
    """When the last time round ended: UTC, ISO 8601; empty before."""


_COLUMNS = [scrub.c[name] for name in Place._fields]
_WRITE = Prepared(
    upserting(scrub, id=literal_column("1"), **{name: bindparam(name) for name in Place._fields})
)


def read_place(engine: Engine) -> Place:
    """Give where it is."""
    with TRANSLATED, engine.connect() as connection:
        row = connection.execute(select(*_COLUMNS)).first()
    return Place() if row is None else Place(*row)


def write_place(writer: Writer, place: Place) -> None:
    """Note where it is."""
    writer.execute(_WRITE, place._asdict())
