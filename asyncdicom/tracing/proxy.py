"""A proxy that passes on every byte as it is, and shows what passes to a `Recorder`."""

from __future__ import annotations

import asyncio
import contextlib
import time

from asyncdicom.address import Address
from asyncdicom.telemetry.log import Log
from asyncdicom.tracing.recorder import Recorder, Watched

__all__ = ["Proxy"]

log = Log("asyncdicom.trace")

_CHUNK = 1 << 16  # bytes; so much waits in each direction, and then TCP holds the sender back
_MOST = 256  # connections at the same time


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
        self._server: asyncio.Server | None = None
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
        listen = self._listen
        self._server = await asyncio.start_server(self._take, listen.host, listen.port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def serve_forever(self) -> None:
        """Wait until it is closed, or has had its number of connections."""
        await asyncio.wait([self._done])

    async def close(self) -> None:
        """Stop listening and break off what there is (idempotent)."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if not self._done.done():
            self._done.set_result(None)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _MOST or self._left == 0 or self._done.done():
            log.warning("a connection is closed: there are too many")
            writer.transport.abort()
            return
        if self._left is not None:
            self._left -= 1
        task = asyncio.get_running_loop().create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection was broken off", exc_info=error)
        if self._left == 0 and not self._tasks and not self._done.done():
            self._done.set_result(None)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target
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
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _place(writer: asyncio.StreamWriter) -> tuple[str, int]:
    name = writer.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("?", 0)
