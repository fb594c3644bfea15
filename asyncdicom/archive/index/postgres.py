"""The index in PostgreSQL as the archive holds it. Needs psycopg (the extra `postgres`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.hints import SharedHints
from asyncdicom.archive.index.leases import SharedLeases
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.index.postgres_driver import Cursor, PostgresReading
from asyncdicom.archive.index.postgres_locks import Lock, counting_members, giving_back, locking, trying
from asyncdicom.archive.index.postgres_schema import bring
from asyncdicom.archive.index.postgres_writer import PostgresWriter
from asyncdicom.archive.index.queries import Queries
from asyncdicom.archive.index.schema import SCHEMA_VERSION
from asyncdicom.archive.index.stability import SharedStabilityReader
from asyncdicom.archive.index.upkeep import Reader
from asyncdicom.telemetry.log import Log

__all__ = ["PostgresIndex", "open_engine"]

_LOG = Log("asyncdicom.archive")

_SYNCHRONOUS = {"power": "on", "process": "local", "none": "off"}
"""PostgreSQL's synchronous_commit by durability. "process" is the death of the server's processes, too, whose
memory has what is not written yet; what is left out with it is a standby's answer, and the files' syncs.
"""

_OPENING = 60  # seconds for others that open the archive

# Of a connection: seconds, and what finds a peer that is gone.
_CONNECTING = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


class _Upkeep(Reader):
    """Looks at the index as a whole."""

    def damage(self, is_enough: Callable[[], bool]) -> str:
        """Tell nothing: that is the server's, by its checksums and `pg_amcheck`."""
        return ""


class PostgresIndex(OpenIndex):
    """The open index in a database, whose tables are made on first use; those of an earlier version get more.

    ``url``: as `postgresql://user@host/database`. ``durability``: what a commit survives. ``readers``:
    connections for those who read at the same time. Everything blocks. Raises `ArchiveError` for an index
    that a later version has made, and for what is no database for one, and `IndexFailed`.
    """

    kind = "postgresql"
    is_shared = True

    def __init__(self, url: str, *, durability: str, readers: int) -> None:
        with TRANSLATED:
            engine = open_engine(url, durability=durability, readers=readers)
        super().__init__(engine, _Upkeep(engine))
        self.leases = SharedLeases(engine)
        self.hints = SharedHints(engine)
        self.stability = SharedStabilityReader(engine)
        self.label = f"the database {make_url(url).set(query={}).render_as_string(hide_password=True)}"

    def close(self) -> None:
        """See `OpenIndex`."""
        self.hints.close()
        super().close()

    @contextmanager
    def joining(self) -> Iterator[Callable[[], bool]]:
        """See `OpenIndex`. Waits for who opens it now, at most a minute."""

        def is_alone() -> bool:
            (is_alone,) = cursor.execute(f"SELECT {trying(Lock.MEMBERS)}").fetchone()
            if is_alone:
                cursor.execute(f"SELECT {giving_back(Lock.MEMBERS)}")
            return bool(is_alone)

        with TRANSLATED:
            connection = self._engine.raw_connection()
        try:
            cursor = Cursor(connection.driver_connection)
            opening = locking(Lock.OPENING, for_transaction=False)
            cursor.execute(f"SET lock_timeout = '{_OPENING}s'; SELECT {opening}")
            yield is_alone
        finally:
            connection.invalidate()  # and with it what it has locked

    def others(self) -> int:
        """See `OpenIndex`."""
        with TRANSLATED, self._engine.connect() as connection:
            return max(int(connection.exec_driver_sql(counting_members()).scalar_one()) - 1, 0)

    def writer(self) -> PostgresWriter:
        """Give what writes. Raises `IndexFailed` if an earlier version, which is alone, has the database."""
        return PostgresWriter(self._engine)

    def queries(self, threads: int) -> Queries:
        """Give what reads for peers, in so many threads."""
        return Queries(self._engine, threads=threads, reading=PostgresReading)

    def copy_to(self, path: str) -> None:
        """Refuse: PostgreSQL has better means. Raises `ArchiveError`."""
        raise ArchiveError(
            f"the index is in {self.label}: back that up first, with pg_dump or a base backup; then copy "
            "objects and quarantine of the folder"
        )


def open_engine(url: str, *, durability: str, readers: int) -> Engine:
    """Open the database, and bring its tables to what this version has. Raises as `PostgresIndex`."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ArchiveError("the index is no URL: give postgresql://user@host/database") from None
    if parsed.get_backend_name() != "postgresql":
        raise ArchiveError(f"the index is a URL of {parsed.get_backend_name()}: give a postgresql:// one")
    try:
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=readers + 1,
            max_overflow=1,
            pool_pre_ping=True,  # what a restart of the server has left is told from what is alive
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",  # we say BEGIN ourselves
            connect_args={**_CONNECTING, "application_name": "asyncdicom"},
            query_cache_size=0,
        )
    except ModuleNotFoundError:
        raise ArchiveError("an index in PostgreSQL needs psycopg: pip install asyncdicom[postgres]") from None

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        # To compile a statement takes a second, and none of ours runs for long: the planner thinks otherwise.
        connection.execute(f"SET synchronous_commit = {_SYNCHRONOUS[durability]}; SET jit = off")

    try:
        _check(engine, durability)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check(engine: Engine, durability: str) -> None:
    with engine.connect() as connection:
        asked = "SELECT current_setting('server_encoding'), current_setting('fsync')"
        encoding, syncs = connection.exec_driver_sql(asked).one()
        if encoding != "UTF8":
            raise ArchiveError(f"the database has the encoding {encoding}: make it with ENCODING 'UTF8'")
        if durability == "power" and syncs != "on":
            _LOG.error("the PostgreSQL server has fsync off: a power cut can lose what was answered Success")
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        version = bring(connection)
    if version and version != SCHEMA_VERSION:
        _LOG.warning("the index was brought from schema %d to %d", version, SCHEMA_VERSION)
