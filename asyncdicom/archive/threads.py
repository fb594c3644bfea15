"""The threads of an open archive, and how calls are made in them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from asyncdicom.archive.failures import using
from asyncdicom.archive.workers import Workers
from asyncdicom.net.threads import Threads, in_thread

__all__ = ["ArchiveThreads", "call_in"]

_WRITERS = 8  # as many files are synced at the same time
READERS = 2
"""For the archive itself: they look after the index, and count."""

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class ArchiveThreads:
    """Those that do the work of an archive beside the event loop and the writer of the index."""

    def __init__(self) -> None:
        self.writers = Workers(_WRITERS, "asyncdicom-files")
        self.upkeep = Workers(1, "asyncdicom-upkeep")
        self.outgoing = Workers(1, "asyncdicom-outbox")
        self.comparing = Workers(1, "asyncdicom-compare")  # who sends conflicts waits behind himself
        self.readers = ThreadPoolExecutor(READERS, "asyncdicom-reader")

    def end_writing(self) -> None:
        """End those that lead to changes of the index. Blocks."""
        self.upkeep.shutdown()
        self.writers.shutdown()
        self.comparing.shutdown()
        self.outgoing.shutdown()

    def end(self) -> None:
        """End all. Blocks."""
        self.end_writing()
        self.readers.shutdown()


async def call_in(
    threads: Threads,
    directory: str,
    call: Callable[[*_Ts], _T],
    *arguments: *_Ts,
    ending: threading.Event | None = None,
) -> _T:
    """Make a call in one of some threads; a cancellation sets ``ending``, and is raised when it has ended.

    Raises what it raises, and `ArchiveError` when disk or index fail of the archive in `directory`.
    """
    calling = asyncio.ensure_future(in_thread(threads, call, *arguments))
    try:
        with using(directory):
            return await asyncio.shield(calling)
    except asyncio.CancelledError:
        if ending is not None:
            ending.set()
        await asyncio.wait((calling,))
        calling.exception()
        raise
