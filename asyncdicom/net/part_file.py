"""A file that appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os

from asyncdicom.net.disk import CREATE, Batch, Disk, write_all

__all__ = ["PartFile"]

_FILE_MODE, _FOLDER_MODE = 0o640, 0o750

# Names of files that are not complete yet are this process's own.
_PROCESS = os.urandom(6).hex()
_part_numbers = itertools.count()

# What is read and what is written are often on different disks: `sources.py` has one of its own.
_written = Disk()


class PartFile:
    """A file that gets its name when it is complete: `head`, then what is written. All methods block.

    Its folder is made when it is missing. More than `maximum` bytes, the head aside, are an OSError (EFBIG).
    `disk` is what tells where the methods are to be called.
    """

    __slots__ = ("_descriptor", "_error", "_head", "_part", "_room", "_target", "disk")

    def __init__(self, target: str, head: bytes, maximum: int | None = None) -> None:
        self.disk = _written
        self._target = target
        self._room = maximum
        self._head = head
        self._part = f"{target}.{_PROCESS}-{next(_part_numbers)}.part"
        self._descriptor: int | None = None
        self._error: OSError | None = None

    def offer(self, batch: Batch) -> bool:
        """Write at once, in the event loop, if the disk is quick. What goes wrong is raised by `write`."""
        start = self.disk.quick_now() if self._error is None else None
        if start is not None:
            try:
                self.disk.at_once(start, self.write, batch)
                return True
            except OSError as error:
                self._error = error
        return False

    def write(self, batch: Batch) -> None:
        """Write what comes next, or raise what went wrong with what was offered before."""
        if self._error is not None:
            raise self._error
        if self._room is not None:
            self._room -= sum(map(len, batch))
            if self._room < 0:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._part, CREATE, _FILE_MODE)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self._part), _FOLDER_MODE, exist_ok=True)
                self._descriptor = os.open(self._part, CREATE, _FILE_MODE)
            batch = [self._head, *batch]
        write_all(self._descriptor, batch)

    def finish(self, batch: Batch) -> None:
        """Write the last of it, and give the file its name; what had that name is replaced."""
        if batch or self._descriptor is None:
            self.write(batch)
        self._close()
        os.replace(self._part, self._target)
        self._part = self._target  # which is what `discard` would remove: the caller was cancelled meanwhile

    def discard(self) -> None:
        """Remove the file, also if it has its name already."""
        self._close()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self._part)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)
