"""The index in SQLite as the archive holds it: open, with what reads and what writes it.

Nothing outside this package knows what it is made of.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.chosen import ChosenReader
from asyncdicom.archive.index.deleting import DeletionReader
from asyncdicom.archive.index.deliveries import DeliveryReader
from asyncdicom.archive.index.expired import ExpiryReader
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.migrations import copy_index
from asyncdicom.archive.index.opening import (
    SYNCHRONOUS,
    is_damaged,
    open_index,
    read_identity,
    write_identity,
)
from asyncdicom.archive.index.peers import Learned, read_learned
from asyncdicom.archive.index.place import Place, read_place
from asyncdicom.archive.index.quarantined import QuarantineReader
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.stability import StabilityReader
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.archive.index.writer import Writer

__all__ = ["DURABILITIES", "FILE", "Index", "set_damaged_index_aside"]

FILE = "index.sqlite"
DURABILITIES = tuple(SYNCHRONOUS)


class Index:
    """The open index of a folder, made on first use; one of an earlier version is brought to this one.

    ``durability``: what a commit survives, one of `DURABILITIES`. ``readers``: connections for those who read
    at the same time. Everything blocks. Raises `ArchiveError` for one that a later version has made,
    `IndexFailed` where it cannot be opened, and ``OSError``.
    """

    def __init__(self, directory: str, *, durability: str, readers: int, calls: FileCalls) -> None:
        path = os.path.join(directory, FILE)
        self._calls = calls
        with TRANSLATED:
            self._engine = open_index(path, durability=durability, readers=readers, calls=calls)
        self.upkeep = Reader(self._engine)
        """Looks at it as a whole."""
        self.quarantine = QuarantineReader(self._engine)
        """Looks at what is in quarantine."""
        self.deliveries = DeliveryReader(self._engine)
        self.chosen = ChosenReader(self._engine)
        """Looks at the work that is to be done."""
        self.deletions = DeletionReader(self._engine)
        """Looks at what is to be deleted, and at what was."""
        self.expiry = ExpiryReader(self._engine)
        """Looks for what is old enough to go."""
        self.stability = StabilityReader(self._engine)
        """Looks at the studies that something has come for."""

    def identity(self) -> tuple[tuple[str, int] | None, bool]:
        """Give the archive's ID and generation, if they are known, and whether there is any instance."""
        with TRANSLATED:
            return read_identity(self._engine)

    def set_identity(self, archive_id: str, generation: int) -> None:
        """Note the archive's ID and generation."""
        with TRANSLATED:
            write_identity(self._engine, archive_id, generation)

    def writer(self) -> Writer:
        """Give what writes. There is one at a time; who has it closes it."""
        return Writer(self._engine)

    def queries(self, threads: int) -> Queries:
        """Give what reads for peers, in so many threads (see `Finding`). Who has it closes it."""
        return Queries(self._engine, threads=threads)

    def place(self) -> Place:
        """Give how far the scrub has come."""
        return read_place(self._engine)

    def learned(self, now: float) -> list[Learned]:
        """Give what was learned of peers and holds now, in seconds since 1970."""
        return read_learned(self._engine, now)

    def copy_to(self, path: str) -> None:
        """Copy all that is committed to a new index at a path; who writes goes on meanwhile.

        Raises ``FileExistsError`` if something is there.
        """
        if self._calls.look(path) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        with TRANSLATED, self._engine.connect() as connection:
            copy_index(connection.connection.driver_connection, path, self._calls)

    def close(self) -> None:
        """Give the connections up."""
        self._engine.dispose()


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
