"""Files are read in the event loop if all that is read is in memory: then nobody waits for a disk.

To hand a read to a thread costs more than the read, and a read that has to wait for a disk holds up everybody
whom a server serves. Linux can be asked to do neither: `openat2` with RESOLVE_CACHED finds a file,
`cachestat` tells how much of it is in memory, and `preadv2` with RWF_NOWAIT reads that. Kernels before 6.5
have no `cachestat`; RWF_NOWAIT alone does it there, while later ones begin to read from the disk what they do
not have. The C library has no name for the first two, so they are called by their numbers.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
import sys
from collections.abc import Callable

from asyncdicom.net.disk import READ

__all__ = ["Memory", "memory_of"]

_OPENAT2, _CACHESTAT = 437, 451  # the same for all processors below
_MACHINES = ("x86_64", "aarch64", "riscv64")
_HERE = -100  # AT_FDCWD
_RESOLVE_CACHED = 0x20
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)
# A first read after a write would note its time in the inode, which may have to wait.
_FLAGS = READ | getattr(os, "O_NOATIME", 0) | getattr(os, "O_CLOEXEC", 0)
_AHEAD = 1 << 20  # bytes behind what is read that the kernel may want to read, too: they have to be there

_Open = Callable[[bytes], int]
_Count = Callable[[int, int, int], int]  # a file, a position, a length: the pages that are in memory


def _calls() -> tuple[_Open, _Count] | None:
    """Give what opens and what counts, both negative where that cannot be done; None: no such system."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES or not _NO_WAIT:
        return None
    try:
        import ctypes

        # They do not wait, so the lock of the interpreter is kept.
        call = ctypes.PyDLL(None, use_errno=True).syscall
    except (ImportError, OSError, AttributeError):
        return None
    u64, number = ctypes.c_uint64, ctypes.c_long
    how = (u64 * 3)(_FLAGS, 0, _RESOLVE_CACHED)  # `struct open_how`
    openat2, here = number(_OPENAT2), number(_HERE)
    how_and_size = ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    cachestat, no_flags = number(_CACHESTAT), ctypes.c_uint(0)
    byref, found, range_of = ctypes.byref, u64 * 5, struct.Struct("=QQ").pack

    def open_file(name: bytes) -> int:
        return int(call(openat2, here, name, *how_and_size))

    def count(file: int, position: int, length: int) -> int:
        pages = found()  # `struct cachestat`, which begins with those that are there
        if call(cachestat, file, range_of(position, length), byref(pages), no_flags) < 0:
            return -1 if ctypes.get_errno() == errno.ENOSYS else 0
        return int(pages[0])

    return open_file, count


class Memory:
    """What is read of the files of a folder without any wait; `memory_of` gives it."""

    is_warm = True
    """Whether what was asked for last was in memory: then it is not worth it to read ahead."""

    def __init__(self, open_file: _Open, count: _Count) -> None:
        self._open = open_file
        self._count = count
        self._page = os.sysconf("SC_PAGE_SIZE")

    def open(self, path: str | os.PathLike[str]) -> int | None:
        """Open a file to be read, if it is found in memory; None: it is not, or cannot be opened."""
        name = os.fsencode(path)
        file = -1 if b"\0" in name else self._open(name)
        return None if file < 0 else file

    def read_into(self, file: int, view: memoryview | bytearray, position: int, end: int) -> bool:
        """Fill `view` from `position` on, if all of it is in memory; False: it is not, or the file is short.

        `end`: where ends what will be read of the file.
        """
        length = min(len(view) + _AHEAD, end - position)
        if length > 0:
            pages = (position + length - 1) // self._page - position // self._page + 1
            if 0 <= self._count(file, position, length) < pages:
                return False  # a kernel that cannot tell reads nothing from the disk
        try:
            return os.preadv(file, [view], position, _NO_WAIT) == len(view)
        except OSError:
            return False

    def read(self, path: str | os.PathLike[str], length: int, position: int) -> bytearray | None:
        """Read so many bytes of a file from `position` on, if all are in memory; None: they are not."""
        file = self.open(path)
        if file is None:
            return None
        try:
            data = bytearray(length)
            return data if self.read_into(file, data, position, position + length) else None
        finally:
            os.close(file)


def memory_of(folder: str) -> Memory | None:
    """Give what reads what is in a folder and in memory; None: the system cannot be asked for that. Blocks.

    Network file systems ask their server whenever a file is opened. They have no files without a name, or say
    that they cannot read without waiting: what is tried here on such a file is what keeps them out.
    """
    calls = _calls()
    if calls is None:
        return None
    memory = Memory(*calls)
    try:
        file = os.open(folder, getattr(os, "O_TMPFILE", -1) | os.O_RDWR)
    except (OSError, ValueError, OverflowError):
        return None
    try:
        os.write(file, b"1")
        if not memory.read_into(file, bytearray(1), 0, 1):
            return None
    except OSError:
        return None
    finally:
        os.close(file)
    found = memory.open(folder)
    if found is None:
        return None
    os.close(found)
    return memory
