"""Listening sockets: opened for an address, and what is accepted on them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from asyncdicom.address import Address

__all__ = ["accept", "bind"]

log = logging.getLogger("asyncdicom.server")

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def bind(address: Address, reuse_port: bool) -> list[socket.socket]:
    """Open a socket for each address that the host stands for, on one port; raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if where[1] == 0 and len(sockets) > 1:  # all families on one free port
                where = (where[0], sockets[0].getsockname()[1], *where[2:])
            listener.bind(where)
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise OSError(
            error.errno, f"cannot listen on {address.host}:{address.port}: {error.strerror}"
        ) from None
    return sockets


async def accept(listener: socket.socket, take: Callable[[socket.socket, str], None]) -> None:
    """Give each connection, and the host that it comes from, to `take`; until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, address = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                log.debug("accept: %s", error)  # the peer was gone before it was accepted
                await asyncio.sleep(0)
                continue
            log.error("cannot accept connections now: %s", error.strerror)
            await asyncio.sleep(0.2)
            continue
        take(connection, str(address[0]) if isinstance(address, tuple) else "?")
        await asyncio.sleep(0)  # a flood of them must not hold up the others
