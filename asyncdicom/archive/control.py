"""The control channel of a process that serves an archive: a Unix socket `control` in the archive's folder.

A request is one line of JSON, ``{"method": "verify", "arguments": {...}}``; answers are lines, too:
``{"line": {...}}`` any number of times, the last one being ``{"result": {...}}`` or ``{"error": "..."}``. A
connection is for one request; to end what takes long, close it. Only the user of the process, and root, may
connect.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.operations import METHODS, Line, Method
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.net.local import connect_local, is_own_user, listen_local
from asyncdicom.telemetry.log import Log

__all__ = ["Control", "NotReached", "NotServed", "ask", "ask_at"]

_LOG = Log("asyncdicom.archive")

NAME = "control"
MAXIMUM_LINE = 1 << 16
"""Bytes of a request."""

_CONNECTIONS = 8
_IDLE = 30.0  # seconds for the request, and for the other side to read an answer
_CONNECTING = 5.0  # seconds
# Methods that an archive has only together with something else, by their first word.
_RUN_BY = {
    "route": "the process that serves it has no gateway: start it with qrscp --gateway FILE",
    "top": "the process that serves it is a program of its own: top looks at serve and qrscp",
}


# What a socket says that nobody listens at. All else says nothing about that: a full queue of one that hangs,
# another user's socket.
_NOBODY = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)


class NotServed(Exception):
    """No process serves the folder: its socket is not there, or nobody listens."""


class ControlError(DicomNetworkError):
    """What the serving process has answered."""


class NotReached(ControlError):
    """Somebody has the socket, and takes no connection."""


class Control:
    """The channel of an open archive, as a context manager. It does not keep the archive from serving.

    Where another process serves the archive, too, and has the socket, this one's is ``control-PID``.
    ``is_one_of_several``: so it is for each of those that one has started who has the socket himself.
    ``forward`` gives what is called instead of any method, by its name.
    ``on_reload``: what the method ``reload`` awaits; without any there is no such method. ``methods``: more
    of them, of what runs beside the archive. On Windows, and where the socket cannot be made (that is
    logged), there is no channel.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        on_reload: Callable[[], Awaitable[object]] | None = None,
        methods: Mapping[str, Method] | None = None,
        is_one_of_several: bool = False,
        forward: Callable[[str], Method] | None = None,
    ) -> None:
        self._archive = archive
        self._is_one_of_several = is_one_of_several
        self._path = os.path.join(archive.directory, NAME)
        self._forward = forward
        self._methods: dict[str, Method] = {**METHODS, **(methods or {})}
        if on_reload is not None:
            self._methods["reload"] = _reloading(on_reload)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Control:
        if sys.platform != "win32":
            if self._archive.is_shared:
                self._path = await asyncio.to_thread(_free_path, self._path, self._is_one_of_several)
            try:
                listener = listen_local(self._path)
            except OSError as error:
                _LOG.warning("no control channel at %s: %s", self._path, error.strerror or error)
                return self
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAXIMUM_LINE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        with suppress(OSError):
            os.unlink(self._path)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        if len(self._connections) >= _CONNECTIONS or not is_own_user(connection):
            _LOG.warning("a connection to %s was refused: another user, or too many", self._path)
            writer.transport.abort()
            return
        writer.transport.set_write_buffer_limits(MAXIMUM_LINE)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), _IDLE)
            await self._answer(line, reader, writer)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), _IDLE)
        except (OSError, ValueError, TimeoutError):
            pass  # gone, a line without an end, or stuck
        finally:
            writer.transport.abort()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; that the other side goes away, or says more before the end, ends it."""
        performing = asyncio.ensure_future(self._perform(line, writer))
        watching = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((performing, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            performing.cancel()
            watching.cancel()
            await asyncio.wait((performing, watching))
        if performing.cancelled():
            raise ConnectionError
        performing.result()

    async def _perform(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        last: Line = {}
        try:
            method, arguments = self._understand(line)
            async with aclosing(method(self._archive, arguments)) as lines:
                async for each in lines:
                    if last:
                        await _write(writer, {"line": last})
                    last = each
        except DicomNetworkError as error:
            await _write(writer, {"error": str(error)})
        except Exception as error:
            if isinstance(error, OSError | TimeoutError):
                raise  # the connection
            _LOG.exception("a request of the control channel failed")
            await _write(writer, {"error": f"it failed ({type(error).__name__}); the server's log says more"})
        else:
            await _write(writer, {"result": last})

    def _understand(self, line: bytes) -> tuple[Method, Mapping[str, Any]]:
        try:
            request = json.loads(line)
            method, arguments = request["method"], request.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ControlError("a request is a line of JSON with method and arguments") from None
        if self._forward is not None and isinstance(arguments, dict) and isinstance(method, str):
            return self._forward(method), arguments
        if not isinstance(arguments, dict) or not isinstance(method, str) or method not in self._methods:
            group = method.partition(" ")[0] if isinstance(method, str) else ""
            if group in _RUN_BY and not any(each.startswith(f"{group} ") for each in self._methods):
                raise ControlError(_RUN_BY[group])
            raise ControlError(f"the methods are {', '.join(self._methods)}")
        return self._methods[method], arguments


def _free_path(path: str, is_one_of_several: bool) -> str:
    """Give the path, or if somebody listens there, one of this process; sockets of the dead are removed.

    ``is_one_of_several``: the path is for who has started them.
    """
    for other in _others(path):
        if not _is_served(other):
            with suppress(OSError):
                os.unlink(other)
    return f"{path}-{os.getpid()}" if is_one_of_several or _is_served(path) else path


def _others(path: str) -> list[str]:
    """Give the sockets of processes that serve the same archive beside the first one."""
    folder, name = os.path.split(path)
    found = re.compile(rf"{name}-[0-9]+")
    try:
        return sorted(os.path.join(folder, each) for each in os.listdir(folder) if found.fullmatch(each))
    except OSError:
        return []


def _is_served(path: str) -> bool:
    try:
        connect_local(path, _CONNECTING).close()
    except _NOBODY:
        return False
    except OSError:
        pass
    return True


def _connect(path: str) -> socket.socket:
    """Connect to the first process that serves the archive, or to another one. Raises `OSError`."""
    refused: list[OSError] = []
    for each in (path, *_others(path)):
        try:
            return connect_local(each, _CONNECTING)
        except OSError as error:
            refused.append(error)
    raise next((error for error in refused if not isinstance(error, _NOBODY)), refused[0])


def _reloading(on_reload: Callable[[], Awaitable[object]]) -> Method:
    async def reload(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
        await on_reload()
        yield {"reloaded": "the log says what is in force"}

    return reload


async def _write(writer: asyncio.StreamWriter, line: Line) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), _IDLE)


async def ask(directory: str, method: str, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    """Ask the process that serves a folder; gives what the method gives, the result last.

    Closed early, or cancelled: the request ends there, too. Raises `NotServed` before anything was asked, and
    `DicomNetworkError` with what the process has answered, or when it went away.
    """
    path = os.path.join(os.path.abspath(directory), NAME)  # noqa: ASYNC240 - it asks for the current folder
    async with aclosing(ask_at(path, method, arguments, or_others=True)) as lines:
        async for line in lines:
            yield line


async def ask_at(
    path: str, method: str, arguments: Mapping[str, Any], *, or_others: bool = False
) -> AsyncGenerator[Line, None]:
    """As `ask`, by the path of a socket; ``or_others``: if nobody listens, those beside it."""
    if sys.platform == "win32":
        raise NotServed
    try:
        connection = await asyncio.to_thread(
            _connect if or_others else partial(connect_local, timeout=_CONNECTING), path
        )
    except _NOBODY as error:
        raise NotServed from error
    except PermissionError as error:
        raise NotReached(f"{path} is for the user of the process that serves it, and root") from error
    except OSError as error:
        hangs = f"the process that has {path} takes no connection: it hangs, or is stopped"
        raise NotReached(hangs) from error
    connection.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=1 << 20)
    try:
        writer.write(json.dumps({"method": method, "arguments": arguments}).encode() + b"\n")
        while line := await reader.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise ControlError(answer["error"])
            yield answer["line"] if "line" in answer else answer["result"]
            if "result" in answer:
                return
        raise ControlError("the process that serves the archive went away before its answer")
    except (OSError, ValueError) as error:
        raise ControlError(f"the connection to the serving process failed: {error}") from error
    finally:
        writer.transport.abort()
