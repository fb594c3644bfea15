"""Errors of the database driver do not leave the index: they become those of `base`."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from asyncdicom.archive.index.base import IndexFailed, Overtaken, RowFailed

__all__ = ["TRANSLATED", "failure"]


_AGAIN = ("40001", "40P01", "23503", "23505")  # serialization, deadlock, a parent that went, a key that came
_TELLING = (
    "08",
    "28",
    "3D",
    "3F",
    "42",
    "53",
    "54",
    "55",
    "57",
    "58",
)  # classes whose message names no value


def failure(error: Any) -> IndexFailed:
    """Give the error of the index for one of a driver, without what was asked for or stored."""
    cause: Any = getattr(error, "orig", None) or error
    diagnosis = getattr(cause, "diag", None)
    if diagnosis is not None:
        return _failure_of_server(cause, diagnosis)
    text = str(cause) if isinstance(cause, sqlite3.Error) else type(cause).__name__
    if isinstance(error, sqlite3.OperationalError | SQLAlchemyError):
        return IndexFailed(text)
    return RowFailed(text)


def _failure_of_server(cause: Any, diagnosis: Any) -> IndexFailed:
    """Give it for one of psycopg: PostgreSQL's words only where no value can be among them."""
    state = diagnosis.sqlstate or cause.sqlstate or ""
    if not state:  # of the client: the connection, mostly
        lines = str(cause).strip().splitlines()
        return IndexFailed(lines[0] if lines else type(cause).__name__)
    text = diagnosis.message_primary if state[:2] in _TELLING else type(cause).__name__
    if state in _AGAIN:
        return Overtaken(f"{text} ({state})")
    if state[:2] in ("22", "23"):  # about the values of one row
        return RowFailed(f"{text} ({state})")
    return IndexFailed(f"{text} ({state})")


def is_of_a_driver(error: BaseException | None) -> bool:
    """Tell whether an error is one of a database driver, whichever is loaded."""
    return isinstance(error, sqlite3.Error | SQLAlchemyError) or (
        isinstance(error, Exception) and hasattr(error, "diag") and hasattr(error, "sqlstate")
    )


class _Translated:
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and is_of_a_driver(error):
            raise failure(error) from error


TRANSLATED = _Translated()
"""A context manager, for any thread at any time: what fails in it is raised as `IndexFailed`."""
