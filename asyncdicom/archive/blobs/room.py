"""Whether the disk has room: storing stops before the index cannot be written any more."""

from __future__ import annotations

import errno

from asyncdicom.archive.file_calls import FileCalls

__all__ = ["MINIMUM_FREE", "Room"]

MINIMUM_FREE = 2 << 30  # bytes; of a small disk a twentieth of it is enough

_MIB = 1 << 20


class Room:
    """The free space of the disk that a folder is on. For many threads; its call blocks.

    ``minimum``: bytes; below it nothing is stored until 1.4 times as much is free, so that storing does not
    stop and go with every file that comes and is removed. None: `MINIMUM_FREE`, or 5 % of the disk if that is
    less; 0: never stop.
    """

    def __init__(self, path: str, calls: FileCalls, minimum: int | None = None) -> None:
        self._path = path
        self._calls = calls
        self._minimum = minimum
        self._is_short = False

    def check(self) -> None:
        """Raise ``OSError`` if there is too little room to store anything."""
        if self._minimum == 0:
            return
        total, free = self._calls.space(self._path)
        stop = min(MINIMUM_FREE, total // 20) if self._minimum is None else self._minimum
        go_on = stop * 7 // 5
        self._is_short = free < (go_on if self._is_short else stop)
        if self._is_short:
            message = (
                f"only {free // _MIB} MiB of its disk are free; it stores again when {go_on // _MIB} MiB are"
            )
            raise OSError(errno.ENOSPC, message)
