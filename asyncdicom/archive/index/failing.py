"""Errors of the database driver do not leave the index: they become those of `base`."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from asyncdicom.archive.index.base import IndexFailed, RowFailed

__all__ = ["TRANSLATED", "failure"]


def failure(error: sqlite3.Error | SQLAlchemyError) -> IndexFailed:
    """Give the error of the index for one of the driver, without what was asked for or stored."""
    cause: Any = getattr(error, "orig", None) or error
    text = str(cause) if isinstance(cause, sqlite3.Error) else type(cause).__name__
    if isinstance(error, sqlite3.OperationalError | SQLAlchemyError):
        return IndexFailed(text)
    return RowFailed(text)


class _Translated:
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, sqlite3.Error | SQLAlchemyError):
            raise failure(error) from error


TRANSLATED = _Translated()
"""A context manager, for any thread at any time: what fails in it is raised as `IndexFailed`."""
