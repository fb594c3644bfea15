"""What is done to an archive's folder while nothing serves it: it takes the lock, and blocks."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from sqlalchemy.exc import SQLAlchemyError

from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.opening import open_index
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.archive.marker import read_marker
from asyncdicom.archive.scrub import Pace
from asyncdicom.archive.verifying import Verified, verified

__all__ = ["set_damaged_index_aside", "verify"]


@contextmanager
def _locked(directory: str, calls: FileCalls) -> Iterator[None]:
    try:
        lock = calls.lock_directory(directory)
    except BlockingIOError:
        raise ArchiveError(f"{directory} is in use by another archive process: stop it first") from None
    except OSError as error:
        raise ArchiveError(f"{directory} cannot be used: {error.strerror}") from error
    try:
        yield
    finally:
        if lock >= 0:
            calls.close(lock)


def set_damaged_index_aside(directory: str) -> str:
    """Move an index that cannot be used out of the way, and keep it; gives its new path, or nothing.

    Raises `ArchiveError` when the folder is in use or cannot be used.
    """
    directory, calls = os.path.abspath(directory), FileCalls()
    index = os.path.join(directory, "index.sqlite")
    with _locked(directory, calls):
        if calls.look(index) is None or not _is_damaged(directory, index, calls):
            return ""
        number = 1
        while calls.look(aside := f"{index}.damaged-{number}") is not None:
            number += 1
        for end in ("-wal", "-shm", ""):  # the index itself last: without it the others mean nothing
            if calls.look(index + end) is not None:
                calls.move(index + end, aside + end)
        calls.sync_directory(directory)
        return aside


def _is_damaged(directory: str, index: str, calls: FileCalls) -> bool:
    try:
        with closing(sqlite3.connect(index)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return True
            marker = read_marker(directory, calls)
            known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'archive'").fetchone()
            row = connection.execute("SELECT archive_id FROM archive").fetchone() if known else None
    except sqlite3.DatabaseError as error:
        return not isinstance(error, sqlite3.OperationalError) or not os.path.isfile(index)
    return marker is not None and row is not None and row[0] != marker.archive_id


def verify(directory: str, *, bytes_per_second: int | None = None) -> Iterator[Verified]:
    """Compare each file of the archive with its row. Raises `ArchiveError`, also while it goes on."""
    directory, calls = os.path.abspath(directory), FileCalls()
    folders = Folders(directory, calls, sync=False)
    index = os.path.join(directory, "index.sqlite")
    with _locked(directory, calls):
        if calls.look(index) is None:
            raise ArchiveError(f"there is no archive in {directory}: is its disk mounted?")
        try:
            engine = open_index(index, durability="power", readers=1, calls=calls)
            try:
                yield from verified(Reader(engine), folders, calls, Pace(bytes_per_second, threading.Event()))
            finally:
                engine.dispose()
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise ArchiveError(
                f"the index in {directory} cannot be read: have it built again from the files: "
                f"asyncdicom archive {directory} reindex"
            ) from error
