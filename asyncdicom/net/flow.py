"""Who may write next, and when reading has to pause.

Both are plain bookkeeping: neither knows about sockets.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["MAXIMUM_UNDELIVERED", "ReadBudget", "Undelivered", "WriteGate"]

MAXIMUM_UNDELIVERED = 512 << 20
"""So many bytes may wait for the handlers of all associations of an event loop; then each gets less."""

_LEAST_BUDGET = 1 << 16


class Undelivered:
    """What waits for handlers on all associations of an event loop together, in bytes."""

    __slots__ = ("limit", "total")

    def __init__(self, limit: int = MAXIMUM_UNDELIVERED) -> None:
        self.limit = limit
        self.total = 0


class ReadBudget:
    """The one gate of reading: the undelivered bytes of one association against its budget.

    While more than `budget` bytes wait for their handlers, reading is paused, and the peer is held
    back by TCP. Reading resumes when half of it is left. How long the pause may last without a
    byte being taken is `patience` (seconds, None for ever). When too much waits on all associations
    together (`everybody`), no association gets more than 64 KiB: enough for control traffic, and
    nobody starves.
    """

    __slots__ = ("_closed", "_everybody", "_since", "budget", "patience", "paused", "undelivered")

    def __init__(self, budget: int, patience: float | None, everybody: Undelivered | None = None) -> None:
        self.budget = budget
        self.patience = patience
        self.undelivered = 0
        self.paused = False
        self._everybody = everybody or Undelivered()
        self._since = 0.0
        self._closed = False

    @property
    def _allowed(self) -> int:
        everybody = self._everybody
        return self.budget if everybody.total <= everybody.limit else min(self.budget, _LEAST_BUDGET)

    # These two are called for each message and each read: they make no call that is seldom needed.

    def added(self, count: int, now: float) -> bool:
        """Count bytes that came in; True when reading has to pause now."""
        everybody = self._everybody
        if not self._closed:
            self.undelivered += count
            everybody.total += count
        if self.paused or (self.undelivered <= self.budget and everybody.total <= everybody.limit):
            return False
        if self.undelivered <= self._allowed:
            return False
        self.paused = True
        self._since = now
        return True

    def taken(self, count: int, now: float) -> bool:
        """Count bytes that a handler took or that were thrown away; True when reading may go on."""
        if not self._closed:
            self.undelivered -= count
            self._everybody.total -= count
        self._since = now
        if not self.paused or self.undelivered > self._allowed // 2:
            return False
        self.paused = False
        return True

    def close(self) -> None:
        """The association has ended: what still waits for its handlers is counted no longer."""
        if not self._closed:
            self._everybody.total -= self.undelivered
            self.undelivered = 0
            self._closed = True

    def deadline(self) -> float | None:
        """When the pause has lasted too long."""
        return self._since + self.patience if self.paused and self.patience is not None else None


class WriteGate:
    """One message at a time: who holds the gate writes all fragments of it (PS3.8 Annex E.1).

    Small messages (responses, C-CANCEL) go before the data sets that wait, never into the middle
    of one that is being sent.
    """

    __slots__ = ("_held", "_small", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._small: deque[asyncio.Future[None]] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Take the gate if it is free."""
        if self._held:
            return False
        self._held = True
        return True

    async def acquire(self, *, small: bool) -> None:
        """Wait for the gate. Cancelled while waiting: nothing was taken."""
        if self.try_acquire():
            return
        queue = self._small if small else self._waiting
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was our turn already: hand it on
            elif turn in queue:
                queue.remove(turn)
            raise

    def release(self) -> None:
        """Hand the gate to the next in line."""
        for queue in (self._small, self._waiting):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._held = False
