"""Data sets on their way: `DataStream` is one being received, a `Source` one to be sent.

Both move in batches, lists of buffers, and nobody looks at the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TypeAlias

from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.data.steps import finish
from asyncdicom.dimse.assembler import joined
from asyncdicom.exceptions import DataSetError, LocalProtocolError
from asyncdicom.net.blocks import FILE_BLOCK_SIZE, file_blocks
from asyncdicom.net.disk import Disk
from asyncdicom.net.lane import lane
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.uid import transfer_syntax

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "Batch",
    "Buffer",
    "BytesSource",
    "DataStream",
    "FileSource",
    "Source",
    "at_hand",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Batch: TypeAlias = Sequence[Buffer]

_READ_AHEAD = 1 << 20  # the largest file that is read whole before its turn
_MAXIMUM_IN_MEMORY = 16 << 20
_AT_ONCE = 8192  # bytes: a thousand elements at most
_IOV_MAX = 1024
_PIECE = 1 << 18  # what is gathered before a thread is asked to write it

# Names of files that are not complete yet are this process's own.
_PROCESS = os.urandom(6).hex()
_part_numbers = itertools.count()

# What is read and what is written are often on different disks.
_read, _written = Disk(), Disk()
_in_threads = Disk(lambda: -math.inf)  # it is never the time for a call in the event loop


class DataStream:
    """A data set that is being received, once: iterate, `batches`, `read`, `dataset` or `save`.

    Memoryviews that were handed out stay valid as long as they are referenced, but hold on to the
    block they were received into: keep `bytes(view)` of a small piece. What is not read is thrown
    away when the handler has returned.
    """

    __slots__ = (
        "_ended",
        "_error",
        "_sink",
        "_taken",
        "_views",
        "_waiter",
        "_wanted",
        "discarded",
        "discarding",
        "is_held_back",
        "received",
        "sop_class_uid",
        "sop_instance_uid",
        "transfer_syntax_uid",
        "waiting",
    )

    def __init__(
        self,
        transfer_syntax_uid: str,
        sop_class_uid: str = "",
        sop_instance_uid: str = "",
        *,
        taken: Callable[[int], None] = lambda count: None,
        is_held_back: Callable[[], bool] = lambda: False,
    ) -> None:
        self.transfer_syntax_uid = transfer_syntax_uid
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.is_held_back = is_held_back  # reading is paused: no more comes until something is taken
        self.received = 0
        self.waiting = 0
        self.discarded = 0
        self.discarding = False
        self._taken = taken
        self._sink: Callable[[Batch], bool] | None = None  # takes what comes, or says that it cannot now
        self._views: list[memoryview] = []
        self._ended = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 1  # how much the waiter waits for

    # the channel's side

    def feed(self, views: list[memoryview], length: int, is_last: bool) -> None:
        """Add what was received."""
        self.received += length
        if self.discarding:
            self.discarded += length
            self._taken(length)
        elif self._sink is not None and self._is_awaited and self._sink(views):
            self._taken(length)
        elif length:
            self._views += views
            self.waiting += length
            self._views = joined(self._views, self.waiting)
        if is_last:
            self._ended = True
        if self._has(self._wanted):
            self._wake()

    def fail(self, error: BaseException) -> None:
        """There will be no more: whoever waits gets `error`, after what was received before."""
        if not self._ended:
            self._error = error
            self._ended = True
            self._wake()

    def discard(self) -> None:
        """Throw away what waits and whatever comes."""
        self.discarding = True
        self.discarded += self.waiting
        self._take()
        self._wake()

    async def finished(self) -> None:
        """Wait until the last fragment has come, whoever takes it; a lost association raises."""
        while not self._ended:
            await self._wait(1)
        if self._error is not None:
            raise self._error

    @property
    def is_complete(self) -> bool:
        """Whether the last fragment was received."""
        return self._ended and self._error is None

    @property
    def _is_awaited(self) -> bool:
        """Whether somebody waits for more, because nothing is left of what came before."""
        return not self._views and self._waiter is not None and not self._waiter.done()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self, wanted: int) -> None:
        if self._waiter is not None and not self._waiter.done():
            raise LocalProtocolError("two tasks read the same data set; it can be read once")
        self._wanted = wanted
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _has(self, wanted: int) -> bool:
        return self._ended or self.waiting >= wanted or self.is_held_back()

    def _take(self) -> list[memoryview]:
        views, count = self._views, self.waiting
        self._views, self.waiting = [], 0
        if count:
            self._taken(count)
        return views

    # the handler's side

    async def next_batch(self, minimum: int = 1) -> list[memoryview] | None:
        """Give everything received and not yet taken; None at the end.

        Waits until `minimum` bytes are there (or as many as may wait at all), or the last ones. A
        cancellation loses nothing.
        """
        while not (self._views and self._has(minimum)):
            if self.discarding:  # what is left of it must not look like its end
                raise LocalProtocolError("this data set is no longer wanted: its response was sent")
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            await self._wait(minimum)
        return self._take()

    async def batches(self, minimum: int = 1) -> AsyncGenerator[list[memoryview], None]:
        """Iterate over what is received, as lists of views of at least `minimum` bytes but the last."""
        while (batch := await self.next_batch(minimum)) is not None:
            yield batch

    def open(self) -> AsyncGenerator[Batch, None]:
        """Make this a `Source`: what is received can be sent on while it comes, without a copy in between."""
        return self.batches()

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        async for batch in self.batches():
            for view in batch:
                yield view

    async def read(self, maximum: int = _MAXIMUM_IN_MEMORY) -> bytes:
        """Give the encoded data set whole; `DataSetError` if it has more than `maximum` bytes."""
        views: list[memoryview] = []
        length = 0
        async for batch in self.batches():
            views += batch
            length += sum(map(len, batch))
            if length > maximum:
                raise DataSetError(f"the data set has more than {maximum} bytes")
            views = joined(views, length)
        return b"".join(views)

    async def dataset(self, maximum: int = _MAXIMUM_IN_MEMORY) -> Dataset:
        """Give the data set as a pydicom Dataset.

        A long one is decoded in steps, beside the event loop. Raises `DataSetError` if it is unreadable, has
        more than `maximum` bytes, or more than 32 MiB or 262,144 elements when inflated.
        """
        from asyncdicom.dataset import decoding

        data = await self.read(maximum)
        if len(data) <= _AT_ONCE and not transfer_syntax(self.transfer_syntax_uid).deflated:
            return finish(decoding(data, self.transfer_syntax_uid))
        # Who asks is known by where its bytes are counted: associations take turns.
        peer = getattr(self._taken, "__self__", self)
        return await lane().run(peer, decoding(data, self.transfer_syntax_uid))

    async def save(self, path: str | os.PathLike[str], *, source_ae_title: str | None = None) -> int:
        """Write a DICOM Part 10 file, byte for byte as received, and give its data set's length.

        The file appears under its name when it is complete; an existing one is replaced. After an
        error or a cancellation nothing is left. It is not synced to the disk (the archive does that).
        """
        if not self.sop_class_uid or not self.sop_instance_uid:
            raise LocalProtocolError("only an instance received with C-STORE can be saved as a file")
        head = encode_file_meta(
            self.sop_class_uid,
            self.sop_instance_uid,
            self.transfer_syntax_uid,
            source_ae_title=source_ae_title,
        )
        file = _PartFile(os.fspath(path), head)
        last: Batch = ()
        try:
            self._sink = file.offer
            while (batch := await self.next_batch(_PIECE)) is not None:
                if self.is_complete and not self.waiting:
                    last = batch  # the last piece and the end take one hop to a thread; so does a small file
                    break
                await _written.call(file.write, batch)
            await _written.call(file.finish, last)
        except BaseException:
            await _written.call(file.discard)
            raise
        finally:
            self._sink = None
        return self.received


class _PartFile:
    """A file that gets its name when it is complete. All methods block."""

    __slots__ = ("_descriptor", "_error", "_head", "_part", "_target")

    def __init__(self, target: str, head: bytes) -> None:
        self._target = target
        self._head = head
        self._part = f"{target}.{_PROCESS}-{next(_part_numbers)}.part"
        self._descriptor: int | None = None
        self._error: OSError | None = None

    def offer(self, batch: Batch) -> bool:
        """Write at once, in the event loop, if the disk is quick. What goes wrong is raised by `write`."""
        if self._error is None and _written.is_quick:
            try:
                _written.at_once(self.write, batch)
                return True
            except OSError as error:
                self._error = error
        return False

    def write(self, batch: Batch) -> None:
        if self._error is not None:
            raise self._error
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._part, flags, 0o640)
            batch = [self._head, *batch]
        write_all(self._descriptor, batch)

    def finish(self, batch: Batch) -> None:
        if batch or self._descriptor is None:
            self.write(batch)
        self._close()
        os.replace(self._part, self._target)
        self._part = self._target  # which is what `discard` would remove: the caller was cancelled meanwhile

    def discard(self) -> None:
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._part)

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def write_all(file: int, buffers: Batch) -> None:
    """Write a gather list wholly, however little the system takes at once (blocking)."""
    wanted = sum(map(len, buffers))
    written = os.writev(file, buffers[:_IOV_MAX]) if wanted else 0
    if written == wanted:  # nearly always
        return
    views = [memoryview(buffer) for buffer in buffers if len(buffer)]
    start = 0
    while True:
        while start < len(views) and written >= len(views[start]):
            written -= len(views[start])
            start += 1
        if start == len(views):
            return
        if written:
            views[start] = views[start][written:]
        written = os.writev(file, views[start : start + _IOV_MAX])


class Source(Protocol):
    """Something that C-STORE can send: three UIDs, and the encoded data set when it is opened."""

    @property
    def sop_class_uid(self) -> str:
        """The Affected SOP Class UID."""

    @property
    def sop_instance_uid(self) -> str:
        """The Affected SOP Instance UID."""

    @property
    def transfer_syntax_uid(self) -> str:
        """The transfer syntax that the bytes are encoded in."""

    def open(self) -> AsyncGenerator[Batch, None]:
        """Iterate over the encoded data set, in batches of buffers that do not change afterwards."""


class BytesSource:
    """An encoded data set in memory."""

    __slots__ = ("data", "sop_class_uid", "sop_instance_uid", "transfer_syntax_uid")

    def __init__(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Buffer
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.data = data

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`."""
        yield [self.data]


