"""What the archive needs of what keeps its files: a blob is one file, a place is where it lies.

A place is text that is for the keeper alone to understand, but that its folder ends at the last slash; the
name of a blob is what the index has of it. Everything blocks, and raises ``OSError``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Protocol

from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.net.sources import Source

__all__ = ["FOLDER", "Blobs", "Ended", "NewBlob", "Reading", "Row", "State", "Unreachable"]

FOLDER = "folder"
"""The kind of those that lie in the archive's own folder, which is not named in the marker."""


class Row(Protocol):
    """What a row says of its file; lengths in bytes."""

    @property
    def data_set_offset(self) -> int: ...  # noqa: D102

    @property
    def data_set_length(self) -> int: ...  # noqa: D102

    @property
    def digest(self) -> str: ...  # noqa: D102


class State(enum.Enum):
    """What a look at the file of a row has found."""

    SOUND = "as its row says"
    MISSING = "missing"
    DAMAGED = "damaged"


class Ended(Exception):
    """The archive is closing: what takes long was not finished."""


class Unreachable(OSError):
    """What keeps the blobs does not answer, or refuses to: that says nothing about a blob."""

    is_passing = False
    """Whether it may be otherwise in a moment."""


class NewBlob(Protocol):
    """One instance being received. One call at a time, and none after `keep` or `discard`."""

    name: str
    """Final when it is finished, as is its place."""

    path: str
    """Its place."""

    offset: int
    length: int
    is_durable: bool
    """Its content and its name are, as far as promised."""

    @property
    def digest(self) -> str:
        """The digest of the data set so far."""

    @property
    def busy(self) -> Future[None] | None:
        """What is to be waited for before more is written, without a thread; None if nothing is."""

    def write(self, views: Sequence[memoryview], *, last: bool = False) -> None:
        """Write more of the data set."""

    def finish(self, then: Callable[[BaseException | None], None]) -> None:
        """Make it durable, as far as promised; `then` is called with what has failed, by any thread."""

    def keep(self) -> None:
        """Say that the index has it now."""

    def discard(self, failed: bool = False) -> None:
        """Remove it; `failed`: by a fault of what keeps it."""


class Reading(Protocol):
    """A blob that is read from its beginning to its end; to be closed."""

    def read(self, size: int) -> bytes:
        """Read on, at most so many bytes; none at the end."""

    def sync(self) -> None:
        """Make it durable, if the archive is to survive a power cut."""

    def close(self) -> None:
        """End it."""


class Blobs(Protocol):
    """Keeps blobs: among the objects, aside in quarantine, or lost."""

    kind: str
    """What it is, in a word."""

    objects: str
    quarantine: str
    """Where they lie, for people."""

    is_spool: bool
    """Whether blobs are received into the archive's folder, and moved on afterwards."""

    moves_slowly: bool
    """Whether a move takes so long that no transaction is to wait for it."""

    # opening and closing

    @property
    def root(self) -> Folders:
        """The archive's folder."""

    def has_objects(self) -> bool:
        """Tell whether an object was ever kept."""

    def prepare(self) -> None:
        """Make what blobs are kept in, if it is not there."""

    def claim(self, archive_id: str, *, is_known: bool) -> None:
        """Note whose blobs these are; `is_known`: index or folder have said so. Raises `ArchiveError`."""

    def serve(self, known: Callable[[str, Sequence[str]], set[str]]) -> None:
        """Begin with what is done beside; `known` gives those of the names in a folder that have a row."""

    def close(self) -> None:
        """End what runs; what is being finished is finished before. What blocks can be called still."""

    # blobs

    def new(self, header: bytes) -> NewBlob:
        """Give a blob to be written, with the head of its file."""

    @property
    def finish_all(self) -> Callable[[Sequence[NewBlob]], list[OSError | None]] | None:
        """Make blobs and their names durable, as far as promised; gives what has failed, for each.

        None: they are finished one by one, and nobody waits for another one.
        """

    def path(self, name: str) -> str:
        """Give the place of an object."""

    def quarantine_path(self, name: str) -> str:
        """Give the place of a blob in quarantine."""

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
        """Open a range of a blob, to be sent."""

    def read(self, path: str) -> Reading:
        """Open a blob to be read."""

    def look_at(self, path: str, row: Row, *, read_so_far: Callable[[int], None] = ...) -> State:
        """Compare a blob with its row, to the last byte."""

    def is_there(self, path: str) -> bool:
        """Tell whether there is something at a place."""

    def size(self, path: str) -> int | None:
        """Give how many bytes are at a place; None if nothing is."""

    def is_other_name(self, path: str, others: Sequence[str]) -> bool:
        """Tell whether one of other places is this one, seen twice."""

    def remove(self, path: str) -> None:
        """Remove a blob; one that is not there is no error."""

    def move(self, path: str, target: str) -> None:
        """Give a blob another place."""

    def copy(self, path: str, target: str) -> None:
        """Give a blob a second place. Raises ``FileNotFoundError`` and ``FileExistsError``."""

    def move_to_quarantine(self, path: str) -> str:
        """Move a blob there, and give its new place; not durable before `sync`."""

    def set_aside(self, path: str) -> str:
        """Move a blob that belongs to no row among the lost ones, and give its new place."""

    # durability

    def sync(self, folder: str) -> None:
        """Make what was named, moved or removed in a folder durable."""

    def is_trusted(self, name: str) -> bool:
        """Tell whether `sync` can still make a blob durable."""

    def take_name(self) -> str:
        """Give the name of a new object; until `give_back` it counts as being received."""

    def give_back(self, name: str, *, failed: bool) -> None:
        """Say that a name is not being received any more."""

    def is_receiving(self, name: str) -> bool:
        """Tell whether a blob is being received now, or is on its way to quarantine."""

    # several processes

    def share(self) -> None:
        """Let other processes store, too."""

    def leave(self) -> None:
        """Let others have what was kept from them: nothing is being received any more."""

    def sweeping(self, folder: str) -> AbstractContextManager[bool]:
        """Let no other process begin to receive in one of `all_folders`; gives False if one does it now."""

    def is_recent(self, path: str, seconds: float) -> bool:
        """Tell whether a blob was made or moved not so long ago, or is gone."""

    # listing

    def all_folders(self) -> Iterator[str]:
        """Give the folders that blobs are in."""

    def names_in(self, folder: str) -> tuple[list[str], int]:
        """Give the names of blobs in one of `all_folders`, and how many other things are there."""

    def is_folder(self, path: str) -> bool:
        """Tell whether a folder is at a place."""

    def foreign_folders(self) -> int:
        """Count what lies among the folders and is none."""

    def below_root(self, name: str) -> str:
        """Give the place of what lies in a folder, by its name with slashes."""

    def count_lost(self) -> int:
        """Count the lost ones."""

    def count_waiting(self) -> int:
        """Count those that are to be moved on."""

    def has_quarantined(self) -> bool:
        """Tell whether there is anything in quarantine."""

    def can_move_to_quarantine(self) -> bool:
        """Tell whether objects can be moved there without a copy."""
