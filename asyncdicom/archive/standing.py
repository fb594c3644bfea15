"""Claims that stand: work is claimed by the transaction that enqueues it, for who waits for it.

Who keeps up with what comes would have to ask for each instance, and be answered: a transaction more, and two
hops between threads. So he says beforehand how much he takes, and gets it when it is committed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.archive.index.work import LEASE
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

    def claim(self, writer: Writer, urgency: Mapping[str, int]) -> None:
        """Claim what has been enqueued for some destinations, within the transaction that does it."""
        self._taken = []
        until = self._clock() + LEASE
        for key, claim in list(self._claims.items()):
            kind, destination = key
            if destination in urgency and claim.room > 0:
                taken = deliveries.claim(writer, kind, destination, claim.room, until)
                self._taken.append((claim, key, taken))

    def committed(self, urgency: Mapping[str, int]) -> tuple[dict[str, int], Taken]:
        """Give what is left of the work that was enqueued, and what was claimed: it is committed."""
        left = dict(urgency)
        taken: Taken = {}
        for claim, key, some in self._taken:
            if len(some) < claim.room:
                left.pop(key[1], None)  # there is no more
            claim.room -= len(some)
            if some:
                taken[key] = some
        self._taken = []
        return left, taken
