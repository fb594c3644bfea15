"""The threads that read the index for queries and retrievals: shared fairly, and none is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from sqlalchemy import Engine

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.reader import Execute
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.net.fair import FairQueue
from asyncdicom.net.threads import Told

__all__ = ["Queries", "QueriesClosed", "Reading"]

_T = TypeVar("_T")

_AGAIN = 0.05  # seconds: an interrupt that comes before SQLite has begun is lost


class QueriesClosed(DicomNetworkError):
    """The archive is being closed: its index is not read any more."""

    def __init__(self) -> None:
        super().__init__("the archive is closed")


class Reading:
    """A connection for one short transaction that reads; in SQLite, whose interrupt is a call."""

    def __init__(self, engine: Engine) -> None:
        self._connection = engine.raw_connection()
        self._cursor: Any = self._connection.cursor()
        self.execute: Execute = self._cursor.execute
        """Runs a statement."""

    def interrupt(self) -> None:
        """End the statement that runs, if one does; from another thread, which is not held up."""
        driver: Any = self._connection.driver_connection
        driver.interrupt()

    def end(self) -> None:
        """End the statement."""
        self._cursor.close()

    def close(self) -> None:
        """Give the connection back. Nobody interrupts it any more."""
        self._connection.close()


class _Job(Told):
    """One short transaction for somebody, and the connection that it runs on."""

    __slots__ = ("connection", "key", "work")

    def __init__(self, key: Hashable, work: Callable[[Execute], Any]) -> None:
        self.key = key
        self.work = work
        super().__init__()
        self.connection: Reading | None = None  # while it runs; under the lock of `Queries`


class Queries:
    """Runs short transactions in a few threads; ``engine`` gives their connections, `reading` makes the most
    of each.

    Those who ask take turns, and nobody has more than ``share`` of the threads: who asks for much waits
    behind himself. What nobody waits for any more is interrupted, under the lock that proves whose statement
    runs on that connection, which goes back only when the statement has ended.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int = 4,
        share: int = 2,
        reading: Callable[[Engine], Reading] = Reading,
    ) -> None:
        self._engine = engine
        self._reading = reading
        self._maximum = threads
        self._share = share
        self._waiting: FairQueue[_Job] = FairQueue()
        self._running: Counter[Hashable] = Counter()
        self._jobs: set[_Job] = set()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._turn = threading.Condition()
        self._is_closed = False
        self.interrupted = 0
        """How many statements were told to stop."""

    async def run(self, key: Hashable, work: Callable[[Execute], _T]) -> _T:
        """Have a thread do ``work``, and give its result; what it raises is raised here.

        ``key`` says who asks. Cancelled: the statement is interrupted, and nobody waits for its end. Raises
        `QueriesClosed`.
        """
        job = _Job(key, work)
        with self._turn:
            if self._is_closed:
                raise QueriesClosed
            self._waiting.put(key, job)
            if self._idle < len(self._waiting) and len(self._threads) < self._maximum:
                self._start_another()
            self._turn.notify()
        try:
            result: _T = await job.ending
            return result
        except asyncio.CancelledError:
            self._stop(job)
            raise

    def _start_another(self) -> None:
        name = f"asyncdicom-query_{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _stop(self, job: _Job) -> None:
        """Interrupt a job, once more as long as it runs; one that still waits is forgotten."""
        with self._turn:
            if self._waiting.remove(job.key, job) or job not in self._jobs:
                return
            self._interrupt(job)
        job.loop.call_later(_AGAIN, self._stop, job)

    def _interrupt(self, job: _Job) -> None:
        if job.connection is not None:
            job.connection.interrupt()
            self.interrupted += 1

    def close(self) -> None:
        """Interrupt what runs, refuse what waits, and end the threads (blocks until they have ended)."""
        with self._turn:
            self._is_closed = True
            for job in self._waiting.clear():
                job.tell(None, QueriesClosed())
            self._turn.notify_all()
        for thread in self._threads:
            while thread.is_alive():
                with self._turn:
                    for job in self._jobs:
                        self._interrupt(job)
                thread.join(_AGAIN)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                result = self._perform(job)
            except BaseException as error:
                self._end(job)
                job.tell(None, QueriesClosed() if self._is_closed else error)
                del error
            else:
                self._end(job)
                job.tell(result)
                del result
            del job

    def _next(self) -> _Job | None:
        with self._turn:
            while (taken := self._waiting.take(self._may)) is None:
                if self._is_closed:
                    return None
                self._idle += 1
                self._turn.wait()
                self._idle -= 1
            key, job = taken
            self._running[key] += 1
            self._jobs.add(job)
            return job

    def _may(self, key: Hashable) -> bool:
        return self._running[key] < self._share

    def _end(self, job: _Job) -> None:
        with self._turn:
            self._jobs.discard(job)
            self._running[job.key] -= 1
            if not self._running[job.key]:
                del self._running[job.key]
            self._turn.notify()  # the next one of this key may have its turn now

    def _perform(self, job: _Job) -> Any:
        with TRANSLATED:
            return self._run(job)

    def _run(self, job: _Job) -> Any:
        reading = self._reading(self._engine)
        try:
            with self._turn:
                if job.ending.cancelled() or self._is_closed:
                    raise QueriesClosed
                job.connection = reading
            try:
                return job.work(reading.execute)
            finally:
                reading.end()  # the statement has ended: the connection is nobody's again
                with self._turn:
                    job.connection = None
        finally:
            reading.close()
