"""What C-STORE sends: a `Source` is an encoded data set on its way out.

It moves in batches, lists of buffers, and nobody looks at the bytes.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from asyncdicom.exceptions import DataSetError
from asyncdicom.net.blocks import FILE_BLOCK_SIZE, file_blocks
from asyncdicom.net.disk import READ, Batch, Buffer, Disk, LastBatch, read_at, read_into
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.uid import transfer_syntax

if TYPE_CHECKING:  # who sends files of his own loads nothing of it
    from asyncdicom.net.cached import Memory

__all__ = ["BytesSource", "FileSource", "Source", "is_repeatable", "padding_of", "read_together"]

_READ_AHEAD = 1 << 20  # the largest file that is read whole before its turn
_AT_ONCE = 1 << 19  # bytes that are read from memory in one turn of the loop, or a block more

# What is read and what is written are often on different disks: `part_file.py` has one of its own.
_read = Disk()
_in_threads = Disk(lambda: -math.inf)  # it is never the time for a call in the event loop


class Source(Protocol):
    """Something that C-STORE can send: three UIDs, and the encoded data set when it is opened.

    A source that wraps another one passes `at_hand` on: it is what makes many small instances quick. One that
    knows how many bytes it has may tell, as `length`; one that gives the same however often it is opened, as
    `is_repeatable`: if it has to be re-encoded for a peer, it is gone through before anything of it is sent,
    and what is wrong with it costs no association. One with a `read_ahead` may begin to read what is sent
    soon.
    """

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

    def at_hand(self) -> Buffer | None:
        """Give the whole data set if nothing has to be waited for; else None, and `open` is called.

        An object without this method is opened, too, as is a subclass of this one that leaves it as it is.
        """
        return None


def is_repeatable(source: Source) -> bool:
    """Tell whether the source gives the same however often it is opened; one that does not say so may not."""
    return bool(getattr(source, "is_repeatable", False))


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

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return len(self.data)

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return self.__class__.open is BytesSource.open

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`."""
        yield [self.data]

    def at_hand(self) -> Buffer | None:
        """See `Source`."""
        if self.__class__.open is not BytesSource.open:
            return None  # what is derived from it gives something else
        return self.data


def padding_of(length: int, transfer_syntax_uid: str) -> list[bytes]:
    """Give what is to be sent behind a stored data set of so many bytes.

    PS3.5 A.5: a NULL makes the length of a deflated data set even; some files are without it.
    """
    return [b"\0"] if length % 2 and transfer_syntax(transfer_syntax_uid).deflated else []


