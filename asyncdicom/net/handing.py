"""Connections that one process accepts and another one serves, and what the two tell each other.

They have the ends of a socket pair: a packet is JSON, and one with a connection has its descriptor. Whoever
serves says when a connection is taken, so that one that was not can be handed to another one, and when it is
closed, so that who accepts knows how many each has.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyncdicom.telemetry.log import Log

__all__ = ["HandedListener", "Handing", "Packet", "can_hand", "handing_pair"]

log = Log("asyncdicom.server")

Packet = Mapping[str, Any]

_LONGEST = 1 << 16  # bytes of a packet
_ANSWER = 5.0  # seconds for the answer of who accepts
_ROOM = 1 << 20  # bytes of packets that were not read


def can_hand() -> bool:
    """Whether the system can hand connections over."""
    return hasattr(socket, "SOCK_SEQPACKET") and hasattr(socket, "SCM_RIGHTS")


def handing_pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
    return ours, theirs


class Handing:
    """The end of who accepts."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end

    def hand(self, connection: socket.socket, number: int) -> None:
        """Hand a connection over; it stays open here until that is closed. Raises ``OSError``."""
        self.tell({"connection": number}, connection)

    def tell(self, packet: Packet, connection: socket.socket | None = None) -> None:
        """Send a packet. Raises ``OSError``."""
        rights = []
        if connection is not None:
            descriptor = array.array("i", [connection.fileno()])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)]
        self.end.sendmsg([json.dumps(packet).encode()], rights)

    def hear(self) -> Packet | None:
        """Give the next packet; None at the end. Raises ``OSError``, ``BlockingIOError`` if there is none."""
        text = self.end.recv(_LONGEST)
        return json.loads(text) if text else None

    def close(self) -> None:
        """End it."""
        self.end.close()


class _Handed(socket.socket):
    """A connection that was handed over: who has accepted it is told when it is closed."""

    _on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it."""
        super().close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class HandedListener(socket.socket):
    """The end of who serves, as a listening socket; ``where``: what the real one is bound to.

    `on_end` is called when nobody accepts any more. When it is closed, or leaves, no more connections come,
    and those that are on their way are handed to another one; what is told is told until the process ends.
    """

    def __init__(self, descriptor: int, where: tuple[Any, ...]) -> None:
        super().__init__(fileno=descriptor)
        self.setblocking(False)
        self._telling = socket.socket(self.family, self.type, self.proto, fileno=os.dup(self.fileno()))
        self._where = where
        self._is_leaving = False
        self.is_over = False
        """Nobody accepts any more."""
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        self._untold: deque[bytes] = deque()  # two for each connection that has ended meanwhile, at most
        self.on_end: Callable[[], None] = lambda: None

    def leave(self) -> None:
        """Take no more connections, and still hear of shares."""
        if not self._is_leaving:
            self._is_leaving = True
            self.tell({"leaving": True})

    def close(self) -> None:
        """Take no more connections, and hear no more."""
        if self.fileno() >= 0:
            self.leave()
        super().close()

    def listen(self, backlog: int = 0, /) -> None:
        """Others listen."""

    def getsockname(self) -> Any:
        """Give what the real one is bound to."""
        return self._where

    def accept(self) -> tuple[socket.socket, Any]:
        """Give the next connection, and where it comes from. Raises ``OSError`` if there is none now."""
        try:
            text, rights, _, _ = self.recvmsg(_LONGEST, socket.CMSG_SPACE(array.array("i").itemsize))
        except BlockingIOError:
            raise
        except OSError:  # who has gone had not read all: an event loop may tell of that once, and no more
            text, rights = b"", []
        if not text:
            if not self.is_over and not self._is_leaving:
                self.on_end()
            self.is_over = True
            raise ConnectionAbortedError("nobody accepts connections any more")
        packet = json.loads(text)
        for level, kind, data in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                [descriptor] = array.array("i", data[: array.array("i").itemsize])
                return self._handed(descriptor, packet)
        asked = self._asked.pop(packet["share"], None)
        if asked is not None and not asked.done():
            asked.set_result(packet["exceeded"])
        raise BlockingIOError("it was no connection")

    def _handed(self, descriptor: int, packet: Packet) -> tuple[socket.socket, Any]:
        os.set_inheritable(descriptor, False)
        if self._is_leaving:  # it was on its way: who accepts has it still
            os.close(descriptor)
            raise BlockingIOError("another process is handed it")
        connection = _Handed(fileno=descriptor)
        number = packet["connection"]
        self.tell({"taken": number})
        connection._on_close = lambda: self.tell({"closed": number})
        try:
            return connection, connection.getpeername()
        except OSError:
            connection.close()
            raise

    async def take_share(self, keys: Sequence[tuple[str, int]]) -> tuple[int, str | None]:
        """Ask for a share of what all processes have together, by what it is of, and how much there is.

        Gives its number, and what is used up, if anything is: then it is none. Raises ``OSError`` and
        ``TimeoutError`` if nobody answers. A cancellation gives it back.
        """
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER):
                self._telling.send(json.dumps({"share": number, "keys": keys}).encode())
                return number, await self._asked[number]
        except BaseException:
            self._asked.pop(number, None)
            self.give_share_back(number)
            raise

    def give_share_back(self, number: int) -> None:
        """Give a share back."""
        self.tell({"back": number})

    def tell(self, packet: Packet) -> None:
        """Send a packet; if nobody hears it any more, nothing depends on it.

        While who accepts is too busy to read, it waits for the next one: a share that was given back and not
        told would be used up for ever.
        """
        self._untold.append(json.dumps(packet).encode())
        try:
            while self._untold:
                self._telling.send(self._untold[0])
                self._untold.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._untold.clear()
