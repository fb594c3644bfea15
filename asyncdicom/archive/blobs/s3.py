"""Blobs as objects of a bucket that speaks S3.

Nothing has two names there, nothing is moved but by a copy, and what is there is whole: an object appears
when it is complete. So nothing unfinished is ever found, and a name that was tried is never tried again.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from asyncdicom.archive.blobs.base import Row, State
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.blobs.new_object import NewObject
from asyncdicom.archive.blobs.object_store import Found, ObjectStore, Place
from asyncdicom.archive.blobs.read_object import ObjectSource, ReadObject, look_at
from asyncdicom.archive.errors import ArchiveError

__all__ = ["S3", "S3Blobs"]

S3 = "s3"
"""Their kind."""

_MARKER = "archive.json"
_OURS = re.compile(r"objects/([0-9a-f]{2}/[0-9a-f]{2})/(?P<file>[0-9a-f]{32}\.dcm)")
_ASIDE = re.compile(r"quarantine/(?P<file>[0-9a-f]{32}\.dcm)")


class S3Blobs:
    """See `Blobs`. A place is ``s3://bucket/prefix/`` and a key; ``root``: the archive's own folder."""

    kind = S3
    is_spool = False
    moves_slowly = True
    finish_all = None

    NAMES_PER_FOLDER = 1000
    YOUNG = 3600.0
    """Seconds in which an object without a row may be one that another process is storing."""

    def __init__(
        self,
        place: Place,
        root: Folders,
        *,
        is_shared: bool = False,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = root
        self.store = ObjectStore(place, on_failure=on_failure)
        self._above = f"{place}/"
        self.objects = f"{place}/objects"
        self.quarantine = f"{place}/quarantine"
        self._lock = threading.Lock()
        self._receiving: set[str] = set()  # file names, which stay the same in quarantine
        self._folder = ""
        self._room = 0
        self._foreign = 0  # seen by `all_folders`
        self._listed: dict[str, tuple[list[str], int]] = {}
        self._is_shared = is_shared
        self._young: set[str] = set()  # seen in the folder that was listed last

    # opening and closing

    def has_objects(self) -> bool:
        """See `Blobs`."""
        return self._has("objects/")

    def _has(self, prefix: str) -> bool:
        return any(page for page in self.store.keys(prefix))

    def prepare(self) -> None:
        """See `Blobs`: a bucket is made by who pays for it."""
        self.store.start()

    def claim(self, archive_id: str, *, is_known: bool) -> None:
        """See `Blobs`. The bucket says whose it is, too: two archives in one would take away each other's."""
        try:
            data, _ = self.store.read(_MARKER, 0, 4096)
        except FileNotFoundError:
            self.store.create(_MARKER, json.dumps({"archive_id": archive_id}).encode() + b"\n")
            return
        try:
            owner = json.loads(bytes(data))["archive_id"]
        except (ValueError, KeyError, TypeError):
            raise ArchiveError(
                f"{self._above}{_MARKER} is damaged: it says whose objects these are"
            ) from None
        if owner == archive_id:
            return
        if is_known:
            raise ArchiveError(
                f"{self._above} belongs to another archive ({owner}, this is {archive_id}): name another "
                "bucket or prefix"
            )
        raise ArchiveError(
            f"{self._above} belongs to archive {owner}, whose folder this is not: put that folder back; if "
            f"it is lost for good and nothing serves it any more, copy {self._above}{_MARKER} into this one, "
            "and the index is built again from the objects"
        )

    def serve(self, known: Callable[[str, Sequence[str]], set[str]]) -> None:
        """See `Blobs`: there is nothing to do."""

    def close(self) -> None:
        """See `Blobs`: what is on its way out comes to its end."""
        self.store.stop()

    # names

    def key(self, path: str) -> str:
        """Give the key of a place."""
        return path.removeprefix(self._above)

    def path(self, name: str) -> str:
        """See `Blobs`."""
        return f"{self.objects}/{name}"

    def quarantine_path(self, name: str) -> str:
        """See `Blobs`."""
        return f"{self.quarantine}/{name}"

    def below_root(self, name: str) -> str:
        """See `Blobs`."""
        return self._above + name

    def take_name(self) -> str:
        """See `Blobs`. New ones share a random folder for a while, as in `Folders`: it is one page."""
        file = f"{secrets.token_hex(16)}.dcm"
        with self._lock:
            if self._room <= 0:
                self._folder = f"{secrets.token_hex(1)}/{secrets.token_hex(1)}"
                self._room = self.NAMES_PER_FOLDER
            self._room -= 1
            self._receiving.add(file)
            return f"{self._folder}/{file}"

    def give_back(self, name: str, *, failed: bool) -> None:
        """See `Blobs`."""
        with self._lock:
            self._receiving.discard(name.rpartition("/")[2])

    def is_receiving(self, name: str) -> bool:
        """See `Blobs`."""
        file = name.rpartition("/")[2]
        return file in self._receiving or file in self._young

    # blobs

    def new(self, header: bytes) -> NewObject:
        """See `Blobs`."""
        return NewObject(self, header)

    def source(
        self,
        path: str,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        offset: int,
        length: int,
    ) -> ObjectSource:
        """See `Blobs`."""
        return ObjectSource(
            self.store,
            self.key(path),
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            offset=offset,
            length=length,
        )

    def read(self, path: str) -> ReadObject:
        """See `Blobs`."""
        return ReadObject(self.store, self.key(path))

    def look_at(
        self, path: str, row: Row, *, read_so_far: Callable[[int], None] = lambda size: None
    ) -> State:
        """See `Blobs`."""
        return look_at(self.store, self.key(path), row, read_so_far)

    def is_there(self, path: str) -> bool:
        """See `Blobs`."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """See `Blobs`."""
        return self.store.size(self.key(path))

    def is_other_name(self, path: str, others: Sequence[str]) -> bool:
        """See `Blobs`: an object has one name."""
        return path in others

    def remove(self, path: str) -> None:
        """See `Blobs`."""
        self.store.remove(self.key(path))

    def copy(self, path: str, target: str) -> None:
        """See `Blobs`."""
        if self.is_there(target):
            raise FileExistsError(errno.EEXIST, "an object of this name exists", target)
        self.store.copy(self.key(path), self.key(target))

    def move(self, path: str, target: str) -> None:
        """See `Blobs`: who is killed on the way leaves both."""
        self.store.copy(self.key(path), self.key(target))
        self.store.remove(self.key(path))

    def move_to_quarantine(self, path: str) -> str:
        """See `Blobs`."""
        target = self.quarantine_path(path.rpartition("/")[2])
        self.move(path, target)
        return target

    def set_aside(self, path: str) -> str:
        """See `Blobs`. It loses its ending, as in a folder."""
        name = path.rpartition("/")[2].removesuffix(".dcm")
        while self.is_there(target := self.below_root(f"lost/{name}")):
            name = secrets.token_hex(16)
        self.move(path, target)
        return target

    # durability

    def sync(self, folder: str) -> None:
        """See `Blobs`: what the store has said is done, is."""

    def is_trusted(self, name: str) -> bool:
        """See `Blobs`."""
        return True

    # several processes

    def share(self) -> None:
        """See `Blobs`: they have told when it was made; what is young is nobody's to judge."""

    def leave(self) -> None:
        """See `Blobs`: nothing is kept from others."""

    def sweeping(self, folder: str) -> AbstractContextManager[bool]:
        """See `Blobs`: others go on, and what is young counts as being received."""
        return nullcontext(True)

    def is_recent(self, path: str, seconds: float) -> bool:
        """See `Blobs`: `is_receiving` has told."""
        return False

    # listing

    def all_folders(self) -> Iterator[str]:
        """See `Blobs`. The objects are listed once, in the order of their keys: folder after folder."""
        self._foreign = 0
        self._listed.clear()
        folder = ""
        for page in self.store.keys("objects/"):
            for found in page:
                ours = _OURS.fullmatch(found.key)
                if ours is None:
                    self._foreign += 1
                    continue
                if ours[1] != folder:
                    if folder:
                        yield f"objects/{folder}"
                    folder = ours[1]
                    self._young.clear()
                self._listed.setdefault(f"objects/{folder}", ([], 0))[0].append(ours[2])
                self._note_age(ours[2], found)
        if folder:
            yield f"objects/{folder}"
        yield "quarantine"

    def names_in(self, folder: str) -> tuple[list[str], int]:
        """See `Blobs`: most were listed by `all_folders`."""
        if (listed := self._listed.pop(folder, None)) is not None:
            return listed
        self._young.clear()
        names: list[str] = []
        foreign = 0
        pattern = _ASIDE if folder == "quarantine" else _OURS
        for page in self.store.keys(f"{folder}/"):
            for found in page:
                if (ours := pattern.fullmatch(found.key)) is None:
                    foreign += 1
                else:
                    names.append(ours["file"])
                    self._note_age(ours["file"], found)
        return names, foreign

    def _note_age(self, file: str, found: Found) -> None:
        if self._is_shared and found.written > time.time() - self.YOUNG:
            self._young.add(file)

    def is_folder(self, path: str) -> bool:
        """See `Blobs`: a folder is what the keys of objects begin with."""
        return self._has(f"{self.key(path)}/")

    def foreign_folders(self) -> int:
        """See `Blobs`."""
        return self._foreign

    def count_lost(self) -> int:
        """See `Blobs`."""
        return sum(len(page) for page in self.store.keys("lost/"))

    def count_waiting(self) -> int:
        """See `Blobs`."""
        return 0

    def has_quarantined(self) -> bool:
        """See `Blobs`."""
        return self._has("quarantine/")

    def can_move_to_quarantine(self) -> bool:
        """See `Blobs`."""
        return True
