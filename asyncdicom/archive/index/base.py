"""What crosses the border of the index: what is looked up, what is to be changed, what can go wrong.

No connection, row or error of a database driver is among it. The index is synchronous: threads call it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.record import Identity, Record
from asyncdicom.archive.index.work import Work

__all__ = [
    "Changes",
    "Existing",
    "FileEntry",
    "Healing",
    "IndexFailed",
    "Insertion",
    "Lookup",
    "Overtaken",
    "Quarantining",
    "RowFailed",
    "Uncertain",
    "aside",
    "entry_of",
]


class IndexFailed(ArchiveError):
    """The index cannot be read or written; the text says why, and nothing of what was asked for or stored."""


class RowFailed(IndexFailed):
    """One of several changes cannot be made; the others may be."""


class Overtaken(RowFailed):
    """Another writer was first, or the connection was lost before the commit: the same may succeed again."""


class Uncertain(Exception):
    """A commit failed, and so did making sure of it: the files must stay until the next commit."""


class FileEntry(NamedTuple):
    """What the index says of the file of an instance; offset and length in bytes."""

    transfer_syntax_uid: str
    file: str
    """Its name, below ``objects`` or in quarantine."""

    data_set_offset: int
    data_set_length: int
    digest: str
    incomplete: int
    """1: the data set ends within an element."""

    calling_ae_title: str


class File(Protocol):
    """A file that is whole: lengths in bytes."""

    @property
    def offset(self) -> int:
        """Where the data set begins."""

    @property
    def length(self) -> int:
        """How long it is."""

    @property
    def digest(self) -> str:
        """Its digest."""


def entry_of(
    file: File, name: str, transfer_syntax_uid: str, *, is_incomplete: bool, calling_ae_title: str
) -> FileEntry:
    """Give what is to be said of a file, under a name."""
    return FileEntry(
        transfer_syntax_uid,
        name,
        file.offset,
        file.length,
        file.digest,
        int(is_incomplete),
        calling_ae_title,
    )


class Existing(NamedTuple):
    """What the index has for a SOP Instance UID, among the instances or in quarantine."""

    id: int
    parent: int
    sop_class_uid: str
    sop_instance_uid: str
    received: str
    transfer_syntax_uid: str
    file: str
    data_set_offset: int
    data_set_length: int
    digest: str
    incomplete: int
    calling_ae_title: str
    is_quarantined: bool = False

    @property
    def entry(self) -> FileEntry:
        """What it says of its file."""
        return FileEntry._make(self[5:12])


class Insertion(NamedTuple):
    """An instance that gets a row; the row of another one, if it takes its place, goes with what is empty."""

    record: Record
    entry: FileEntry
    instead_of: Existing | None = None
    received: str = ""
    """When it came: UTC, ISO 8601; empty: now."""


class Quarantining(NamedTuple):
    """A file that gets a row in quarantine."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: str
    entry: FileEntry
    received: str = ""
    """As in `Insertion`."""


class Healing(NamedTuple):
    """A row that gets another file with the same bytes."""

    existing: Existing
    entry: FileEntry


def aside(existing: Existing, file: str, reason: str) -> Quarantining:
    """Give what is to be said in quarantine of an instance that was stored; `file`: its name there."""
    return Quarantining(
        existing.sop_class_uid,
        existing.sop_instance_uid,
        reason,
        existing.entry._replace(file=file),
        existing.received,
    )


@dataclass
class Changes:
    """What one transaction is to change. In which order is for the index to say: one with several writers
    sorts the keys, so that none waits for another in a circle.
    """

    instances: list[Insertion] = field(default_factory=list)
    quarantined: list[Quarantining] = field(default_factory=list)
    healed: list[Healing] = field(default_factory=list)
    work: list[tuple[str, str, Work]] = field(default_factory=list)
    """That instances lead to: SOP Instance UID, digest, and what is to be done."""


class Lookup(Protocol):
    """What can be asked within a transaction, before it is decided what it changes."""

    def find_all(self, sop_instance_uids: Sequence[str]) -> Mapping[str, Existing]:
        """Look instances up; gives those that are there."""

    def find_quarantined(self, sop_instance_uid: str, digest: str) -> Existing | None:
        """Look for the same bytes in quarantine under the same UID."""

    def identity_of(self, record: Record) -> Identity:
        """Give whose an instance is: an operator may have put its study under another patient."""

    def patients_of(self, identity: Identity) -> list[tuple[str, str, str]]:
        """Give whom the study belongs to: Patient ID, issuer and what tells them apart.

        Empty where that was asked before: the series is known.
        """

    def quarantine_usage(self) -> tuple[int, int]:
        """Count the files in quarantine and the bytes of their data sets."""
