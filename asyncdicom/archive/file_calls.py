"""The file calls of the archive. Nothing else in it touches the file system.

Every call goes through one `FileCalls`, so that tests can make the disk full, slow or forgetful.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from asyncdicom.net import aio, disk
from asyncdicom.net.cached import Memory, memory_of

__all__ = ["FILE_MODE", "FOLDER_MODE", "FileCalls", "TogetherCalls"]

FOLDER_MODE, FILE_MODE = 0o750, 0o640
_COPIED = 1 << 20  # bytes at a time

Bytes = bytes | memoryview


_T = TypeVar("_T")


def _error_of(call: Callable[[_T], None], argument: _T) -> OSError | None:
    try:
        call(argument)
    except OSError as error:
        return error
    return None


class FileCalls:
    """The file calls that the archive makes, all blocking, all raising ``OSError``."""

    def create(self, path: str) -> int:
        """Create a file that must not exist, and give its descriptor."""
        return os.open(path, disk.CREATE, FILE_MODE)

    def open_to_read(self, path: str) -> int:
        """Open a regular file, no link, and give its descriptor. A FIFO of that name holds nobody up."""
        descriptor = os.open(path, disk.READ | disk.NO_LINK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return descriptor

    def read(self, descriptor: int, size: int) -> bytes:
        """Read on, at most ``size`` bytes; none at the end."""
        return os.read(descriptor, size)

    def write_at(self, descriptor: int, position: int, data: bytes) -> None:
        """Write over what is at ``position``, without moving where `write` goes on."""
        disk.write_at(descriptor, data, position)

    def look(self, path: str) -> os.stat_result | None:
        """Give what is at ``path``, links not followed; None if nothing is."""
        try:
            return os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def restrict(self, path: str, *, make: bool = False) -> None:
        """Let nobody but owner and group read a file that others write; ``make`` it if it is not there."""
        if make:
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, disk.CREATE, FILE_MODE)
                os.chmod(path, FILE_MODE)
                os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & ~FILE_MODE:
                os.chmod(path, mode & FILE_MODE)

    def replace(self, path: str, content: bytes, *, sync: bool) -> None:
        """Put a small file in the place of one; a crash leaves the old or the new one."""
        half = f"{path}.half"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half)
        descriptor = os.open(half, disk.CREATE, FILE_MODE)
        try:
            os.chmod(half, FILE_MODE)
            disk.write_all(descriptor, [content])
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(half, path)

    def append(self, path: str, position: int, content: bytes, *, sync: bool) -> None:
        """Let a file have content at a position and nothing behind it; it is made if it is not there.

        After an error it ends at the position, if the disk lets it.
        """
        descriptor = os.open(path, disk.APPEND, FILE_MODE)
        try:
            os.chmod(path, FILE_MODE)
            os.ftruncate(descriptor, position)
            os.lseek(descriptor, position, os.SEEK_SET)
            try:
                disk.write_all(descriptor, [content])
                if sync:
                    os.fsync(descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, position)
                raise
        finally:
            os.close(descriptor)

    def read_from(self, descriptor: int, position: int, size: int) -> bytes:
        """Read at a position, at most ``size`` bytes, and go on behind them."""
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)

    def set_mode(self, descriptor: int) -> bool:
        """Let owner and group have what `create` asked for; tell whether the umask had taken it away."""
        if stat.S_IMODE(os.fstat(descriptor).st_mode) == FILE_MODE:
            return False
        os.chmod(descriptor, FILE_MODE)
        return True

    def write(self, descriptor: int, views: Sequence[Bytes]) -> None:
        """Write all ``views``, one after another."""
        disk.write_all(descriptor, views)

    def sync_data(self, descriptor: int) -> None:
        """Return when the content of the file survives a power cut."""
        disk.sync_data(descriptor)

    def sync_directory(self, path: str) -> None:
        """Return when the entries of a folder survive a power cut."""
        if sys.platform == "win32":
            return  # no such call there
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def can_sync_together(self, path: str) -> bool:
        """Tell whether `sync_all` costs much less than syncing what is in a folder one by one."""
        return False

    def memory_of(self, path: str) -> Memory | None:
        """Give what reads what is in a folder without any wait, if it is in memory; None: nothing can."""
        return memory_of(path)

    def sync_all(self, descriptors: Sequence[int], folders: Sequence[str]) -> list[OSError | None]:
        """As `sync_data` for each file and `sync_directory` for each folder; gives what failed, for each."""
        return [_error_of(self.sync_data, each) for each in descriptors] + [
            _error_of(self.sync_directory, each) for each in folders
        ]

    def end(self) -> None:
        """Give back what the system has lent: there are no more calls."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def make_directory(self, path: str) -> bool:
        """Make a folder unless it is there, whatever the umask; tell whether it was made."""
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileExistsError:
            return False
        os.chmod(path, FOLDER_MODE)
        return True

    def remove_directory(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def lock_directory(self, path: str, *, is_shared: bool = False) -> int:
        """Take a folder for this process alone until the descriptor is closed (-1 where that is unknown).

        ``is_shared``: together with others that share it. Raises ``BlockingIOError`` if another process has
        it.
        """
        if sys.platform == "win32":
            return -1
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def share_directory(self, descriptor: int) -> None:
        """Let others share a folder that was taken. Raises ``BlockingIOError`` if one has taken it since."""
        if descriptor >= 0:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def move(self, source: str, target: str) -> None:
        """Give a file another name on the same file system."""
        os.rename(source, target)

    def link(self, source: str, target: str, *, sync: bool) -> None:
        """Give a file a second name; where the file system has no such thing, make a copy under it."""
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except (FileNotFoundError, FileExistsError):
            raise
        except (OSError, NotImplementedError):
            reading = self.open_to_read(source)
        try:
            writing = self.create(target)
            try:
                self.set_mode(writing)
                while piece := self.read(reading, _COPIED):
                    self.write(writing, [piece])
                if sync:
                    self.sync_data(writing)
            finally:
                self.close(writing)
        finally:
            self.close(reading)

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def list(self, path: str) -> list[str]:
        """Give the names in a folder, sorted; none if it is not there."""
        return sorted(self.names(path))

    def names(self, path: str) -> Sequence[str]:
        """Give the names in a folder as they come; none if it is not there."""
        try:
            return os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def space(self, path: str) -> tuple[int, int]:
        """Give the size of the disk that a folder is on, and what is free of it, in bytes."""
        usage = shutil.disk_usage(path)
        return usage.total, usage.free


class TogetherCalls(FileCalls):
    """Syncs many files by one call, where the system can do that."""

    _TOGETHER = 128  # files and folders

    def __init__(self) -> None:
        self._free: deque[aio.Aio] = deque()  # those that nobody uses now

    def can_sync_together(self, path: str) -> bool:
        """See `FileCalls`."""
        return aio.works_on(path)

    def sync_all(self, descriptors: Sequence[int], folders: Sequence[str]) -> list[OSError | None]:
        """See `FileCalls`. What failed is not tried again: a second sync succeeds, and writes nothing."""
        try:
            mine = self._take()
        except OSError:  # the system has none left
            return super().sync_all(descriptors, folders)
        opened: list[int] = []
        try:
            opened.extend(os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders)
            errors = mine.sync(descriptors, opened)
        except OSError as error:
            mine.close()
            return [error] * (len(descriptors) + len(folders))
        finally:
            for descriptor in opened:
                os.close(descriptor)
        self._free.append(mine)
        return errors

    def _take(self) -> aio.Aio:
        try:
            return self._free.pop()
        except IndexError:
            return aio.Aio(self._TOGETHER)

    def end(self) -> None:
        """See `FileCalls`."""
        while self._free:
            self._free.pop().close()
