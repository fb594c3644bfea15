"""Listening sockets: opened for an address, and what is accepted on them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import cast

from asyncdicom.address import Address
from asyncdicom.net.handing import HandedListener
from asyncdicom.net.networks import Listener, networks
from asyncdicom.telemetry.log import Log

__all__ = ["Acceptor", "accept_from", "bind"]

log = Log("asyncdicom.server")

_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BACKLOG = 1024
_PAUSE = 0.2  # seconds until descriptors may be there again


async def bind(address: Address, reuse_port: bool) -> list[socket.socket]:
    """Open a socket for each address that the host stands for, on one port; raises OSError."""
    network = networks.get(address.host)
    if network is not None:
        return cast("list[socket.socket]", [network.listen(address.port)])
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
                # "::" is every address, also those of IPv4; a name has its own socket for each family.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
            if where[1] == 0 and len(sockets) > 1:  # all families on one free port
                where = (where[0], sockets[0].getsockname()[1], *where[2:])
            listener.bind(where)
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise OSError(error.errno, f"cannot listen on {address.place}: {error.strerror}") from None
    return sockets


def accept_from(
    listener: socket.socket | Listener, take: Callable[[socket.socket, str], None]
) -> Acceptor | Listener:
    """Give each connection, and the host that it comes from, to `take`, until that is closed."""
    if isinstance(listener, Listener):
        listener.begin(take)
        return listener
    return Acceptor(listener, take)


class Acceptor:
    """Gives each connection on a listening socket, and the host that it comes from, to `take`.

    Not with `sock_accept`: who is cancelled while that has just accepted a connection loses it.
    """

    __slots__ = ("_is_closed", "_listener", "_loop", "_pause", "_take")

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket, str], None]) -> None:
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._is_closed = False
        self._listener = listener
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> bool:
        # One at a time: a flood of them must not hold up the others.
        try:
            connection, address = self._listener.accept()
        except OSError as error:
            if isinstance(self._listener, HandedListener) and self._listener.is_over:
                self._loop.remove_reader(self._listener)  # it would tell of that for ever
            elif error.errno in _NO_DESCRIPTORS:
                log.error("cannot accept connections now: %s", error.strerror)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(_PAUSE, self._begin)
            else:
                log.debug("accept: %s", error)  # the peer was gone before it was accepted
            return not isinstance(error, BlockingIOError) and error.errno not in _NO_DESCRIPTORS
        connection.setblocking(False)
        self._take(connection, str(address[0]) if isinstance(address, tuple) else "?")
        return True

    def finish(self) -> None:
        """Take those that have been connected by now, and then no more.

        Nobody is turned away whom the system has let in already; what was handed to us, others are handed.
        """
        if isinstance(self._listener, HandedListener):
            self._listener.leave()
            return
        if self._is_closed:
            return
        for _ in range(_BACKLOG):
            if not self._accept():
                break
        self.close()

    def close(self) -> None:
        """Accept no more, and close the socket (idempotent)."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
