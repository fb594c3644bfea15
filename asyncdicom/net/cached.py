"""Files are read in the event loop if all that is read is in memory: then nobody waits for a disk.

To hand a read to a thread costs more than the read, and a read that has to wait for a disk holds up everybody
whom a server serves. Linux can be asked to do neither: `openat2` with RESOLVE_CACHED finds a file, and
`preadv2` with RWF_NOWAIT reads of it, or they say at once that they would have to wait. The C library has no
name for the first, so it is called by its number.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

from asyncdicom.net.disk import READ

__all__ = ["open_cached", "read_cached", "read_cached_into", "works_on"]

_OPENAT2 = 437  # the same for all processors below
_MACHINES = ("x86_64", "aarch64", "riscv64")
_HERE = -100  # AT_FDCWD
_RESOLVE_CACHED = 0x20
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)


class _How(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_IS_KNOWN = sys.platform == "linux" and platform.machine() in _MACHINES and _NO_WAIT != 0
# A first read after a write would note its time in the inode, which may have to wait.
_how = _How(READ | getattr(os, "O_NOATIME", 0) | getattr(os, "O_CLOEXEC", 0), 0, _RESOLVE_CACHED)
_arguments = (ctypes.byref(_how), ctypes.c_size_t(ctypes.sizeof(_How)))
_number, _here = ctypes.c_long(_OPENAT2), ctypes.c_long(_HERE)
# It does not wait, so the lock of the interpreter is kept.
_call = ctypes.PyDLL(None).syscall if _IS_KNOWN else None


def open_cached(path: str | os.PathLike[str]) -> int | None:
    """Open a file to be read, if that needs no disk; None: it may, or cannot be opened, or not so."""
    name = os.fsencode(path)
    if _call is None or b"\0" in name:
        return None
    file: int = _call(_number, _here, name, *_arguments)
    return None if file < 0 else file


def read_cached_into(file: int, view: memoryview | bytearray, position: int) -> bool:
    """Fill `view` from `position` on, if all of it is in memory; False: it is not, or the file is shorter."""
    try:
        return os.preadv(file, [view], position, _NO_WAIT) == len(view)
    except OSError:
        return False


def read_cached(path: str | os.PathLike[str], length: int, position: int) -> bytearray | None:
    """Read `length` bytes of a file from `position` on, if all of it is in memory; None: it is not."""
    file = open_cached(path)
    if file is None:
        return None
    try:
        data = bytearray(length)
        return data if read_cached_into(file, data, position) else None
    finally:
        os.close(file)


def works_on(folder: str) -> bool:
    """Tell whether that can be asked for what is in a folder. Blocks.

    Network file systems ask their server when a file is opened: they cannot be read so at all.
    """
    if not _IS_KNOWN:
        return False
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    except OSError:
        return False
    try:
        os.preadv(file, [bytearray(1)], 0, _NO_WAIT)
        found = open_cached(folder)
        if found is None:
            return False
        os.close(found)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
