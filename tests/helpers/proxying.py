"""A proxy that says who calls: the header of the PROXY protocol, version 2, and what sends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from itertools import chain, repeat

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX, UDP4, NOT_SAID = 0x11, 0x21, 0x31, 0x12, 0x00


def header(host: str, port: int = 50104, *, extra: bytes = b"") -> bytes:
    """What a proxy sends before what this caller sends."""
    family, code = (socket.AF_INET6, TCP6) if ":" in host else (socket.AF_INET, TCP4)
    packed = socket.inet_pton(family, host)
    return made(PROXY, code, packed + bytes(len(packed)) + struct.pack(">HH", port, 104) + extra)


def made(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(rest)) + rest


@contextlib.asynccontextmanager
async def proxy(port: int, *headers: bytes) -> AsyncIterator[int]:
    """A proxy before a port; each connection begins with the next header, or the last. Gives its port."""
    before = chain(headers, repeat(headers[-1]))
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        for byte in next(before):  # as slowly as it can come
            ours.write(bytes([byte]))
        writers.extend((ours, writer))
        pair = [asyncio.ensure_future(copy(reader, ours)), asyncio.ensure_future(copy(theirs, writer))]
        tasks.update(pair)
        await asyncio.wait(pair)

    listening = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
