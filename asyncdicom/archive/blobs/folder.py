"""Blobs in a folder of a POSIX file system."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from asyncdicom.archive.blobs.base import FOLDER, NewBlob, Row, State
from asyncdicom.archive.blobs.files import InstanceFile
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.blobs.look import look_at
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.net.cached import Memory
from asyncdicom.net.sources import FileSource

__all__ = ["FolderBlobs"]


class _OpenFile:
    """See `Reading`."""

    def __init__(self, calls: FileCalls, path: str, *, sync: bool) -> None:
        self._calls = calls
        self._sync = sync
        self._descriptor = calls.open_to_read(path)

    def read(self, size: int) -> bytes:
        return self._calls.read(self._descriptor, size)

    def sync(self) -> None:
        if self._sync:
            self._calls.sync_data(self._descriptor)

    def close(self) -> None:
        self._calls.close(self._descriptor)


class FolderBlobs(Folders):
    """See `Blobs`. A place is a path; one file has two names while it is copied."""

    kind = FOLDER
    is_spool = False
    moves_slowly = False
    _memory: Memory | None = None  # by which what is in memory is read in the event loop

    @property
    def root(self) -> Folders:
        """See `Blobs`."""
        return self

    def claim(self, archive_id: str, *, is_known: bool) -> None:
        """See `Blobs`: the marker in the folder says it."""

    def serve(self, known: Callable[[str, Sequence[str]], set[str]]) -> None:
        """See `Blobs`: it is seen what the file system can do."""
        self._memory = self._calls.memory_of(self.objects)

    def close(self) -> None:
        """See `Blobs`: nothing runs."""

    def new(self, header: bytes) -> InstanceFile:
        """See `Blobs`."""
        return InstanceFile(self, self._calls, header, sync=self._sync)

    def finish_all(self, blobs: Sequence[NewBlob]) -> list[OSError | None]:
        """See `Blobs`."""
        files = cast(Sequence[InstanceFile], blobs)
        descriptors = [file.mark() for file in files]
        errors: list[OSError | None] = [None] * len(blobs)
        if self._sync:
            errors = self._sync_all(files, descriptors)
        for number, file in enumerate(files):
            file.is_durable = errors[number] is None
            try:
                file.close()
            except OSError as error:
                errors[number] = error
        return errors

    def _sync_all(self, blobs: Sequence[InstanceFile], descriptors: Sequence[int]) -> list[OSError | None]:
        places = [os.path.dirname(blob.path) for blob in blobs]
        folders = list(dict.fromkeys(places))
        with self._syncing:
            errors = self._calls.sync_all(descriptors, folders)
            failed = dict(zip(folders, errors[len(blobs) :], strict=True))
            for folder, error in failed.items():
                if error is not None:
                    self._distrust(folder)
        return [error or failed[place] for error, place in zip(errors, places, strict=False)]

    def source(
        self,
        path: str,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        offset: int,
        length: int,
    ) -> FileSource:
        """See `Blobs`."""
        return FileSource(
            path,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            offset=offset,
            length=length,
            in_threads=True,
            memory=self._memory,
        )

    def read(self, path: str) -> _OpenFile:
        """See `Blobs`."""
        return _OpenFile(self._calls, path, sync=self._sync)

    def look_at(
        self, path: str, row: Row, *, read_so_far: Callable[[int], None] = lambda size: None
    ) -> State:
        """See `Blobs`."""
        return look_at(self._calls, path, row, read_so_far=read_so_far)

    def is_there(self, path: str) -> bool:
        """See `Blobs`."""
        return self._calls.look(path) is not None

    def size(self, path: str) -> int | None:
        """See `Blobs`."""
        found = self._calls.look(path)
        return None if found is None else found.st_size

    def is_other_name(self, path: str, others: Sequence[str]) -> bool:
        """See `Blobs`: by a mount; two names that the archive has given are not meant."""
        mine = self._calls.look(path)
        for other in others:
            theirs = self._calls.look(other)
            if mine is not None and theirs is not None and os.path.samestat(mine, theirs):
                return mine.st_nlink == 1
        return False

    def remove(self, path: str) -> None:
        """See `Blobs`."""
        self._calls.remove(path)

    def move(self, path: str, target: str) -> None:
        """See `Blobs`."""
        self._calls.move(path, target)

    def copy(self, path: str, target: str) -> None:
        """See `Blobs`."""
        self._calls.link(path, target, sync=self._sync)

    def count_lost(self) -> int:
        """See `Blobs`."""
        return len(self._calls.names(self.lost))

    def count_waiting(self) -> int:
        """See `Blobs`."""
        return 0

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        """Make a file of pieces, with its content durable if the archive is to survive a power cut."""
        descriptor = self._calls.create(path)
        try:
            self._calls.set_mode(descriptor)
            for piece in pieces:
                self._calls.write(descriptor, [piece])
            if self._sync:
                self._calls.sync_data(descriptor)
        finally:
            self._calls.close(descriptor)

    def has_quarantined(self) -> bool:
        """See `Blobs`."""
        return bool(self._calls.names(self.quarantine))

    def can_move_to_quarantine(self) -> bool:
        """See `Blobs`: on two disks, or two mounts of one, a name cannot be moved."""
        nothing = f"{secrets.token_hex(16)}.dcm"
        try:
            self._calls.move(self.path(nothing), self.quarantine_path(nothing))
        except OSError as error:
            return error.errno != errno.EXDEV
        return True
