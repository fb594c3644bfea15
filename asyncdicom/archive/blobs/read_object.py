"""Objects are read by ranges: some of it for who wants a head, all of it piece by piece for who sends it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator, Callable

from asyncdicom.archive.blobs.base import Row, State
from asyncdicom.archive.blobs.object_store import ObjectStore
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.disk import Batch, LastBatch
from asyncdicom.net.sources import padding_of

__all__ = ["ObjectSource", "ReadObject", "look_at"]

_FIRST = 1 << 16  # bytes of the first request: who reads a head needs no more
_MOST = 4 << 20  # of any: a request takes a round trip and costs money


class ReadObject:
    """See `Reading`. Raises ``FileNotFoundError`` at once if there is nothing."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._position = 0
        self._step = _FIRST
        self._buffer, self._size = store.read(key, 0, _FIRST)
        self._position = len(self._buffer)

    def read(self, size: int) -> bytes:
        """See `Reading`."""
        if not self._buffer and self._position < self._size:
            self._step = min(self._step * 4, _MOST)
            self._buffer, _ = self._store.read(self._key, self._position, self._step)
            if not self._buffer:
                raise OSError(errno.EIO, "the object became shorter while it was read", self._key)
            self._position += len(self._buffer)
        piece, self._buffer = bytes(self._buffer[:size]), self._buffer[size:]
        return piece

    def sync(self) -> None:
        """See `Reading`: what can be read is durable."""

    def close(self) -> None:
        """See `Reading`: nothing is open."""
        self._buffer = memoryview(b"")


def look_at(store: ObjectStore, key: str, row: Row, read_so_far: Callable[[int], None]) -> State:
    """Compare an object with its row, to the last byte. Blocks; see `Blobs.look_at`."""
    size = store.size(key)
    if size is None:
        return State.MISSING
    if size != row.data_set_offset + row.data_set_length:
        return State.DAMAGED
    digest = hashlib.sha256()
    position = row.data_set_offset
    try:
        while position < size:
            piece, _ = store.read(key, position, min(_MOST, size - position))
            if not piece:
                return State.DAMAGED
            digest.update(piece)
            position += len(piece)
            read_so_far(len(piece))
    except FileNotFoundError:
        return State.MISSING
    return State.SOUND if digest.hexdigest()[:32] == row.digest else State.DAMAGED


class ObjectSource:
    """The data set of an object, read while it is sent and never decoded: see `FileSource`."""

    is_repeatable = True

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        offset: int,
        length: int,
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.length = length
        self._store = store
        self._key = key
        self._offset = offset
        self._ahead: asyncio.Future[memoryview] | None = None

    def at_hand(self) -> None:
        """See `Source`: it is always far away."""

    def read_ahead(self) -> None:
        """Begin to read now what will be sent soon."""
        if self._ahead is None and self.length:
            self._ahead = self._begin(0)

    def _begin(self, position: int) -> asyncio.Future[memoryview]:
        size = min(_MOST, self.length - position)
        reading = asyncio.ensure_future(self._store.read_async(self._key, self._offset + position, size))
        reading.add_done_callback(_looked_at)
        return reading

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`. An object that has become shorter raises `DataSetError`."""
        ahead, self._ahead = self._ahead, None
        position = 0
        try:
            while position < self.length:
                view = await (ahead or self._begin(position))
                ahead = None
                if len(view) != min(_MOST, self.length - position):
                    raise DataSetError(f"{self._key} is shorter than the index says")
                position += len(view)
                if position < self.length:
                    ahead = self._begin(position)  # while this one is on the wire
                    yield [view]
                else:
                    yield LastBatch([view, *padding_of(self.length, self.transfer_syntax_uid)])
        finally:
            if ahead is not None:
                ahead.cancel()


def _looked_at(reading: asyncio.Future[memoryview]) -> None:
    """Let nobody complain that what was read ahead, and failed, was not sent after all."""
    if not reading.cancelled():
        reading.exception()
