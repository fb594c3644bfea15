"""A link over distance, in a process of its own: a proxy that carries bytes on after half a round trip.

It is a worker (`benchmarks.worker`): `open_link` opens a port that leads to another one. What the proxy does
to time is in `Bucket` and `Line`, which know no clock and no socket, so tests give them any time they like.

A connection costs a round trip, as TCP's handshake does. A sender may have `window` bytes on the way that the
other side has not acknowledged, and an acknowledgement takes half a round trip too: this is TCP's window, so
a reader that does not read stops the sender, and no more than the window is held. There is no loss, no jitter
and no slow start.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import weakref
from collections import deque
from typing import Self, cast

WINDOW = 16 << 20
"""Bytes on the way in one direction of a connection: the window of a TCP that is tuned for distance."""

_BURST = 1 << 16

Data = bytes | bytearray
END, RESET = b"", bytearray()  # how a stream ends; both are told by what they are, for they are empty

_kept: list[Link] = []  # they live as long as the worker


class Bucket:
    """A token bucket: the rate of one direction of a link, which all its connections share.

    Args:
        rate: bytes a second; None for as many as there are.
        burst: bytes that pass at once after a pause.
    """

    def __init__(self, rate: float | None = None, burst: int = _BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._free = float("-inf")

    def leaves(self, size: int, now: float) -> float:
        """Take the tokens for `size` bytes; gives the time when the last of them has left."""
        if self._rate is None:
            return now
        self._free = max(self._free, now - self._burst / self._rate) + size / self._rate
        return max(now, self._free)


class Line:
    """One direction of one connection: what is put in comes out later, in order.

    Args:
        delay: seconds on the way.
        bucket: the rate of this direction.
        opens: the time before which nothing leaves.
    """

    def __init__(self, delay: float, bucket: Bucket, opens: float = 0.0) -> None:
        self._delay = delay
        self._bucket = bucket
        self._opens = opens
        self._on_the_way: deque[tuple[float, Data]] = deque()
        self._acknowledgements: deque[tuple[float, int]] = deque()
        self._unacknowledged = 0

    def put(self, data: Data, now: float) -> None:
        """Send data, or one of `END` and `RESET`."""
        leaves = self._bucket.leaves(len(data), max(now, self._opens))
        self._on_the_way.append((leaves + self._delay, data))
        self._unacknowledged += len(data)

    def take(self, now: float) -> list[Data]:
        """Give what has arrived by now; its acknowledgement then begins its way back."""
        arrived = []
        while self._on_the_way and self._on_the_way[0][0] <= now:
            data = self._on_the_way.popleft()[1]
            arrived.append(data)
            self._acknowledgements.append((now + self._delay, len(data)))
        return arrived

    def unacknowledged(self, now: float) -> int:
        """Count the bytes whose acknowledgement is not back yet."""
        while self._acknowledgements and self._acknowledgements[0][0] <= now:
            self._unacknowledged -= self._acknowledgements.popleft()[1]
        return self._unacknowledged

    def next_arrival(self) -> float | None:
        """Give the time when the next data arrive."""
        return self._on_the_way[0][0] if self._on_the_way else None

    def next_acknowledgement(self) -> float | None:
        """Give the time when the next acknowledgement is back."""
        return self._acknowledgements[0][0] if self._acknowledgements else None


class End(asyncio.Protocol):
    """One end of a connection: carries what it receives to the other end."""

    def __init__(self, line: Line, window: int) -> None:
        self._line = line
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_writable = True
        self._has_ended = False  # what is received here
        self._ends = 0  # of the streams in both directions
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        if self.other is not None:
            self.other.carry()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._line.put(data, self._loop.time())
        self.carry()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`: the other direction stays open.

        uvloop tells an end again when reading is paused and resumed behind it; it arrives once.
        """
        if not self._has_ended:
            self._has_ended = True
            self._line.put(END, self._loop.time())
            self.carry()
        return True

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the reader on this side is slow, so nothing more arrives here."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_writable = True
        if self.other is not None:
            self.other.carry()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`: a reset arrives at the other side behind what was sent before it."""
        if error is not None:
            self._line.put(RESET, self._loop.time())
            self.carry()

    def abort(self) -> None:
        """End the connection by force, and carry nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def carry(self) -> None:
        """Give the other end what has arrived there, and read as far as the window allows."""
        now = self._loop.time()
        other = self.other
        if other is not None and other._transport is not None and other._is_writable:
            for data in self._line.take(now):
                other._deliver(data)
        is_full = self._line.unacknowledged(now) >= self._window
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.pause_reading if is_full else self._transport.resume_reading)()
        self._plan(other, is_full)

    def _plan(self, other: End | None, is_full: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        may_arrive = other is None or other._is_writable
        times = (
            self._line.next_arrival() if may_arrive else None,
            self._line.next_acknowledgement() if is_full else None,
        )
        following = [time for time in times if time is not None]
        if following:
            self._timer = self._loop.call_at(min(following), self.carry)

    def _deliver(self, data: Data) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if data is RESET:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()
        elif data:
            self._transport.write(data)
        else:
            self._transport.write_eof()
            self._end()
            if self.other is not None:
                self.other._end()

    def _end(self) -> None:
        self._ends += 1
        if self._ends == 2 and self._transport is not None:
            self._transport.close()


class Link:
    """A link to a port of this machine: ``async with Link(port, rtt=0.05) as link: link.port``.

    Args:
        port: where it leads.
        rtt: the round trip in seconds.
        rate: bytes a second in each direction, for all connections together; None for no limit.
        window: bytes on the way in each direction of a connection.
    """

    port: int
    """The near end."""

    def __init__(self, port: int, *, rtt: float, rate: float | None = None, window: int = WINDOW) -> None:
        self._target = port
        self._rtt = rtt
        self._window = window
        self._there, self._back = Bucket(rate), Bucket(rate)
        self._calls: set[asyncio.Task[None]] = set()
        self._ends: weakref.WeakSet[End] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()
        for end in self._ends:
            end.abort()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _connection(self) -> End:
        half, now = self._rtt / 2, asyncio.get_running_loop().time()
        near = End(Line(half, self._there, opens=now + self._rtt), self._window)
        far = End(Line(half, self._back, opens=now + half), self._window)
        self._ends |= {near, far}
        call = asyncio.ensure_future(self._call(near, far))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return near

    async def _call(self, near: End, far: End) -> None:
        near.other, far.other = far, near
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", self._target)
        except OSError:
            near.abort()


async def open_link(port: int, rtt: float, rate: float | None = None) -> int:
    """Open a link that lives as long as the worker; gives the port of its near end."""
    link = await Link(port, rtt=rtt, rate=rate).__aenter__()
    _kept.append(link)
    return link.port
