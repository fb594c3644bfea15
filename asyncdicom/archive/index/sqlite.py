"""The index in SQLite as the archive holds it: open, with what reads and what writes it.

Nothing outside this package knows what it is made of.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.migrations import copy_index
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.index.opening import SYNCHRONOUS, is_damaged, open_index
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.archive.index.writer import Writer

__all__ = ["DURABILITIES", "FILE", "Index", "set_damaged_index_aside"]

FILE = "index.sqlite"
DURABILITIES = tuple(SYNCHRONOUS)


class Index(OpenIndex):
    """The open index of a folder, made on first use; one of an earlier version is brought to this one.

    ``durability``: what a commit survives, one of `DURABILITIES`. ``readers``: connections for those who read
    at the same time. Everything blocks. Raises `ArchiveError` for one that a later version has made,
    `IndexFailed` where it cannot be opened, and ``OSError``.
    """

    kind = "sqlite"
    label = FILE
    # of the table itself, which is what counts: an index of it may be damaged
    _ANY_ROW = "SELECT 1 FROM instance NOT INDEXED LIMIT 1"

    def __init__(self, directory: str, *, durability: str, readers: int, calls: FileCalls) -> None:
        path = os.path.join(directory, FILE)
        self._calls = calls
        with TRANSLATED:
            engine = open_index(path, durability=durability, readers=readers, calls=calls)
        super().__init__(engine, Reader(engine))

    def writer(self) -> Writer:
        """Give what writes."""
        return Writer(self._engine)

    def queries(self, threads: int) -> Queries:
        """Give what reads for peers, in so many threads."""
        return Queries(self._engine, threads=threads)

    def copy_to(self, path: str) -> None:
        """Copy all that is committed to a new index at a path; who writes goes on meanwhile.

        Raises ``FileExistsError`` if something is there.
        """
        if self._calls.look(path) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        with TRANSLATED, self._engine.connect() as connection:
            copy_index(connection.connection.driver_connection, path, self._calls)


def set_damaged_index_aside(directory: str, archive_id: Callable[[], str | None], calls: FileCalls) -> str:
    """Move an index that cannot be used out of the way, and keep it; gives its new path, or nothing.

    ``archive_id`` gives that of the folder, if it is known: that of another archive cannot be used either.
    Raises ``OSError``, and what `archive_id` raises.
    """
    index = os.path.join(directory, FILE)
    if calls.look(index) is None or not is_damaged(index, archive_id):
        return ""
    number = 1
    while calls.look(aside := f"{index}.damaged-{number}") is not None:
        number += 1
    for end in ("-wal", "-shm", ""):  # the index itself last: without it the others mean nothing
        if calls.look(index + end) is not None:
            calls.move(index + end, aside + end)
    calls.sync_directory(directory)
    return aside
