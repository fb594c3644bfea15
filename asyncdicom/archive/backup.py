"""A copy of a whole archive, made while it is served, and put back: a folder like the archive's own.

The index is copied in one piece first, by the process that serves it, so the copy has everything that was
acknowledged before it was begun. Then come the files that its rows name, each compared with its digest on
the way; a file that is in the copy already is not copied again. What is deleted meanwhile is not missing: the
copy of ``deleted.jsonl``, which comes last, says so to who restores it. Everything here blocks, and raises
`ArchiveError` or ``OSError``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from asyncdicom.archive.blobs.base import FOLDER
from asyncdicom.archive.deleted_journal import DeletedJournal
from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index import sqlite
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.deleting import Log
from asyncdicom.archive.index.upkeep import FileRow
from asyncdicom.archive.marker import MARKER, RESTORING, no_archive, read_marker

__all__ = ["Backup", "Copied", "Restore"]

_ABOUT = "backup.json"
_NEW = "new"  # the folder of the index while its files are being copied
_HALF = ".half"
_PIECE = 1 << 20
_TABLES = {"instance": "objects", "quarantine": "quarantine"}
_NAMED = 10  # files that are named one by one


@dataclass
class Copied:
    """What became of the files that the rows of an index name, and how many bytes were copied."""

    files: int = 0
    size: int = 0
    before: int = 0
    """Files that were in the copy already."""

    missing: int = 0
    """Files that the last index names, and that were not there, those aside that were deleted meanwhile."""

    damaged: int = 0
    """Files whose bytes are not what their row says; they are copied all the same."""

    named_missing: list[str] = field(default_factory=list)
    named_damaged: list[str] = field(default_factory=list)
    """The first ones of each: SOP Instance UID, and name."""


class _Gone:
    """The files that were deleted since an index was copied, as ``deleted.jsonl`` beside the files says."""

    def __init__(self, directory: str, log: Log, calls: FileCalls) -> None:
        self._journal = DeletedJournal(directory, "", calls, sync=False)
        self._log = log
        self._files: set[str] = set()

    def has(self, file: str) -> bool:
        """Tell whether one is among them."""
        with suppress(ArchiveError, OSError), closing(self._journal.read(self._log)) as entries:
            for entry, self._log in entries:
                self._files.update(each.file for each in entry.deleted)
        return file in self._files


class _Copying:
    """Copies the files of an index from one folder to another."""

    def __init__(self, source: str, target: str, calls: FileCalls) -> None:
        self._source = source
        self._target = target
        self._calls = calls
        self._rounds = 0
        self._folders: set[str] = set()

    def files(self, index: str, copied: Copied) -> Generator[None]:
        """Copy the files that the index in the folder `index` names, and count them in `copied`."""
        self._rounds += 1
        copied.missing = 0  # a later index may know where they are
        copied.named_missing.clear()
        try:
            with closing(sqlite.Index(index, durability="power", readers=1, calls=self._calls)) as opened:
                gone = _Gone(self._source, opened.deletions.log(), self._calls)
                for table, folder in _TABLES.items():
                    after = 0
                    while rows := opened.upkeep.file_rows(table, after):
                        for row in rows:
                            self._copy_row(folder, row, copied, gone)
                            yield
                        after = rows[-1].id
        except IndexFailed as error:
            raise ArchiveError(f"the copy of the index in {index} cannot be read: {reason(error)}") from error
        for each in sorted(self._folders, reverse=True):
            self._calls.sync_directory(each)

    def _copy_row(self, folder: str, row: FileRow, copied: Copied, gone: _Gone) -> None:
        name = os.path.join(folder, *row.file.split("/"))
        target = os.path.join(self._target, name)
        size = row.data_set_offset + row.data_set_length
        found = self._calls.look(target)
        if found is not None and found.st_size == size:
            copied.before += self._rounds == 1  # what this backup has copied is counted once
            return
        try:
            digest = self._copy(os.path.join(self._source, name), target, skip=row.data_set_offset)
        except FileNotFoundError:
            if not gone.has(row.file):
                copied.missing += 1
                _note(copied.named_missing, row, name)
            return
        copied.files += 1
        copied.size += size
        if digest != row.digest:
            copied.damaged += 1
            _note(copied.named_damaged, row, name)

    def _copy(self, source: str, target: str, *, skip: int = 0) -> str:
        """Copy a file, durably; gives the digest of what comes after the first bytes."""
        digest = hashlib.sha256()
        reading = self._calls.open_to_read(source)
        try:
            self._make(os.path.dirname(target))
            half = target + _HALF
            self._calls.remove(half)
            writing = self._calls.create(half)
            try:
                self._calls.set_mode(writing)
                while piece := self._calls.read(reading, skip if 0 < skip < _PIECE else _PIECE):
                    self._calls.write(writing, [piece])
                    if skip > 0:
                        skip -= len(piece)
                    else:
                        digest.update(piece)
                self._calls.sync_data(writing)
            finally:
                self._calls.close(writing)
        finally:
            self._calls.close(reading)
        self._calls.move(half, target)
        return digest.hexdigest()[:32]

    def _make(self, folder: str) -> None:
        if folder in self._folders or folder == self._target:
            return
        self._make(os.path.dirname(folder))
        self._calls.make_directory(folder)
        self._folders.add(folder)

    def beside(self) -> None:
        """Copy the small files of the root: which archive it is, and what an operator has said."""
        for name in self._calls.list(self._source):
            path = os.path.join(self._source, name)
            found = self._calls.look(path)
            is_file = found is not None and found.st_mode & 0o170000 == 0o100000
            if is_file and name != _ABOUT and not name.startswith(sqlite.FILE) and not name.endswith(_HALF):
                self._copy(path, os.path.join(self._target, name))
        self._calls.sync_directory(self._target)

    def index(self, source: str, target: str) -> None:
        """Copy the index of one folder into another."""
        self._copy(os.path.join(source, sqlite.FILE), os.path.join(target, sqlite.FILE))


def _note(names: list[str], row: FileRow, name: str) -> None:
    if len(names) < _NAMED:
        names.append(f"{row.sop_instance_uid} ({name})")


class Backup:
    """A copy of the archive in `directory`, in the folder `target`: a new one, or one that it had before.

    Raises `ArchiveError` if there is no archive, or `target` has anything else in it.
    """

    def __init__(self, directory: str, target: str) -> None:
        self._calls = FileCalls()
        self._directory, self._target = os.path.abspath(directory), os.path.abspath(target)
        marker = read_marker(self._directory, self._calls)
        if marker is None:
            raise no_archive(self._directory)
        if marker.blobs != FOLDER:
            raise ArchiveError(
                f"the instances of {self._directory} are in {marker.blobs}: they are copied with what "
                "the store has for that; of the folder, copy everything while nothing serves it"
            )
        self._archive_id = marker.archive_id
        if os.path.commonpath((self._directory, self._target)) == self._directory:
            raise ArchiveError(f"{self._target} is in the archive itself: name a folder on another disk")
        self._check_target()
        self._copying = _Copying(self._directory, self._target, self._calls)

    def _check_target(self) -> None:
        names = _names(self._target, self._calls)
        if names and _ABOUT not in names:
            raise ArchiveError(f"{self._target} is not empty, and no backup of an archive")
        if names and _archive_id(os.path.join(self._target, _ABOUT), self._calls) != self._archive_id:
            raise ArchiveError(f"{self._target} is the backup of another archive: name a folder of its own")
        _make(self._target, self._calls)
        self._lock = _locked(self._target, self._calls)
        _make(os.path.join(self._target, _NEW), self._calls)
        if not names:
            self._sign()

    def close(self) -> None:
        """Let others use the folder."""
        _unlock(self._lock, self._calls)

    def _sign(self) -> None:
        """Say whose backup it is."""
        text = json.dumps({"archive_id": self._archive_id}).encode() + b"\n"
        self._calls.replace(os.path.join(self._target, _ABOUT), text, sync=True)

    def place_of_index(self) -> str:
        """Give the path that a copy of the index is to be made at next; nothing is there."""
        path = os.path.join(self._target, _NEW, sqlite.FILE)
        for end in ("-wal", "-shm", ""):
            self._calls.remove(path + end)
        return path

    def copy_files(self, copied: Copied) -> Generator[None]:
        """Copy what the new copy of the index names and is not here; it stops after each file."""
        yield from self._copying.files(os.path.join(self._target, _NEW), copied)

    def finish(self) -> None:
        """Put the new index in the place of the last one: from now on this is the backup."""
        self._copying.beside()
        new = os.path.join(self._target, _NEW, sqlite.FILE)
        descriptor = self._calls.open_to_read(new)
        try:
            self._calls.sync_data(descriptor)
        finally:
            self._calls.close(descriptor)
        self._calls.move(new, os.path.join(self._target, sqlite.FILE))
        self._calls.sync_directory(self._target)


class Restore:
    """The backup in `source` becomes the archive in `directory`, which is empty, or not there.

    Raises `ArchiveError` if there is anything else, or no backup. One that broke off goes on.
    """

    def __init__(self, source: str, directory: str) -> None:
        self._calls = FileCalls()
        self._source, self._directory = os.path.abspath(source), os.path.abspath(directory)
        names = self._calls.names(self._source)
        if _ABOUT not in names or sqlite.FILE not in names or MARKER not in names:
            raise ArchiveError(f"there is no whole backup of an archive in {self._source}")
        there = _names(self._directory, self._calls)
        if there and RESTORING not in there:
            raise ArchiveError(f"{self._directory} is not empty: restore into an empty folder")
        self._half = os.path.join(self._directory, RESTORING)
        _make(self._directory, self._calls)
        self._lock = _locked(self._directory, self._calls)
        _make(self._half, self._calls)
        self._copying = _Copying(self._source, self._directory, self._calls)

    def close(self) -> None:
        """Let others use the folder."""
        _unlock(self._lock, self._calls)

    def copy_files(self, copied: Copied) -> Generator[None]:
        """Copy all that the index names; it stops after each file."""
        self._copying.index(self._source, self._half)
        yield from self._copying.files(self._half, copied)

    def finish(self) -> None:
        """Make it an archive: the index comes last."""
        self._copying.beside()
        self._calls.move(os.path.join(self._half, sqlite.FILE), os.path.join(self._directory, sqlite.FILE))
        self._calls.remove_directory(self._half)
        self._calls.sync_directory(self._directory)


def _names(folder: str, calls: FileCalls) -> set[str]:
    """Give what is in a folder that should be empty; what a new file system has in its root is nothing."""
    return set(calls.names(folder)) - {"lost+found"}


def _locked(folder: str, calls: FileCalls) -> int:
    try:
        return calls.lock_directory(folder)
    except BlockingIOError:
        raise ArchiveError(f"{folder} is in use: another backup or restore is under way there") from None


def _unlock(lock: int, calls: FileCalls) -> None:
    if lock >= 0:  # there are none on Windows
        calls.close(lock)


def _make(folder: str, calls: FileCalls) -> None:
    """Make a folder, and those above it."""
    if calls.look(folder) is None:
        _make(os.path.dirname(folder), calls)
        calls.make_directory(folder)


def _archive_id(path: str, calls: FileCalls) -> object:
    descriptor = calls.open_to_read(path)
    try:
        return json.loads(calls.read(descriptor, 1 << 16)).get("archive_id")
    except (ValueError, AttributeError):
        return None
    finally:
        calls.close(descriptor)
