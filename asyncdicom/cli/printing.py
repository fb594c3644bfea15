"""What tools print while associations are open: a stdout that nobody reads holds up nobody.

What a server prints leaves through a bounded queue, as its log does: those who send get their answers, and
lines that stdout does not take are counted and told. What an SCU prints is waited for, outside the event
loop: it goes on when somebody reads, and loses nothing. Both write below Python's buffers, whose locks the
end of the process would wait for.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Literal

from asyncdicom.cli.output import json_text
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import StreamSink
from asyncdicom.telemetry.log_queue import LogQueue
from asyncdicom.telemetry.text import printable

__all__ = ["Printer", "show", "tell"]

log = Log("asyncdicom.cli")

_OURS = "asyncdicom.stdout"


class _Line(logging.Formatter):
    """A line as it is; what the queue itself has to tell looks like the others."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.name == _OURS or not self._as_json:
            return text
        return json_text({"warning": text})


class Printer(LogQueue):
    """Lines for stdout (or stderr), never waited for.

    Leaving the ``with`` block waits for them, a second at most.
    """

    def __init__(self, *, as_json: bool = False, stream: Literal["stdout", "stderr"] = "stdout") -> None:
        super().__init__(StreamSink(stream), encoding=_encoding, what="lines", where=stream)
        self.setFormatter(_Line(as_json=as_json))
        self._is_told = False
        self._stream = stream

    def __enter__(self) -> Printer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def line(self, text: str) -> None:
        """Print a line, unless stdout takes none and the queue is full."""
        self.handle(logging.LogRecord(_OURS, logging.INFO, "", 0, text, None, None))

    def _drop(self) -> None:
        super()._drop()
        if not self._is_told:
            self._is_told = True
            log.error("%s takes nothing, or too little: lines are lost there from now on", self._stream)


class _Writer:
    """Writes lines to a stream one after another, in a thread of its own."""

    def __init__(self, sink: StreamSink) -> None:
        self._sink = sink
        self._queue: SimpleQueue[tuple[bytes, Callable[[BaseException | None], None]]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def write(self, data: bytes) -> None:
        """Have it written, and wait until it is. Raises OSError."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if taken.done():  # cancelled
                return
            if error is None:
                taken.set_result(None)
            else:
                taken.set_exception(error)

        def told(error: BaseException | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, error)

        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asyncdicom-print", daemon=True)
            self._thread.start()
        self._queue.put((data, told))
        await taken

    def _run(self) -> None:
        while True:
            data, told = self._queue.get()
            try:
                self._sink.write(data)
            except BaseException as error:
                told(error)
            else:
                told(None)


_stdout, _stderr = _Writer(StreamSink("stdout")), _Writer(StreamSink("stderr"))


async def show(text: str) -> None:
    """Print a line and wait until stdout has taken it, outside the event loop. Raises OSError.

    Cancelled: does not wait for it any more.
    """
    await _stdout.write(text.encode(_encoding(), "backslashreplace") + b"\n")


async def tell(text: str) -> None:
    """Print a line on stderr, escaped, as `show` does; a stderr that is closed changes nothing."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):
        await _stderr.write(printable(text).encode(encoding, "backslashreplace") + b"\n")


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
