"""What of the index is old enough, or too much, by a rule of retention. It only reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Engine, Select, and_, bindparam, case, func, literal_column, or_, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.schema import delivery, instance, series, stability, study
from asyncdicom.archive.index.work import State

__all__ = ["Candidate", "Criteria", "ExpiryReader", "Page", "Total"]

PAGE = 500
_ADDED_UP = 10_000
_OPEN = (State.READY, State.WAITING, State.LEASED)


class Criteria(NamedTuple):
    """Which instances a rule means."""

    until: str
    """Received up to then: UTC, ISO 8601."""

    now: str
    """What was received later than that has the time of a clock that was wrong."""

    calling: tuple[str, ...] = ()
    """From one of these AE titles; none: from any."""

    kind: str = ""
    """Work of this kind has to be done: for each of `destinations`, or for any if none is named."""

    destinations: tuple[str, ...] = ()
    even_failed: bool = False
    told: tuple[str, ...] = ()
    """These names are to be told of their studies first, when those are stable (see `stability`)."""


class Candidate(NamedTuple):
    """An instance that a rule means, as a page of them has it; `size` in bytes."""

    id: int
    sop_instance_uid: str
    study_instance_uid: str
    received: str
    calling_ae_title: str
    size: int
    is_held: bool
    """Whether a delivery of it is open, has failed (unless that does not count), or is yet to come."""


class Page(NamedTuple):
    """What was found among the next instances; `after` the last of them, for the next page."""

    found: list[Candidate]
    after: int
    is_last: bool


class Total(NamedTuple):
    """The bytes of all data sets up to an id."""

    size: int = 0
    last: int = 0


def _states(states: Collection[State]) -> list[Any]:
    return [literal_column(str(int(state))) for state in states]


def _of_instance(*conditions: Any) -> Select[Any]:
    return select(literal_column("1")).where(delivery.c.instance == instance.c.id, *conditions)


def _was_told(name: str) -> ColumnElement[bool]:
    """Tell whether a name was told of an instance: of all up to it, or of its study with it.

    The number of the newest one is given again if another one takes its place: that has come later.
    """
    return (
        select(literal_column("1"))
        .where(
            stability.c.name == name,
            stability.c.study.in_([literal_column("0"), study.c.id]),
            or_(
                stability.c.last > instance.c.id,
                and_(stability.c.last == instance.c.id, stability.c.received >= instance.c.received),
            ),
        )
        .exists()
    )


class ExpiryReader:
    """Looks for what may go. Every method is one short transaction, for a thread, over 500 instances."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, criteria: Criteria, after: int) -> Page:
        """Give what a rule means among the next instances after an id.

        They are in the order of their reception: the first that is too young ends the search. So what was
        received behind it by a clock that was put back is not taken for old, and what came from the future by
        one that went ahead ends nothing.
        """
        some = (
            select(instance.c.id, instance.c.received)
            .where(instance.c.id > bindparam("after"))
            .order_by(instance.c.id)
            .limit(PAGE)
            .subquery()
        )
        is_young = (some.c.received > criteria.until) & (some.c.received <= criteria.now)
        bounds = select(func.count(), func.max(some.c.id), func.min(case((is_young, some.c.id))))
        with TRANSLATED, self._engine.connect() as connection:
            count, last, young = connection.execute(bounds, {"after": after}).one()
            if young is not None:
                last = young - 1
            if not count or last <= after:
                return Page([], after, is_last=True)
            rows = connection.execute(self._meant(criteria), {"after": after, "last": last})
            found = [Candidate._make((*row[:-1], bool(row[-1]))) for row in rows]
            return Page(found, last, is_last=young is not None or count < PAGE)

    @staticmethod
    def _meant(criteria: Criteria) -> Select[Any]:
        holding = _OPEN if criteria.even_failed else (*_OPEN, State.FAILED)
        held: ColumnElement[bool] = _of_instance(delivery.c.state.in_(_states(holding))).exists()
        for name in criteria.told:
            held = or_(held, ~_was_told(name))
        columns = [
            instance.c.id,
            instance.c.sop_instance_uid,
            study.c.study_instance_uid,
            instance.c.received,
            instance.c.calling_ae_title,
            instance.c.data_set_length,
            held,
        ]
        statement = (
            select(*columns)
            .join(series, series.c.id == instance.c.parent)
            .join(study, study.c.id == series.c.parent)
            .where(
                instance.c.id > bindparam("after"),
                instance.c.id <= bindparam("last"),
                instance.c.received <= criteria.until,
            )
            .order_by(instance.c.id)
        )
        if criteria.calling:
            statement = statement.where(instance.c.calling_ae_title.in_(criteria.calling))
        done = (delivery.c.kind == criteria.kind, delivery.c.state.in_(_states([State.DONE])))
        if criteria.kind and not criteria.destinations:
            statement = statement.where(_of_instance(*done).exists())
        for name in criteria.destinations:
            statement = statement.where(_of_instance(*done, delivery.c.destination == name).exists())
        return statement

    def total(self, before: Total) -> Total:
        """Go on adding up, over the next 10,000 instances; the same again if there are none."""
        some = (
            select(instance.c.id, instance.c.data_set_length)
            .where(instance.c.id > before.last)
            .order_by(instance.c.id)
            .limit(_ADDED_UP)
            .subquery()
        )
        statement = select(func.coalesce(func.sum(some.c.data_set_length), 0), func.max(some.c.id))
        with TRANSLATED, self._engine.connect() as connection:
            size, last = connection.execute(statement).one()
        return Total(before.size + int(size), last or before.last)
