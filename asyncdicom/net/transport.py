"""The socket end of one association: received bytes go up as views, gather lists go out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from asyncdicom.net.blocks import block_pool

if TYPE_CHECKING:
    from asyncdicom.net.disk import Buffer

__all__ = ["Receiver", "Transport", "WatchedTransport", "Watcher"]

# Writing waits from here on until the transport has handed everything to the kernel, whose own
# buffer keeps the wire busy meanwhile.
_HIGH_WATER = 1 << 18
_MOST_AT_ONCE = 64  # small messages that wait for each other
# A peer that vanished without a word (a power cut, a NAT that forgot us) is noticed after two minutes.
_KEEPALIVE = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]
# CVE-2024-12254: in these versions asyncio's writelines() never says that the peer takes no more.
_UNPAUSED_WRITELINES = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_GONE = (b"\x07", b"\x08")  # the states CLOSE and CLOSE-WAIT (linux/tcp_states.h)


class Receiver(Protocol):
    """What stands above the transport (`net.channel.Channel`)."""

    def connection_made(self) -> None:
        """The connection stands."""

    def bytes_received(self, view: memoryview) -> None:
        """The peer sent these bytes."""

    def eof_received(self) -> bool:
        """The peer sends no more; True to go on writing to it."""

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""

    def writing_paused(self) -> None:
        """The peer takes no more for now."""


class Transport(asyncio.BufferedProtocol):
    """An asyncio protocol that receives into the event loop's block and has a gate for writing."""

    __slots__ = (
        "_acknowledging",
        "_close_timeout",
        "_cut",
        "_drained",
        "_joins",
        "_loop",
        "_lost",
        "_peer",
        "_pool",
        "_receiver",
        "_soon",
        "_transport",
        "is_tls",
        "is_writing_paused",
    )

    def __init__(
        self, receiver: Receiver, loop: asyncio.AbstractEventLoop, close_timeout: float | None = None
    ) -> None:
        self._receiver = receiver
        self._loop = loop
        self._close_timeout = close_timeout
        self._cut: asyncio.TimerHandle | None = None
        self._pool = block_pool(loop)
        self._transport: asyncio.Transport | None = None
        # A proxy's caller, or what the event loop forgets when TLS ends.
        self._peer: tuple[str, int] | None = None
        self.is_tls = False
        self._drained: asyncio.Future[None] | None = None
        self.is_writing_paused = False  # the peer has to read before more should be written
        self._lost = False
        self._acknowledging: socket.socket | None = None
        self._soon: list[bytes] = []  # small messages that leave together

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport = cast("asyncio.Transport", transport)
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        if self.is_tls:
            self.speaks_for(self.peer)
        # Each write makes a TLS record: 12 bytes of header deserve none of their own.
        own_loop = type(transport).__module__.startswith("asyncio.")
        self._joins = self.is_tls or (own_loop and _UNPAUSED_WRITELINES)
        transport.set_write_buffer_limits(high=_HIGH_WATER, low=0)
        self._tune_socket(transport.get_extra_info("socket"))
        self._receiver.connection_made()

    def _tune_socket(self, tcp: Any) -> None:
        # asyncio leaves TCP_NODELAY off on some accepted sockets; an AF_UNIX socket has neither option.
        if tcp is None or tcp.family not in (socket.AF_INET, socket.AF_INET6):
            return
        with contextlib.suppress(OSError):
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
            if _QUICKACK is not None:
                # The event loop's own object may make a new socket object for each call (uvloop does).
                self._acknowledging = socket.socket(tcp.family, tcp.type, tcp.proto, tcp.fileno())

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._pool.tail()

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._receiver.bytes_received(self._pool.take(nbytes))

    def eof_received(self) -> bool:
        """See `asyncio.BaseProtocol`."""
        # Half a TLS connection cannot be kept open.
        return self._receiver.eof_received() and not self.is_tls

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._drained = self._loop.create_future()
        self.is_writing_paused = True
        self._receiver.writing_paused()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        self.is_writing_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._lost = True
        self._forget_descriptor()
        if self._cut is not None:
            self._cut.cancel()
        self.resume_writing()
        self._receiver.connection_lost(exc)

    # what the channel calls

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone."""
        return self._lost

    @property
    def is_closed_by_peer(self) -> bool:
        """Whether the peer has closed its half or all, perhaps behind what is not read yet (Linux only)."""
        if self._acknowledging is None or _TCP_INFO is None:
            return False
        try:
            return self._acknowledging.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1) in _GONE
        except OSError:
            return False

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def peer(self) -> tuple[str, int]:
        """The address of the peer, or of the caller that a proxy speaks for."""
        if self._peer is not None:
            return self._peer
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("?", 0)

    def speaks_for(self, peer: tuple[str, int]) -> None:
        """Whatever the connection says itself, this is who calls."""
        self._peer = peer

    def get_extra_info(self, name: str) -> object:
        """See `asyncio.BaseTransport.get_extra_info`."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Hand a gather list to the event loop; views in it must not change afterwards."""
        if self._transport is None or self._lost or self._transport.is_closing():
            return
        if self._soon:
            buffers = [b"".join(self._soon), *buffers]
            self._soon.clear()
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        elif self._joins:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)

    def write_soon(self, data: bytes) -> None:
        """Write when the event loop has done what is due now: so several small messages leave as one."""
        if not self._soon:
            self._loop.call_soon(self._flush)
        self._soon.append(data)
        if len(self._soon) >= _MOST_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._soon:
            self.write(())

    def acknowledge_now(self) -> None:
        """Have the kernel acknowledge what was received, although more has to come before we answer.

        A peer that leaves Nagle's algorithm on waits for that ACK, 40 ms and more, before it sends the
        tail of a message. The kernel forgets the option, so it is set each time.
        """
        if self._acknowledging is not None and _QUICKACK is not None:
            with contextlib.suppress(OSError):
                self._acknowledging.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _forget_descriptor(self) -> None:
        # From here on the event loop closes it, and it may become another connection's.
        if self._acknowledging is not None:
            self._acknowledging.detach()
            self._acknowledging = None

    async def drain(self) -> None:
        """Wait until everything written was taken by the kernel, or the connection is lost."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    def pause_reading(self) -> None:
        """Let TCP hold the peer back."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, *, is_over: bool = False) -> None:
        """Close when what was written is on its way; a peer that does not take it is cut off in time.

        `is_over`: the peer has taken it all, and has nothing more to say. Then its close_notify is not waited
        for, which would cost a round trip (RFC 8446 6.1).
        """
        if self._transport is None or self._lost or self._cut is not None:
            return
        self._flush()
        self._forget_descriptor()
        self._transport.close()
        if is_over and self.is_tls:  # our close_notify leaves in this turn of the event loop, or in the next
            self._loop.call_soon(self._loop.call_soon, self._transport.abort)
        if self._close_timeout is not None:
            self._cut = self._loop.call_later(self._close_timeout, self._transport.abort)

    def abort(self) -> None:
        """Close now, whatever was written."""
        if self._transport is not None:
            self._forget_descriptor()
            self._transport.abort()


