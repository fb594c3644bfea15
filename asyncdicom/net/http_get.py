"""The smallest HTTP/1.1 server (RFC 9112) for a few pages that machines get: health, readiness, metrics.

One request a connection, GET and HEAD only, no body is ever read. What a client may cost is bounded: the size
of its request, the time it takes, and how many there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple

from asyncdicom.telemetry.log import Log

__all__ = ["Answer", "Page", "Pages"]

_LOG = Log("asyncdicom.server")

_MAXIMUM_HEAD = 8192  # bytes
_CONNECTIONS = 64
_PATIENCE = 10.0  # seconds for a request, and for taking the answer


class Answer(NamedTuple):
    """What a page is at the moment."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Awaitable[Answer]]
"""Makes the answer to a request. What it raises is logged, and answered with 500."""


class Pages:
    """Serves pages by their paths, as a context manager; `port` is the one that it listens on.

    `port` 0 takes a free one. `patience`: seconds that a client has to ask, and to take the answer.
    `connections`: so many at the same time; of more than that, the oldest one that has not asked yet is
    closed, so that who only connects keeps nobody out. Raises OSError where it cannot listen.
    """

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        *,
        patience: float = _PATIENCE,
        connections: int = _CONNECTIONS,
    ) -> None:
        self.host = host
        self.port = port
        self._pages = pages
        self._patience = patience
        self._maximum = connections
        self._connections: dict[asyncio.Task[Any], bool] = {}  # as they came, and whether they have asked
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Pages:
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=_MAXIMUM_HEAD)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= self._maximum:
            silent = (task for task, has_asked in self._connections.items() if not has_asked)
            oldest = next(silent, None) or next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[task] = False
        task.add_done_callback(lambda done: self._connections.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._patience):
                method, answer = await self._answer(reader)
            writer.write(_encoded(answer, with_body=method != "HEAD"))
            async with asyncio.timeout(self._patience):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            pass  # it has gone, or is too slow
        finally:
            with suppress(RuntimeError):  # the loop is closed
                writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "", _failure(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if (task := asyncio.current_task()) in self._connections:
            self._connections[task] = True
        method, _, rest = head.partition(b"\r\n")[0].decode("ascii", "replace").partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return "", _failure(HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            return "", _failure(HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            return method, _failure(HTTPStatus.NOT_FOUND, f"; there are {', '.join(self._pages)}")
        try:
            return method, await page()
        except Exception:
            _LOG.exception("a page could not be made")
            return method, _failure(HTTPStatus.INTERNAL_SERVER_ERROR, "; the log says why")


def _failure(status: HTTPStatus, more: str = "") -> Answer:
    return Answer(f"{status.phrase}{more}\n".encode(), status)


def _encoded(answer: Answer, *, with_body: bool) -> bytes:
    status, allow = answer.status, "Allow: GET, HEAD\r\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n"
        f"{allow if status is HTTPStatus.METHOD_NOT_ALLOWED else ''}"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (answer.body if with_body else b"")
