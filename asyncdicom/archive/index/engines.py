"""Which engine has the index: SQLite, as a file of the archive's folder, or PostgreSQL, by a URL."""

from __future__ import annotations

from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index import sqlite
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.index.sqlite import DURABILITIES

__all__ = ["DURABILITIES", "kind_of", "open_index"]


def kind_of(url: str | None) -> str:
    """Give the name of the engine that has the index; ``url``: that of the database, if it is in one."""
    return "sqlite" if url is None else "postgresql"


def open_index(
    directory: str, url: str | None, *, durability: str, readers: int, calls: FileCalls
) -> OpenIndex:
    """Open the index of a folder, or the one at a URL. Raises as `sqlite.Index` and `PostgresIndex`."""
    if url is None:
        return sqlite.Index(directory, durability=durability, readers=readers, calls=calls)
    from asyncdicom.archive.index.postgres import PostgresIndex  # who has none does not load it

    return PostgresIndex(url, durability=durability, readers=readers)
