"""Where what is watched goes: lines to whoever shows them, packets to a capture file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import BinaryIO

from asyncdicom.address import place_of
from asyncdicom.telemetry.log import Log
from asyncdicom.tracing.conversation import Conversation, Line
from asyncdicom.tracing.pcap import HEADER, Flow

__all__ = ["Capture", "Recorder", "Watched"]

log = Log("asyncdicom.trace")

Tell = Callable[[str, dict[str, object]], None]
"""Shows a line: as text, and as the fields of a JSON object."""

_BUFFER = 1 << 20
_WORTH = 0.001  # seconds


class Capture:
    """A capture file, which must not be there yet; readable by its owner only. Raises OSError.

    A file that takes no more (a full disk) is told once, and `failed`; what is watched goes on. Writing is
    buffered and waits for the disk: a slow one slows what is watched, and nothing piles up.
    """

    def __init__(self, path: str) -> None:
        self.failed = False
        self._path = path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: BinaryIO | None = open(descriptor, "wb", buffering=_BUFFER)  # noqa: SIM115 - see `close`
        self.write(HEADER)

    def write(self, packets: bytes) -> None:
        """Append packets; never raises."""
        if self._file is None:
            return
        try:
            self._file.write(packets)
        except OSError as error:
            self._fail(error)

    def flush(self) -> None:
        """Have what was written in the file; never raises."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        log.error("%s takes no more packets: %s", self._path, error.strerror)
        self.failed = True
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                pass  # what it had in its buffer is lost, which was told

    def close(self) -> None:
        """Write what is left, and close."""
        self.flush()
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Recorder:
    """Watches connections, one or many; each has a number in its lines.

    `tell`: shows a line; `values`: with the values of data sets; `capture`: where packets go.
    """

    def __init__(self, tell: Tell, *, values: bool = False, capture: Capture | None = None) -> None:
        self._tell = tell
        self._values = values
        self.capture = capture
        self._count = 0

    def connection(self, requestor: tuple[str, int], acceptor: tuple[str, int]) -> Watched:
        """Watch one more; the addresses of both sides."""
        self._count += 1
        return Watched(self, self._count, requestor, acceptor)

    def tell(self, number: int, text: str, fields: dict[str, object]) -> None:
        """Show a line of a connection."""
        self._tell(f"#{number} {text}", {"connection": number, **fields})

    def conversation(self, now: float) -> Conversation:
        """Begin to read."""
        return Conversation(now, values=self._values)


class Watched:
    """One connection that is watched. Nothing here raises: a fault of ours costs the watching alone."""

    def __init__(
        self, recorder: Recorder, number: int, requestor: tuple[str, int], acceptor: tuple[str, int]
    ) -> None:
        self._recorder = recorder
        self._number = number
        self._conversation: Conversation | None = recorder.conversation(time.perf_counter())
        self._flow = Flow(requestor, acceptor)
        self._is_over = False
        self._capture(self._flow.opened(time.time()))
        text = f"{'':10} -- {place_of(*requestor)} connects to {place_of(*acceptor)}"
        recorder.tell(number, text, {"event": "opened", "text": text.strip()})

    def passed(self, requestor: bool, data: bytes | memoryview) -> None:
        """One side has sent these bytes."""
        if self._recorder.capture is not None:
            self._capture(self._flow.data(requestor, data, time.time()))
        self._watch(lambda conversation, now: conversation.feed(requestor, data, now))

    def held(self, requestor: bool, seconds: float) -> None:
        """The other side did not take them for so long."""
        if seconds >= _WORTH and self._conversation is not None:
            self._conversation.held(requestor, seconds)

    def closed(self, requestor: bool) -> None:
        """One side has closed its half."""
        self._capture(self._flow.closed(requestor, time.time()))
        self._watch(lambda conversation, now: conversation.closed(requestor, now))

    def ended(self, error: BaseException | None = None) -> None:
        """The connection is over: tell the summary, once."""
        if self._is_over:
            return
        self._is_over = True
        why = str(error) or type(error).__name__ if error is not None else ""
        if error is not None:
            self._capture(self._flow.closed(True, time.time(), reset=True))
        if self._recorder.capture is not None:
            self._recorder.capture.flush()
        self._watch(lambda conversation, now: conversation.closed(None, now, why))
        if self._conversation is not None:
            lines = self._conversation.summary(time.perf_counter())
            for line in lines:
                self._recorder.tell(self._number, line, {"event": "summary", "text": line.strip()})

    def _capture(self, packets: bytes) -> None:
        if self._recorder.capture is not None:
            self._recorder.capture.write(packets)

    def _watch(self, read: Callable[[Conversation, float], list[Line]]) -> None:
        if self._conversation is None:
            return
        try:
            for line in read(self._conversation, time.perf_counter()):
                self._recorder.tell(self._number, str(line), line.fields)
        except Exception:
            log.exception("the watching of a connection has failed; what is sent is passed on")
            self._conversation = None
