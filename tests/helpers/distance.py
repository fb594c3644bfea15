"""An event loop whose connections have a length: what takes a round trip takes one, exactly.

Nothing else takes any time, so the time that something took, in round trips, is how many it waited for. TLS
is the real one. A connection costs a round trip, and what is written arrives half of one later.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.sslproto import SSLProtocol
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from helpers.manual_loop import Listener, ManualLoop, Wire

_ROUND_TRIP = 0.1  # seconds: shorter than any time-out


class DistantLoop(ManualLoop):
    """``create_connection`` leads to the server that was given `listener`, wherever it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.listener: Any = Listener()
        self.connections = 0

    async def round_trips(self, work: Awaitable[object]) -> float:
        """Wait for something; gives how many round trips that took."""
        began = self.now
        await work
        return round((self.now - began) / _ROUND_TRIP, 2)

    async def create_connection(self, protocol_factory: Any, *address: Any, **options: Any) -> Any:
        await asyncio.sleep(_ROUND_TRIP)
        self.connections += 1
        near, far = _End(self, str(address[0])), _End(self, "192.0.2.1")
        near.other, far.other = far, near
        self.call_later(_ROUND_TRIP / 2, self._arrive, far)
        return await self._attach(near, protocol_factory, server_side=False, **options)

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **options: Any) -> Any:
        return await self._attach(sock, protocol_factory, server_side=True, **options)

    async def _attach(
        self,
        end: _End,
        factory: Callable[[], Any],
        *,
        server_side: bool,
        ssl: Any = None,
        server_hostname: str | None = None,
        **options: Any,
    ) -> Any:
        if ssl is None:
            return end.attach(factory)
        ready, protocol = self.create_future(), factory()
        tls = SSLProtocol(
            self, protocol, ssl, ready, server_side=server_side, server_hostname=server_hostname
        )
        end.attach(lambda: tls)
        await ready
        return tls, protocol

    def _arrive(self, end: _End) -> None:
        self._arrived.append(end)
        self.call_soon(self._let_in)

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., object], *args: Any
    ) -> None:
        if isinstance(fd, _End):
            fd.wait(lambda: callback(*args))
        else:
            super().add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        return isinstance(fd, _End) or super().remove_reader(fd)


class _End(Wire):
    """One end of a connection; before it has a protocol, it is what a server takes for a socket."""

    other: _End

    def __init__(self, loop: ManualLoop, host: str) -> None:
        super().__init__(loop, host)
        self._on_the_way: deque[bytes | None] = deque()
        self._ready: Callable[[], object] | None = None

    def attach(self, protocol_factory: Callable[[], Any]) -> tuple[Wire, Any]:
        self._loop.call_soon(self._deliver)
        return super().attach(protocol_factory)

    def _deliver(self) -> None:
        if self._protocol is not None:
            super()._deliver()

    def write(self, data: Any) -> None:
        self._send(bytes(data))

    def _lost(self) -> None:
        if self.closed_at is None:
            self._send(None)
        super()._lost()

    def _force_close(self, error: object) -> None:
        self.abort()

    def _send(self, data: bytes | None) -> None:
        self._on_the_way.append(data)
        self._loop.call_later(_ROUND_TRIP / 2, self._arrive)

    def _arrive(self) -> None:
        data = self._on_the_way.popleft()
        if self.other.closed_at is not None:
            return
        if data is None:
            self.other.half_close()
        else:
            self.other.feed(data)
            self.other._tell()

    # as a socket

    def setsockopt(self, *option: Any) -> None: ...

    def wait(self, ready: Callable[[], object]) -> None:
        self._ready = ready
        self._tell()

    def _tell(self) -> None:
        if self._incoming and self._ready is not None:
            self._loop.call_soon(self._ready)
            self._ready = None

    def recv(self, count: int, flags: int = 0) -> bytes:
        assert flags == socket.MSG_PEEK
        if not self._incoming:
            raise BlockingIOError
        return bytes(self._incoming[:count])
