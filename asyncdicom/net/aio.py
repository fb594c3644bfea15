"""Many files are synced by one system call: `fdatasync` and `fsync` of Linux AIO, made at the same time.

As many threads that wait for one `fdatasync` each cost more than the disk does: each has to get the lock of
the interpreter back. The calls are made by their numbers, as the C library has no names for them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence

__all__ = ["Aio", "works_on"]

# io_setup, io_destroy, io_getevents, io_submit; others have the numbers of asm-generic, or are 32 bits wide.
_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
_FSYNC, _FDSYNC = 2, 3


class _Request(ctypes.Structure):
    """`struct iocb` (little endian)."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("flags_of_write", ctypes.c_int32),
        ("operation", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("position", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_descriptor", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result_2", ctypes.c_int64),
    )


class Aio:
    """Syncs files together; for one thread at a time. Everything blocks.

    Args:
        size: how many files at once.

    Raises ``OSError`` where the system has no AIO, or has none left.
    """

    def __init__(self, size: int) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or numbers is None or sys.byteorder != "little":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        setup, self._destroy, self._get_events, self._submit = map(ctypes.c_long, numbers)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._checked(self._call(setup, ctypes.c_long(size), ctypes.byref(self._context)))
        self._requests = (_Request * size)()
        self._pointers = (ctypes.c_void_p * size)(*map(ctypes.addressof, self._requests))
        self._events = (_Event * size)()
        for number, request in enumerate(self._requests):
            request.data = number

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def sync(self, files: Sequence[int], folders: Sequence[int] = ()) -> list[OSError | None]:
        """Return when the content of files and the entries of folders survive a power cut; gives what failed.

        Takes their descriptors, at most `size` of them. What the kernel does not take is synced one by one,
        and so is everything after a failure to get results, which is raised.
        """
        descriptors = [*files, *folders]
        self._prepare(descriptors, len(files))
        errors: list[OSError | None] = [None] * len(descriptors)
        taken = self._submit_all(len(descriptors))
        for number in range(taken, len(descriptors)):
            try:
                (os.fdatasync if number < len(files) else os.fsync)(descriptors[number])
            except OSError as error:
                errors[number] = error
        try:
            while taken:
                taken -= self._take_results(taken, errors)
        except OSError:
            self.close()  # results that come later must not pass for those of other files
            raise
        return errors

    def takes(self, descriptor: int) -> bool:
        """Sync one, and tell whether the kernel does it so: older ones do not, nor does every file system."""
        self._prepare([descriptor], 1)
        return self._submit_all(1) == 1 and self._take_results(1, [None]) == 1

    def _prepare(self, descriptors: Sequence[int], files: int) -> None:
        for number, descriptor in enumerate(descriptors):
            request = self._requests[number]
            request.operation = _FDSYNC if number < files else _FSYNC
            request.descriptor = descriptor

    def _submit_all(self, count: int) -> int:
        """Submit the first requests; gives how many the kernel has taken."""
        taken = 0
        while taken < count:
            first = ctypes.byref(self._pointers, taken * ctypes.sizeof(ctypes.c_void_p))
            more = self._call(self._submit, self._context, ctypes.c_long(count - taken), first)
            if more <= 0:
                break
            taken += more
        return taken

    def _take_results(self, count: int, errors: list[OSError | None]) -> int:
        wanted = ctypes.c_long(count)
        ended: int = self._call(self._get_events, self._context, wanted, wanted, self._events, None)
        if ended < 0 and ctypes.get_errno() != errno.EINTR:
            self._checked(ended)
        for event in self._events[: max(0, ended)]:
            if event.result < 0:
                errors[event.data] = OSError(-event.result, os.strerror(-event.result))
        return max(0, ended)

    def close(self) -> None:
        """Give it back to the kernel, which ends what is under way."""
        self._call(self._destroy, self._context)
        self._context = ctypes.c_ulong(0)  # the kernel may give its number to another one


def works_on(folder: str) -> bool:
    """Tell whether what is in a folder can be synced together: the kernel is asked to sync the folder."""
    try:
        aio = Aio(1)
    except (OSError, AttributeError):
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return aio.takes(descriptor)
        finally:
            os.close(descriptor)
    finally:
        aio.close()
