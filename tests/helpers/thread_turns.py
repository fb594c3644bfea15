"""The archive's threads one at a time, in an order that a test chooses.

`Turns` puts its own threads, queue and lock where the archive takes those of the standard library. A thread
that has to wait, or asks to (`Turns.pause`), hands over to another: to which, ``choose`` says. So a schedule
is a list of numbers, which hypothesis can choose, repeat and shorten.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

from asyncdicom.archive import arrival, ingest
from asyncdicom.archive import threads as threads_of_archive
from asyncdicom.archive.blobs import folders

T = TypeVar("T")

_names = itertools.count()


class Turns:
    """Threads that run one at a time. ``choose(n)`` picks, at each pause, one of the n that can go on."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._waiting: list[tuple[threading.Semaphore, Callable[[], bool]]] = []
        self._back = threading.Semaphore(0)

    def pause(self, until: Callable[[], bool] = lambda: True) -> None:
        """Let another thread run; go on, some time, when ``until()``."""
        gate = threading.Semaphore(0)
        self._waiting.append((gate, until))
        self._back.release()
        gate.acquire()

    def start(self, function: Callable[[], object]) -> threading.Thread:
        gate = threading.Semaphore(0)

        def body() -> None:
            gate.acquire()
            try:
                function()
            finally:
                self._back.release()

        self._waiting.append((gate, lambda: True))
        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        return thread

    def step(self) -> bool:
        """Let one thread run to its next pause; False if none can."""
        able = [turn for turn in self._waiting if turn[1]()]
        if not able:
            return False
        turn = able[self._choose(len(able)) if len(able) > 1 else 0]
        self._waiting.remove(turn)
        turn[0].release()
        self._back.acquire()
        return True

    async def run(self, *works: Coroutine[Any, Any, T]) -> list[T | BaseException]:
        """Run coroutines to their ends, with the threads they use in turn."""
        tasks = [asyncio.ensure_future(work) for work in works]
        for _ in range(100_000):
            for _ in range(12):  # whatever the last step has set off in the loop
                await asyncio.sleep(0)
            if all(task.done() for task in tasks):
                return await asyncio.gather(*tasks, return_exceptions=True)
            if not self.step():
                await asyncio.sleep(0.0002)  # closing waits in a thread that is not ours
        raise AssertionError("the archive hangs")

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """Put our threads, queue and lock where the archive takes the standard library's."""
        names = _names
        chance = random.Random(1)

        def token_hex(size: int) -> str:  # few folders, so that old ones are used again
            return f"{chance.randrange(3):02x}" if size == 1 else f"{next(names):032x}"

        threads = SimpleNamespace(Thread=self._thread, Lock=lambda: _Lock(self))
        with (
            mock.patch.object(threads_of_archive, "ThreadPoolExecutor", return_value=_Pool(self)),
            mock.patch.object(threads_of_archive, "Workers", return_value=_Pool(self)),
            mock.patch.object(ingest, "threading", threads),
            mock.patch.object(
                ingest, "queue", SimpleNamespace(SimpleQueue=lambda: _Queue(self), Empty=queue.Empty)
            ),
            mock.patch.object(
                arrival, "queue", SimpleNamespace(SimpleQueue=lambda: _Queue(self), Empty=queue.Empty)
            ),
            mock.patch.object(folders, "threading", threads),
            mock.patch.object(folders, "secrets", SimpleNamespace(token_hex=token_hex)),
            mock.patch.object(folders.Folders, "FILES_PER_FOLDER", 2),
        ):
            yield

    def _thread(self, target: Callable[[], object], **_: Any) -> Any:
        thread: list[threading.Thread] = []
        return SimpleNamespace(start=lambda: thread.append(self.start(target)), join=lambda: thread[0].join())


class _Pool:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def submit(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call(*arguments))
            except BaseException as error:
                future.set_exception(error)

        self._turns.start(run)
        return future

    def shutdown(self) -> None:
        pass


class _Queue:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self, block: bool) -> Any:
        if block:
            self._turns.pause(lambda: bool(self._items))
        if not self._items:
            raise queue.Empty
        return self._items.pop(0)


class _Lock:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._taken = False

    def __enter__(self) -> None:
        while self._taken:
            self._turns.pause(lambda: not self._taken)
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False
