"""The statements of the outbox: work that is owed, claimed in batches, settled.

Every function is given the one `Writer` and runs within its transaction. Times
are seconds since 1970. A row is ready, waits until it is due, is leased by who claimed it, or has come to an
end, and stays then: that it was done keeps it from being done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    FromClause,
    Select,
    Text,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    update,
)

from asyncdicom.archive.index.lines import is_in
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import delivery, destination, instance, series, study
from asyncdicom.archive.index.sql import numbers_of, upserting
from asyncdicom.archive.index.work import State, Which
from asyncdicom.archive.index.writer import Writer

__all__ = [
    "PAGE",
    "Claimed",
    "Settlement",
    "claim",
    "drop",
    "pause",
    "promote",
    "reclaim",
    "renew",
    "retry_failed",
    "retry_waiting",
    "settle",
]

PAGE = 1000
"""So many rows are changed by one transaction, or shown by one look, where there may be a million."""

_LOOKED_AT = 200  # rows of an ordered destination that one claim looks at
_COMMENT = 200  # characters


class Claimed(NamedTuple):
    """Work that was claimed. What is about no instance, or one that is gone, has no `file`."""

    id: int
    destination: str
    priority: int
    attempts: int
    first_error_at: float | None
    payload: str | None
    revision: int
    sop_class_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str | None
    file: str | None
    data_set_offset: int | None
    data_set_length: int | None
    digest: str | None
    calling_ae_title: str | None
    study_instance_uid: str | None
    series_instance_uid: str | None


# claiming

_IDS = select(numbers_of(bindparam("ids", type_=Text)))
_before = delivery.alias("before")


_IS_READY = is_in(State.READY)
_IN_TURN = (delivery.c.priority, delivery.c.id)
_OF_STUDY = (
    study.join(series, series.c.parent == study.c.id)
    .join(instance, instance.c.parent == series.c.id)
    .join(delivery, delivery.c.instance == instance.c.id)
)


def _claimable(
    *those: Any,
    order: Sequence[Any] = _IN_TURN,
    tables: FromClause = delivery,
    is_ready: Any = _IS_READY,
) -> Select[Any]:
    """The first ready rows of a destination; of several writers each passes over what another one claims."""
    return (
        select(delivery.c.id)
        .select_from(tables)
        .where(
            is_ready,
            delivery.c.kind == bindparam("kind"),
            delivery.c.destination == bindparam("destination"),
            *those,
        )
        .order_by(*order)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True, of=delivery)
    )


_NEXT = _claimable()
_HELD_UP = (
    select(literal_column("1"))
    .where(
        _before.c.kind == delivery.c.kind,
        _before.c.destination == delivery.c.destination,
        _before.c.order_key == delivery.c.order_key,
        _before.c.order_key.isnot(None),
        _before.c.id < delivery.c.id,
        or_(is_in(State.WAITING, _before), is_in(State.LEASED, _before)),
    )
    .exists()
)


def _select_claimed(ids: Any) -> Select[Any]:
    own = [delivery.c[name] for name in Claimed._fields[:7]]
    about = [instance.c[name] for name in Claimed._fields[7:-2]]
    tables = (
        delivery.outerjoin(instance, instance.c.id == delivery.c.instance)
        .outerjoin(series, series.c.id == instance.c.parent)
        .outerjoin(study, study.c.id == series.c.parent)
    )
    return (
        select(*own, *about, study.c.study_instance_uid, series.c.series_instance_uid)
        .select_from(tables)
        .where(delivery.c.id.in_(ids))
        .order_by(delivery.c.priority, delivery.c.id)
    )


def _claiming(ids: Select[Any]) -> Prepared:
    return Prepared(_select_claimed(ids.scalar_subquery()))


_CLAIM = {
    Which.NEXT: _claiming(_NEXT),
    Which.IN_ORDER: Prepared(
        _select_claimed(_NEXT.scalar_subquery()).where(~_HELD_UP).limit(bindparam("most"))
    ),
    Which.NEWEST: _claiming(_claimable(order=[each.desc() for each in _IN_TURN])),
    Which.URGENT: _claiming(_claimable(delivery.c.priority == literal_column("0"))),
}
# By way of its instances: the index of what is ready would lead to all that wait.
_CLAIM_OF_STUDY = _claiming(
    _claimable(
        study.c.study_instance_uid == bindparam("study"),
        tables=_OF_STUDY,
        is_ready=delivery.c.state + literal_column("0") == literal_column(str(int(State.READY))),
    )
)
_LEASE = Prepared(
    update(delivery)
    .where(delivery.c.id.in_(_IDS))
    .values(state=int(State.LEASED), leased_until=bindparam("until"))
)


def claim(
    writer: Writer,
    kind: str,
    name: str,
    limit: int,
    until: float,
    which: Which = Which.NEXT,
    *,
    of_study: str = "",
) -> list[Claimed]:
    """Claim work of a destination, at most so much, until a time.

    Of a destination in order 200 rows are looked at. `of_study`: the next about instances of this one.
    """
    row: dict[str, Any] = {"kind": kind, "destination": name, "limit": limit}
    if of_study:
        row["study"] = of_study
    elif which is Which.IN_ORDER:
        writer.keep_line(f"{kind} {name}")  # what another process claims now would hold nothing up
        row |= {"limit": max(limit, _LOOKED_AT), "most": limit}
    cursor = writer.execute(_CLAIM_OF_STUDY if of_study else _CLAIM[which], row)
    claimed = [Claimed(*found) for found in cursor.fetchall()]
    if claimed:
        ids = json.dumps([each.id for each in claimed])
        writer.execute(_LEASE, {"ids": ids, "until": until})
    return claimed


_RENEW = Prepared(
    update(delivery)
    .where(delivery.c.id.in_(_IDS), is_in(State.LEASED))
    .values(leased_until=bindparam("until"))
)
_RECLAIM = Prepared(
    update(delivery)
    .where(is_in(State.LEASED), delivery.c.leased_until <= bindparam("now"))
    .values(state=int(State.READY), leased_until=null())
)


def _promoting(when: Any) -> Prepared:
    some = select(delivery.c.id).where(is_in(State.WAITING), when).order_by(delivery.c.due)
    some = some.limit(literal_column(str(PAGE)))
    ready = update(delivery).where(delivery.c.id.in_(some.scalar_subquery())).values(state=int(State.READY))
    return Prepared(ready)


_PROMOTE = _promoting(delivery.c.due <= bindparam("now"))
_PROMOTE_FROM_A_WRONG_CLOCK = _promoting(delivery.c.due > bindparam("never"))


def renew(writer: Writer, ids: Sequence[int], until: float) -> None:
    """Keep what was claimed for longer."""
    writer.execute(_RENEW, {"ids": json.dumps(list(ids)), "until": until})


def reclaim(writer: Writer, now: float = float("inf")) -> int:
    """Take back what was leased until now, or by a process that is gone; gives how much that was."""
    return int(writer.execute(_RECLAIM, {"now": now}).rowcount)


def promote(writer: Writer, now: float, longest: float) -> int:
    """Let what is due be ready, at most 1,000; gives how much that was: if it is less, there is no more.

    What is due later than in the `longest` of seconds is, too: the clock was put back.
    """
    promoted = writer.execute(_PROMOTE, {"now": now}).rowcount
    if promoted < PAGE:
        promoted += writer.execute(_PROMOTE_FROM_A_WRONG_CLOCK, {"never": now + longest}).rowcount
    return int(promoted)


# its end

_SETTLE = Prepared(
    update(delivery)
    .where(delivery.c.id.in_(_IDS), is_in(State.LEASED))
    .values(
        state=bindparam("state"),
        due=bindparam("due"),
        attempts=bindparam("attempts"),
        status=bindparam("status"),
        comment=bindparam("comment"),
        first_error_at=func.coalesce(delivery.c.first_error_at, bindparam("failed_at")),
        leased_until=null(),
    )
)


_FORGET = Prepared(delete(delivery).where(delivery.c.id.in_(_IDS), is_in(State.DONE)))


class Settlement(NamedTuple):
    """What became of claimed work. `failed_at`: when it failed; None if it did not.

    `is_forgotten`: what is done needs no row, because nothing would do it again.
    """

    id: int
    state: State
    due: float
    attempts: int
    status: int | None = None
    comment: str = ""
    failed_at: float | None = None
    is_forgotten: bool = False


def settle(writer: Writer, settlements: Sequence[Settlement]) -> None:
    """Note what became of claimed work; of what is not leased any more nothing is noted.

    Those that came to the same end are noted by one statement. When what is done was done matters to nobody
    to the moment: so that is the same.
    """
    alike: dict[Settlement, list[int]] = {}
    done = max((each.due for each in settlements if each.state is State.DONE), default=0.0)
    for each in settlements:
        end = each._replace(id=0, due=done if each.state is State.DONE else each.due)
        alike.setdefault(end, []).append(each.id)
    for end, numbers in alike.items():
        ids = json.dumps(numbers)
        row = end._asdict() | {"ids": ids, "state": int(end.state), "comment": end.comment[:_COMMENT]}
        writer.execute(_SETTLE, row)
        if end.is_forgotten:
            writer.execute(_FORGET, {"ids": ids})


# what an operator says

_PAGE: Any = literal_column(str(PAGE))
_Chosen: TypeAlias = Mapping[tuple[bool, bool], Prepared]
"""The same for work that is meant by its ids or not, and by its destination or not.

