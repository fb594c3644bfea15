"""The embedded archive: instances as files, an index in SQLite, the queries of PS3.4 Annex C."""

from __future__ import annotations

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.files import FileCalls
from asyncdicom.archive.find import MatchingInstances, StoredInstance
from asyncdicom.archive.index import ArchiveError
from asyncdicom.archive.ingest import OnConflict
from asyncdicom.archive.matching import IdentifierError

__all__ = [
    "Archive",
    "ArchiveError",
    "FileCalls",
    "IdentifierError",
    "MatchingInstances",
    "OnConflict",
    "StoredInstance",
]
