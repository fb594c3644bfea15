"""Deflated data sets (PS3.5 A.5): RFC 1951 without a header, and the one limit for all that is inflated.

A header of zlib before it is passed over.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator

from asyncdicom.data.steps import Steps, finish
from asyncdicom.exceptions import DataSetError

Buffer = bytes | bytearray | memoryview

MAXIMUM_INFLATED = 32 << 20
"""Bytes that one data set may inflate to."""
MAXIMUM_RATIO = 200
"""Bytes that one byte may inflate to, on the average."""
MAXIMUM_HEADERS = 1 << 16
"""Element headers that a deflated data set may have at any rate; beyond that, one for each byte that came."""
_NO_RATIO_YET = 65536  # the ratio counts from here on: a short run of zeros looks like a bomb, too
_READ, _PIECE = 16384, 65536


class CorruptStream(DataSetError):
    """What comes is no deflated data: nothing behind it can be read."""


class Inflater:
    """Inflates piece by piece, never more than ``maximum`` bytes and `MAXIMUM_RATIO` to one."""

    __slots__ = ("_begin", "_inflate", "_inflated", "_maximum", "_ratio", "_read")

    def __init__(self, maximum: int = MAXIMUM_INFLATED, ratio: int = MAXIMUM_RATIO) -> None:
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._maximum = maximum
        self._ratio = ratio
        self._read = self._inflated = 0
        self._begin: bytes | None = b""  # while it is not known whether there is a header of zlib

    @property
    def read(self) -> int:
        """How many bytes were taken in."""
        return self._read

    @property
    def done(self) -> bool:
        """Whether the end of the compressed data was seen."""
        return self._inflate.eof

    def lift_limits(self) -> None:
        """Go on to the end, however long it is: for who keeps nothing of what comes out."""
        self._maximum = self._ratio = sys.maxsize

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """Yield what ``data`` gives, in pieces of up to 64 KiB. Raises ``DataSetError``."""
        view = memoryview(data)
        if self._begin is not None:
            view = self._without_header(self._begin, view)
        for start in range(0, len(view), _READ):
            piece: Buffer = view[start : start + _READ]
            while piece and not self._inflate.eof:
                try:
                    inflated = self._inflate.decompress(piece, _PIECE)
                except zlib.error as error:
                    raise CorruptStream("the deflated data set is corrupt") from error
                self._read += len(piece) - len(self._inflate.unconsumed_tail)
                self._inflated += len(inflated)
                piece = self._inflate.unconsumed_tail
                if self._inflated > min(self._maximum, self._ratio * self._read + _NO_RATIO_YET):
                    raise DataSetError(
                        f"the deflated data set is a bomb: {self._read} bytes gave {self._inflated}"
                    )
                yield inflated

    def _without_header(self, begin: bytes, view: memoryview) -> memoryview:
        """Leave out the header of zlib (RFC 1950) that some writers put there; the checksum is not read."""
        if begin:
            view = memoryview(begin + view)
        if not view:
            return view
        if view[0] & 0x0F == 8:  # or a stored block, of which five bytes tell it apart
            if len(view) < 5:
                self._begin = bytes(view)
                return view[:0]
            is_stored = view[1] ^ view[3] == view[2] ^ view[4] == 0xFF
            if not is_stored and (view[0] << 8 | view[1]) % 31 == 0 and not view[1] & 0x20:
                view = view[2:]
                self._read += 2
        self._begin = None
        return view


def inflating(data: Buffer, maximum: int = MAXIMUM_INFLATED, ratio: int = MAXIMUM_RATIO) -> Steps[bytes]:
    """As `inflate`, in steps of 64 KiB."""
    inflater = Inflater(maximum, ratio)
    pieces = []
    for piece in inflater.feed(data):
        pieces.append(piece)
        yield
    if not inflater.done:
        raise DataSetError("the deflated data set is truncated")
    return b"".join(pieces)


def inflate(data: Buffer, maximum: int = MAXIMUM_INFLATED, ratio: int = MAXIMUM_RATIO) -> bytes:
    """The whole of a deflated data set. Raises ``DataSetError`` beyond ``maximum`` bytes or the ratio."""
    return finish(inflating(data, maximum, ratio))


def deflate(data: bytes) -> bytes:
    """RFC 1951 data without a header, padded to even length (PS3.5 A.5)."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(data) + compressor.flush()
    return deflated + b"\0" * (len(deflated) % 2)
