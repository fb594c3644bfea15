"""An event loop whose clock and network belong to the test.

Time passes only when nothing is left to do, and then at once up to the next timer; connections are in memory.
So `serve` and `associate` run as they are, and an hour takes a millisecond. There are no threads.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from typing import Any


class _Skipping(selectors.DefaultSelector):
    """Does not wait: tells the loop that the time has passed."""

    loop: ManualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen any more")
        self.loop.now += max(timeout, 0.0)
        return []


class ManualLoop(asyncio.SelectorEventLoop):
    """``connect`` opens a connection to what is served on it; ``dialled`` are those that it has opened."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)
        self.set_debug(False)  # with -X dev tens of thousands of associations would take minutes
        self.dialled: list[Wire] = []
        self._arrived: deque[Wire] = deque()
        self._on_arrival: Callable[..., object] | None = None

    def time(self) -> float:
        return self.now

    def knock(self, host: str = "192.0.2.1") -> Wire:
        """Be a client that has not been noticed yet."""
        wire = Wire(self, host)
        self._arrived.append(wire)
        self.call_soon(self._let_in)
        return wire

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        if not isinstance(fd, Listener):
            super().add_reader(fd, callback, *args)
            return
        fd.arrived, self._on_arrival = self._arrived, callback
        self.call_soon(self._let_in)

    def remove_reader(self, fd: Any) -> bool:
        if not isinstance(fd, Listener):
            return super().remove_reader(fd)
        self._on_arrival = None
        return True

    def _let_in(self) -> None:
        if self._arrived and self._on_arrival is not None:
            self._on_arrival()
            self.call_soon(self._let_in)

    async def connect(self, host: str = "192.0.2.1") -> Wire:
        """Be a client."""
        wire = self.knock(host)
        await settle()
        return wire

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **options: Any) -> Any:
        return sock.attach(protocol_factory)

    async def create_connection(self, protocol_factory: Any, *address: Any, **options: Any) -> Any:
        self.dialled.append(Wire(self, str(address[0])))
        return self.dialled[-1].attach(protocol_factory)


async def settle() -> None:
    """Let everything happen that can happen now."""
    await asyncio.sleep(0.0001)


class Listener:
    """Stands for the listening socket that `serve` is given."""

    arrived: deque[Wire]

    def accept(self) -> tuple[Wire, tuple[str, int]]:
        wire = self.arrived.popleft()
        return wire, (wire.host, 50000)

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.99", 104

    def setblocking(self, flag: bool) -> None: ...

    def listen(self, backlog: int) -> None: ...

    def close(self) -> None: ...


class Wire(asyncio.Transport):
    """A connection as the library's transport and, below, as the test's end of it.

    ``sent`` is what the library has sent, ``closed_at`` when it closed, ``reads`` whether it reads. While
    ``is_stuck`` nothing that is sent leaves.
    """

    def __init__(self, loop: ManualLoop, host: str) -> None:
        super().__init__()
        self.host = host
        self.sent = bytearray()
        self.closed_at: float | None = None
        self.reads = True
        self.is_stuck = False
        self._loop = loop
        self._unsent = 0
        self._incoming = bytearray()
        self._closing = False
        self._high = 65536
        self._is_paused = False
        self._protocol: Any = None

    def setblocking(self, flag: bool) -> None: ...

    def attach(self, protocol_factory: Callable[[], Any]) -> tuple[Wire, Any]:
        self._protocol = protocol_factory()
        self._protocol.connection_made(self)
        return self, self._protocol

    # the library's end

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.host, 50000) if name == "peername" else default

    def getpeername(self) -> Any:
        return self.host, 50000

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 65536

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def write(self, data: Any) -> None:
        self.sent += data
        if self.is_stuck:
            self._unsent += len(data)
            if self._unsent > self._high and not self._is_paused:
                self._is_paused = True
                self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True
        self._loop.call_soon(self._deliver)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._protocol is None:  # refused before it had one
            self.closed_at = self._loop.now
        elif not self._closing:
            self._closing = True
            if not self._unsent:
                self._loop.call_soon(self._lost)

    def abort(self) -> None:
        self._closing = True
        self._loop.call_soon(self._lost)

    def _lost(self) -> None:
        if self.closed_at is None:
            self.closed_at = self._loop.now
            self._protocol.connection_lost(None)

    # the test's end

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    def feed(self, data: bytes) -> None:
        """Send something to the library; what it does not read waits."""
        self._incoming += data
        self._deliver()

    def _deliver(self) -> None:
        incoming = self._incoming
        while incoming and self.reads and not self._closing:
            buffer = self._protocol.get_buffer(-1)
            count = min(len(buffer), len(incoming))
            buffer[:count] = incoming[:count]
            del incoming[:count]
            self._protocol.buffer_updated(count)

    def half_close(self) -> None:
        if not self._closing and not self._protocol.eof_received():
            self.close()

    def take(self, count: int) -> None:
        """Read something of what is stuck."""
        self._unsent -= min(count, self._unsent)
        if not self._unsent:
            if self._is_paused:
                self._is_paused = False
                self._protocol.resume_writing()
            if self._closing:
                self._loop.call_soon(self._lost)
