"""Log lines leave through a bounded queue, in a thread of their own.

A log may be a pipe that nobody reads, a full disk, a file server that hangs. Whoever logs (the event loop,
the threads of an archive) makes a line of text and puts it into the queue, which takes microseconds and
never waits; one thread writes. What does not fit is dropped and counted, and the log says so when it takes
lines again. Nothing here raises, whatever the log does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol

from asyncdicom.telemetry import counters
from asyncdicom.telemetry.repeats import Repeats

__all__ = ["LogQueue", "Sink"]

_LINES = 10_000
_BYTES = 4 << 20
_LONGEST = 64 << 10  # bytes of one line, a traceback included
_TICK = 1.0  # seconds between two looks at what repeats
_PATIENCE = 1.0  # seconds that an exit waits for a log that takes nothing


class Sink(Protocol):
    """Where the lines go. Both are called in the writing thread and may block."""

    def write(self, data: bytes) -> None:
        """Write all of it, or raise OSError."""

    def reopen(self) -> None:
        """Open the file anew: it may have been renamed. Raises OSError, and goes on with the old one."""


class LogQueue(logging.Handler):
    """A handler that never waits and never raises; `sink` gets the lines in a thread.

    `what` and `where`: the words by which it tells what was lost. The queue is bounded in lines and in
    bytes. Repeated warnings of one peer are summed up (`Repeats`).
    `flush` and `close` wait for a second at most. A forked child begins with an empty queue.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        encoding: Callable[[], str] = lambda: "utf-8",
        what: str = "log lines",
        where: str = "the log",
    ) -> None:
        super().__init__()
        self._lost = f"%d {what} are lost: {where} did not take them"
        self._sink = sink
        self._encoding = encoding
        self._repeats = Repeats()
        self._is_closed = False
        self._reopen = False
        self._begin()

    def _begin(self) -> None:
        """Start with an empty queue; its thread is started by the first line."""
        self._queue: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._put = 0  # bytes, counted by those who log
        self._taken = 0  # bytes, counted by the thread: neither needs a lock
        self._dropped = 0
        self._told = 0

    # in the threads of those who log, one at a time (`logging.Handler.handle` has the lock)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or drop it."""
        try:
            if self._is_closed:
                self._drop()
                return
            if self._thread is None or not self._thread.is_alive():
                self._start()
            if self._repeats.shows(record, time.monotonic()):
                self._add(self.format(record))
        except BaseException:
            counters.log_errors += 1

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; one that cannot be formatted is shown by what it was made of."""
        try:
            return super().format(record)
        except Exception as error:
            counters.log_errors += 1
            record = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None, "args": ()})
            record.msg = f"{record.msg!r} could not be logged: {type(error).__name__}"
            return super().format(record)

    def _start(self) -> None:
        self._begin()
        self._thread = threading.Thread(target=self._run, name="asyncdicom-log", daemon=True)
        self._thread.start()

    def _add(self, line: str) -> None:
        data = line.encode(self._encoding(), "backslashreplace")
        if len(data) > _LONGEST:
            data = data[:_LONGEST] + b"... (shortened)"
        if self._queue.qsize() >= _LINES or self._put - self._taken + len(data) > _BYTES:
            self._drop()
            return
        self._put += len(data)
        self._queue.put(data)

    def _drop(self) -> None:
        self._dropped += 1
        counters.log_lines_lost += 1

    def reopen(self) -> None:
        """Have the sink opened anew, behind what is queued; for log rotation. Never waits."""
        self._reopen = True
        self._queue.put(threading.Event())

    def flush(self) -> None:
        """Wait until everything is written, but for a second at most."""
        if self._thread is not None and self._thread.is_alive() and not self._is_closed:
            written = threading.Event()
            self._queue.put(written)
            written.wait(_PATIENCE)

    def close(self) -> None:
        """Tell what was left out, write what is queued (for a second at most), and take no more lines."""
        self.acquire()
        try:
            if not self._is_closed:
                self._sum_up(all_of_them=True)
        except BaseException:
            counters.log_errors += 1
        finally:
            self._is_closed = True
            self.release()
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._queue.put(None)
            thread.join(_PATIENCE)
        super().close()

    def _sum_up(self, *, all_of_them: bool = False) -> None:
        for line in self._repeats.summaries(time.monotonic(), all_of_them=all_of_them):
            self._add(self._summary(line))

    def _summary(self, text: str) -> str:
        return self.format(
            logging.LogRecord("asyncdicom.log", logging.WARNING, __file__, 0, "%s", (text,), None)
        )

    # in the thread

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=_TICK if self._repeats.is_counting else None)
                if item is None:
                    return
                self._write_next(item)
            except Empty:
                pass
            except BaseException:
                counters.log_errors += 1
            self._sum_up_if_free()

    def _sum_up_if_free(self) -> None:
        # A thread that the end of the interpreter stops keeps what it has locked: so it never waits for the
        # lock, and does not take it any more once the queue is closed.
        if self._is_closed or self.lock is None or not self.lock.acquire(blocking=False):
            return
        try:
            self._sum_up()
        except BaseException:
            counters.log_errors += 1
        finally:
            self.lock.release()

    def _write_next(self, item: bytes | threading.Event) -> None:
        if isinstance(item, threading.Event):
            self._reopen_sink()
            item.set()
            return
        self._taken += len(item)
        try:
            dropped = self._dropped
            if dropped > self._told:
                item = self._summary(self._lost % (dropped - self._told)).encode() + b"\n" + item
            self._sink.write(item + b"\n")
            self._told = dropped
        except BaseException as error:
            self._drop()
            if not isinstance(error, OSError):
                counters.log_errors += 1

    def _reopen_sink(self) -> None:
        if self._reopen:
            self._reopen = False
            try:
                self._sink.reopen()
            except OSError as error:
                why = self._summary(f"the log file could not be opened anew: {error.strerror}")
                self._sink.write(why.encode() + b"\n")
