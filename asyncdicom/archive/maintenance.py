"""What is done to an archive's folder while nothing serves it: it takes the lock, and blocks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index import sqlite
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.marker import check_in_folder, no_archive, read_marker
from asyncdicom.archive.scrub import Pace
from asyncdicom.archive.verifying import Verified, verified

__all__ = ["set_damaged_index_aside", "verify"]


@contextmanager
def _locked(directory: str, calls: FileCalls) -> Iterator[None]:
    if calls.look(directory) is None:
        raise no_archive(directory)
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

    def archive_id() -> str | None:
        marker = read_marker(directory, calls)
        return None if marker is None else marker.archive_id

    with _locked(directory, calls):
        return sqlite.set_damaged_index_aside(directory, archive_id, calls)


def verify(directory: str, *, bytes_per_second: int | None = None) -> Iterator[Verified]:
    """Compare each file of the archive with its row. Raises `ArchiveError`, also while it goes on."""
    directory, calls = os.path.abspath(directory), FileCalls()
    blobs = FolderBlobs(directory, calls, sync=False)
    with _locked(directory, calls):
        check_in_folder(directory, read_marker(directory, calls))
        if calls.look(os.path.join(directory, sqlite.FILE)) is None:
            raise no_archive(directory)
        try:
            with closing(sqlite.Index(directory, durability="power", readers=1, calls=calls)) as index:
                yield from verified(index.upkeep, blobs, Pace(bytes_per_second, threading.Event()))
        except IndexFailed as error:
            raise ArchiveError(
                f"the index in {directory} cannot be read: have it built again from the files: "
                f"asyncdicom archive {directory} reindex"
            ) from error
