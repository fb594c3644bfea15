"""Statements on a connection to PostgreSQL, asked for as one asks SQLite; psycopg is told of here alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from sqlalchemy import Engine

from asyncdicom.archive.index.base import IndexFailed, Overtaken
from asyncdicom.archive.index.failing import failure, is_of_a_driver
from asyncdicom.archive.index.prepared import Named, Sql
from asyncdicom.archive.index.queries import Reading
from asyncdicom.telemetry.log import Log

__all__ = ["Cursor", "PostgresReading"]

_LOG = Log("asyncdicom.archive")

_CANCELLING = 5.0  # seconds: then the connection is given up, and with it its statement


class Cursor:
    """A cursor that takes `Prepared.sql` and values in their order. All it raises is `IndexFailed`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self.lastrowid: int | None = None
        """The id of the row that the last statement has inserted, if it has."""

    @property
    def rowcount(self) -> int:
        """How many rows the last statement was about."""
        return int(self._cursor.rowcount)

    @property
    def status(self) -> str:
        """What the server calls what it has done last."""
        return str(self._cursor.statusmessage)

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Self:
        """Execute a statement."""
        if not isinstance(sql, Sql):
            self._run(self._cursor.execute, sql)
            return self
        named = sql.prepared.named
        self._run(self._cursor.execute, named.sql, named.bind(values))
        if named.gives_id:
            row = self._cursor.fetchone()
            self.lastrowid = None if row is None else row[0]
        return self

    def executemany(self, sql: Sql, rows: Sequence[Sequence[Any]]) -> None:
        """Execute a statement once for each row."""
        named: Named = sql.prepared.named
        if named.together:
            self._run(self._cursor.execute, named.together, named.bind_all(rows))
        else:
            self._run(self._cursor.executemany, named.sql, list(map(named.bind, rows)))

    def _run(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:
            if not is_of_a_driver(error):
                raise
            why = failure(error)
            if self._connection.closed and type(why) is IndexFailed:
                why = Overtaken(str(why))
            raise why from error

    def next_result(self) -> None:
        """Go on to what the next of several statements has given."""
        self._cursor.nextset()

    def fetchone(self) -> Any:
        """Give the next row, if there is one."""
        return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        """Give all rows that are left."""
        return list(self._cursor.fetchall())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def close(self) -> None:
        """Forget what was given."""
        self._cursor.close()


class PostgresReading(Reading):
    """A connection for one short transaction that reads.

    To end a statement is a call over the network: a thread makes it, and the connection is waited for and
    given up before it could serve another query. So what is ended is that one's statement, or nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._driver: Any = self._connection.driver_connection
        cursor = Cursor(self._driver)
        self._cursor = cursor
        self.execute = lambda sql, values: iter(cursor.execute(sql, values))
        self._cancelling: threading.Thread | None = None

    def interrupt(self) -> None:
        """End the statement that runs, if one does; from another thread, which is not held up."""
        if self._cancelling is None or not self._cancelling.is_alive():
            self._cancelling = threading.Thread(target=self._cancel, name="asyncdicom-cancel", daemon=True)
            self._cancelling.start()

    def _cancel(self) -> None:
        try:
            self._driver.cancel_safe(timeout=_CANCELLING)
        except Exception as error:  # the statement ends by itself, or its connection does
            _LOG.warning("a statement could not be cancelled: %s", type(error).__name__)

    def close(self) -> None:
        """Give the connection back. Nobody interrupts it any more."""
        if self._cancelling is None:
            self._connection.close()
            return
        self._cancelling.join()
        self._connection.invalidate()
        self._connection.close()
