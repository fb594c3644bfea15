"""Connections without sockets, and a clock that can be put forward: for tests.

A `MemoryNetwork` has a host name of its own. What serves there, or calls there, is connected in the memory of
one event loop; everything above the connection is what it always is.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, cast

from asyncdicom.net.networks import Listener, networks

if TYPE_CHECKING:
    from asyncdicom.net.disk import Buffer

__all__ = ["MemoryListener", "MemoryNetwork"]

_ADDRESS = "127.0.0.1"  # what both sides see, so that networks of an access policy can be tested
_FIRST_PORT = 11112
_FIRST_CALLER = 49152
_KERNEL = 1 << 18  # bytes on the way: who writes more waits, as with a socket

_numbers = itertools.count(1)


class MemoryNetwork:
    """A network within one event loop, for tests: `with MemoryNetwork() as network`.

    `serve` and `associate` use it for addresses with its `host`, for any port. There is no TLS and no proxy.
    """

    def __init__(self) -> None:
        self.host = f"network-{next(_numbers)}.invalid"
        """The name of the host: no other network has it, and no DNS (RFC 6761)."""
        self.is_held = False
        """Whether nothing arrives at present."""
        self._listeners: dict[int, MemoryListener] = {}
        self._ports = itertools.count(_FIRST_PORT)
        self._callers = itertools.count(_FIRST_CALLER)
        self._ends: list[_End] = []
        self._loop: _Loop | None = None

    def __enter__(self) -> Self:
        networks[self.host] = self
        return self

    def __exit__(self, *error: object) -> None:
        del networks[self.host]

    # what a test plays

    def advance(self, seconds: float) -> None:
        """Let time pass for all associations of this network: what is due by then happens in the next turn.

        Time-outs of associations and of their requests are by this clock (`Timeouts`); what a handler waits
        for by itself is not.
        """
        if self._loop is not None:
            self._loop.advance(seconds)

    def hold(self) -> None:
        """Let nothing arrive any more, in both directions: a cable that is pulled, a firewall that drops."""
        self.is_held = True

    def go_on(self) -> None:
        """Let arrive what was held, and what comes after it."""
        self.is_held = False
        for end in self._ends:
            end.deliver_soon()

    def cut(self) -> None:
        """Reset all connections: both sides see it at once, and what was on its way is lost."""
        for end in list(self._ends):
            end.lose(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    # what the network side uses

    def loop(self) -> asyncio.AbstractEventLoop:
        """Give the event loop that runs, with the connections and the clock of this network."""
        if self._loop is None:
            self._loop = _Loop(asyncio.get_running_loop(), self)
        return cast("asyncio.AbstractEventLoop", self._loop)

    def listen(self, port: int) -> MemoryListener:
        """Open a port; 0 takes a free one. Raises OSError for one that is taken."""
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {self.host}:{port}: it is in use")
        port = port or next(each for each in self._ports if each not in self._listeners)
        listener = self._listeners[port] = MemoryListener(self, port)
        return listener

    def forget(self, port: int) -> None:
        """Nobody listens there any more."""
        self._listeners.pop(port, None)

    def connect(self, protocol: asyncio.BaseProtocol, port: int) -> _End:
        """Connect to a port. Raises ConnectionRefusedError where nobody listens."""
        listener = self._listeners.get(port)
        if listener is None or listener.take is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        ours, theirs = _End(self), _End(self)
        ours.join(theirs, (_ADDRESS, next(self._callers)), (_ADDRESS, port))
        self._ends += (ours, theirs)
        ours.attach(protocol)
        listener.take(theirs, _ADDRESS)
        return ours

    def gone(self, end: _End) -> None:
        """An end is closed."""
        if end in self._ends:
            self._ends.remove(end)


class MemoryListener(Listener):
    """A port of a network in memory."""

    def __init__(self, network: MemoryNetwork, port: int) -> None:
        self._network = network
        self._port = port
        self.take: Callable[[Any, str], None] | None = None
        """What gets each connection, and the host that it comes from."""

    def begin(self, take: Callable[[Any, str], None]) -> None:
        """See `Listener`."""
        self.take = take

    def getsockname(self) -> tuple[str, int]:
        """See `socket.socket`."""
        return (_ADDRESS, self._port)

    def close(self) -> None:
        """Listen no more."""
        self._network.forget(self._port)


class _Timer:
    """A call that is due at a time of the network's clock."""

    __slots__ = ("_call", "_loop", "at", "handle")

    def __init__(self, loop: _Loop, at: float, call: Callable[[], object]) -> None:
        self._loop = loop
        self._call = call
        self.at = at
        self.handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """See `asyncio.TimerHandle`."""
        self._loop.timers.pop(self, None)
        if self.handle is not None:
            self.handle.cancel()

    def due(self) -> None:
        """Make the call."""
        self._loop.timers.pop(self, None)
        self._call()


