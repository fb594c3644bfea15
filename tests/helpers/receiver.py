"""A receiver of POSTs, for the tests of the webhook: answers with the statuses that it is given."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Receiver:
    def __init__(self, statuses: list[str]) -> None:
        self.port = 0
        self.heads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._statuses = statuses
        self._came = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.splitlines() if line.lower().startswith("content-length:"))
        self.bodies.append(json.loads(await reader.readexactly(int(length.partition(":")[2]))))
        self.heads.append(head)
        status = self._statuses.pop(0) if self._statuses else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        self._came.set()

    async def has(self, number: int) -> None:
        """Wait for so many messages."""
        async with asyncio.timeout(60):
            while len(self.bodies) < number:
                self._came.clear()
                await self._came.wait()


@asynccontextmanager
async def receiving(*statuses: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(statuses))
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0, ssl=context)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
