"""Threads that make blocking calls: a hop costs 20 us of CPU, through ``ThreadPoolExecutor`` 31."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

from asyncdicom.telemetry.log import Log

__all__ = ["Workers"]

_LOG = Log("asyncdicom.archive")


class Workers:
    """At most so many threads, started as they are needed. What they call tells its end itself."""

    def __init__(self, maximum: int, name: str) -> None:
        self._maximum = maximum
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle: deque[None] = deque()  # one for each thread that waits for a call
        self._is_shut_down = False

    def submit(self, call: Callable[[], None]) -> None:
        """Have a thread make the call; what it raises is logged, and costs no other call anything.

        Raises `RuntimeError` after `shutdown`, and where the system gives not even one thread.
        """
        if self._is_shut_down:
            raise RuntimeError("the threads have ended")
        try:
            self._idle.pop()
        except IndexError:
            self._start_another()
        self._queue.put(call)

    def _start_another(self) -> None:
        if len(self._threads) < self._maximum:
            name = f"{self._name}_{len(self._threads)}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more: those that are there make all calls
                if not self._threads:
                    raise
            else:
                self._threads.append(thread)

    def shutdown(self) -> None:
        """Wait until all calls are made, and end the threads; nothing can be submitted any more."""
        self._is_shut_down = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except BaseException as error:
                _LOG.error("a call in a thread failed: %s", type(error).__name__)
            del call  # what it holds on to is not kept until the next one comes
            self._idle.append(None)
