"""Where the files of the archive lie, and which of its folders can be trusted.

No received value is ever part of a path: names are random, folders too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from asyncdicom.archive.file_calls import FileCalls

__all__ = ["Folders"]

_OUR_FOLDER = re.compile(r"[0-9a-f]{2}")
_OUR_FILE = re.compile(r"[0-9a-f]{32}\.dcm")
_NAMES = 64  # made at once: to ask the system costs as much as a name
_TRIES = 256  # to find a folder among 256 of which no sync has failed


class _Kept:
    """A folder that this process alone receives in."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.files = 0


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
        self._below_objects = os.path.join(self.objects, "")
        self._calls = calls
        self._sync = sync
        self._lock = threading.Lock()
        # One sync at a time: the one after a failed one succeeds, and is not believed when that is noted.
        self._syncing = threading.Lock()
        self._receiving: dict[str, str] = {}  # by the last part, which stays the same in quarantine
        self._untrusted: set[str] = set()
        self._folder = ""
        self._room = 0
        self._names: list[str] = []  # for the next files
        # Where several processes store: the locks on the folders that files are being received in, and how
        # many files. Each process has its own: what is in a folder that nobody has is being received by none.
        self._kept: dict[str, _Kept] | None = None

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
        with self._syncing:
            try:
                self._calls.sync_directory(path)
            except BaseException:
                self._distrust(path)
                raise

    def _distrust(self, path: str) -> None:
        """Trust no file any more that is in a folder whose sync has failed."""
        receiving = list(self._receiving.values())
        self._untrusted.update(name for name in receiving if os.path.dirname(self.path(name)) == path)
        self._room = 0

    def is_trusted(self, name: str) -> bool:
        """Tell whether a sync of its folder can still make ``name`` durable."""
        return name not in self._untrusted

    def take_name(self) -> str:
        """Give a new name below ``objects``; until `give_back` the file counts as being received."""
        with self._lock:
            if self._room <= 0:
                self._open_folder()
            self._room -= 1
            if not self._names:
                chance = os.urandom(16 * _NAMES).hex()
                self._names = [chance[start : start + 32] for start in range(0, len(chance), 32)]
            file = f"{self._names.pop()}.dcm"
            name = f"{self._folder}/{file}"
            self._receiving[file] = name
            if self._kept is not None:
                self._kept[self._folder].files += 1
            return name

    def share(self) -> None:
        """Let other processes store into the same folders: see `sweeping`. Before anything is stored."""
        self._kept = {}

    def leave(self) -> None:
        """Give back what other processes were kept out of: nothing is being received any more."""
        with self._lock:
            for each in (self._kept or {}).values():
                self._unlock(each.descriptor)
            self._kept = None

    @contextmanager
    def sweeping(self, folder: str) -> Iterator[bool]:
        """Let no other process begin to receive in one of `all_folders`; False: one does it now."""
        below = folder.partition("/")[2]
        if self._kept is None or not below or below in self._kept:
            yield True  # `is_receiving` tells of our own; in quarantine nothing is received
            return
        try:
            descriptor = self._calls.lock_directory(self.below_root(folder))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            self._unlock(descriptor)

    def _unlock(self, descriptor: int) -> None:
        if descriptor >= 0:
            self._calls.close(descriptor)

    def is_recent(self, path: str, seconds: float) -> bool:
        """Tell whether something got its name, or lost one, not so long ago; or is gone."""
        found = self._calls.look(path)
        return found is None or time.time() - found.st_ctime < seconds

    def _open_folder(self) -> None:
        folder = self._make_folder()
        while self._kept is not None and not self._keep(folder):
            folder = self._make_folder()
        self._folder = folder
        self.sets_modes = sys.platform != "win32"  # the first file shows whether that is needed
        self._room = self.FILES_PER_FOLDER

    def _make_folder(self) -> str:
        outer = self._new_folder("")
        folder = self._new_folder(f"{outer}/")
        for name in (outer, folder):
            self._calls.make_directory(self.path(name))
            try:  # also if it was there: whoever made it may have died before this
                self.sync(os.path.dirname(self.path(name)))
            except BaseException:
                self._untrusted.add(name)
                raise
        return folder

    def _keep(self, folder: str) -> bool:
        """Keep other processes out of the folder of the next files; False: one has it."""
        kept = self._kept = self._kept or {}
        if folder not in kept:
            try:
                kept[folder] = _Kept(self._calls.lock_directory(self.path(folder)))
            except BlockingIOError:
                return False
        before, self._folder = self._folder, folder
        self._let_go(before)
        return True

    def _let_go(self, folder: str) -> None:
        """Let others have a folder that nothing is being received in, and nothing will be."""
        kept = self._kept or {}
        if folder in kept and folder != self._folder and not kept[folder].files:
            self._unlock(kept.pop(folder).descriptor)

    def _new_folder(self, above: str) -> str:
        for _ in range(_TRIES):
            name = f"{above}{secrets.token_hex(1)}"
            if self.is_trusted(name):
                return name
        raise OSError(errno.EIO, "syncs of too many folders have failed", self.path(above))

    def give_back(self, name: str, *, failed: bool) -> None:
        """Say that ``name`` is not being received any more; after a failure the next file goes elsewhere."""
        was_receiving = self._receiving.pop(name.rpartition("/")[2], None)
        self._untrusted.discard(name)
        if failed:
            self._room = 0
        if self._kept is not None and was_receiving is not None:
            self._give_folder_back(was_receiving.rpartition("/")[0])

    def _give_folder_back(self, folder: str) -> None:
        with self._lock:
            if self._kept is not None and folder in self._kept:
                self._kept[folder].files -= 1
                self._let_go(folder)

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

    def count_files(self) -> int:
        """Count our files below ``objects``."""
        folders = (folder for folder in self.all_folders() if folder != "quarantine")
        return sum(len(self.names_in(folder)[0]) for folder in folders)

    def has_files(self) -> bool:
        """Tell whether there is any file of ours below ``objects``."""
        return any(self.names_in(folder)[0] for folder in self.all_folders() if folder != "quarantine")

    def remove_if_empty(self, folder: str) -> None:
        """Remove one of `all_folders` if nothing is in it, and nothing is about to be."""
        name = folder.partition("/")[2]
        with self._lock:
            in_use = {self._folder, *(each.rpartition("/")[0] for each in list(self._receiving.values()))}
            if name not in in_use:
                with contextlib.suppress(OSError):
                    self._calls.remove_directory(self.below_root(folder))

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
        return self._below_objects + (name if os.sep == "/" else name.replace("/", os.sep))

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
