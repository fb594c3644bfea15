"""The embedded archive: instances as files, an index in SQLite, the queries of PS3.4 Annex C."""

from __future__ import annotations

from asyncdicom.archive.archive import Archive, Stored
from asyncdicom.archive.arrival import OnConflict
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.find import MatchingInstances, StoredInstance
from asyncdicom.archive.index.matching import IdentifierError

__all__ = [
    "Archive",
    "ArchiveError",
    "FileCalls",
    "IdentifierError",
    "MatchingInstances",
    "OnConflict",
    "Stored",
    "StoredInstance",
]
