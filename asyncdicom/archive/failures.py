"""What disk or index fail with becomes what an operator is told: an `ArchiveError` that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncdicom.archive.blobs.base import Unreachable
from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.index.base import IndexFailed

__all__ = ["opening", "reading_index", "using"]


@contextmanager
def opening(directory: str, *, in_database: bool = False) -> Iterator[None]:
    """What fails while the archive in a folder is opened; `in_database`: its index is in one."""
    try:
        yield
    except BlockingIOError:
        # in_database: a tool has it, or an archive with its index in a file
        raise ArchiveError(
            f"{directory} is in use by another archive process, which has it for itself: stop that one"
            if in_database
            else f"{directory} is in use by another archive process: stop it, or name another folder; for "
            "several processes at once the index has to be in PostgreSQL (--index URL)"
        ) from None
    except Unreachable as error:
        raise ArchiveError(f"the blobs of {directory} cannot be used: {error.strerror}") from error
    except OSError as error:
        raise ArchiveError(f"{directory} cannot be used: {error.strerror}") from error
    except IndexFailed as error:
        if in_database:
            raise _of_database(directory, error) from error
        raise ArchiveError(
            f"the index in {directory} cannot be opened ({reason(error)}): put a copy of it back, "
            f"or have it built again from the files: asyncdicom archive {directory} reindex"
        ) from error


@contextmanager
def reading_index(directory: str, *, in_database: bool = False) -> Iterator[None]:
    """What fails while its index is read as a whole; `in_database`: it is in one."""
    try:
        yield
    except IndexFailed as error:
        if in_database:
            raise _of_database(directory, error) from error
        raise ArchiveError(
            f"the index in {directory} cannot be read ({reason(error)}): stop what serves it, and "
            f"have it built again from the files: asyncdicom archive {directory} reindex"
        ) from error


@contextmanager
def using(directory: str) -> Iterator[None]:
    """What fails while it is open."""
    try:
        yield
    except (OSError, IndexFailed) as error:
        raise ArchiveError(f"{directory}: disk or index failed ({reason(error)})") from error


def _of_database(directory: str, error: IndexFailed) -> ArchiveError:
    return ArchiveError(f"the database of {directory} cannot be used ({reason(error)}): see that it runs")
