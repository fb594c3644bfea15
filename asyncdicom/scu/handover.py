"""From those that work to the one that iterates: in order, bounded, and closed by either side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from asyncdicom.exceptions import LocalProtocolError

__all__ = ["Handover", "all_of"]

_T = TypeVar("_T")


class Handover(Generic[_T]):
    """A queue of at most `room`, by what `weigh` says of each item; one item always fits."""

    def __init__(self, room: int, weigh: Callable[[_T], int] = lambda item: 1) -> None:
        self.is_closed = False
        self._room = room
        self._weigh = weigh
        self._weight = 0
        self._items: deque[_T] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def put(self, item: _T) -> bool:
        """Add an item as soon as there is room; False if nobody takes it any more."""
        weight = self._weigh(item)
        while not self.is_closed and self._items and self._weight + weight > self._room:
            await self._change()
        if self.is_closed:
            return False
        self._items.append(item)
        self._weight += weight
        self._changed.set()
        return True

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def close(self) -> None:
        """Throw away what there is; nothing more is taken."""
        self.is_closed = True
        self._items.clear()
        self._changed.set()

    async def taken(
        self, work: Callable[[], Coroutine[Any, Any, None]], running: set[Handover[Any]]
    ) -> AsyncGenerator[_T, None]:
        """Give what the work puts in, until it has ended; raises what it raises.

        Left early, or cancelled: the work is cancelled, and waited for. Meanwhile this is one of `running`,
        which somebody else may `stop`: then it raises `LocalProtocolError`.
        """
        self._task = task = asyncio.get_running_loop().create_task(work())
        task.add_done_callback(lambda _: self._changed.set())
        running.add(self)
        try:
            while self._items or not task.done():
                if not self._items:
                    await self._change()
                    continue
                item = self._items.popleft()
                self._weight -= self._weigh(item)
                self._changed.set()
                yield item
            if task.cancelled():
                raise LocalProtocolError("the client was closed meanwhile")
            task.result()
        finally:
            running.discard(self)
            await self.stop()

    async def stop(self) -> None:
        """Take nothing more, and end the work."""
        self.close()
        if self._task is not None:
            await _end([self._task])


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them; cancelled meanwhile: wait all the same."""
    was_cancelled = False
    while any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            was_cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it was told, or is of no interest any more
    if was_cancelled:
        raise asyncio.CancelledError


async def all_of(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them all; the first error, or a cancellation, ends the others, which are waited for."""
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await _end(tasks)