class _Loop:
    """The event loop that runs, with other connections and another clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, network: MemoryNetwork) -> None:
        self._loop = loop
        self._network = network
        self._ahead = 0.0
        self.timers: dict[_Timer, None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        """See `asyncio.AbstractEventLoop`."""
        return self._loop.time() + self._ahead

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> _Timer:
        """See `asyncio.AbstractEventLoop`."""
        timer = _Timer(self, when, lambda: callback(*args))
        self._arm(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Timer:
        """See `asyncio.AbstractEventLoop`."""
        return self.call_at(self.time() + delay, callback, *args)

    def _arm(self, timer: _Timer) -> None:
        self.timers[timer] = None
        timer.handle = self._loop.call_at(max(timer.at - self._ahead, self._loop.time()), timer.due)

    def advance(self, seconds: float) -> None:
        """Put the clock forward."""
        self._ahead += max(seconds, 0.0)
        for timer in sorted(self.timers, key=lambda timer: timer.at):
            if timer.handle is not None:
                timer.handle.cancel()
            self._arm(timer)

    async def create_connection(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `asyncio.AbstractEventLoop`; there is no TLS."""
        if options.get("ssl") is not None:
            raise OSError("a connection in memory has no TLS")
        protocol = factory()
        return self._network.connect(protocol, port), protocol

    async def connect_accepted_socket(
        self, factory: Callable[[], asyncio.BaseProtocol], connection: _End
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `asyncio.AbstractEventLoop`."""
        protocol = factory()
        connection.attach(protocol)
        return connection, protocol


class _End(asyncio.Transport):
    """One side of a connection: what is written to the other one arrives in later turns of the event loop."""

    def __init__(self, network: MemoryNetwork) -> None:
        super().__init__()
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BufferedProtocol | None = None
        self._other: _End | None = None
        self._arriving: deque[memoryview] = deque()
        self._waiting = 0  # bytes of these
        self._has_eof = False  # the other side sends no more
        self._is_reading = True
        self._is_paused = False  # told to write no more
        self._is_closing = False
        self._is_delivering = False

    def join(self, other: _End, ours: tuple[str, int], theirs: tuple[str, int]) -> None:
        """Connect two ends."""
        self._other, other._other = other, self
        self._extra = {"sockname": ours, "peername": theirs}
        other._extra = {"sockname": theirs, "peername": ours}

    def attach(self, protocol: asyncio.BaseProtocol) -> None:
        """Let a protocol use it."""
        self._protocol = cast("asyncio.BufferedProtocol", protocol)
        self._protocol.connection_made(self)
        self.deliver_soon()

    # writing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.WriteTransport`; here they are always the same."""

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return 0 if self._other is None else self._other._waiting

    def write(self, data: Buffer) -> None:
        """See `asyncio.WriteTransport`."""
        piece = memoryview(data).tobytes()
        other = self._other
        if other is None or self._is_closing or not piece:
            return
        if other._is_closing:
            self._loop.call_soon(self.lose, BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
            return
        other._arriving.append(memoryview(piece))
        other._waiting += len(piece)
        other.deliver_soon()
        if other._waiting > _KERNEL and not self._is_paused and self._protocol is not None:
            self._is_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """See `asyncio.WriteTransport`."""
        self.write(b"".join(list_of_data))

    # reading

    def is_reading(self) -> bool:
        """See `asyncio.ReadTransport`."""
        return self._is_reading

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._is_reading = True
        self.deliver_soon()

    def deliver_soon(self) -> None:
        """Hand over what has arrived, in the next turn of the event loop."""
        if not self._is_delivering:
            self._is_delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_delivering = False
        if self._protocol is None or not self._is_reading or self._network.is_held or self._is_closing:
            return
        if self._arriving:
            buffer = memoryview(self._protocol.get_buffer(-1))
            piece = self._arriving.popleft()
            taken = min(len(piece), len(buffer))
            buffer[:taken] = piece[:taken]
            if taken < len(piece):
                self._arriving.appendleft(piece[taken:])
            self._waiting -= taken
            self._protocol.buffer_updated(taken)
            if not self._waiting and self._other is not None:
                self._other._taken()
            self.deliver_soon()
        elif self._has_eof:
            self._has_eof = False
            if not self._protocol.eof_received():
                self.close()

    def _taken(self) -> None:
        """All that was written has arrived."""
        if self._is_paused and self._protocol is not None:
            self._is_paused = False
            self._protocol.resume_writing()

    # the end

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._is_closing

    def close(self) -> None:
        """See `asyncio.BaseTransport`: what was written arrives, and then the end of it."""
        self._end(None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`: what was written and not taken is lost."""
        if self._other is not None and not self._is_closing:
            self._other._arriving.clear()
            self._other._waiting = 0
        self._end(None)

    def lose(self, error: OSError) -> None:
        """The connection is lost for this side."""
        self._end(error)

    def _end(self, error: OSError | None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._network.gone(self)
        if self._other is not None:
            self._other._has_eof = True
            self._other.deliver_soon()
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
