"""Long work of the event loop goes in slices, one a turn of the loop, however many have something to do.

What one task does before it lets others in is bounded by itself; what six hundred do one after the other in
the same turn is not, and who has only a C-ECHO to be answered would wait for them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from weakref import WeakKeyDictionary

from asyncdicom.net.fair import FairQueue

__all__ = ["Turns", "turns"]


class Turns:
    """Who has long work in this event loop: those of one key wait for each other, the keys take turns."""

    __slots__ = ("_is_taken", "_waiting")

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    async def take(self, key: Hashable) -> None:
        """Wait until a slice of work may be done, a millisecond or so. Cancelled: others have their turns."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        turn = loop.create_future()
        self._waiting.put(key, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.remove(key, turn)
            raise

    def _next(self) -> None:
        """A turn of the loop is over: the next one is for whoever waits."""
        while (taken := self._waiting.take()) is not None:
            if not taken[1].done():
                taken[1].set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns() -> Turns:
    """Give what all of the running event loop share."""
    loop = asyncio.get_running_loop()
    found = _turns.get(loop)
    if found is None:
        found = _turns[loop] = Turns()
    return found
