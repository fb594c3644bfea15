"""Which lines there are: what work waits for, found without reading all of it.

A million rows may wait for one destination. So the first row is looked up by the index, then the first one
behind all that are like it, and so on: each line costs one look, however long it is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, Select, bindparam, func, literal_column, select

from asyncdicom.archive.index.schema import delivery
from asyncdicom.archive.index.work import State

__all__ = ["KINDS", "PRIORITIES", "is_in", "lines_of", "numbers_of_lines"]


def is_in(state: State, table: Any = delivery) -> Any:
    """Say that a delivery is in a state."""
    return table.c.state == literal_column(str(int(state)))  # a parameter would hide it from partial indexes


def _next(state: State, name: str, before: CTE | None = None) -> CTE:
    """Give the different values of a column, in the order of the index; for each row of `before`, its own."""
    column = delivery.c[name]

    def least(known: list[Any], *beyond: Any) -> Any:
        alike = [delivery.c[each.name] == each for each in known]
        return select(func.min(column)).where(is_in(state), *alike, *beyond).scalar_subquery()

    known: list[Any] = [] if before is None else list(before.c)
    first = select(*known, least(known).label(name)).where(*(each.isnot(None) for each in known))
    found = first.cte(f"by_{name}", recursive=True)
    known = [found.c[each.name] for each in known]
    behind = least(known, column > found.c[name])
    return found.union_all(select(*known, behind).where(found.c[name].isnot(None)))


def lines_of(state: State) -> Select[Any]:
    """Give the destinations that work of the kind `kind` is for, in a state that has an index by them."""
    found = _next(state, "destination")
    # Not EXISTS: PostgreSQL may make a join of that, with all rows there are.
    one = _own(state, found, literal_column("1")).limit(literal_column("1")).scalar_subquery()
    return select(found.c.destination).where(one.isnot(None))


def numbers_of_lines(state: State) -> Select[Any]:
    """Give the same with the number of each: what is of other kinds is not read."""
    found = _next(state, "destination")
    number = _own(state, found, func.count()).scalar_subquery()
    return select(found.c.destination, number).where(found.c.destination.isnot(None))


def _own(state: State, line: CTE, what: Any) -> Select[Any]:
    return (
        select(what)
        .select_from(delivery)
        .where(
            is_in(state), delivery.c.destination == line.c.destination, delivery.c.kind == bindparam("kind")
        )
        .correlate(line)
    )


def _priorities() -> Select[Any]:
    found = _next(State.READY, "priority", _next(State.READY, "kind", _next(State.READY, "destination")))
    return select(found.c.kind, found.c.destination, found.c.priority).where(found.c.priority.isnot(None))


PRIORITIES = _priorities()
"""Kind, destination and priority of what is ready, each once."""


def _kinds() -> Select[Any]:
    found = _next(State.FAILED, "kind", _next(State.FAILED, "destination"))
    return select(found.c.kind, found.c.destination).where(found.c.kind.isnot(None))


KINDS = _kinds()
"""Kind and destination of what has failed, each once."""