class FileSource:
    """The data set of a DICOM Part 10 file, read while it is sent and never decoded.

    `in_threads`: nothing of it is read in the event loop, however quick the disk is: a server has others to
    serve when a disk does not answer any more. `memory`: but what is in memory is.
    """

    __slots__ = (
        "_ahead",
        "_disk",
        "_memory",
        "_whole",
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
        memory: Memory | None = None,
    ) -> None:
        self.path = path
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.offset = offset
        self.length = length
        self._ahead: Future[None] | None = None  # of all that a thread reads together
        self._whole: Buffer | None = None  # what it has read
        self._disk = _in_threads if in_threads else _read
        self._memory = memory

    @property
    def is_repeatable(self) -> bool:
        """See `Source`."""
        return self.__class__.open is FileSource.open

    def read_ahead(self) -> None:
        """Begin to read now what will be sent soon, if it is small and the disk is slow."""
        read_together([self])

    def at_hand(self) -> Buffer | None:
        """Give the data set if it is small, and was read ahead by now, is in memory, or the disk is quick.

        May block in the last of these cases.
        """
        if self.length > FILE_BLOCK_SIZE or self.__class__.open is not FileSource.open:
            return None  # what is derived from it gives something else
        if self._ahead is not None:
            return self._take_whole()
        if self._memory is not None:
            return self._read_cached(self._memory, is_asked=True)
        start = self._disk.quick_now()
        return None if start is None else self._disk.at_once(start, self._read_whole)

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`. A file that changed its length meanwhile raises `DataSetError`."""
        if self._ahead is not None or self.length <= FILE_BLOCK_SIZE:
            if self._ahead is not None:
                whole = await self._read_by_now(self._ahead)
            else:
                memory = self._memory
                whole = None if memory is None else self._read_cached(memory, is_asked=True)
            yield LastBatch([await self._disk.call(self._read_whole) if whole is None else whole])
            return
        blocks = file_blocks(asyncio.get_running_loop())
        block = blocks.acquire()
        opened: list[int] = []
        ahead: Future[memoryview] | None = None
        try:
            memory = self._memory
            cached = None if memory is None else memory.open(self.path)
            if cached is None:
                await self._disk.call(lambda: opened.append(os.open(self.path, READ)))
            else:
                opened.append(cached)
            [file] = opened
            position, end, at_once = self.offset, self.offset + self.length, 0
            while True:
                is_cached = False
                if ahead is not None:
                    view, ahead = await asyncio.wrap_future(ahead), None
                else:
                    view = memoryview(block)[: min(len(block), end - position)]
                    if memory is not None:
                        is_cached = cached is not None and memory.read_into(file, view, position, end)
                        memory.is_warm = is_cached
                    if not is_cached:
                        view = await self._disk.call(self._read, file, view, position)
                blocks.give_back(block)
                block = blocks.acquire()
                position += len(view)
                if position == end:
                    yield LastBatch([view.toreadonly(), *padding_of(self.length, self.transfer_syntax_uid)])
                    break
                if not (is_cached or self._disk.is_quick):
                    # The next block is read while this one is on the wire.
                    following = memoryview(block)[: min(len(block), end - position)]
                    ahead = file_threads().submit(self._read, file, following, position)
                yield [view.toreadonly()]
                at_once += len(view) if is_cached else 0
                if at_once >= _AT_ONCE:
                    at_once = 0
                    await asyncio.sleep(0)  # nothing was waited for: it is the turn of the others
        finally:
            try:
                if ahead is not None:
                    await in_thread(file_threads(), _wait_for, ahead)
            finally:
                blocks.give_back(block)
                for descriptor in opened:
                    if memory is not None and not os.fstat(descriptor).st_nlink:
                        # It was removed meanwhile, and its room is given back now: that takes a disk.
                        file_threads().submit(os.close, descriptor)
                    else:
                        os.close(descriptor)

    async def _read_by_now(self, ahead: Future[None]) -> Buffer | None:
        """Wait for what is read ahead; None if that failed: who reads it once more is told why."""
        try:
            await asyncio.shield(asyncio.wrap_future(ahead))
            return self._take_whole()
        finally:
            self._ahead = None

    def _take_whole(self) -> Buffer | None:
        whole, self._whole = self._whole, None
        if whole is not None:
            self._ahead = None
        return whole

    @property
    def _is_quick(self) -> bool:
        """Whether it is likely to be read in the event loop, when its turn comes."""
        return self._disk.is_quick if self._memory is None else self._memory.is_warm

    def _read_whole(self) -> bytes:
        file = os.open(self.path, READ)
        try:
            data = read_at(file, self.length, self.offset)
        except EOFError:
            raise self._shorter() from None
        finally:
            os.close(file)
        padding = padding_of(self.length, self.transfer_syntax_uid)
        return b"".join([data, *padding]) if padding else data

    def _read_cached(self, memory: Memory, *, is_asked: bool) -> Buffer | None:
        """Give it all if it is in memory, and None if it is not; `is_asked`: it is to be sent now."""
        data = memory.read(self.path, self.length, self.offset)
        if is_asked:
            memory.is_warm = data is not None
        if data is not None:
            data += b"".join(padding_of(self.length, self.transfer_syntax_uid))
        return data

    def _read(self, file: int, view: memoryview, position: int) -> memoryview:
        try:
            read_into(file, view, position)
        except EOFError:
            raise self._shorter() from None
        return view

    def _shorter(self) -> DataSetError:
        return DataSetError(f"{self.path} became shorter while it was being sent")


def read_together(sources: Iterable[FileSource]) -> None:
    """Begin to read now what will be sent soon, as `FileSource.read_ahead` does, in one thread.

    They are read one after the other: to hand each one over by itself costs more than to read it. Where what
    was asked for last was in memory, nothing is read ahead.
    """
    wanted = [
        source
        for source in sources
        if source._ahead is None and source.length <= _READ_AHEAD and not source._is_quick
    ]
    if wanted:
        ahead: Future[None] = Future()
        for source in wanted:
            source._ahead = ahead
        file_threads().submit(_read_each, wanted, ahead)


def _read_each(wanted: Iterable[FileSource], ahead: Future[None]) -> None:
    were_warm: dict[Memory, bool] = {}
    try:
        for source in wanted:
            if source._ahead is ahead:  # else it is not sent now
                with suppress(Exception):  # it is read again then, and who opens it is told
                    memory, cached = source._memory, None
                    if memory is not None:
                        cached = source._read_cached(memory, is_asked=False)
                        were_warm[memory] = were_warm.get(memory, True) and cached is not None
                    source._whole = source._read_whole() if cached is None else cached
        for memory, is_warm in were_warm.items():
            memory.is_warm = is_warm
    finally:  # whatever happens, nobody waits for ever
        ahead.set_result(None)


def _wait_for(reading: Future[memoryview]) -> None:
    # A read in flight must not meet another file under the same descriptor.
    if not reading.cancel():
        reading.exception()
