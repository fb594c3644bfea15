"""Looks at deliveries: how many there are for whom, what is due, pages of them. See `index.deliveries`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import merge
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, bindparam, func, literal_column, select

from asyncdicom.archive.index.deliveries import PAGE
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.lines import KINDS, PRIORITIES, is_in, lines_of, numbers_of_lines
from asyncdicom.archive.index.schema import delivery, destination, instance
from asyncdicom.archive.index.sql import begin_snapshot, behind
from asyncdicom.archive.index.work import State, members_of

__all__ = ["DeliveryReader", "DeliveryRow", "Look"]

_NOT_DONE = (State.READY, State.WAITING, State.LEASED, State.FAILED)
_READY_LINES, _FAILED_LINES = lines_of(State.READY), lines_of(State.FAILED)
_FEW_LINES = [
    select(delivery.c.destination).where(is_in(state), delivery.c.kind == bindparam("kind")).distinct()
    for state in (State.WAITING, State.LEASED)
]
_NUMBERS = [
    numbers_of_lines(State.READY),
    numbers_of_lines(State.FAILED),
    *(
        select(delivery.c.destination, func.count())
        .where(is_in(state), delivery.c.kind == bindparam("kind"))
        .group_by(delivery.c.destination)
        for state in (State.WAITING, State.LEASED)
    ),
]


_ANY_LINES: list[Select[Any]] = [
    PRIORITIES,
    KINDS,
    *(select(delivery.c.destination).where(is_in(s)).distinct() for s in (State.WAITING, State.LEASED)),
]

_LINES: dict[State, Select[Any]] = {State.READY: PRIORITIES, State.FAILED: KINDS}
"""What is alike in the lines of a state that has an index by them."""

_IN_INDEX = ("destination", "kind", "priority")  # in its order

_MANY = 10_000  # rows that are counted whenever somebody asks
_SHARE = 10  # where there are more, a tenth of the time at most is spent on it


class DeliveryRow(NamedTuple):
    """A delivery as an operator sees it."""

    id: int
    kind: str
    destination: str
    state: int
    priority: int
    attempts: int
    due: float
    status: int | None
    comment: str
    first_error_at: float | None
    sop_instance_uid: str | None


class Look(NamedTuple):
    """What other processes may have changed."""

    paused: set[str]
    next_due: float | None
    has_ready: bool
    """Whether any work is ready."""

    has_expired: bool
    """Whether work was claimed and is not kept any more."""


class DeliveryReader:
    """Looks at deliveries. Every method is one short transaction, for a thread."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._counting = threading.Lock()
        self._counts: list[tuple[str, str, int, int]] = []
        self._until = float("-inf")  # so long these are given again

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        """Give a connection that sees one state: nothing changes meanwhile and is missed."""
        with TRANSLATED, self._engine.connect() as connection:
            begin_snapshot(connection, by_indexes=True)
            yield connection

    def paused(self) -> set[str]:
        """Give the destinations that are paused."""
        with self._looking() as connection:
            found = connection.scalars(
                select(destination.c.name).where(destination.c.paused != literal_column("0"))
            )
            return set(found)

    def next_due(self) -> float | None:
        """Give when the next of those that wait is due."""
        with self._looking() as connection:
            found: float | None = connection.scalar(
                select(func.min(delivery.c.due)).where(is_in(State.WAITING))
            )
            return found

    def look(self, now: float) -> Look:
        """Give what other processes may have changed."""
        one = select(delivery.c.id).limit(literal_column("1"))
        with self._looking() as connection:
            ready = connection.scalar(one.where(is_in(State.READY)))
        return Look(self.paused(), self.next_due(), ready is not None, self.has_expired(now))

    def has_expired(self, now: float) -> bool:
        """Tell whether work was claimed and is not kept any more."""
        expired = select(delivery.c.id).where(is_in(State.LEASED), delivery.c.leased_until <= now)
        with self._looking() as connection:
            return connection.scalar(expired.limit(literal_column("1"))) is not None

    def ready_of(self, kind: str, destinations: Iterable[str]) -> list[str]:
        """Give those of some destinations that ready work of a kind is for."""
        with self._looking() as connection:
            found = set(connection.scalars(_READY_LINES, {"kind": kind}))
        return [name for name in destinations if name in found]

    def lines(self, kind: str) -> set[str]:
        """Give the destinations that work of a kind is for which has not come to a good end."""
        found: set[str] = set()
        with self._looking() as connection:
            for statement in (_READY_LINES, *_FEW_LINES, _FAILED_LINES):
                found.update(connection.scalars(statement, {"kind": kind}))
        return found

    def lines_with(self, name: str) -> list[str]:
        """Give the lines that a destination empties: its own, and those of several that it is one of."""
        found: set[str] = set()
        with self._looking() as connection:
            for statement in _ANY_LINES:
                found.update(row["destination"] for row in connection.execute(statement).mappings())
        return [name, *sorted(line for line in found - {name} if name in members_of(line))]

    def numbers(self, kind: str) -> Counter[str]:
        """Count the work of a kind that has not come to a good end, by destination; it alone is read."""
        found: Counter[str] = Counter()
        with self._looking() as connection:
            for statement in _NUMBERS:
                for name, number in connection.execute(statement, {"kind": kind}):
                    found[name] += number
        return +found

    def number(self, kind: str, name: str) -> int:
        """Count the work of a kind for a destination that has not come to a good end; it alone is read."""
        total = 0
        with self._looking() as connection:
            for state in _NOT_DONE:
                own = is_in(state), delivery.c.destination == name, delivery.c.kind == kind
                total += connection.scalar(select(func.count()).select_from(delivery).where(*own)) or 0
        return total

    def counts(self) -> list[tuple[str, str, int, int]]:
        """Give kind, destination, state and number of all that have not come to a good end.

        To count very many takes a while: then the same is given again for ten times as long, unless
        `count_again` is called.
        """
        with self._counting:
            began = self._clock()
            if began >= self._until:
                self._counts = self._count()
                are_many = sum(number for *_, number in self._counts) > _MANY
                self._until = began + _SHARE * (self._clock() - began) if are_many else float("-inf")
            return list(self._counts)

    def count_again(self) -> None:
        """Have them counted when somebody asks next: an operator has changed many, and looks."""
        self._until = float("-inf")

    def _count(self) -> list[tuple[str, str, int, int]]:
        found: list[tuple[str, str, int, int]] = []
        with TRANSLATED, self._engine.connect() as connection:
            begin_snapshot(connection)  # nothing changes its state meanwhile and is missed
            for state in _NOT_DONE:
                statement = (
                    select(delivery.c.kind, delivery.c.destination, func.count())
                    .where(is_in(state))
                    .group_by(delivery.c.destination, delivery.c.kind)
                )
                found += [(kind, name, int(state), n) for kind, name, n in connection.execute(statement)]
        return found

    def oldest(self) -> dict[tuple[str, str], float]:
        """Give, by kind and destination, since when the oldest is owed that is not done and has not failed.

        That is when it first failed, or else when it was enqueued. Of what is ready, one row each is read.
        """
        since: dict[tuple[str, str], float] = {}
        when = func.coalesce(delivery.c.first_error_at, delivery.c.due)
        with self._looking() as connection:
            rows: list[Any] = []
            for state in (State.WAITING, State.LEASED):
                lines = select(delivery.c.kind, delivery.c.destination, func.min(when)).where(is_in(state))
                rows += connection.execute(lines.group_by(delivery.c.destination, delivery.c.kind))
            for kind, name, priority in connection.execute(PRIORITIES).all():
                first = (
                    select(when)
                    .where(
                        is_in(State.READY),
                        delivery.c.kind == kind,
                        delivery.c.destination == name,
                        delivery.c.priority == priority,
                    )
                    .order_by(delivery.c.id)
                    .limit(1)
                )
                rows += [(kind, name, at) for at in connection.scalars(first)]
        for kind, name, at in rows:
            since[kind, name] = min(at, since.get((kind, name), at))
        return since

    def page(
        self, state: State, *, name: str | None = None, after: int = 0, limit: int = PAGE
    ) -> list[DeliveryRow]:
        """Give the next deliveries in a state, of a destination or all, after an id.

        Of those that may be very many, as many are read of each line as are wanted: by an index, in order.
        """
        lines = _LINES.get(state)
        if lines is None:
            by = delivery.c.id + literal_column("0")  # or the few that wait are looked for among all rows
            statement = self._rows().where(is_in(state), by > after).order_by(by).limit(limit)
            return self._read(statement if name is None else statement.where(delivery.c.destination == name))
        pages: list[list[DeliveryRow]] = []
        with self._looking() as connection:
            for line in connection.execute(lines).mappings().all():
                if name in (None, line["destination"]):
                    alike = {delivery.c[column]: line[column] for column in _IN_INDEX if column in line}
                    those = behind(connection, alike, delivery.c.id, after)
                    statement = self._rows().where(is_in(state), *those)
                    statement = statement.order_by(*alike, delivery.c.id).limit(limit)
                    pages.append([DeliveryRow(*row) for row in connection.execute(statement)])
        return list(merge(*pages, key=attrgetter("id")))[:limit]

    def of_instance(self, sop_instance_uid: str) -> list[DeliveryRow]:
        """Give all deliveries of an instance."""
        return self._read(self._rows().where(instance.c.sop_instance_uid == sop_instance_uid).limit(PAGE))

    @staticmethod
    def _rows() -> Select[Any]:
        own = [delivery.c[name] for name in DeliveryRow._fields[:-1]]
        tables = delivery.outerjoin(instance, instance.c.id == delivery.c.instance)
        return select(*own, instance.c.sop_instance_uid).select_from(tables)

    def _read(self, statement: Select[Any]) -> list[DeliveryRow]:
        with self._looking() as connection:
            return [DeliveryRow(*row) for row in connection.execute(statement)]
