"""The statements that put work into the outbox, in the transaction of what leads to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert

from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import delivery, instance
from asyncdicom.archive.index.work import Work, revision_of

__all__ = ["enqueue", "enqueue_for_instances"]

ExecuteAll: TypeAlias = Callable[[Prepared, Iterable[Mapping[str, Any]]], None]
"""Executes a statement of the transaction once for each row."""

_COMMENT = 200  # characters

_VALUES = ("kind", "destination", "revision", "order_key", "payload", "priority", "due", "state", "comment")


def _parameters() -> dict[str, Any]:
    return {name: bindparam(name) for name in _VALUES}


_ENQUEUE = Prepared(insert(delivery).values(**_parameters(), attempts=bindparam("attempts")))
_ENQUEUE_FOR_INSTANCE = Prepared(
    insert(delivery)  # of PostgreSQL: both have the clause, in the same words
    .from_select(
        ["instance", "attempts", *_VALUES],
        select(instance.c.id, bindparam("attempts"), *(bindparam(name) for name in _VALUES)).where(
            instance.c.sop_instance_uid == bindparam("sop_instance_uid")
        ),
    )
    .on_conflict_do_nothing()
)


def enqueue(execute_all: ExecuteAll, work: Iterable[Work], now: float) -> None:
    """Enqueue work that is about no instance."""
    execute_all(_ENQUEUE, [_row(each, 0, now) for each in work])


def enqueue_for_instances(execute_all: ExecuteAll, work: Iterable[tuple[str, str, Work]], now: float) -> None:
    """Enqueue work about instances: the SOP Instance UID and digest of each, and what is to be done.

    What was enqueued before for the same bytes is not enqueued again, whatever became of it.
    """
    rows = [{**_row(each, revision_of(digest), now), "sop_instance_uid": uid} for uid, digest, each in work]
    execute_all(_ENQUEUE_FOR_INSTANCE, rows)


def _row(work: Work, revision: int, now: float) -> dict[str, Any]:
    row = {**work._asdict(), "revision": revision, "due": now, "attempts": 0}
    row["state"] = int(work.state)
    row["comment"] = work.comment[:_COMMENT]
    if work.order_key is not None:
        row["priority"] = 1  # the order counts
    return row
