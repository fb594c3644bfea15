"""The files of the archive. Nothing else in it touches the file system.

Every call goes through one `FileCalls`, so that tests can make the disk full, slow or forgetful. No received
value is ever part of a path: names are random, folders too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator, Sequence

from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.net import disk

__all__ = [
    "DIGEST_SIZE",
    "FILE_MODE",
    "FileCalls",
    "Folders",
    "InstanceFile",
    "StoredFile",
    "digest_in",
    "header_of",
]

FOLDER_MODE, FILE_MODE = 0o750, 0o640
DIGEST_SIZE = 16  # bytes of SHA-256

# Private Information Creator UID (0002,0100) of what follows it in our files: the digest of the data set,
# zeros until the data set is complete. So a file tells without the index whether it is what was received.
_DIGEST_UID = "2.25.141275758726166647317003264390563398667"
_DIGEST_ELEMENTS = encode_file_meta("", "", "", private_information=(_DIGEST_UID, bytes(DIGEST_SIZE)))
_DIGEST_PREFIX = _DIGEST_ELEMENTS[_DIGEST_ELEMENTS.index(b"\2\0\0\1UI") : -DIGEST_SIZE]

_OUR_FOLDER = re.compile(r"[0-9a-f]{2}")
_OUR_FILE = re.compile(r"[0-9a-f]{32}\.dcm")
_TRIES = 256  # to find a folder among 256 of which no sync has failed

Bytes = bytes | memoryview


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

    def lock_directory(self, path: str) -> int:
        """Take a folder for this process alone until the descriptor is closed (-1 where that is unknown).

        Raises ``BlockingIOError`` if another process has it.
        """
        if sys.platform == "win32":
            return -1
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
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


def header_of(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str | None
) -> bytes:
    """Give the head of a file of ours; it ends with the place of the digest, which is zeros for now.

    Raises `DataSetError` as `encode_file_meta` does.
    """
    return encode_file_meta(
        sop_class_uid,
        sop_instance_uid,
        transfer_syntax_uid,
        source_ae_title=calling_ae_title,
        private_information=(_DIGEST_UID, bytes(DIGEST_SIZE)),
    )


def digest_in(head: bytes, offset: int) -> str | None:
    """Give the digest that the head of a file tells; zeros if never finished, None if it tells none."""
    place = offset - DIGEST_SIZE
    if place < len(_DIGEST_PREFIX) or head[place - len(_DIGEST_PREFIX) : place] != _DIGEST_PREFIX:
        return None
    return head[place:offset].hex()


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
        self.lost = os.path.join(root, "lost")
        self.sets_modes = False  # whether the umask takes away what a file should have
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
        self.prepare_root()
        for path in (self.objects, self.quarantine):
            self._calls.make_directory(path)

    def prepare_root(self) -> None:
        """Make the root and every folder on the way to it."""
        self._make(self._root)

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
        self.sets_modes = sys.platform != "win32"  # the first file shows whether that is needed
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

    def all_folders(self) -> Iterator[str]:
        """Give the folders that files are in: every ``objects/ab/cd``, then ``quarantine``; never a link."""
        for outer in self._our_folders("objects"):
            yield from self._our_folders(outer)
        if self.is_folder(self.quarantine):
            yield "quarantine"

    def _our_folders(self, above: str) -> Iterator[str]:
        for name in self._calls.list(self.below_root(above)):
            if _OUR_FOLDER.fullmatch(name) and self.is_folder(self.below_root(f"{above}/{name}")):
                yield f"{above}/{name}"

    def has_objects(self) -> bool:
        """Tell whether there is any folder ``objects/ab``: the first instance makes one, and it stays."""
        return self.is_folder(self.objects) and any(
            _OUR_FOLDER.fullmatch(name) and self.is_folder(os.path.join(self.objects, name))
            for name in self._calls.names(self.objects)
        )

    def is_folder(self, path: str) -> bool:
        """Tell whether ``path`` is a folder, and no link to one."""
        found = self._calls.look(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def foreign_folders(self) -> int:
        """Count what lies in ``objects`` and ``objects/ab`` and is no folder of ours: links, notes."""
        outer = list(self._our_folders("objects"))
        count = len(self._calls.list(self.objects)) - len(outer)
        for folder in outer:
            count += len(self._calls.list(self.below_root(folder))) - sum(
                1 for _ in self._our_folders(folder)
            )
        return count

    def names_in(self, folder: str) -> tuple[list[str], int]:
        """Give the names of our files in one of `all_folders`, and how many other things are there."""
        names = self._calls.list(self.below_root(folder))
        ours = [name for name in names if _OUR_FILE.fullmatch(name)]
        return ours, len(names) - len(ours)

    def below_root(self, name: str) -> str:
        """Give the path of what lies below the archive's folder, by a name with slashes."""
        return os.path.join(self._root, *name.split("/"))

    def is_receiving(self, name: str) -> bool:
        """Tell whether ``name`` is being received now, or is on its way to quarantine."""
        return os.path.basename(name) in self._receiving

    def path(self, name: str) -> str:
        """Give the path of an object, or of a folder of objects."""
        return os.path.join(self.objects, *name.split("/"))

    def quarantine_path(self, name: str) -> str:
        """Give the path of a file in quarantine."""
        return os.path.join(self.quarantine, name)

    def move_to_quarantine(self, path: str) -> str:
        """Move a file there, into a folder that is made if it was taken away, and give its new path.

        Neither end is durable before `sync`.
        """
        target = self.quarantine_path(os.path.basename(path))
        try:
            self._calls.move(path, target)
        except FileNotFoundError:
            if not self._calls.make_directory(self.quarantine):
                raise  # it was there: the file is what is missing
            self.sync(self._root)
            self._calls.move(path, target)
        return target

    def set_aside(self, path: str) -> str:
        """Move a file that belongs to no row into ``lost``, replacing nothing, and give its new path.

        It loses its ending: nobody takes for an image what is cut off or damaged.
        """
        if self._calls.make_directory(self.lost):
            self.sync(self._root)
        name = os.path.basename(path).removesuffix(".dcm")
        while self._calls.look(os.path.join(self.lost, name)) is not None:
            name = secrets.token_hex(16)
        target = os.path.join(self.lost, name)
        self._calls.move(path, target)
        return target


