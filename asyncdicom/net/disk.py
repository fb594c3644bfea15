"""File calls of the data path: made where they cost least, and never where they hold up everybody.

Measured on two cores: to hand a call to a thread and come back costs 50 to 200 us, as much as to write
256 KiB into the page cache, and such calls are most of what a C-STORE of a small instance takes. So a
call is made in the event loop while the disk answers at once. One call that takes long sends the next
ones to threads, for a second at first, then for longer, until a call in the loop is quick again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from asyncdicom.net.threads import file_threads, in_thread

__all__ = ["Disk"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_SLOW = 0.003
_SHORTEST_BAN = 1.0
_LONGEST_BAN = 60.0


class Disk:
    """Makes blocking calls, each of at most about a MiB, in the event loop or in a thread."""

    __slots__ = ("_ban", "_clock", "_quick_from")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ban = _SHORTEST_BAN
        self._quick_from = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether the next call is made in the event loop."""
        return self._clock() >= self._quick_from

    async def call(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make the call and wait for its end, also when cancelled (see `in_thread`)."""
        start = self._clock()
        if start < self._quick_from:
            return await in_thread(file_threads(), function, *arguments)
        try:
            return function(*arguments)
        finally:
            now = self._clock()
            if now - start > _SLOW:
                self._quick_from = now + self._ban
                self._ban = min(2 * self._ban, _LONGEST_BAN)
            else:
                self._ban = _SHORTEST_BAN
