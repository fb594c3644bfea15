"""The threads that touch files, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

__all__ = ["Ending", "Threads", "Told", "file_threads", "in_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAXIMUM_THREADS = 8
_threads: ThreadPoolExecutor | None = None


def file_threads() -> ThreadPoolExecutor:
    """Give the pool of the process for reading and writing files (not the loop's default executor)."""
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(_MAXIMUM_THREADS, thread_name_prefix="asyncdicom-file")
    return _threads


class Ending(asyncio.Future[_T]):
    """The end of what a thread does. Who awaits it and is cancelled gets the CancelledError at that end.

    `is_withdrawn`: that has happened, so nobody wants the result any more.
    """

    is_withdrawn = False

    def cancel(self, msg: object = None) -> bool:
        """Note it; the task that awaits goes on waiting, and is cancelled when it wakes up."""
        self.is_withdrawn = True
        return False


class Threads(Protocol):
    """What has threads to make a call in."""

    def submit(self, call: Callable[[], None], /) -> object:
        """Have one of them make the call."""


async def in_thread(executor: Threads, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a blocking function in a thread and wait for it to *end*, also when cancelled.

    A thread that still writes after its file descriptor was closed and used again would write into
    another patient's file: so a cancellation is raised only when the call has ended.
    """
    loop = asyncio.get_running_loop()
    ending: Ending[_T] = Ending(loop=loop)

    def call() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            loop.call_soon_threadsafe(ending.set_exception, error)
        else:
            loop.call_soon_threadsafe(ending.set_result, result)

    executor.submit(call)
    try:
        return await ending
    except asyncio.CancelledError:
        if ending.done():
            ending.exception()  # nobody else will look at it
        raise


class Told:
    """A piece of work of a thread, and who waits for its result in the event loop that made it."""

    __slots__ = ("ending", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ending: asyncio.Future[Any] = self.loop.create_future()

    def tell(self, result: object, error: BaseException | None = None) -> None:
        """Give the result or the error, from any thread; who does not wait any more gets nothing."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(self._deliver, result, error)

    def _deliver(self, result: object, error: BaseException | None) -> None:
        if self.ending.done():
            return
        if error is not None:
            self.ending.set_exception(error)
        else:
            self.ending.set_result(result)
