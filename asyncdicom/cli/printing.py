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
from contextlib import suppress

from asyncdicom.cli.output import json_text
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import StreamSink
from asyncdicom.telemetry.log_queue import LogQueue
from asyncdicom.telemetry.text import printable

__all__ = ["Printer", "show", "tell"]

log = Log("asyncdicom.cli")

_OURS = "asyncdicom.stdout"
_stdout, _stderr = StreamSink("stdout"), StreamSink("stderr")


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
    """Lines for stdout, never waited for. Leaving the ``with`` block waits for them, a second at most."""

    def __init__(self, *, as_json: bool = False) -> None:
        super().__init__(_stdout, encoding=_encoding, what="lines", where="stdout")
        self.setFormatter(_Line(as_json=as_json))
        self._is_told = False

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
            log.error("stdout takes nothing, or too little: lines are lost there from now on")


async def show(text: str) -> None:
    """Print a line and wait until stdout has taken it, outside the event loop. Raises OSError.

    Cancelled: does not wait for it any more.
    """
    await _written(_stdout, text.encode(_encoding(), "backslashreplace") + b"\n")


async def tell(text: str) -> None:
    """Print a line on stderr, escaped, as `show` does; a stderr that is closed changes nothing."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with suppress(OSError):
        await _written(_stderr, printable(text).encode(encoding, "backslashreplace") + b"\n")


async def _written(sink: StreamSink, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if taken.done():  # cancelled
            return
        if error is None:
            taken.set_result(None)
        else:
            taken.set_exception(error)

    def write() -> None:
        problem: BaseException | None = None
        try:
            sink.write(data)
        except BaseException as error:
            problem = error
        try:
            loop.call_soon_threadsafe(settle, problem)
        except RuntimeError:  # the loop is closed: nobody waits
            pass

    threading.Thread(target=write, name="asyncdicom-print", daemon=True).start()
    await taken


def _encoding() -> str:
    return sys.stdout.encoding or "utf-8"
