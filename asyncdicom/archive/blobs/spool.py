"""Blobs that are received into the folder, with all that is promised there, and moved to a bucket afterwards.

A file in the folder is its own entry in the list of what is to be moved: nothing has to be kept in step with
it, and whoever is killed on the way finds it there again. Its name is the same in both, and who reads looks
in the folder first. Quarantine stays in the folder.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing
from functools import partial

from asyncdicom.archive.blobs.base import NewBlob, Reading, Row, State
from asyncdicom.archive.blobs.files import InstanceFile
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.blobs.mover import Mover
from asyncdicom.archive.blobs.s3 import S3, S3Blobs
from asyncdicom.net.disk import Batch
from asyncdicom.net.sources import Source

__all__ = ["SpoolBlobs"]

_PIECE = 1 << 20


class SpoolBlobs:
    """See `Blobs`. A place is a path in the folder, wherever the blob is now."""

    kind = S3
    is_spool = True
    moves_slowly = True  # what is moved may have to be fetched

    def __init__(self, local: FolderBlobs, remote: S3Blobs) -> None:
        self.local = local
        self.remote = remote
        self.objects = local.objects
        self.quarantine = local.quarantine
        self.mover = Mover(local, remote)

    # opening and closing

    @property
    def root(self) -> Folders:
        """See `Blobs`."""
        return self.local

    def has_objects(self) -> bool:
        """See `Blobs`."""
        return self.local.has_objects() or self.remote.has_objects()

    def prepare(self) -> None:
        """See `Blobs`."""
        self.local.prepare()
        self.remote.prepare()

    def claim(self, archive_id: str, *, is_known: bool) -> None:
        """See `Blobs`."""
        self.remote.claim(archive_id, is_known=is_known)

    def serve(self, known: Callable[[str, Sequence[str]], set[str]]) -> None:
        """See `Blobs`: the mover starts."""
        self.local.serve(known)
        self.mover.start(known)

    def close(self) -> None:
        """See `Blobs`."""
        self.mover.close()
        self.remote.close()

    # blobs

    def new(self, header: bytes) -> InstanceFile:
        """See `Blobs`."""
        return self.local.new(header)

    def finish_all(self, blobs: Sequence[NewBlob]) -> list[OSError | None]:
        """See `Blobs`."""
        return self.local.finish_all(blobs)

    def path(self, name: str) -> str:
        """See `Blobs`."""
        return self.local.path(name)

    def quarantine_path(self, name: str) -> str:
        """See `Blobs`."""
        return self.local.quarantine_path(name)

    def below_root(self, name: str) -> str:
        """See `Blobs`."""
        return self.local.below_root(name)

    def _elsewhere(self, path: str) -> str | None:
        """Give the place in the bucket of what may be there; None for what never is."""
        below = os.path.relpath(path, self.objects).replace(os.sep, "/")
        return None if below.startswith("..") else self.remote.path(below)

    def source(
        self,
        path: str,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        offset: int,
        length: int,
    ) -> Source:
        """See `Blobs`."""

        def of(blobs: FolderBlobs | S3Blobs, path: str) -> Source:
            return blobs.source(
                path,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=transfer_syntax_uid,
                offset=offset,
                length=length,
            )

        elsewhere = self._elsewhere(path)
        other = None if elsewhere is None else partial(of, self.remote, elsewhere)
        return _EitherSource(of(self.local, path), other)

    def read(self, path: str) -> Reading:
        """See `Blobs`."""
        try:
            return self.local.read(path)
        except FileNotFoundError:
            if (elsewhere := self._elsewhere(path)) is None:
                raise
        return self.remote.read(elsewhere)

    def look_at(
        self, path: str, row: Row, *, read_so_far: Callable[[int], None] = lambda size: None
    ) -> State:
        """See `Blobs`."""
        state = self.local.look_at(path, row, read_so_far=read_so_far)
        if state is State.MISSING and (elsewhere := self._elsewhere(path)) is not None:
            state = self.remote.look_at(elsewhere, row, read_so_far=read_so_far)
        return state

    def is_there(self, path: str) -> bool:
        """See `Blobs`."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """See `Blobs`."""
        size = self.local.size(path)
        if size is None and (elsewhere := self._elsewhere(path)) is not None:
            size = self.remote.size(elsewhere)
        return size

    def is_other_name(self, path: str, others: Sequence[str]) -> bool:
        """See `Blobs`."""
        return path in others or self.local.is_other_name(path, others)

    def remove(self, path: str) -> None:
        """See `Blobs`. What the mover has in hand goes when that has come to its end."""
        with self.mover.held(path):
            self.local.remove(path)
            if (elsewhere := self._elsewhere(path)) is not None:
                self.remote.remove(elsewhere)

    def copy(self, path: str, target: str) -> None:
        """See `Blobs`: the copy is in the folder."""
        with self.mover.held(path):
            try:
                self.local.copy(path, target)
            except FileNotFoundError:
                self._fetch(path, target)

    def move(self, path: str, target: str) -> None:
        """See `Blobs`."""
        with self.mover.held(path):
            try:
                self.local.move(path, target)
            except FileNotFoundError:
                self._fetch(path, target)
            if (elsewhere := self._elsewhere(path)) is not None:
                self.remote.remove(elsewhere)

    def _fetch(self, path: str, target: str) -> None:
        """Make a file of an object, durable but for its name. Raises ``FileNotFoundError``."""
        if (elsewhere := self._elsewhere(path)) is None:
            raise FileNotFoundError(path)
        reading = self.remote.read(elsewhere)
        self.local.write(target, iter(lambda: reading.read(_PIECE), b""))

    def move_to_quarantine(self, path: str) -> str:
        """See `Blobs`."""
        with self.mover.held(path):
            try:
                target = self.local.move_to_quarantine(path)
            except FileNotFoundError:
                target = self.quarantine_path(os.path.basename(path))
                self._fetch(path, target)
            if (elsewhere := self._elsewhere(path)) is not None:
                self.remote.remove(elsewhere)
        return target

    def set_aside(self, path: str) -> str:
        """See `Blobs`."""
        with self.mover.held(path):
            try:
                return self.local.set_aside(path)
            except FileNotFoundError:
                if (elsewhere := self._elsewhere(path)) is None:
                    raise
        return self.remote.set_aside(elsewhere)

    # durability

    def sync(self, folder: str) -> None:
        """See `Blobs`: what is in the bucket alone is durable."""
        if self.local.is_folder(folder):
            self.local.sync(folder)

    def is_trusted(self, name: str) -> bool:
        """See `Blobs`."""
        return self.local.is_trusted(name)

    def take_name(self) -> str:
        """See `Blobs`."""
        return self.local.take_name()

    def give_back(self, name: str, *, failed: bool) -> None:
        """See `Blobs`."""
        self.local.give_back(name, failed=failed)

    def is_receiving(self, name: str) -> bool:
        """See `Blobs`."""
        return self.local.is_receiving(name) or self.remote.is_receiving(name)

    # several processes: only one serves it, because one moves

    def share(self) -> None:
        """See `Blobs`."""
        self.local.share()

    def leave(self) -> None:
        """See `Blobs`."""
        self.local.leave()

    def sweeping(self, folder: str) -> AbstractContextManager[bool]:
        """See `Blobs`."""
        return self.local.sweeping(folder)

    def is_recent(self, path: str, seconds: float) -> bool:
        """See `Blobs`."""
        return self.local.is_recent(path, seconds)

    # listing

    def all_folders(self) -> Iterator[str]:
        """See `Blobs`: those of the bucket first."""
        seen: set[str] = set()
        for folder in self.remote.all_folders():
            if folder != "quarantine":
                seen.add(folder)
                yield folder
        for folder in self.local.all_folders():
            if folder not in seen:
                yield folder

    def names_in(self, folder: str) -> tuple[list[str], int]:
        """See `Blobs`. A file that is moved in between is seen in the bucket, or in both."""
        names, foreign = self.local.names_in(folder)
        if folder != "quarantine":
            there, _ = self.remote.names_in(folder)
            names = sorted({*names, *there})
        return names, foreign

    def is_folder(self, path: str) -> bool:
        """See `Blobs`."""
        if self.local.is_folder(path):
            return True
        return (elsewhere := self._elsewhere(path)) is not None and self.remote.is_folder(elsewhere)

    def foreign_folders(self) -> int:
        """See `Blobs`."""
        return self.local.foreign_folders() + self.remote.foreign_folders()

    def count_lost(self) -> int:
        """See `Blobs`."""
        return self.local.count_lost() + self.remote.count_lost()

    def count_waiting(self) -> int:
        """See `Blobs`."""
        return self.local.count_files()

    def has_quarantined(self) -> bool:
        """See `Blobs`."""
        return self.local.has_quarantined()

    def can_move_to_quarantine(self) -> bool:
        """See `Blobs`."""
        return self.local.can_move_to_quarantine()


class _EitherSource:
    """The data set of a file, or of the object that it has become meanwhile."""

    is_repeatable = True

    def __init__(self, file: Source, other: Callable[[], Source] | None) -> None:
        self.sop_class_uid = file.sop_class_uid
        self.sop_instance_uid = file.sop_instance_uid
        self.transfer_syntax_uid = file.transfer_syntax_uid
        self._file = file
        self._other = other

    @property
    def length(self) -> int:
        """How many bytes it has."""
        length: int = self._file.length  # type: ignore[attr-defined]
        return length

    def at_hand(self) -> None:
        """See `Source`: whether it is near shows when it is opened."""

    async def open(self) -> AsyncGenerator[Batch, None]:
        """See `Source`."""
        try:
            async with aclosing(self._file.open()) as batches:
                async for batch in batches:
                    yield batch
            return
        except FileNotFoundError:  # it comes before anything was given
            if self._other is None:
                raise
        async with aclosing(self._other().open()) as batches:
            async for batch in batches:
                yield batch
