"""The file of a row is compared with that of an arrival, by what their elements say."""

from __future__ import annotations

import time
from collections.abc import Iterator

from asyncdicom.archive.arrival import Arrival
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.index.base import Existing
from asyncdicom.data.likeness import Likeness, comparing

__all__ = ["compare_files"]

_PIECE = 1 << 18


def compare_files(calls: FileCalls, path: str, row: Existing, arrival: Arrival) -> Likeness:
    """Compare a stored file with one that has come under its SOP Instance UID. Blocks.

    One that is not there, or is not as long as its row says, is different: it may be damaged. Raises
    `OSError` where a disk fails.
    """
    found = calls.look(path)
    if found is None or found.st_size != row.data_set_offset + row.data_set_length:
        return Likeness.DIFFERENT
    stored = calls.open_to_read(path)
    try:
        came = calls.open_to_read(arrival.file.path)
        try:
            steps = comparing(
                _pieces(calls, stored, row.data_set_offset),
                row.transfer_syntax_uid,
                _pieces(calls, came, arrival.file.offset),
                arrival.transfer_syntax_uid,
            )
            while True:
                next(steps)
                time.sleep(0)  # the event loop is let in
        except StopIteration as end:
            likeness: Likeness = end.value
            return likeness
        finally:
            calls.close(came)
    finally:
        calls.close(stored)


def _pieces(calls: FileCalls, descriptor: int, offset: int) -> Iterator[bytes]:
    while offset and (piece := calls.read(descriptor, offset)):
        offset -= len(piece)
    while piece := calls.read(descriptor, _PIECE):
        yield piece
