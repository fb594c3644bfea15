"""The files of the archive. Nothing else in it touches the file system.

Every call goes through one `FileCalls`, so that tests can make the disk full, slow or forgetful. No received
value is ever part of a path: names are random, folders too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence

__all__ = ["FileCalls", "Folders", "InstanceFile"]

_CREATE = (
    os.O_CREAT
    | os.O_EXCL
    | os.O_WRONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_TRIES = 256  # to find a folder among 256 of which no sync has failed
_IOVECS = 1024  # what Linux and macOS take in one call (IOV_MAX)

Bytes = bytes | memoryview


class FileCalls:
    """The file calls that the archive makes, all blocking, all raising ``OSError``."""

    def create(self, path: str) -> int:
        """Create a file that must not exist, and give its descriptor."""
        return os.open(path, _CREATE, 0o640)

    def write(self, descriptor: int, views: Sequence[Bytes]) -> None:
        """Write all ``views``, one after another."""
        for start in range(0, len(views), _IOVECS):
            _write_all(descriptor, list(views[start : start + _IOVECS]))

    def sync_data(self, descriptor: int) -> None:
        """Return when the content of the file survives a power cut."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def sync_directory(self, path: str) -> None:
        """Return when the entries of a folder survive a power cut."""
        if sys.platform == "win32":
            return  # no such call there
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def make_directory(self, path: str) -> bool:
        """Make a folder unless it is there; tell whether it was made."""
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            return False
        return True

    def lock_directory(self, path: str) -> int:
        """Take a folder for this process alone until the descriptor is closed (-1 where that is unknown).

        Raises ``BlockingIOError`` if another process has it.
        """
        if sys.platform == "win32":
            return -1
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def move(self, source: str, target: str) -> None:
        """Give a file another name on the same file system."""
        os.rename(source, target)

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def list(self, path: str) -> list[str]:
        """Give the names in a folder; none if it is not there."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def space(self, path: str) -> tuple[int, int]:
        """Give the size of the disk that a folder is on, and what is free of it, in bytes."""
        usage = shutil.disk_usage(path)
        return usage.total, usage.free


def _write_all(descriptor: int, views: list[Bytes]) -> None:
    if not hasattr(os, "writev"):
        views = [b"".join(views)]
    while views:
        written = os.writev(descriptor, views) if len(views) > 1 else os.write(descriptor, views[0])
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views and written:
            views[0] = memoryview(views[0])[written:]


class Folders:
    """Where files lie below the archive's root, and which of them are being received now.

    New objects share one random folder ``objects/ab/cd`` for a while, then move on to another: so a group
    commit has one folder to sync, and no folder grows beyond a thousand files or so. For many threads.

    What a failed sync was to write may be lost for good although the next sync succeeds: the kernel has given
    those pages up. So a file is not trusted any more once a sync of its folder has failed.
    """

    FILES_PER_FOLDER = 1000

    def __init__(self, root: str, calls: FileCalls, *, sync: bool) -> None:
        self.objects = os.path.join(root, "objects")
        self.quarantine = os.path.join(root, "quarantine")
        self._root = root
        self._calls = calls
        self._sync = sync
        self._lock = threading.Lock()
        self._receiving: dict[str, str] = {}  # by the last part, which stays the same in quarantine
        self._untrusted: set[str] = set()
        self._folder = ""
        self._room = 0

    def prepare(self) -> None:
        """Make the root and its two folders."""
        self._make(self._root)
        for path in (self.objects, self.quarantine):
            self._calls.make_directory(path)

    def _make(self, path: str) -> None:
        try:
            self._calls.make_directory(path)
        except FileNotFoundError:
            self._make(os.path.dirname(path))
            self._calls.make_directory(path)

    def sync_root(self) -> None:
        """Make what is in the root durable, and every entry on the way to it: a crash may have left them."""
        path = self._root
        self.sync(path)
        while not os.path.ismount(path):
            path = os.path.dirname(path)
            try:
                self.sync(path)
            except PermissionError:
                continue  # others made it, and keep it

    def sync(self, path: str) -> None:
        """Make the entries of a folder durable, if the archive is to survive a power cut."""
        if not self._sync:
            return
        try:
            self._calls.sync_directory(path)
        except BaseException:
            receiving = list(self._receiving.values())
            self._untrusted.update(name for name in receiving if os.path.dirname(self.path(name)) == path)
            self._room = 0
            raise

    def is_trusted(self, name: str) -> bool:
        """Tell whether a sync of its folder can still make ``name`` durable."""
        return name not in self._untrusted

    def take_name(self) -> str:
        """Give a new name below ``objects``; until `give_back` the file counts as being received."""
        with self._lock:
            if self._room <= 0:
                self._open_folder()
            self._room -= 1
            file = f"{secrets.token_hex(16)}.dcm"
            name = f"{self._folder}/{file}"
            self._receiving[file] = name
            return name

    def _open_folder(self) -> None:
        outer = self._new_folder("")
        self._folder = self._new_folder(f"{outer}/")
        for name in (outer, self._folder):
            self._calls.make_directory(self.path(name))
            try:  # also if it was there: whoever made it may have died before this
                self.sync(os.path.dirname(self.path(name)))
            except BaseException:
                self._untrusted.add(name)
                raise
        self._room = self.FILES_PER_FOLDER

    def _new_folder(self, above: str) -> str:
        for _ in range(_TRIES):
            name = f"{above}{secrets.token_hex(1)}"
            if self.is_trusted(name):
                return name
        raise OSError(errno.EIO, "syncs of too many folders have failed", self.path(above))

    def give_back(self, name: str, *, failed: bool) -> None:
        """Say that ``name`` is not being received any more; after a failure the next file goes elsewhere."""
        self._receiving.pop(os.path.basename(name), None)
        self._untrusted.discard(name)
        if failed:
            self._room = 0

    def is_receiving(self, name: str) -> bool:
        """Tell whether ``name`` is being received now, or is on its way to quarantine."""
        return os.path.basename(name) in self._receiving

    def names_in(self, folder: str) -> set[str]:
        """Give the names of the files in one of `all_folders`."""
        return set(self._calls.list(os.path.join(self._root, *folder.split("/"))))

    def path(self, name: str) -> str:
        """Give the path of an object, or of a folder of objects."""
        return os.path.join(self.objects, *name.split("/"))

    def quarantine_path(self, name: str) -> str:
        """Give the path of a file in quarantine."""
        return os.path.join(self.quarantine, name)

    def all_folders(self) -> Iterator[str]:
        """Give the folders that files are in: ``quarantine`` and every ``objects/ab/cd``."""
        yield "quarantine"
        for outer in self._calls.list(self.objects):
            for inner in self._calls.list(os.path.join(self.objects, outer)):
                yield f"objects/{outer}/{inner}"


class InstanceFile:
    """One object being received: owns its descriptor, counts and digests the bytes of the data set.

    All methods block and belong into a worker thread, one call at a time. The file is created by the first
    write. Whoever cancels waits for a call in flight before `discard`: a thread that still writes to a closed
    descriptor could write into another object.
    """

    def __init__(self, folders: Folders, calls: FileCalls, header: bytes, *, sync: bool) -> None:
        self.name = ""
        self.path = ""
        self.offset = len(header)
        self.length = 0
        self._folders = folders
        self._calls = calls
        self._header = header
        self._sync = sync
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()  # where the processor has instructions for it, the fastest

    @property
    def digest(self) -> str:
        """The digest of the data set so far."""
        return self._digest.hexdigest()[:32]

    def write(self, views: Sequence[memoryview]) -> None:
        """Write more of the data set."""
        for view in views:
            self._digest.update(view)
            self.length += len(view)
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._create()
            views = [memoryview(self._header), *views]
        self._calls.write(descriptor, views)

    def _create(self) -> int:
        self.name = self._folders.take_name()
        self.path = self._folders.path(self.name)
        self._descriptor = self._calls.create(self.path)
        return self._descriptor

    def finish(self) -> None:
        """Make the content durable and close the file."""
        if self._descriptor is None:
            return
        if self._sync:
            self._calls.sync_data(self._descriptor)
        self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._calls.close(descriptor)

    def keep(self) -> None:
        """Say that the index has the file now."""
        self._folders.give_back(self.name, failed=False)

    def discard(self, failed: bool = False) -> None:
        """Close and remove the file."""
        try:
            self._close()
        finally:
            try:
                if self.path:
                    self._calls.remove(self.path)
            finally:
                self._folders.give_back(self.name, failed=failed)
