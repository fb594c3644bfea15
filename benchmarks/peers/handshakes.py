"""TLS handshakes, in workers: a server, a crowd that comes all at once, and who sends C-ECHO meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence

from asyncdicom import Limits, Server, Timeouts, associate, serve
from benchmarks.measure import Sample

_servers: list[Server] = []  # they live as long as the worker
Took = tuple[float, float]  # when a C-ECHO was due, and how long it has taken since
_echoes: list[tuple[asyncio.Task[None], list[Took]]] = []
_INTERVAL = 0.005
_watching: list[asyncio.Task[None]] = []
_computed: list[tuple[float, float]] = []  # when, and how much


async def answer(certificate: str, maximum: int) -> int:
    """Serve TLS; gives the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = await serve(
        "RECEIVER@127.0.0.1:0",
        ssl=context,
        limits=Limits(maximum_tls_handshakes=maximum),
        timeouts=Timeouts(idle=None),
    )
    _servers.append(server)
    _watching.append(asyncio.ensure_future(_watch()))
    return server.port


async def _watch() -> None:
    """Note each millisecond, or when it comes to it, how long this thread has computed since."""
    before = time.thread_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.thread_time()
        _computed.append((time.perf_counter(), now - before))
        before = now


def computed(between: Sequence[tuple[float, float]]) -> Sample:
    """Give how much the server computes in one go, in ms: what somebody who asks meanwhile waits for."""
    goes = sorted(cpu for at, cpu in _computed if any(start <= at <= end for start, end in between))
    _computed.clear()
    left = sum(goes) * 0.01  # a long go is met by more of those who ask
    while goes and left > goes[-1]:
        left -= goes.pop()
    return {"go_p99_ms": goes[-1] * 1e3}


async def start_echo(port: int, authority: str) -> None:
    """Send a C-ECHO request each 5 ms, until `stop_echo`; one that is late counts from when it was due."""
    association = await associate(
        f"RECEIVER@127.0.0.1:{port}", ssl=ssl.create_default_context(cafile=authority)
    )
    took: list[Took] = []

    async def echo() -> None:
        due = time.perf_counter()
        try:
            while True:
                await asyncio.sleep(due - time.perf_counter())
                await association.c_echo()
                took.append((due, time.perf_counter() - due))
                due += _INTERVAL
        finally:
            await association.abort()

    _echoes.append((asyncio.ensure_future(echo()), took))


async def stop_echo(between: Sequence[tuple[float, float]] | None = None) -> Sample:
    """Give how long the C-ECHOs have taken, in ms; of those that were due in one of the spans, if given."""
    task, took = _echoes.pop()
    task.cancel()
    await asyncio.wait([task])
    spans = [(0.0, float("inf"))] if between is None else between
    seconds = sorted(seconds for due, seconds in took if any(start <= due <= end for start, end in spans))
    last = len(seconds) - 1
    return {
        "echoes": len(seconds),
        "p50_ms": seconds[last // 2] * 1e3,
        "p99_ms": seconds[round(last * 0.99)] * 1e3,
        "max_ms": seconds[last] * 1e3,
    }


async def rush(port: int, authority: str, count: int, times: int) -> list[tuple[float, float]]:
    """Connect `count` times, then send every ClientHello at once and finish; gives start and end of each."""
    context = ssl.create_default_context(cafile=authority)
    loop = asyncio.get_running_loop()
    spans = []
    for _ in range(times):
        clients = [_Client(context) for _ in range(count)]
        await asyncio.gather(*(loop.sock_connect(client.socket, ("127.0.0.1", port)) for client in clients))
        await asyncio.sleep(0.1)  # all are accepted
        start = time.perf_counter()
        for client in clients:
            client.socket.send(client.hello)
        await asyncio.gather(*(client.finish(loop) for client in clients))
        spans.append((start, time.perf_counter()))
    return spans


class _Client:
    """A handshake that was computed in advance as far as it can be."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        self._is_done()
        self.hello = self._outgoing.read()

    def _is_done(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def finish(self, loop: asyncio.AbstractEventLoop) -> None:
        with self.socket:
            while not self._is_done():
                received = await loop.sock_recv(self.socket, 1 << 16)
                if not received:
                    raise RuntimeError("the server closed in the middle of a handshake")
                self._incoming.write(received)
            await loop.sock_sendall(self.socket, self._outgoing.read())
            await loop.sock_recv(self.socket, 1 << 16)  # the session tickets: the server is done, too
