"""The file of a row is compared with that of an arrival, by what their elements say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from asyncdicom.archive.arrival import Arrival
from asyncdicom.archive.blobs.base import Blobs, Reading
from asyncdicom.archive.index.base import Existing
from asyncdicom.data.likeness import Likeness, comparing

__all__ = ["compare_blobs"]

_PIECE = 1 << 18


def compare_blobs(blobs: Blobs, path: str, row: Existing, arrival: Arrival) -> Likeness:
    """Compare a stored instance with one that has come under its SOP Instance UID. Blocks.

    One that is not there, or is not as long as its row says, is different: it may be damaged. Raises
    `OSError` where a disk fails.
    """
    if blobs.size(path) != row.data_set_offset + row.data_set_length:
        return Likeness.DIFFERENT
    try:
        opened = blobs.read(path)
    except FileNotFoundError:  # another one has taken its place meanwhile, and is looked at in its turn
        return Likeness.DIFFERENT
    with closing(opened) as stored, closing(blobs.read(arrival.file.path)) as came:
        steps = comparing(
            _pieces(stored, row.data_set_offset),
            row.transfer_syntax_uid,
            _pieces(came, arrival.file.offset),
            arrival.transfer_syntax_uid,
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                likeness: Likeness = end.value
                return likeness
            time.sleep(0)  # the event loop is let in


def _pieces(blob: Reading, offset: int) -> Iterator[bytes]:
    while offset and (piece := blob.read(offset)):
        offset -= len(piece)
    while piece := blob.read(_PIECE):
        yield piece
