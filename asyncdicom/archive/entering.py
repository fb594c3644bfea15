"""How a process comes to have an archive: the lock on its folder, its index, and that they belong together.

An archive with its index in SQLite is for one process. With PostgreSQL several may have it: the first one
finds out what happened since the last time, and gives the start its number; the others join it. They share
the lock on the folder, and each tells the database that it is there. So who comes first is known, and also
who comes with another folder, or with another database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.engines import kind_of, open_index
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.marker import Marker, check_place, next_marker, no_archive, read_marker, write_marker
from asyncdicom.telemetry.log import Log

__all__ = ["Entered", "Entrance"]

_LOG = Log("asyncdicom.archive")

_PATIENCE = 15.0  # seconds until folder and database agree whether others are there: one may just be dying
_PAUSE = 0.1


class Entered(NamedTuple):
    """An archive that this process has."""

    opened: OpenIndex
    archive_id: str
    is_first: bool
    """Whether no other process has it."""

    is_new: bool
    """Whether it has only just been made."""


class Entrance:
    """The way into an archive, for one process. ``url``: of the database that has the index, if one has."""

    def __init__(
        self, directory: str, url: str | None, blobs: Blobs, calls: FileCalls, *, durability: str
    ) -> None:
        self._directory = directory
        self._url = url
        self._blobs = blobs
        self._calls = calls
        self._durability = durability
        self._lock = -1

    @contextmanager
    def entering(self, *, existing: bool, readers: int) -> Iterator[Entered]:
        """Take the folder and open the index; no other process enters before the block has ended.

        ``existing``: it has to be there. ``readers``: see `open_index`. Raises `ArchiveError`, ``OSError``,
        ``BlockingIOError`` if another process has the folder for itself, and `IndexFailed`. Then, and if the
        block raises, nothing is taken.
        """
        index: OpenIndex | None = None
        try:
            if existing and self._calls.look(self._directory) is None:
                raise no_archive(self._directory)
            self._blobs.root.prepare_root()
            if self._url is None:
                self._lock = self._calls.lock_directory(self._directory)
            told = self._check_place(existing)
            index = open_index(
                self._directory, self._url, durability=self._durability, readers=readers, calls=self._calls
            )
            with index.joining() as is_alone:
                is_first = not index.is_shared or self._take_folder(index, is_alone)
                yield self._as_first(index, told) if is_first else self._as_one_more(index)
        except BaseException:
            if index is not None:
                self._blobs.close()
                index.close()
            self.leave()
            raise

    def leave(self) -> None:
        """Give the folder back; the index is closed."""
        if self._lock >= 0:
            self._calls.close(self._lock)
            self._lock = -1

    def _check_place(self, existing: bool) -> str:
        marker = read_marker(self._directory, self._calls)
        kind = kind_of(self._url)
        return check_place(self._blobs, self._calls, marker, existing=existing, kind=kind)

    # several processes

    def _take_folder(self, index: OpenIndex, is_alone: Callable[[], bool]) -> bool:
        """Share the folder; tells whether no other process has it, nor the database."""
        until = time.monotonic() + _PATIENCE
        while (has_folder := self._share_folder()) != is_alone():
            self.leave()
            if time.monotonic() >= until:
                raise ArchiveError(
                    f"{index.label} is in use by archive processes that have another folder: name theirs, "
                    "or another database"
                    if has_folder
                    else f"{self._directory} is in use by archive processes that have another index: name "
                    f"the same database for all of them (this one was told {index.label})"
                )
            time.sleep(_PAUSE)
        return has_folder

    def _share_folder(self) -> bool:
        """Take the folder together with others; tells whether nobody else has it.

        What is spooled in it nobody else knows of: who spools has it for himself.
        """
        is_spool = self._blobs.is_spool
        try:
            self._lock = self._calls.lock_directory(self._directory)
        except BlockingIOError:
            if is_spool:
                raise ArchiveError(
                    f"{self._directory} is in use by another archive process: with ack = spool only one "
                    "may be"
                ) from None
            self._lock = self._calls.lock_directory(self._directory, is_shared=True)
            return False
        if not is_spool:
            self._calls.share_directory(self._lock)
        return True

    def _as_one_more(self, index: OpenIndex) -> Entered:
        marker = read_marker(self._directory, self._calls)
        identity, _ = index.identity()
        if marker is None or identity != (marker.archive_id, marker.generation):
            raise ArchiveError(
                f"{index.label} is not what the other processes of {self._directory} have: name the same "
                "database for all of them; if it was put back from a copy, stop them all first"
            )
        self._blobs.prepare()
        self._blobs.claim(marker.archive_id, is_known=True)
        return Entered(index, marker.archive_id, is_first=False, is_new=False)

    # the first one

    def _as_first(self, index: OpenIndex, told: str) -> Entered:
        marker = read_marker(self._directory, self._calls)
        had_objects = self._blobs.has_objects()
        identity, has_rows = index.identity()
        if has_rows and not had_objects:
            raise ArchiveError(
                f"the index in {self._directory} has instances, and {self._blobs.objects} is empty: is "
                "its disk mounted? If the files are lost for good, move index.sqlite away to start anew"
                if self._url is None
                else f"{index.label} has instances, and {self._blobs.objects} is empty: is its "
                "disk mounted? If the files are lost for good, name an empty database to start anew"
            )
        known = None if identity is None else Marker(*identity)
        kind = kind_of(self._url)
        new, more = next_marker(self._directory, marker, known, has_rows, kind=kind, label=index.label)
        new = new._replace(blobs=self._blobs.kind)
        self._blobs.prepare()
        self._blobs.claim(new.archive_id, is_known=(marker or known) is not None)
        index.set_identity(new.archive_id, new.generation)
        write_marker(self._directory, new, self._calls, sync=self._durability == "power")
        self._blobs.root.sync_root()
        if told or more:
            _LOG.warning("%s", told or more)
        is_new = new.generation == 1 and not has_rows and not had_objects
        return Entered(index, new.archive_id, is_first=True, is_new=is_new)
