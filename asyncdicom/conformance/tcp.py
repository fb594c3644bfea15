"""The wire suite over TCP: cases of `asyncdicom.conformance` played with any peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable
from struct import pack

from asyncdicom.address import Address
from asyncdicom.conformance.case import Case, Do, Verdict
from asyncdicom.conformance.play import Play, play

__all__ = ["play_with_acceptor", "play_with_requestor"]

_READ_SIZE = 1 << 16
_GAP = 0.001  # seconds between two pieces, lest they travel in one segment

Connect = Callable[[], Awaitable["_Connection"]]


class _Connection:
    """One TCP connection to or from the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        opened = writer.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        """Send; a peer that has closed meanwhile does not matter."""
        if not self._writer.is_closing():
            self._writer.write(data)

    async def read(self, patience: float) -> bytes | None:
        """What comes next: no bytes at the end, None for nothing within `patience` seconds."""
        try:
            async with asyncio.timeout(patience):
                return await self._reader.read(_READ_SIZE)
        except TimeoutError:
            return None
        except OSError:
            return b""

    def half_close(self) -> None:
        """Send no more, but read on."""
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            self._writer.write_eof()

    async def reset(self) -> None:
        """Vanish: the peer gets a RST, or at least the end of the connection."""
        opened = self._writer.get_extra_info("socket")
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        self._writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        """Close, whatever was not sent yet."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _perform(playing: Play, connection: _Connection, connect: Connect, patience: float) -> Verdict:
    """Do what the player says until it has made up its mind."""
    answer: bytes | None = None
    wrote = False
    try:
        while True:
            try:
                action = playing.send(answer)
            except StopIteration as stop:
                verdict: Verdict = stop.value
                return verdict
            answer = b""
            if isinstance(action, bytes):
                if wrote:
                    await asyncio.sleep(_GAP)
                connection.write(action)
                wrote = True
                continue
            wrote = False
            match action:
                case Do.READ:
                    answer = await connection.read(patience)
                case Do.HALF_CLOSE:
                    connection.half_close()
                case Do.RESET:
                    await asyncio.sleep(_GAP)  # for the peer to see what was sent before
                    await connection.reset()
                case Do.RECONNECT:
                    try:
                        connection = await connect()
                    except OSError:
                        answer = None
    finally:
        await connection.close()


async def play_with_acceptor(
    case: Case,
    address: Address,
    *,
    calling_ae_title: str = "CONFORMANCE",
    patience: float = 1.0,
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
) -> Verdict:
    """Play a case with the server at `address`; `patience` is how long its reaction may take, in seconds.

    Raises OSError if there is no connection.
    """

    async def connect() -> _Connection:
        hostname = (server_hostname or address.host) if ssl is not None else None
        opened = asyncio.open_connection(address.host, address.port, ssl=ssl, server_hostname=hostname)
        async with asyncio.timeout(max(patience, 5.0)):
            return _Connection(*await opened)

    playing = play(case, called=address.ae_title, calling=calling_ae_title)
    return await _perform(playing, await connect(), connect, patience)


async def play_with_requestor(
    case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, patience: float = 1.0
) -> Verdict:
    """Play a case with a client that has connected: one that sends a C-ECHO and releases."""

    async def connect() -> _Connection:
        raise ConnectionError("clients cannot be called")

    playing = play(case, called="", calling="")
    return await _perform(playing, _Connection(reader, writer), connect, patience)