class StoredFile:
    """A file that lies below ``objects`` or in ``quarantine`` already, and what its row says of it."""

    def __init__(self, name: str, path: str, offset: int, length: int, digest: str) -> None:
        self.name = name
        self.path = path
        self.offset = offset
        self.length = length
        self.digest = digest


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
        self._is_marked = False  # whether the header has the digest
        self._digest = hashlib.sha256()  # where the processor has instructions for it, the fastest

    @property
    def digest(self) -> str:
        """The digest of the data set so far."""
        return self._digest.hexdigest()[:32]

    def write(self, views: Sequence[memoryview], *, last: bool = False) -> None:
        """Write more of the data set; with the last of it the header gets its digest."""
        for view in views:
            self._digest.update(view)
            self.length += len(view)
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._create()
            header = self._header
            if last:
                header, self._is_marked = header[:-DIGEST_SIZE] + bytes.fromhex(self.digest), True
            views = [memoryview(header), *views]
        self._calls.write(descriptor, views)

    def _create(self) -> int:
        self.name = self._folders.take_name()
        self.path = self._folders.path(self.name)
        self._descriptor = self._calls.create(self.path)
        if self._folders.sets_modes:
            self._folders.sets_modes = self._calls.set_mode(self._descriptor)
        return self._descriptor

    def finish(self) -> None:
        """Write the digest into the header, make the content durable and close the file."""
        if self._descriptor is None:
            return
        if not self._is_marked:
            self._calls.write_at(self._descriptor, self.offset - DIGEST_SIZE, bytes.fromhex(self.digest))
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
