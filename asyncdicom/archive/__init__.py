"""The embedded archive: instances as files, an index in SQLite, the queries of PS3.4 Annex C."""

from __future__ import annotations

from asyncdicom.archive.archive import Archive, Stored
from asyncdicom.archive.arrival import OnConflict, Outcome
from asyncdicom.archive.deleting import Deleted, Refused
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.find import MatchingInstances, StoredInstance
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.matching import IdentifierError, Problem
from asyncdicom.archive.retention import Retention, RetentionRule
from asyncdicom.archive.search import Match
from asyncdicom.archive.stability import StableStudy

__all__ = [
    "Archive",
    "ArchiveError",
    "Deleted",
    "FileCalls",
    "IdentifierError",
    "IndexFailed",
    "Match",
    "MatchingInstances",
    "OnConflict",
    "Outcome",
    "Problem",
    "Refused",
    "Retention",
    "RetentionRule",
    "StableStudy",
    "Stored",
    "StoredInstance",
]
