"""Work that instances lead to: what it is, and what may become of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "LEASE",
    "ON_DUPLICATE",
    "State",
    "Which",
    "Work",
    "is_revision_of",
    "line_of",
    "members_of",
    "repeated_revision",
    "revision_of",
    "urgency_of",
]

ON_DUPLICATE = ("changed", "resend", "skip")
"""When work is enqueued again for an instance that comes again: if its bytes have changed (and no other
work for them is there); each time, unless some still waits; never."""


LEASE = 60.0
"""Seconds that claimed work is kept for who has claimed it; who works longer renews it."""

COMMITTED = "committed"
"""The kind of work that stands for what a peer has said: that it keeps an instance."""


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


class Which(enum.Enum):
    """Which of the ready work of a destination is claimed."""

    NEXT = enum.auto()
    """By priority, then the oldest."""
    IN_ORDER = enum.auto()
    """The same without what earlier work of its order key holds up."""
    NEWEST = enum.auto()
    """What would be the last."""
    URGENT = enum.auto()
    """Only what has priority 0."""


class Work(NamedTuple):
    """Something to be done, as it is enqueued. Of work of one `order_key` none overtakes another."""

    kind: str
    destination: str
    priority: int = 1
    order_key: str | None = None
    payload: str | None = None
    state: State = State.READY
    comment: str = ""
    on_duplicate: str = "changed"
    """One of `ON_DUPLICATE`."""


_BETWEEN = "|"  # the names of destinations have none


def line_of(destinations: Sequence[str]) -> str:
    """Give the name under which work waits: that of a destination, or those of several that may do it."""
    return _BETWEEN.join(destinations)


def members_of(line: str) -> list[str]:
    """Give the destinations of a line, in the order of preference."""
    return line.split(_BETWEEN)


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


def repeated_revision(digest: str, now: float) -> int:
    """Give the number of bytes that are sent once more: below 0, of their digest and the second."""
    return -(int(digest[:8], 16) << 31 | int(now) & 0x7FFFFFFF) - 1


def is_revision_of(digest: str, revision: int) -> bool:
    """Tell whether a number is that of these bytes."""
    if revision < 0:
        return (-revision - 1) >> 31 == int(digest[:8], 16)
    return revision == revision_of(digest)
