"""The threads that touch files, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["file_threads", "in_thread"]

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


async def in_thread(
    executor: ThreadPoolExecutor, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """Call a blocking function in a thread and wait for it to *end*, also when cancelled.

    A thread that still writes after its file descriptor was closed and used again would write into
    another patient's file: so a cancellation is raised only when the call has ended.
    """
    running = asyncio.wrap_future(executor.submit(function, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()
        raise cancelled
    return running.result()
