"""The one thread of the process for Python work that is too long for the event loop.

Threads that compute in Python hold up the event loop, since only one of them at a time may run: sixteen
for most of a second, one that stops every now and then for a few milliseconds. So all such work is done here,
in steps, and those who ask for it take turns. What releases the interpreter (files, SQL, zlib) needs no lane.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from asyncdicom.data.steps import Steps
from asyncdicom.net.fair import FairQueue
from asyncdicom.net.threads import Told

__all__ = ["Lane", "lane"]

_T = TypeVar("_T")

_SLICE = 0.002  # seconds of work before the next one's turn


class _Job(Told):
    """Work in steps, and who waits for its result."""

    __slots__ = ("is_cancelled", "steps")

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps
        super().__init__()
        self.is_cancelled = False


class Lane:
    """Does work in steps, in one thread that is started when it is needed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: FairQueue[_Job] = FairQueue()
        self._turn = threading.Condition()
        self._thread: threading.Thread | None = None
        self.slices = 0
        """How many slices of work were done since the start."""

    async def run(self, key: Hashable, steps: Steps[_T]) -> _T:
        """Do all steps and give their result; what they raise is raised here.

        `key` says who asks: those with different keys take turns, after 2 ms each. Cancelled: the work ends
        after the step that is being done, and nobody waits for that.
        """
        job = _Job(steps)
        with self._turn:
            self._waiting.put(key, job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="asyncdicom-lane", daemon=True)
                self._thread.start()
            self._turn.notify()
        try:
            result: _T = await job.ending
            return result
        finally:
            job.is_cancelled = True

    def _work(self) -> None:
        while True:
            with self._turn:
                while (taken := self._waiting.take()) is None:
                    self._turn.wait()
            key, job = taken
            if not self._slice(job):
                with self._turn:
                    self._waiting.put_back(key, job)
            del taken, job
            time.sleep(0)  # the event loop is let in, and does not have to ask for it first

    def _slice(self, job: _Job) -> bool:
        """Do some steps; tells whether they were the last ones."""
        self.slices += 1
        end = self._clock() + _SLICE
        try:
            while not job.is_cancelled:
                next(job.steps)
                if self._clock() >= end:
                    return False
            job.steps.close()
        except StopIteration as stop:
            job.tell(stop.value, None)
        except BaseException as error:
            job.tell(None, error)
        return True


_lane = Lane()


def lane() -> Lane:
    """Give the lane of the process."""
    return _lane
