"""What can be wrong with an archive."""

from __future__ import annotations

from asyncdicom.exceptions import DicomNetworkError

__all__ = ["ArchiveError"]


class ArchiveError(DicomNetworkError):
    """The archive's folder cannot be used: what is wrong and what to do, in one line."""
