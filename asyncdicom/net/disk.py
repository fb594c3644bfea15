"""File calls of the data path: made where they cost least, and never where they hold up everybody.

Measured on two cores: to hand a call to a thread and come back costs 50 to 200 us, as much as to write
256 KiB into the page cache, and such calls are most of what a C-STORE of a small instance takes. So a
call is made in the event loop while the disk answers at once. A call that takes long may only have been
interrupted by other processes; if one of the next ones takes long because it slept, the disk is slow: the
calls go to threads, for a second at first, then for longer, until a call in the loop is quick again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from asyncdicom.net.threads import file_threads, in_thread

__all__ = ["Disk"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_SLOW = 0.003
_SUSPECTED = 16  # calls that are looked at more closely after one that took long
_SHORTEST_BAN = 1.0
_LONGEST_BAN = 60.0


def _sleep_counter() -> Callable[[], int]:
    """What tells how often this thread gave up the processor by itself, as when it waits for a disk."""
    try:
        from resource import RUSAGE_THREAD, getrusage
    except ImportError:  # only Linux knows: elsewhere each call that takes long has slept
        return itertools.count().__next__
    return lambda: getrusage(RUSAGE_THREAD).ru_nvcsw


class Disk:
    """Makes blocking calls, each of at most about a MiB, in the event loop or in a thread."""

    __slots__ = ("_ban", "_clock", "_quick_from", "_sleeps", "_suspected")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleeps: Callable[[], int] | None = None
    ) -> None:
        self._clock = clock
        self._sleeps = sleeps or _sleep_counter()
        self._ban = _SHORTEST_BAN
        self._quick_from = 0.0
        self._suspected = 0

    @property
    def is_quick(self) -> bool:
        """Whether the next call is made in the event loop."""
        return self._clock() >= self._quick_from

    async def call(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make the call and wait for its end, also when cancelled (see `in_thread`)."""
        if not self.is_quick:
            return await in_thread(file_threads(), function, *arguments)
        return self.at_once(function, *arguments)

    def at_once(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make the call in the event loop, and mind how long it takes."""
        sleeps = self._sleeps() if self._suspected else 0
        start = self._clock()
        try:
            return function(*arguments)
        finally:
            now = self._clock()
            if now - start > _SLOW:
                self._took_long(now, self._suspected > 0 and self._sleeps() > sleeps)
            elif self._suspected:
                self._suspected -= 1
                if not self._suspected:
                    self._ban = _SHORTEST_BAN

    def _took_long(self, now: float, slept: bool) -> None:
        self._suspected = _SUSPECTED
        if slept:
            self._quick_from = now + self._ban
            self._ban = min(2 * self._ban, _LONGEST_BAN)
