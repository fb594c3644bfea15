"""A data set that is being received: `DataStream`.

It moves in batches, lists of buffers, and nobody looks at the bytes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING

from asyncdicom.data.elements import Skipped
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.data.steps import finish
from asyncdicom.dimse.assembler import FEW_VIEWS, joined
from asyncdicom.exceptions import DataSetError, LocalProtocolError
from asyncdicom.net.disk import Batch
from asyncdicom.net.lane import lane
from asyncdicom.net.part_file import PartFile
from asyncdicom.uid import transfer_syntax

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["DataStream"]

_MAXIMUM_IN_MEMORY = 16 << 20
_AT_ONCE = 8192  # bytes: a thousand elements at most
_PIECE = 1 << 18  # what is gathered before a thread is asked to write it


class Batches:
    """What `DataStream.batches` gives. No generator: the event loop keeps a list of all that are running."""

    __slots__ = ("_minimum", "_next")

    def __init__(self, stream: DataStream, minimum: int) -> None:
        self._next = stream.next_batch
        self._minimum = minimum

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[memoryview]:
        batch = await self._next(self._minimum)
        if batch is None:
            raise StopAsyncIteration
        return batch


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
        "unreadable",
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
        self.unreadable: DataSetError | None = None  # why it could not be read: the sender's fault
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
            if len(self._views) > FEW_VIEWS:
                self._views = joined(self._views, self.waiting)
        if is_last:
            self._ended = True
        if self._waiter is not None and self._has(self._wanted):
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
        if self.waiting:
            self.discarded += self.waiting
            self._take()
        if self._waiter is not None:
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

    def batches(self, minimum: int = 1) -> AsyncIterator[list[memoryview]]:
        """Iterate over what is received, as lists of views of at least `minimum` bytes but the last."""
        return Batches(self, minimum)

    async def peek(self, look: Callable[[memoryview], bool]) -> None:
        """Show what comes, in pieces, and take nothing of it, until `look` has seen enough.

        It ends with the data set, and where no more may wait (`Limits.read_budget`).
        """
        seen = 0
        while True:
            position = 0
            for view in self._views:
                position += len(view)
                if position > seen:
                    if look(view[max(len(view) - (position - seen), 0) :]):
                        return
                    seen = position
            if self._error is not None:
                raise self._error
            if self._ended or self.discarding or self.is_held_back():
                return
            await self._wait(self.waiting + 1)

    async def open(self) -> AsyncGenerator[Batch, None]:
        """Make this a `Source`: what is received can be sent on while it comes, without a copy in between."""
        while (batch := await self.next_batch()) is not None:
            yield batch

    def at_hand(self) -> None:
        """See `Source`: it is sent on while it comes."""

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        async for batch in self.batches():
            for view in batch:
                yield view

    async def read(self, maximum: int = _MAXIMUM_IN_MEMORY) -> bytes:
        """Give the encoded data set whole, if it has at most `maximum` bytes (by default 16 MiB).

        A longer one raises `DataSetError`; `save` and `batches` take any length.
        """
        views: list[memoryview] = []
        length = 0
        async for batch in self.batches():
            views += batch
            length += sum(map(len, batch))
            if length > maximum:
                self.unreadable = DataSetError(
                    f"the data set has more than {maximum} bytes, which is the maximum in memory: "
                    "give a larger maximum=, or take it by save() or batches()"
                )
                raise self.unreadable
            views = joined(views, length)
        return b"".join(views)

    async def dataset(
        self, maximum: int = _MAXIMUM_IN_MEMORY, *, strict: bool = True, skipped: Skipped | None = None
    ) -> Dataset:
        """Give the data set as a pydicom Dataset, if it has at most `maximum` bytes (by default 16 MiB).

        A long one is decoded in steps, beside the event loop. `save_as` of the Dataset writes a DICOM file.
        With `strict=False` an element that cannot be read costs only itself, and is counted in `skipped`.
        Raises `DataSetError` if the data set is unreadable, has more than `maximum` bytes (`save` takes any
        length), or more than 32 MiB or 262,144 elements when inflated.
        """
        from asyncdicom.dataset import decoding

        data = await self.read(maximum)
        steps = decoding(
            data,
            self.transfer_syntax_uid,
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            skipped=None if strict else skipped or Skipped(),
        )
        try:
            if len(data) <= _AT_ONCE and not transfer_syntax(self.transfer_syntax_uid).deflated:
                return finish(steps)
            # Who asks is known by where its bytes are counted: associations take turns.
            return await lane().run(getattr(self._taken, "__self__", self), steps)
        except DataSetError as error:
            self.unreadable = error
            raise

    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        source_ae_title: str | None = None,
        maximum: int | None = None,
        look: Callable[[Batch], object] | None = None,
    ) -> int:
        """Write a DICOM Part 10 file, byte for byte as received, and give its data set's length.

        The file appears under its name when it is complete; an existing one is replaced. Its folder is
        made when it is missing. After an error or a cancellation no file is left. It is not synced to the
        disk (the archive does that). A data set of more than `maximum` bytes is an OSError (EFBIG) as soon
        as it has come that far. `path` is taken as it is: of received text it is made by `safe_name`. `look`:
        is shown what is written, in order.
        """
        if not self.sop_class_uid or not self.sop_instance_uid:
            raise LocalProtocolError("only an instance received with C-STORE can be saved as a file")
        head = encode_file_meta(
            self.sop_class_uid,
            self.sop_instance_uid,
            self.transfer_syntax_uid,
            source_ae_title=source_ae_title,
        )
        file = PartFile(os.fspath(path), head, maximum)
        last: Batch = ()
        try:
            self._sink = file.offer if look is None else _shown(file.offer, look)
            while (batch := await self.next_batch(_PIECE)) is not None:
                if look is not None:
                    look(batch)
                if self.is_complete and not self.waiting:
                    last = batch  # the last piece and the end take one hop to a thread; so does a small file
                    break
                await file.disk.call(file.write, batch)
            await file.disk.call(file.finish, last)
        except BaseException:
            await file.disk.call(file.discard)
            raise
        finally:
            self._sink = None
        return self.received


def _shown(offer: Callable[[Batch], bool], look: Callable[[Batch], object]) -> Callable[[Batch], bool]:
    def offered(batch: Batch) -> bool:
        is_taken = offer(batch)
        if is_taken:  # else it comes again
            look(batch)
        return is_taken

    return offered
