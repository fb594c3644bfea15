"""The locks of a PostgreSQL server that the processes of one archive keep to.

They go with the connection, or with the transaction, that has them: who is gone holds nobody up. They are of
a database and a schema, and of no table.
"""

from __future__ import annotations

import enum

__all__ = ["Lock", "counting_members", "giving_back", "locking", "trying"]

_CLASS = 1145652045
_SCHEMA = "hashtext(current_schema())"


class Lock(enum.IntEnum):
    """What a lock is about."""

    MEMBERS = 0
    """Shared by the connections that write, one of each process; an earlier version takes it for itself."""

    OPENING = 1
    """Of who opens or joins."""

    ROWS = 2
    """Shared by those that commit instances; of who moves or deletes what is there."""

    JOURNAL = 3
    """Of who writes a file beside the objects."""

    REMOVING = 4
    """Of who lets an instance take the place of another one."""

    STUDY = 5
    """Of who makes a study, by its UID."""

    LINE = 6
    """Of who claims work of a destination in its order."""


def locking(lock: Lock, key: str = _SCHEMA, *, is_shared: bool = False, for_transaction: bool = True) -> str:
    """Give the expression that takes a lock, and waits for it; ``key``: an expression for its number."""
    name = f"pg_advisory{'_xact' if for_transaction else ''}_lock{'_shared' if is_shared else ''}"
    return f"{name}({_CLASS + lock}, {key})"


def trying(lock: Lock) -> str:
    """Give the expression that takes a lock for the connection alone, if nobody has it, and tells whether."""
    return f"pg_try_advisory_lock({_CLASS + lock}, {_SCHEMA})"


def giving_back(lock: Lock) -> str:
    """Give the expression that gives back what `trying`, or `locking` for a connection, has taken."""
    return f"pg_advisory_unlock({_CLASS + lock}, {_SCHEMA})"


def counting_members() -> str:
    """Give the statement that counts the processes that have the index open."""
    return (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 "
        f"AND classid = {_CLASS + Lock.MEMBERS} AND CAST(objid AS BIGINT) = "
        f"CAST({_SCHEMA} AS BIGINT) & 4294967295 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
