"""What was received into the folder is moved to the bucket: copied, then freed."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import TypeAlias

from asyncdicom.archive.blobs.base import Reading, Unreachable
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.blobs.header import digest_in
from asyncdicom.archive.blobs.object_store import PART
from asyncdicom.archive.blobs.s3 import S3Blobs
from asyncdicom.archive.errors import reason
from asyncdicom.data.part10 import HEAD_SIZE, read_file_meta
from asyncdicom.exceptions import DataSetError
from asyncdicom.telemetry.log import Log

__all__ = ["Mover"]

_LOG = Log("asyncdicom.archive")

_LOOK = 1.0  # seconds between two looks at the folder
_LONGEST_PAUSE = 60.0  # seconds between two attempts, when they fail
_TOGETHER = 16  # files that are on their way at a time
_NAMES = 500  # asked for in one query

_Known: TypeAlias = Callable[[str, Sequence[str]], set[str]]


class Mover:
    """Moves every file that has a row; owns the thread. A file without one is for the sweep to judge.

    The object is made before the file is removed: whoever is killed in between leaves both, and they are
    compared then.
    """

    def __init__(self, local: FolderBlobs, remote: S3Blobs) -> None:
        self._local = local
        self._remote = remote
        self._ending = threading.Event()
        self._held: set[str] = set()  # names that are being moved, or removed
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._pause = _LOOK
        self._bad: set[str] = set()

    def start(self, known: _Known) -> None:
        """Start; `known` gives those of the names in a folder that have a row."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, args=(known,), name="asyncdicom-mover", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None

    def close(self) -> None:
        """End it, when what is on its way has come to its end. Blocks."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @contextmanager
    def held(self, path: str) -> Iterator[None]:
        """Have nobody else move or remove what is at a place; waits while somebody does."""
        name = os.path.basename(path)
        with self._changed:
            while name in self._held:
                self._changed.wait()
            self._held.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(name)
                self._changed.notify_all()

    def _run(self, known: _Known) -> None:
        while not self._ending.is_set():
            try:
                self._go_through(known)
            except Exception as error:
                if self._pause == _LOOK:
                    _LOG.error("instances are not moved to the bucket, they stay here: %s", reason(error))
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            else:
                if self._pause > _LOOK:
                    _LOG.warning("instances are moved to the bucket again")
                self._pause = _LOOK
            self._ending.wait(self._pause)

    def _go_through(self, known: _Known) -> None:
        for folder in self._local.all_folders():
            if folder == "quarantine":
                continue
            names, foreign = self._local.names_in(folder)
            names = [name for name in names if not self._local.is_receiving(name)]
            left = len(names)
            for start in range(0, len(names), _NAMES):
                some = names[start : start + _NAMES]
                ours = known(folder, some)
                left -= self._move_all(known, [f"{folder}/{name}" for name in some if name in ours])
            if not left and not foreign:
                self._local.remove_if_empty(folder)

    def _move_all(self, known: _Known, names: Sequence[str]) -> int:
        """Move files, some at a time; gives how many. Raises what the first has failed with, at the end."""
        errors: list[BaseException] = []
        moved: list[str] = []
        for start in range(0, len(names), _TOGETHER):
            if self._ending.is_set() or errors:
                break
            self._move_some(names[start : start + _TOGETHER], moved, errors)
        for name in moved:
            self._free(known, name)
        if errors:
            raise errors[0]
        return len(moved)

    def _move_some(self, names: Sequence[str], moved: list[str], errors: list[BaseException]) -> None:
        under_way: list[tuple[str, bytes, Future[None]]] = []
        store = self._remote.store
        for name in names:
            try:
                path = self._local.below_root(name)
                if not self._is_sound(path):
                    continue
                if (self._local.size(path) or 0) > PART:
                    with closing(self._local.read(path)) as reading:
                        store.create_of(name, _pieces(reading))
                    moved.append(name)
                else:
                    with closing(self._local.read(path)) as reading:
                        data = b"".join(_pieces(reading))
                    under_way.append((name, data, store.spawn(store.put(name, data))))
            except FileNotFoundError:
                continue  # it was deleted meanwhile
            except Exception as error:
                errors.append(error)
        for name, data, putting in under_way:
            try:
                self._conclude(name, data, putting)
            except Exception as error:
                errors.append(error)
            else:
                moved.append(name)

    def _is_sound(self, path: str) -> bool:
        """Tell whether a file is what was received: nothing else takes its place in the bucket."""
        if path in self._bad:
            return False
        with closing(self._local.read(path)) as reading:
            if _is_whole(reading):
                return True
        self._bad.add(path)
        _LOG.error("%s is damaged: it stays here, put it back from a copy or have it sent again", path)
        return False

    def _conclude(self, name: str, data: bytes, putting: Future[None]) -> None:
        try:
            putting.result()
        except FileExistsError:  # from an earlier life, or an answer that was lost
            there, size = self._remote.store.read(name, 0, len(data))
            if (bytes(there), size) != (data, len(data)):
                raise Unreachable(errno.EEXIST, f"{name} in the bucket is not what is here") from None

    def _free(self, known: _Known, name: str) -> None:
        """Remove a file whose object is there; if its instance was deleted meanwhile, the object goes."""
        path = self._local.below_root(name)
        with self.held(path):
            self._local.remove(path)
            folder, _, file = name.rpartition("/")
            if not known(folder, [file]):
                self._remote.store.remove(name)


def _is_whole(reading: Reading) -> bool:
    """Compare a file with the digest that it tells; one of an earlier version tells none."""
    head = reading.read(HEAD_SIZE)
    try:
        offset = read_file_meta(head).offset
    except DataSetError:
        return False
    told = digest_in(head, offset)
    digest = hashlib.sha256(head[offset:])
    for piece in _pieces(reading):
        digest.update(piece)
    return told is None or told == digest.hexdigest()[: len(told)]


def _pieces(reading: Reading) -> Iterator[bytes]:
    while piece := reading.read(PART):
        yield piece
