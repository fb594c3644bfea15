"""One object being received: kept in memory while it is small, else sent in parts while it comes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from asyncdicom.archive.blobs.base import Unreachable
from asyncdicom.archive.blobs.header import DIGEST_SIZE, without_digest
from asyncdicom.archive.blobs.object_store import PART, ObjectStore
from asyncdicom.telemetry.log import Log

__all__ = ["NewObject"]

_LOG = Log("asyncdicom.archive")

_TRIES = 2  # PUTs of one instance, each under a name of its own
_PAUSE = 0.5  # seconds between them


class _Names(Protocol):
    """What `NewObject` needs of the blobs."""

    store: ObjectStore

    def take_name(self) -> str: ...

    def give_back(self, name: str, *, failed: bool) -> None: ...

    def path(self, name: str) -> str: ...

    def key(self, path: str) -> str: ...


class _BrokenOff(Unreachable):
    """Nobody wants the object any more."""


class _Upload:
    """An object that is sent in parts while it comes."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._over = asyncio.Event()
        self._is_whole = False
        self._ended: Future[None] = store.spawn(self._run())

    async def _run(self) -> None:
        try:
            await self._store.upload(self._key, self._pieces())
        finally:
            self._over.set()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the pieces; raises where the object is not to be, which lets the store forget its parts."""
        ending = asyncio.ensure_future(self._store.ending.wait())
        try:
            while True:
                more = asyncio.ensure_future(self._waiting.get())
                await asyncio.wait({more, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not more.done():
                    more.cancel()
                    break
                if (piece := more.result()) is None:
                    break
                yield piece
        finally:
            ending.cancel()
        if not self._is_whole:
            raise _BrokenOff(errno.ECANCELED, "it was broken off")

    def feed(self, data: bytes | None) -> Future[None]:
        """Give more of it, or None at its end: the next piece is to come when this one was taken."""
        return self._store.spawn(self._feed(data))

    async def _feed(self, data: bytes | None) -> None:
        """Wait until there is room for more, or nothing takes it any more: `end` tells why."""
        waits = {asyncio.ensure_future(self._waiting.put(data)), asyncio.ensure_future(self._over.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def error(self) -> BaseException | None:
        """What it has failed with, if that is known."""
        return self._ended.exception() if self._ended.done() else None

    def end(self, then: Callable[[BaseException | None], None]) -> None:
        """Say that it is whole; `then` is called when the store has it, or with what has failed."""
        self._is_whole = True
        self.feed(None)
        self._ended.add_done_callback(lambda ended: then(ended.exception()))

    async def give_up(self) -> None:
        """Say that there is to be no such object; returns when that is so, or will never be."""
        await self._feed(None)
        await self._over.wait()


class NewObject:
    """See `NewBlob`. The name changes when a PUT is tried again: the first may come to be all the same."""

    def __init__(self, blobs: _Names, header: bytes) -> None:
        self.name = ""
        self.path = ""
        self.offset = len(header)
        self.length = 0
        self.is_durable = False
        self.busy: Future[None] | None = None
        self._blobs = blobs
        self._header = header
        self._digest = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._size = 0  # of the pieces
        self._upload: _Upload | None = None
        self._is_sent = False  # nobody knows that there is nothing at its place

    @property
    def digest(self) -> str:
        """The digest of the data set so far."""
        return self._digest.hexdigest()[: 2 * DIGEST_SIZE]

    def write(self, views: Sequence[memoryview], *, last: bool = False) -> None:
        """See `NewBlob`. `busy` is there while more is not to come."""
        if not self.name:
            self._take_name()
        data = b"".join(views)
        self._digest.update(data)
        self.length += len(data)
        if self._upload is None:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > PART and not last:
                self._begin_upload()
            return
        if (error := self._upload.error) is not None:
            raise error
        self.busy = self._upload.feed(data)

    def _take_name(self) -> None:
        self.name = self._blobs.take_name()
        self.path = self._blobs.path(self.name)

    def _begin_upload(self) -> None:
        # Its head leaves before its digest is known.
        data = b"".join([without_digest(self._header), *self._pieces])
        self._pieces, self._size = [], 0
        self._is_sent = True
        self._upload = _Upload(self._blobs.store, self._blobs.key(self.path))
        self.busy = self._upload.feed(data)

    def finish(self, then: Callable[[BaseException | None], None]) -> None:
        """See `NewBlob`."""

        def ended(error: BaseException | None) -> None:
            self.is_durable = error is None
            then(error)

        if self._upload is not None:
            self._upload.end(ended)
            return
        head = self._header[:-DIGEST_SIZE] + self._digest.digest()[:DIGEST_SIZE]
        data = b"".join([head, *self._pieces])
        self._pieces, self._size = [], 0
        putting = self._blobs.store.spawn(self._put(data))
        putting.add_done_callback(lambda done: ended(done.exception()))

    async def _put(self, data: bytes) -> None:
        for left in reversed(range(_TRIES)):
            self._is_sent = True
            try:
                await self._blobs.store.put(self._blobs.key(self.path), data)
                return
            except (Unreachable, FileExistsError) as error:
                if not left or (isinstance(error, Unreachable) and not error.is_passing):
                    raise
                _LOG.warning("an object is sent again under another name: %s", error.strerror)
            await asyncio.sleep(_PAUSE)
            self._blobs.give_back(self.name, failed=False)
            self._take_name()

    def keep(self) -> None:
        """See `NewBlob`."""
        self._blobs.give_back(self.name, failed=False)

    def discard(self, failed: bool = False) -> None:
        """See `NewBlob`. Nobody waits for the store: the sweep finds what it does not remove now."""
        if not self._is_sent:
            self._give_back(failed)
            return
        try:
            self._blobs.store.spawn(self._vanish(failed))
        except Unreachable:  # closed: nobody else is waiting
            try:
                self._blobs.store.remove(self._blobs.key(self.path))
            finally:
                self._give_back(failed)

    async def _vanish(self, failed: bool) -> None:
        try:
            if self._upload is not None:
                await self._upload.give_up()
            # Under an earlier name it may have a row by now: the sweep looks.
            await self._blobs.store.remove_async(self._blobs.key(self.path))
        except OSError as error:
            _LOG.warning("an object could not be removed, the next sweep does that: %s", error.strerror)
        finally:
            self._give_back(failed)

    def _give_back(self, failed: bool) -> None:
        if self.name:
            self._blobs.give_back(self.name, failed=failed)
