"""Data sets that are being received, without a network."""

from __future__ import annotations

from helpers.peer import CT

from asyncdicom import DataStream
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN


def received(*pieces: bytes, ended: bool = True) -> DataStream:
    """The stream of an instance of which `pieces` have come."""
    data = DataStream(EXPLICIT_VR_LITTLE_ENDIAN, CT, "1.2.3")
    for piece in pieces:
        data.feed([memoryview(piece)], len(piece), False)
    if ended:
        data.feed([], 0, True)
    return data
