"""A look at the file of a row: is it there, and does it hold what the row says?"""

from __future__ import annotations

import errno
import hashlib
import stat
from collections.abc import Callable

from asyncdicom.archive.blobs.base import Row, State
from asyncdicom.archive.file_calls import FileCalls

__all__ = ["look_at"]

_PIECE = 1 << 20
_UNREADABLE = (
    errno.EIO,
    errno.ELOOP,
    errno.EINVAL,
    errno.EISDIR,
    errno.ENXIO,
)  # what is there is no such file


def look_at(
    calls: FileCalls,
    path: str,
    row: Row,
    *,
    read_so_far: Callable[[int], None] = lambda size: None,
) -> State:
    """Compare a file with its row, to the last byte. Blocks; raises `OSError` where that cannot be told.

    ``read_so_far`` is called with the size of each piece that was read (bytes), and may wait or raise.
    """
    found = calls.look(path)
    if found is None:
        return State.MISSING
    if not stat.S_ISREG(found.st_mode) or found.st_size != row.data_set_offset + row.data_set_length:
        return State.DAMAGED
    try:
        return _compare(calls, path, row, read_so_far)
    except FileNotFoundError:
        return State.MISSING
    except OSError as error:
        if error.errno in _UNREADABLE:
            return State.DAMAGED
        raise


def _compare(
    calls: FileCalls,
    path: str,
    row: Row,
    read_so_far: Callable[[int], None],
) -> State:
    digest = hashlib.sha256()
    descriptor = calls.open_to_read(path)
    try:
        skip = row.data_set_offset
        while piece := calls.read(descriptor, skip if 0 < skip < _PIECE else _PIECE):
            if skip > 0:
                skip -= len(piece)
            else:
                digest.update(piece)
            read_so_far(len(piece))
    finally:
        calls.close(descriptor)
    return State.SOUND if digest.hexdigest()[:32] == row.digest else State.DAMAGED
