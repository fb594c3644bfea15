"""Listening sockets, and what keeps them from accepting."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from helpers.peer import eventually

from asyncdicom.address import Address
from asyncdicom.net import listener
from asyncdicom.net.listener import Acceptor, bind

ANY_PORT = Address("SCP", "127.0.0.1", 0)


class Failing(socket.socket):
    """A listening socket whose first `accept` fails with `error`."""

    error: int | None = None

    def accept(self) -> tuple[socket.socket, object]:
        error, self.error = self.error, None
        if error is not None:
            raise OSError(error, "no")
        return super().accept()


@asynccontextmanager
async def accepting(error: int) -> AsyncIterator[tuple[Failing, list[str]]]:
    """Give a socket that fails once, and the hosts whose connections were taken."""
    hosts: list[str] = []

    def take(connection: socket.socket, host: str) -> None:
        hosts.append(host)
        connection.close()

    failing = Failing(socket.AF_INET, socket.SOCK_STREAM)
    failing.error = error
    failing.bind(("127.0.0.1", 0))
    acceptor = Acceptor(failing, take)
    try:
        yield failing, hosts
    finally:
        acceptor.close()


async def connect(listening: socket.socket) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection(*listening.getsockname())
    return writer


async def test_a_port_that_is_taken_is_told() -> None:
    [taken] = await bind(ANY_PORT, reuse_port=False)
    taken.listen()
    port = taken.getsockname()[1]
    with taken, pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}") as raised:
        await bind(Address("SCP", "127.0.0.1", port), reuse_port=False)
    assert raised.value.errno == errno.EADDRINUSE


async def test_a_port_may_be_shared() -> None:
    [first] = await bind(ANY_PORT, reuse_port=True)
    with first:
        port = first.getsockname()[1]
        [second] = await bind(Address("SCP", "127.0.0.1", port), reuse_port=True)
        with second:
            assert second.getsockname() == first.getsockname()


async def test_without_descriptors_accepting_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PAUSE", 0.001)
    async with accepting(errno.EMFILE) as (listening, hosts):
        writer = await connect(listening)
        await eventually(lambda: hosts)
        writer.close()
    assert hosts == ["127.0.0.1"]


async def test_who_closes_while_accepting_pauses_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PAUSE", 3600.0)
    async with accepting(errno.ENFILE) as (listening, hosts):
        writer = await connect(listening)
        await eventually(lambda: listening.error is None)
        writer.close()
    assert hosts == []


async def test_a_peer_that_is_gone_before_it_is_accepted_is_no_matter() -> None:
    async with accepting(errno.ECONNABORTED) as (listening, hosts):
        writer = await connect(listening)
        await eventually(lambda: hosts)
        writer.close()
    assert hosts == ["127.0.0.1"]
