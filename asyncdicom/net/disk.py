"""File calls of the data path: made where they cost least, and never where they hold up everybody.

Measured on two cores: to hand a call to a thread and come back costs 50 to 200 us, as much as to write
256 KiB into the page cache, and such calls are most of what a C-STORE of a small instance takes. So a
call is made in the event loop while the disk answers at once. A call that takes long may only have been
interrupted by other processes; if one of the next ones takes long because it slept, the disk is slow: the
calls go to threads, for a second at first, then for longer, until a call in the loop is quick again.

What a platform lacks is made up for here and nowhere else: Windows has neither `writev` nor `pread`, and
macOS got `preadv` late. (No child process inherits a file that Python opens, PEP 446.)
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar, TypeVarTuple

from asyncdicom.net.threads import file_threads, in_thread

__all__ = [
    "APPEND",
    "AT_ONCE",
    "CREATE",
    "NO_LINK",
    "READ",
    "Batch",
    "Buffer",
    "Disk",
    "LastBatch",
    "read_at",
    "read_into",
    "sync_data",
    "write_all",
    "write_at",
]

Buffer: TypeAlias = bytes | bytearray | memoryview
Batch: TypeAlias = Sequence[Buffer]


class LastBatch(list[Buffer]):
    """A batch of a source that knows that nothing follows: it leaves together with the end of its message."""

    __slots__ = ()


# How a file is opened (`os.open`): 0 stands for a flag that the platform does not have.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a FIFO does not wait for its other end
_BINARY = getattr(os, "O_BINARY", 0)  # Windows changes line ends without it
APPEND = os.O_RDWR | os.O_CREAT | NO_LINK | _BINARY  # a file that goes on
READ = os.O_RDONLY | AT_ONCE | _BINARY
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK | _BINARY  # a file that must not exist

_HAS_WRITEV = hasattr(os, "writev")
_HAS_PREAD = hasattr(os, "pread")  # and `pwrite`
_HAS_PREADV = hasattr(os, "preadv")
_SYNC = getattr(os, "fdatasync", os.fsync)
_IOV_MAX = 1024  # buffers that Linux and macOS take in one call

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

    def quick_now(self) -> float | None:
        """Give the time if the next call is made in the event loop: `at_once` needs it."""
        now = self._clock()
        return now if now >= self._quick_from else None

    async def call(self, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make the call and wait for its end, also when cancelled (see `in_thread`)."""
        start = self._clock()
        if start < self._quick_from:
            return await in_thread(file_threads(), function, *arguments)
        return self.at_once(start, function, *arguments)

    def at_once(self, start: float, function: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make the call in the event loop, and mind how long it takes; `start` is what `quick_now` gave."""
        sleeps = self._sleeps() if self._suspected else 0
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


def write_all(file: int, buffers: Batch) -> None:
    """Write a gather list wholly, however little the system takes at once (blocking)."""
    if not _HAS_WRITEV:
        for buffer in buffers:
            _write_one(file, buffer)
        return
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


def _write_one(file: int, buffer: Buffer) -> None:
    left = memoryview(buffer)
    while left:
        left = left[os.write(file, left) :]


def write_at(file: int, data: Buffer, position: int) -> None:
    """Write all of `data` over what is at `position`; where `write_all` goes on is not moved (blocking)."""
    if not _HAS_PREAD:
        end = os.lseek(file, 0, os.SEEK_CUR)
        os.lseek(file, position, os.SEEK_SET)
        _write_one(file, data)
        os.lseek(file, end, os.SEEK_SET)
        return
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, position)
        left, position = left[written:], position + written


def read_at(file: int, length: int, position: int) -> bytes:
    """Read `length` bytes from `position` on; `EOFError` where the file ends before (blocking)."""
    data = os.pread(file, length, position) if _HAS_PREAD else b""
    while len(data) < length:
        data += _read_some(file, length - len(data), position + len(data))
    return data


def read_into(file: int, view: memoryview, position: int) -> None:
    """Fill `view` from `position` on; `EOFError` where the file ends before (blocking)."""
    done = os.preadv(file, [view], position) if _HAS_PREADV else 0
    while done < len(view):
        piece = _read_some(file, len(view) - done, position + done)
        view[done : done + len(piece)] = piece
        done += len(piece)


def _read_some(file: int, length: int, position: int) -> bytes:
    """Read what the system gives at once."""
    if _HAS_PREAD:
        data = os.pread(file, length, position)
    else:
        os.lseek(file, position, os.SEEK_SET)
        data = os.read(file, length)
    if not data:
        raise EOFError
    return data


def sync_data(file: int) -> None:
    """Return when the content of a file survives a power cut (blocking)."""
    _SYNC(file)
