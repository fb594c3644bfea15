"""The ceiling: the same bytes and the same files over plain sockets, without a protocol."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from pathlib import Path
from typing import cast

from benchmarks import instances
from benchmarks.measure import Measurement, Sample

_BLOCK = 1 << 20
_LENGTH = struct.Struct("<Q")


# Files, blocking: a length, the bytes, and one byte back when the file is written.


def receive(directory: str) -> int:
    """Receive into files with recv_into and pwrite; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, Path(directory)), daemon=True).start()
    return cast("int", listener.getsockname()[1])


def _accept(listener: socket.socket, directory: Path) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_receive_files, args=(connection, directory), daemon=True).start()


def _receive_files(connection: socket.socket, directory: Path) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    block = memoryview(bytearray(_BLOCK))
    number = 0
    with connection:
        while head := connection.recv(_LENGTH.size, socket.MSG_WAITALL):
            (remaining,) = _LENGTH.unpack(head)
            file = os.open(directory / f"{number}.dcm", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
            number += 1
            position = 0
            while remaining:
                count = connection.recv_into(block[: min(remaining, _BLOCK)])
                if not count:
                    break
                written = 0
                while written < count:
                    written += os.pwrite(file, block[written:count], position + written)
                position += count
                remaining -= count
            os.close(file)
            connection.sendall(b"\1")


def send(port: int, folder: str, receiver_pid: int, sendfile: bool) -> Sample:
    """Send the files of a folder one after another, by sendfile, or by read and sendall."""
    paths = instances.files(folder)
    block = memoryview(bytearray(_BLOCK))
    size = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with Measurement(receiver_pid) as it:
            for path in paths:
                file = os.open(path, os.O_RDONLY)
                length = os.fstat(file).st_size
                size += length
                connection.sendall(_LENGTH.pack(length), 0 if not length else socket.MSG_MORE)
                if sendfile:
                    done = 0
                    while done < length:
                        done += os.sendfile(connection.fileno(), file, done, length - done)
                else:
                    while count := os.readv(file, [block]):
                        connection.sendall(block[:count])
                os.close(file)
                if connection.recv(1) != b"\1":
                    raise RuntimeError("the receiver did not confirm a file")
    return it.sample(len(paths), size)


# Ping-pong on the event loop: what a round trip costs without DICOM.


async def answer_pings(size: int, reply_size: int) -> int:
    """Answer each `size` bytes with `reply_size` bytes; gives the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Pong(size, bytes(reply_size)), "127.0.0.1", 0)
    return cast("int", server.sockets[0].getsockname()[1])


async def ping(port: int, count: int, size: int, reply_size: int, receiver_pid: int) -> Sample:
    """Send `count` pings, each when the last one is answered."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    transport, player = await loop.create_connection(
        lambda: _Ping(bytes(size), reply_size, count, done), "127.0.0.1", port
    )
    with Measurement(receiver_pid) as it:
        player.serve()
        await done
    transport.close()
    return it.sample(count)


class _Pong(asyncio.Protocol):
    def __init__(self, size: int, reply: bytes) -> None:
        self._size = size
        self._reply = reply
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _no_delay(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= self._size:
            self._received -= self._size
            self._transport.write(self._reply)


class _Ping(asyncio.Protocol):
    def __init__(self, message: bytes, reply_size: int, count: int, done: asyncio.Future[None]) -> None:
        self._message = message
        self._reply_size = reply_size
        self._left = count
        self._done = done
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _no_delay(self._transport)

    def serve(self) -> None:
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= self._reply_size:
            self._received -= self._reply_size
            self._left -= 1
            if self._left:
                self._transport.write(self._message)
            else:
                self._done.set_result(None)


def _no_delay(transport: asyncio.Transport) -> None:
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
