"""What can be wrong with an archive."""

from __future__ import annotations

from asyncdicom.exceptions import DicomNetworkError

__all__ = ["ArchiveError", "reason"]


class ArchiveError(DicomNetworkError):
    """The archive's folder cannot be used: what is wrong and what to do, in one line."""


def reason(error: BaseException) -> str:
    """Say what was wrong with a disk or an index, without what was asked for or stored."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error) if isinstance(error, ArchiveError) else type(error).__name__
