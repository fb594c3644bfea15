"""The statements that put work into the outbox, in the transaction of what leads to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, bindparam, exists, literal_column, select
from sqlalchemy.dialects.postgresql import insert  # both engines have its clauses, in the same words

from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import delivery, instance
from asyncdicom.archive.index.work import Work, repeated_revision, revision_of

__all__ = ["enqueue", "enqueue_for_instances"]

ExecuteAll: TypeAlias = Callable[[Prepared, Iterable[Mapping[str, Any]]], None]
"""Executes a statement of the transaction once for each row."""

_COMMENT = 200  # characters

_VALUES = ("kind", "destination", "revision", "order_key", "payload", "priority", "due", "state", "comment")


def _parameters() -> dict[str, Any]:
    return {name: bindparam(name) for name in _VALUES}


_ENQUEUE = Prepared(insert(delivery).values(**_parameters(), attempts=bindparam("attempts")))
_before = delivery.alias("before")


def _for_instance(*unless: ColumnElement[bool]) -> Prepared:
    """Enqueue for an instance, unless it has work of that kind already for which this holds, too."""
    wanted = select(instance.c.id, bindparam("attempts"), *(bindparam(name) for name in _VALUES)).where(
        instance.c.sop_instance_uid == bindparam("sop_instance_uid")
    )
    if unless:
        own = (
            _before.c.instance == instance.c.id,
            _before.c.kind == bindparam("kind"),
            _before.c.destination == bindparam("destination"),
        )
        wanted = wanted.where(~exists().where(*own, *unless).correlate(instance))
    into = insert(delivery).from_select(["instance", "attempts", *_VALUES], wanted)
    return Prepared(into.on_conflict_do_nothing())


_FOR_INSTANCE = {
    "changed": _for_instance(),
    "resend": _for_instance(_before.c.state <= literal_column("2")),  # it waits, or is being sent
    "skip": _for_instance(literal_column("1") == literal_column("1")),
}


def enqueue(execute_all: ExecuteAll, work: Iterable[Work], now: float) -> None:
    """Enqueue work that is about no instance."""
    execute_all(_ENQUEUE, [_row(each, 0, now) for each in work])


def enqueue_for_instances(execute_all: ExecuteAll, work: Iterable[tuple[str, str, Work]], now: float) -> None:
    """Enqueue work about instances: the SOP Instance UID and digest of each, and what is to be done.

    What was enqueued before for the same bytes is not enqueued again, whatever became of it, unless the work
    says so.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for uid, digest, each in work:
        again = each.on_duplicate == "resend"
        revision = repeated_revision(digest, now) if again else revision_of(digest)
        row = {**_row(each, revision, now), "sop_instance_uid": uid}
        rows.setdefault(each.on_duplicate, []).append(row)
    for on_duplicate, some in rows.items():
        execute_all(_FOR_INSTANCE[on_duplicate], some)


def _row(work: Work, revision: int, now: float) -> dict[str, Any]:
    row = {**work._asdict(), "revision": revision, "due": now, "attempts": 0}
    row["state"] = int(work.state)
    row["comment"] = work.comment[:_COMMENT]
    if work.order_key is not None:
        row["priority"] = 1  # the order counts
    return row
