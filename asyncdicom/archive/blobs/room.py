"""Whether the disk has room: storing stops before the index cannot be written any more."""

from __future__ import annotations

import errno
from typing import NamedTuple

from asyncdicom.archive.file_calls import FileCalls

__all__ = ["MINIMUM_FREE", "Room", "Space"]

MINIMUM_FREE = 2 << 30  # bytes; of a small disk a twentieth of it is enough

_MIB = 1 << 20


class Space(NamedTuple):
    """The disk that a folder is on, in bytes: `reserve` is kept free, and it `is_short` of room with less."""

    total: int
    free: int
    reserve: int
    is_short: bool


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

    def look(self) -> Space:
        """Tell how much room there is. Raises ``OSError``."""
        total, free = self._calls.space(self._path)
        reserve = min(MINIMUM_FREE, total // 20) if self._minimum is None else self._minimum
        self._is_short = free < (reserve * 7 // 5 if self._is_short else reserve)
        return Space(total, free, reserve, self._is_short)

    def check(self) -> None:
        """Raise ``OSError`` if there is too little room to store anything."""
        if self._minimum == 0:
            return
        space = self.look()
        if space.is_short:
            message = (
                f"only {space.free // _MIB} MiB of its disk are free; "
                f"it stores again when {space.reserve * 7 // 5 // _MIB} MiB are"
            )
            raise OSError(errno.ENOSPC, message)
