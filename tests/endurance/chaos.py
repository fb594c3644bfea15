"""A proxy that is a bad network: it delays, dribbles, resets, half-closes and swallows at any byte."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

KINDS = ("none", "delay", "dribble", "reset", "half-close", "blackhole")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Fault(NamedTuple):
    """What is wrong with one connection: in which direction, and for some kinds from which byte on."""

    kind: str
    to_server: bool
    at: int


class Chaos:
    """One fault for each connection. ``delivered``: what was given to each client, to the last byte."""

    def __init__(self, port: int, seed: int, largest: int) -> None:
        self.faults: Counter[str] = Counter()
        self.delivered: list[bytearray] = []
        self.port = 0
        self._target = port
        self._random = random.Random(seed)
        self._largest = largest
        self._connections: set[asyncio.Task[None]] = set()

    def _fault(self) -> Fault:
        at = int(self._largest ** self._random.random())  # each order of magnitude is as likely
        fault = Fault(self._random.choice(KINDS), self._random.random() < 0.5, at)
        self.faults[fault.kind] += 1
        return fault

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._connect(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault()
        delivered = bytearray()
        self.delivered.append(delivered)
        writers = [writer]
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(to_server)
            up, down = (fault, None) if fault.to_server else (None, fault)
            await asyncio.gather(
                self._pump(reader, to_server, up, bytearray()),
                self._pump(from_server, writer, down, delivered),
            )
        except OSError:  # a reset, by us or by them
            for each in writers:
                each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        finally:
            for each in writers:
                each.transport.abort()
            for each in writers:
                with suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
        passed: bytearray,
    ) -> None:
        kind = fault.kind if fault is not None else "none"
        while data := await reader.read(65536):
            if kind == "delay":
                await asyncio.sleep(self._random.random() * 0.02)
            if kind in ("reset", "half-close", "blackhole") and fault is not None:
                ends = len(passed) + len(data) > fault.at
                data = data[: fault.at - len(passed)]
            else:
                ends = False
            for piece in self._pieces(data, kind):
                passed += piece
                writer.write(piece)
                await writer.drain()
            if ends:
                await self._end(reader, writer, kind)
                return
        with suppress(OSError):
            writer.write_eof()

    def _pieces(self, data: bytes, kind: str) -> list[bytes]:
        if kind != "dribble":
            return [data]
        pieces, start = [], 0
        while start < len(data):
            end = start + self._random.choice((1, 1, 5, 6, 7, 1000, 10_000))
            pieces.append(data[start:end])
            start = end
        return pieces

    @staticmethod
    async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> None:
        if kind == "reset":
            raise ConnectionResetError
        if kind == "half-close":
            writer.write_eof()
        while await reader.read(65536):  # whatever else comes is never seen again
            pass

    async def close(self) -> None:
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


@asynccontextmanager
async def chaos(port: int, *, seed: int, largest: int) -> AsyncIterator[Chaos]:
    """Stand before ``port`` of this machine; faults come within the first ``largest`` bytes."""
    made = Chaos(port, seed, largest)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
