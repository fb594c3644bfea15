"""Data sets of requests on their way to the handlers, and how much of them may wait there."""

from __future__ import annotations

from collections.abc import Callable

from asyncdicom.exceptions import AssociationError
from asyncdicom.net.flow import ReadBudget
from asyncdicom.net.stream import DataStream

__all__ = ["Inbox"]


class Inbox:
    """Messages come strictly one after another; whatever is behind an unread data set waits with it.

    `pause` and `resume` are called with the time when reading has to stop and when it may go on; `unstick`
    gives up the handlers that let data wait for too long, and tells whether there were any; `too_much` is
    called when more than `maximum_discarded` bytes of one data set were thrown away.
    """

    __slots__ = (
        "_maximum_discarded",
        "_pause",
        "_resume",
        "_time",
        "_too_much",
        "_unstick",
        "budget",
        "stream",
    )

    def __init__(
        self,
        budget: ReadBudget,
        *,
        maximum_discarded: int,
        time: Callable[[], float],
        pause: Callable[[float], None],
        resume: Callable[[float], None],
        unstick: Callable[[], bool],
        too_much: Callable[[str], None],
    ) -> None:
        self.budget = budget
        self.stream: DataStream | None = None  # what the data that comes belongs to
        self._maximum_discarded = maximum_discarded
        self._time = time
        self._pause = pause
        self._resume = resume
        self._unstick = unstick
        self._too_much = too_much

    def feed(self, views: list[memoryview], length: int, is_last: bool, now: float) -> None:
        """Take some more of the data set that is being received."""
        stream = self.stream
        if stream is None:
            return
        if self.budget.added(length, now):
            self._pause(now)
        stream.feed(views, length, is_last)
        if is_last:
            self.stream = None
        elif stream.discarded > self._maximum_discarded:
            self._too_much(f"more than {self._maximum_discarded} bytes to discard")

    def added(self, count: int, now: float) -> None:
        """Account for what waits elsewhere for our user, such as a response."""
        if self.budget.added(count, now):
            self._pause(now)

    def taken(self, count: int) -> None:
        """Account for bytes that somebody took or threw away."""
        now = self._time()
        if self.budget.taken(count, now):
            self._resume(now)

    def is_held_back(self) -> bool:
        """Whether reading is paused."""
        return self.budget.paused

    def check_patience(self, now: float) -> None:
        """Give up a handler that lets bytes wait for too long; our own user may be as slow as he likes."""
        deadline = self.budget.deadline()
        if deadline is not None and now >= deadline and not self._unstick():
            self.budget.taken(0, now)

    def fail(self, error: AssociationError) -> None:
        """The association has ended."""
        if self.stream is not None:
            self.stream.fail(error)
            self.stream = None
        self.budget.close()
