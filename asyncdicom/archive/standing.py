"""Claims that stand: work is claimed by the transaction that enqueues it.

A destination that keeps up would need a transaction more for each instance, and two hops between threads. So
its link says beforehand how much it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """The claims that stand: `stand` is for the event loop, the rest for the writer's thread."""

    def __init__(self) -> None:
        self._claims: dict[tuple[str, str], _Claim] = {}
        self._used: list[tuple[_Claim, int]] = []  # by this transaction, and how much of each
        self._left: dict[str, int] = {}
        self._taken: Taken = {}
        self.has_failed = False
        """Whether `claim` has failed: then the next transaction goes without."""

    def stand(self, kind: str, destination: str, room: int) -> None:
        """Say how much of what comes for a destination is taken from now on; 0: nothing."""
        if room > 0:
            self._claims[kind, destination] = _Claim(room)
        else:
            self._claims.pop((kind, destination), None)

    def claim(self, writer: Writer, work: Iterable[Work]) -> None:
        """Claim what there is room for, where work has just been enqueued, in the same transaction.

        What was ready before is claimed first. Raises what the index raises; then the same may be tried
        again, and nothing is claimed.
        """
        self._used, self._taken = [], {}
        empty: set[tuple[str, str]] = set()  # those of which nothing is ready any more
        was_failed, self.has_failed = self.has_failed, True
        if not was_failed:
            for line in dict.fromkeys((each.kind, each.destination) for each in work):
                self._claim(writer, line, empty)
        self._left = urgency_of(each for each in work if (each.kind, each.destination) not in empty)
        self.has_failed = False

    def _claim(self, writer: Writer, line: tuple[str, str], empty: set[tuple[str, str]]) -> None:
        claim = self._claims.get(line)
        if claim is None or claim.room <= 0:
            return
        taken = deliveries.claim(writer, *line, claim.room, writer.began + LEASE)
        if len(taken) < claim.room:
            empty.add(line)
        if taken:
            self._used.append((claim, len(taken)))
            self._taken[line] = taken

    def committed(self) -> tuple[dict[str, int], Taken]:
        """Give where work may be left that nobody has claimed, with its urgency, and what was claimed.

        Called when that is committed, so that nothing may fail here.
        """
        for claim, number in self._used:
            claim.room -= number
        return self._left, self._taken
