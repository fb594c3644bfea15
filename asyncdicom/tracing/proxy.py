"""A proxy that passes on every byte as it is, and shows what passes to a `Recorder`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from asyncdicom.address import Address
from asyncdicom.net.listener import Acceptor, bind
from asyncdicom.telemetry.log import Log
from asyncdicom.tracing.recorder import Recorder, Watched

__all__ = ["Proxy"]

log = Log("asyncdicom.trace")

_CHUNK = 1 << 16  # bytes; so much waits in each direction, and then TCP holds the sender back
_MOST = 256  # connections at the same time
_LINGER = 5.0  # seconds for the last bytes


class Proxy:
    """Listens, and connects each connection with `target`.

    `timeout`: seconds to connect there. `most`: connections after which it ends; None goes on for ever. Its
    methods are those that `running.serve_until_stopped` needs of a server.
    """

    def __init__(
        self,
        listen: Address,
        target: Address,
        recorder: Recorder,
        *,
        timeout: float | None = 10.0,
        most: int | None = None,
    ) -> None:
        self.port = 0
        self._listen = listen
        self._target = target
        self._recorder = recorder
        self._timeout = timeout
        self._left = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._acceptors: list[Acceptor] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def associations(self) -> int:
        """How many connections there are."""
        return len(self._tasks)

    @property
    def drain_timeout(self) -> float:
        """It breaks off at once."""
        return 0.0

    async def start(self) -> None:
        """Listen; raises OSError."""
        listeners = await bind(self._listen, reuse_port=False)
        self.port = listeners[0].getsockname()[1]
        self._acceptors = [Acceptor(listener, self._take) for listener in listeners]

    async def serve_forever(self) -> None:
        """Wait until it is closed, or has had its number of connections."""
        await asyncio.wait([self._done])

    async def drain(self) -> None:
        """Break off, as `close` does: what is asked of the other side may never end."""
        await self.close()

    async def close(self) -> None:
        """Stop listening and break off what there is (idempotent)."""
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if not self._done.done():
            self._done.set_result(None)

    def _stop_listening(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []

    def _take(self, connection: socket.socket, host: str) -> None:
        if len(self._tasks) >= _MOST:
            log.warning("a connection of %s is closed: there are too many", host)
            connection.close()
            return
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._stop_listening()
        task = asyncio.get_running_loop().create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection was broken off", exc_info=error)
        if self._left == 0 and not self._tasks and not self._done.done():
            self._done.set_result(None)

    async def _connect(self, connection: socket.socket) -> None:
        target = self._target
        reader, writer = await asyncio.open_connection(sock=connection, limit=_CHUNK)
        watched = self._recorder.connection(_place(writer), (target.host, target.port))
        failure: BaseException | None = None
        writers = [writer]
        try:
            async with asyncio.timeout(self._timeout):
                there, other = await asyncio.open_connection(target.host, target.port, limit=_CHUNK)
            writers.append(other)
            failure = await _both(_pump(True, reader, other, watched), _pump(False, there, writer, watched))
        except TimeoutError:
            failure = TimeoutError(f"{target.place} does not answer")
        except OSError as error:
            failure = error
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            watched.ended(failure)
            await _close(writers, broken=failure is not None)


async def _both(*pumps: object) -> BaseException | None:
    """Run both directions to their ends; one that fails ends the other. Gives why."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]  # type: ignore[call-overload]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    errors = [task.exception() for task in done]
    return next((error for error in errors if error is not None), None)


async def _pump(
    requestor: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watched: Watched
) -> None:
    while data := await reader.read(_CHUNK):
        watched.passed(requestor, data)
        writer.write(data)
        started = time.perf_counter()
        await writer.drain()
        watched.held(requestor, time.perf_counter() - started)
    watched.closed(requestor)
    if writer.can_write_eof():
        with contextlib.suppress(OSError, RuntimeError):  # the other side may be gone
            writer.write_eof()


async def _close(writers: list[asyncio.StreamWriter], *, broken: bool) -> None:
    """Close both connections; what was broken off on one side is broken off on the other."""
    for writer in writers:
        if broken:
            writer.transport.abort()
        else:
            writer.close()
    for writer in writers:
        with contextlib.suppress(OSError):  # TimeoutError: a peer that does not take the rest is cut off
            async with asyncio.timeout(_LINGER):
                await writer.wait_closed()
        writer.transport.abort()


def _place(writer: asyncio.StreamWriter) -> tuple[str, int]:
    name = writer.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("?", 0)
