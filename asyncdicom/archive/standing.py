"""Claims that stand: work is claimed by the transaction that enqueues it, for who waits for it.

Who keeps up with what comes would have to ask for each instance, and be answered: a transaction more, and two
hops between threads. So he says beforehand how much he takes, and gets it when it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.archive.index.work import LEASE, Work, urgency_of
from asyncdicom.archive.index.writer import Writer

__all__ = ["Standing", "Taken"]

Taken: TypeAlias = dict[tuple[str, str], list[Claimed]]
"""What was claimed, by kind and destination."""


class _Claim:
    """How much somebody takes; the writer's thread counts it down."""

    __slots__ = ("room",)

    def __init__(self, room: int) -> None:
        self.room = room


class Standing:
    """The claims that stand. `claim` and `committed` are for the writer's thread, `stand` for the event loop.

    `clock` gives the seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._claims: dict[tuple[str, str], _Claim] = {}
        self._taken: list[tuple[_Claim, tuple[str, str], list[Claimed]]] = []  # by this transaction

    def stand(self, kind: str, destination: str, room: int) -> None:
        """Say how much of what comes for a destination is taken from now on; 0: nothing."""
        if room > 0:
            self._claims[kind, destination] = _Claim(room)
        else:
            self._claims.pop((kind, destination), None)

    def claim(self, writer: Writer, work: Iterable[Work]) -> None:
        """Claim of some work that has just been enqueued what there is room for, in the same transaction."""
        self._taken = []
        until = self._clock() + LEASE
        for line in dict.fromkeys((each.kind, each.destination) for each in work):
            claim = self._claims.get(line)
            if claim is not None and claim.room > 0:
                self._taken.append((claim, line, deliveries.claim(writer, *line, claim.room, until)))

    def committed(self, work: Iterable[Work]) -> tuple[dict[str, int], Taken]:
        """Give the urgency of what is left of the work, by destination, and what was claimed of it."""
        taken: Taken = {}
        empty = set()  # those of which nothing is ready any more
        for claim, line, some in self._taken:
            if len(some) < claim.room:
                empty.add(line)
            if some:
                taken[line] = some
            claim.room -= len(some)
        self._taken = []
        return urgency_of(each for each in work if (each.kind, each.destination) not in empty), taken