One statement for all of these would go by no index: it would read a million rows to find three.
"""


_BY_LINE = (delivery.c.destination, delivery.c.kind)
_ORDER = {State.READY: _BY_LINE, State.FAILED: _BY_LINE, State.WAITING: (delivery.c.due,)}
"""The order of the index of a state: without one, PostgreSQL may look for a page among all rows there are."""


def _changing(state: State, /, *conditions: Any, **values: Any) -> _Chosen:
    """Change some of what is meant and in a state: of what is not meant by its ids, 1,000 rows at most."""

    def page(*meant: Any) -> Prepared:
        some = select(delivery.c.id).where(is_in(state), *conditions, *meant).order_by(*_ORDER[state])
        return change(some.limit(_PAGE).scalar_subquery())

    def change(ids: Any, *conditions: Any) -> Prepared:
        return Prepared(update(delivery).where(delivery.c.id.in_(ids), *conditions).values(**values))

    # Ids go by the table's own key: an index by the state or the destination would lead to all that wait.
    being_so = delivery.c.state + literal_column("0") == literal_column(str(int(state)))
    for_it = func.coalesce(delivery.c.destination, null()) == bindparam("destination")
    return {
        (False, False): page(),
        (True, False): change(_IDS, being_so, *conditions),
        (False, True): page(delivery.c.destination == bindparam("destination")),
        (True, True): change(_IDS, being_so, for_it, *conditions),
    }


_AGAIN = {"state": int(State.READY), "attempts": 0, "first_error_at": null()}
_RETRY_FAILED = _changing(State.FAILED, delivery.c.due <= bindparam("before"), **_AGAIN)
_RETRY_WAITING = _changing(State.WAITING, **_AGAIN)
_DROP = [_changing(state, state=int(State.DROPPED)) for state in (State.FAILED, State.WAITING, State.READY)]


def retry_waiting(writer: Writer, ids: Sequence[int] | None, name: str | None) -> int:
    """Let work that waits be ready, by its ids or destination (None: all), but at most 1,000.

    Gives how much that was: if it is less, there is no more.
    """
    return _said(writer, _RETRY_WAITING, ids, name)


def retry_failed(writer: Writer, ids: Sequence[int] | None, name: str | None, before: float) -> int:
    """Let work be ready that failed before a time, as `retry_waiting`.

    With the time, who asks until there is no more comes to an end, also if it fails again at once.
    """
    return _said(writer, _RETRY_FAILED, ids, name, before=before)


def drop(writer: Writer, ids: Sequence[int] | None, name: str | None) -> int:
    """Give up work that nobody has claimed, by its ids or destination (None: all); gives how much that was.

    At most 1,000 of each state: ask until it is 0.
    """
    return sum(_said(writer, chosen, ids, name) for chosen in _DROP)


def _said(writer: Writer, chosen: _Chosen, ids: Sequence[int] | None, name: str | None, **more: float) -> int:
    row = {"ids": None if ids is None else json.dumps(list(ids)), "destination": name, **more}
    return int(writer.execute(chosen[ids is not None, name is not None], row).rowcount)


_PAUSE = Prepared(upserting(destination, name=bindparam("name"), paused=bindparam("paused")))


def pause(writer: Writer, name: str, paused: bool) -> None:
    """Note that a destination is paused, or is no more: so it is after a start, too."""
    writer.execute(_PAUSE, {"name": name, "paused": int(paused)})
