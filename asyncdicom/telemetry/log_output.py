"""Where a program's log lines go, and how they look: for tools, and for programs with nothing better.

The library itself installs no handler.
"""

from __future__ import annotations

import io
import json
import logging
import os
import select
import sys
from datetime import datetime
from typing import Literal, TextIO

from asyncdicom.telemetry.log import fields_of
from asyncdicom.telemetry.log_queue import LogQueue, Sink
from asyncdicom.telemetry.text import printable

__all__ = ["FileSink", "LogFormat", "StreamSink", "close_logs", "log_to", "reopen_logs"]

LogFormat = Literal["short", "text", "json"]
"""How a line looks: without its time, for people at a terminal; with it; or as a JSON object."""

_queue: LogQueue | None = None


class _Lines:
    """Writes lines to a descriptor; after a line that was cut off, the next one begins on its own."""

    def __init__(self) -> None:
        self._is_torn = False

    def write(self, descriptor: int, data: bytes) -> None:
        was_torn, self._is_torn = self._is_torn, True
        rest = memoryview(b"\n" + data if was_torn else data)
        left = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BlockingIOError:  # somebody whom we share it with has made it so
                    select.select([], [descriptor], [])
        finally:
            self._is_torn = was_torn if len(rest) == left else bool(rest)


class StreamSink:
    """What "stderr" or "stdout" is at the moment: a progress bar replaces it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines = _Lines()

    def write(self, data: bytes) -> None:
        """See `log_queue.Sink`. Written below Python's buffers, whose locks others would wait for."""
        stream = getattr(sys, self._name)
        if stream is None:  # closed before we began: its number may be another file's by now
            raise OSError(f"there is no {self._name}")
        if stream.isatty() or not _has_descriptor(stream):
            stream.write(data.decode(stream.encoding or "utf-8", "replace"))
            stream.flush()
        else:
            self._lines.write(stream.fileno(), data)

    def reopen(self) -> None:
        """See `log_queue.Sink`."""


def _has_descriptor(stream: TextIO) -> bool:
    """Whether it is a file of the system's: a program may have put anything in its place."""
    try:
        stream.fileno()
    except io.UnsupportedOperation:
        return False
    return True


class FileSink:
    """A file that lines are appended to. Raises OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._descriptor = self._open()
        self._lines = _Lines()

    def _open(self) -> int:
        # Opening a FIFO would wait for somebody who reads it.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
        return os.open(self._path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0), 0o640)

    def write(self, data: bytes) -> None:
        """See `log_queue.Sink`."""
        self._lines.write(self._descriptor, data)

    def reopen(self) -> None:
        """See `log_queue.Sink`."""
        old, self._descriptor = self._descriptor, self._open()
        self._lines = _Lines()
        os.close(old)


class _Text(logging.Formatter):
    """One line a record; a traceback follows it, indented, so that no line of it looks like a record."""

    def __init__(self, *, timed: bool) -> None:
        super().__init__()
        self._timed = timed

    def format(self, record: logging.LogRecord) -> str:
        when = f"{_when(record)} " if self._timed else ""
        line = f"{when}{record.levelname:.1}: {printable(record.getMessage())}"
        return "\n    ".join((line, *_traceback(self, record)))


class _Json(logging.Formatter):
    """A JSON object a record, with the fields that say whom it is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _when(record),
            "level": record.levelname,
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        line |= {name: value for name, value in fields_of(record).items() if name not in line}
        if traceback := _traceback(self, record):
            line["traceback"] = "\n".join(traceback)
        return json.dumps(line, default=str)


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if not record.exc_info or record.exc_info[0] is None:
        return []
    text = formatter.formatException(record.exc_info)
    return [printable(line) for line in text.split("\n")]


def log_to(
    path: str | None = None, *, level: int = logging.WARNING, format: LogFormat = "text"
) -> LogQueue | None:
    """Send the log lines of this process to a file, or to stderr, through a bounded queue.

    `path`: the file (None: stderr). `level`: of asyncdicom's own lines; other libraries' are warnings.
    Gives the handler; None, and nothing is changed but the level, where logging is set up already. Raises
    OSError when the file cannot be opened.
    """
    global _queue
    logging.getLogger("asyncdicom").setLevel(level)
    root = logging.getLogger()
    if root.handlers:
        return None
    sink: Sink = StreamSink("stderr") if path is None else FileSink(path)
    encoding = "utf-8" if path is not None else getattr(sys.stderr, "encoding", None) or "utf-8"
    _queue = LogQueue(sink, encoding=lambda: encoding)
    _queue.setFormatter(_Json() if format == "json" else _Text(timed=format == "text"))
    root.addHandler(_queue)
    root.setLevel(logging.WARNING)
    return _queue


def reopen_logs() -> None:
    """Have the log file opened anew before its next line. Never waits."""
    if _queue is not None:
        _queue.reopen()


def close_logs() -> None:
    """Write what is queued, waiting for a second at most, and log no more."""
    global _queue
    if _queue is not None:
        logging.getLogger().removeHandler(_queue)
        _queue.close()
        _queue = None