class FileSource:
    """The data set of a DICOM Part 10 file, read while it is sent and never decoded.

    `in_threads`: nothing of it is read in the event loop, however quick the disk is: a server has others to
    serve when a disk does not answer any more.
    """

    __slots__ = (
        "_ahead",
        "_disk",
        "length",
        "offset",
        "path",
        "sop_class_uid",
        "sop_instance_uid",
        "transfer_syntax_uid",
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        offset: int,
        length: int,
        in_threads: bool = False,
    ) -> None:
        self.path = path
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.offset = offset
        self.length = length
        self._ahead: Future[bytes] | None = None
        self._disk = _in_threads if in_threads else _read

    def read_ahead(self) -> None:
        """Begin to read now what will be sent soon, if it is small and the disk is slow."""
        if self._ahead is None and self.length <= _READ_AHEAD and not self._disk.is_quick:
            self._ahead = file_threads().submit(self._read_whole)

    def read_at_once(self) -> bytes | None:
        """Give the data set if it is small, the disk is quick and it was not read ahead; blocks."""
        if self._ahead is not None or self.length > FILE_BLOCK_SIZE or not self._disk.is_quick:
            return None
        return self._disk.at_once(self._read_whole)

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`. A file that changed its length meanwhile raises `DataSetError`."""
        ahead_of_time, self._ahead = self._ahead, None
        if ahead_of_time is not None or self.length <= FILE_BLOCK_SIZE:
            if ahead_of_time is None:
                yield [await self._disk.call(self._read_whole)]
            else:
                whole = await asyncio.wrap_future(ahead_of_time)
                yield [whole]
            return
        blocks = file_blocks(asyncio.get_running_loop())
        block = blocks.acquire()
        opened: list[int] = []
        ahead: Future[memoryview] | None = None
        try:
            await self._disk.call(lambda: opened.append(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)))
            [file] = opened
            position, end = self.offset, self.offset + self.length
            while position < end:
                if ahead is None:
                    view = await self._disk.call(self._read, file, block, position, end)
                else:
                    view, ahead = await asyncio.wrap_future(ahead), None
                blocks.give_back(block)
                block = blocks.acquire()
                position += len(view)
                if position < end and not self._disk.is_quick:
                    # The next block is read while this one is on the wire.
                    ahead = file_threads().submit(self._read, file, block, position, end)
                yield [view]
            yield [self._padding()]
        finally:
            if ahead is not None:
                await in_thread(file_threads(), _wait_for, ahead)
            blocks.give_back(block)
            for descriptor in opened:
                os.close(descriptor)

    def _padding(self) -> bytes:
        # PS3.5 A.5: a NULL makes the length of a deflated data set even; some files are without it.
        odd = self.length % 2 and transfer_syntax(self.transfer_syntax_uid).deflated
        return b"\0" if odd else b""

    def _read_whole(self) -> bytes:
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(file, self.length, self.offset)
        finally:
            os.close(file)
        if len(data) != self.length:
            raise DataSetError(f"{self.path} became shorter while it was being sent")
        return data + self._padding() if self.length % 2 else data

    def _read(self, file: int, block: bytearray, position: int, end: int) -> memoryview:
        view = memoryview(block)[: min(len(block), end - position)]
        done = 0
        while done < len(view):
            count = os.preadv(file, [view[done:]], position + done)
            if count == 0:
                raise DataSetError(f"{self.path} became shorter while it was being sent")
            done += count
        return view.toreadonly()


def at_hand(source: Source) -> Buffer | None:
    """Give the whole data set of a source if nothing has to be waited for."""
    if type(source) is FileSource:  # what is derived from it may open otherwise
        return source.read_at_once()
    return source.data if type(source) is BytesSource else None


def _wait_for(reading: Future[memoryview]) -> None:
    # A read in flight must not meet another file under the same descriptor.
    if not reading.cancel():
        reading.exception()
