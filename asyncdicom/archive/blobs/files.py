"""One file: being received, or stored already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.blobs.header import DIGEST_SIZE
from asyncdicom.archive.file_calls import FileCalls

__all__ = ["InstanceFile", "StoredFile"]


class StoredFile:
    """A file that lies below ``objects`` or in ``quarantine`` already, and what its row says of it."""

    def __init__(self, name: str, path: str, offset: int, length: int, digest: str) -> None:
        self.name = name
        self.path = path
        self.offset = offset
        self.length = length
        self.digest = digest
        self.is_durable = False  # nobody knows


class InstanceFile:
    """One object being received: owns its descriptor, counts and digests the bytes of the data set.

    All methods block and belong into a worker thread, one call at a time. The file is created by the first
    write. Whoever cancels waits for a call in flight before `discard`: a thread that still writes to a closed
    descriptor could write into another object.
    """

    busy = None

    def __init__(self, folders: Folders, calls: FileCalls, header: bytes, *, sync: bool) -> None:
        self.name = ""
        self.path = ""
        self.offset = len(header)
        self.length = 0
        self.is_durable = False
        self._folders = folders
        self._calls = calls
        self._header = header
        self._sync = sync
        self._descriptor: int | None = None
        self._is_marked = False  # whether the header has the digest
        self._digest = hashlib.sha256()  # where the processor has instructions for it, the fastest

    @property
    def digest(self) -> str:
        """The digest of the data set so far."""
        return self._digest.hexdigest()[: 2 * DIGEST_SIZE]

    def write(self, views: Sequence[memoryview], *, last: bool = False) -> None:
        """Write more of the data set; with the last of it the header gets its digest."""
        for view in views:
            self._digest.update(view)
            self.length += len(view)
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._create()
            header = self._header
            if last:
                header, self._is_marked = header[:-DIGEST_SIZE] + self._digest.digest()[:DIGEST_SIZE], True
            views = [memoryview(header), *views]
        self._calls.write(descriptor, views)

    def _create(self) -> int:
        self.name = self._folders.take_name()
        self.path = self._folders.path(self.name)
        self._descriptor = self._calls.create(self.path)
        if self._folders.sets_modes:
            self._folders.sets_modes = self._calls.set_mode(self._descriptor)
        return self._descriptor

    def finish(self, then: Callable[[BaseException | None], None]) -> None:
        """Write the digest into the header, make the content durable and close the file; then call `then`."""
        try:
            if self._descriptor is not None:
                self.mark()
                if self._sync:
                    self._calls.sync_data(self._descriptor)
                self.close()
        except BaseException as error:
            then(error)
        else:
            then(None)

    def mark(self) -> int:
        """Write the digest into the header, if it has none; gives the descriptor (-1: there is no file)."""
        if self._descriptor is None:
            return -1
        if not self._is_marked:
            digest = self._digest.digest()[:DIGEST_SIZE]
            self._calls.write_at(self._descriptor, self.offset - DIGEST_SIZE, digest)
            self._is_marked = True
        return self._descriptor

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._calls.close(descriptor)

    def keep(self) -> None:
        """Say that the index has the file now."""
        self._folders.give_back(self.name, failed=False)

    def discard(self, failed: bool = False) -> None:
        """Close and remove the file."""
        try:
            self.close()
        finally:
            try:
                if self.path:
                    self._calls.remove(self.path)
            finally:
                self._folders.give_back(self.name, failed=failed)