class Watcher(Protocol):
    """Who is shown the bytes of a connection (`tracing.tap`); it must not raise, nor keep them."""

    def passed(self, sent: bool, data: bytes | memoryview, /) -> None:
        """We have sent or received these bytes."""

    def ended(self, error: Exception | None, /) -> None:
        """The connection is gone."""


class WatchedTransport(Transport):
    """A transport that shows what passes, so that others need not ask whether anybody looks.

    `watch` gives the watcher, from the addresses of this side and of the peer, when the connection stands.
    """

    __slots__ = ("_watch", "_watcher")

    def __init__(
        self,
        receiver: Receiver,
        loop: asyncio.AbstractEventLoop,
        close_timeout: float | None,
        watch: Callable[[tuple[str, int], tuple[str, int]], Watcher],
    ) -> None:
        super().__init__(receiver, loop, close_timeout)
        self._watch = watch
        self._watcher: Watcher | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        name = transport.get_extra_info("sockname")
        ours = (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("?", 0)
        peer = transport.get_extra_info("peername")
        theirs = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("?", 0)
        self._watcher = self._watch(ours, theirs)
        super().connection_made(transport)

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        view = self._pool.take(nbytes)
        if self._watcher is not None:
            self._watcher.passed(False, view)
        self._receiver.bytes_received(view)

    def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Transport.write`."""
        if self._watcher is not None and not self._lost and (self._soon or buffers):
            self._watcher.passed(True, b"".join([*self._soon, *buffers]))
        super().write(buffers)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        watcher, self._watcher = self._watcher, None
        super().connection_lost(exc)
        if watcher is not None:
            watcher.ended(exc)
