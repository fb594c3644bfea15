"""Work that instances lead to: what it is, and what may become of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["State", "Work", "revision_of", "urgency_of"]


class State(enum.IntEnum):
    """What a delivery is; the partial indexes of the table go by these numbers."""

    READY = 0
    WAITING = 1
    """Until it is due."""
    LEASED = 2
    """Somebody has claimed it."""
    FAILED = 3
    """Given up; an operator may have it tried again."""
    DONE = 4
    DROPPED = 5
    """By an operator."""


class Work(NamedTuple):
    """Something to be done, as it is enqueued. Of work of one `order_key` none overtakes another."""

    kind: str
    destination: str
    priority: int = 1
    order_key: str | None = None
    payload: str | None = None
    state: State = State.READY
    comment: str = ""


def urgency_of(work: Iterable[Work]) -> dict[str, int]:
    """Give the destinations of ready work, each with the priority of the most urgent."""
    urgency: dict[str, int] = {}
    for each in work:
        if each.state is State.READY:
            urgency[each.destination] = min(each.priority, urgency.get(each.destination, each.priority))
    return urgency


def revision_of(digest: str) -> int:
    """Give the number by which the same bytes of an instance are known: 60 bits of their digest."""
    return int(digest[:15], 16)
