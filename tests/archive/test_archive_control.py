"""The control channel: who may use it, what it answers, and what it costs when somebody is stuck."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.control import MAXIMUM_LINE, Control, ControlError, NotServed, _free_path, ask

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


@asynccontextmanager
async def controlled(root: Path, **options: Any) -> AsyncIterator[Archive]:
    async with Archive(root, durability="none") as archive, Control(archive, **options):
        yield archive


@asynccontextmanager
async def connected(root: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(root / "control")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait for the other side to close."""
    with suppress(ConnectionResetError):
        assert await reader.read() == b""


async def answered(root: Path, method: str, **arguments: Any) -> list[Any]:
    return [dict(line) async for line in ask(str(root), method, arguments)]


async def test_it_answers(tmp_path: Path, tools: Any) -> None:
    reloads: list[None] = []

    async def reload() -> None:
        reloads.append(None)

    async with controlled(tmp_path, on_reload=reload) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0xB007
        (counts,) = await answered(tmp_path, "stat")
        assert (counts["instance"], counts["quarantine"], counts["conflicts"]) == (1, 1, 1)
        assert (await answered(tmp_path, "verify"))[-1] == {"verified": 2, "bad": 0}
        assert (await answered(tmp_path, "reindex"))[-1]["counts"]["instance"] == 1
        listed, total = await answered(tmp_path, "quarantine list")
        assert total["quarantined"] == 1
        assert (await answered(tmp_path, "quarantine accept", names=[listed["name"]]))[-1] == {
            "accepted_all": 1
        }
        assert set((await answered(tmp_path, "reload"))[0]) == {"reloaded"}
    assert reloads == [None]
    assert not (tmp_path / "control").exists()
    with pytest.raises(NotServed):
        await answered(tmp_path, "stat")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
async def test_it_is_for_the_user_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        before = os.umask(umask)
        try:
            async with Control(archive):
                assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o600
        finally:
            os.umask(before)


async def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "control"))
    with pytest.raises(NotServed):
        await answered(tmp_path, "stat")
    async with controlled(tmp_path):
        assert len(await answered(tmp_path, "stat")) == 1


async def test_one_that_hangs_is_not_taken_for_gone(tmp_path: Path) -> None:
    """Its queue of connections is full: whoever thinks that nobody serves would open the archive himself."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control-1"))
        listener.listen(0)
        waiting = []
        try:
            with suppress(BlockingIOError):
                while True:
                    waiting.append(socket.socket(socket.AF_UNIX))
                    waiting[-1].setblocking(False)
                    waiting[-1].connect(str(tmp_path / "control-1"))
            (tmp_path / "control").symlink_to("control-1")
            with pytest.raises(ControlError, match="takes no connection: it hangs, or is stopped"):
                await answered(tmp_path, "stat")
            assert _free_path(str(tmp_path / "control"), False) == str(tmp_path / f"control-{os.getpid()}")
            assert (tmp_path / "control-1").is_socket()
        finally:
            for each in waiting:
                each.close()


async def test_the_socket_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("asyncdicom.archive.control.connect_local", refuse)  # root may connect to any
    with pytest.raises(ControlError, match="is for the user of the process that serves it, and root"):
        await answered(tmp_path, "stat")


async def test_what_is_no_socket_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "control").write_text("mine")
    async with controlled(tmp_path):
        assert "no control channel" in caplog.text
    assert (tmp_path / "control").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="a long path needs /proc")
async def test_a_long_path(tmp_path: Path) -> None:
    root = tmp_path / ("a" * 200) / ("b" * 200)
    async with controlled(root):
        assert len(await answered(root, "stat")) == 1
    assert not (root / "control").exists()


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b'"stat"\n',
        b'{"method": ["stat"]}\n',
        b'{"method": "__init__"}\n',
        b'{"method": "reload"}\n',
        b'{"method": "stat", "arguments": []}\n',
        b'{"method": "verify", "arguments": {"bytes_per_second": -1}}\n',
        b'{"method": "quarantine purge", "arguments": {"names": "*"}}\n',
        b'{"method": "quarantine purge", "arguments": {"names": [[]]}}\n',
        b'{"method": "quarantine accept", "arguments": {"names": ["../x"]}}\n',
        b"[" * 30000 + b"\n",
        b"\xff\xfe\n",
    ],
)
async def test_what_is_no_request_is_answered(tmp_path: Path, request_line: bytes) -> None:
    async with controlled(tmp_path):
        async with connected(tmp_path) as (reader, writer):
            writer.write(request_line)
            assert set(json.loads(await reader.readline())) == {"error"}
            assert await reader.read() == b""


@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_the_longest_request(tmp_path: Path, over: int) -> None:
    async with controlled(tmp_path), connected(tmp_path) as (reader, writer):
        request_line = b'{"method": "stat"}'
        writer.write(request_line.rjust(MAXIMUM_LINE + over) + b"\n")
        if over <= 0:
            assert set(json.loads(await reader.readline())) == {"result"}
        await ended(reader)


async def test_a_line_without_an_end_is_bounded(tmp_path: Path) -> None:
    async with controlled(tmp_path):
        async with connected(tmp_path) as (reader, writer):
            writer.write(b"x" * (4 * MAXIMUM_LINE))
            await ended(reader)
        assert len(await answered(tmp_path, "stat")) == 1


async def test_connections_are_bounded_and_a_stuck_one_holds_nobody_up(tmp_path: Path) -> None:
    async with Archive(tmp_path, durability="none") as archive, Control(archive) as control:
        async with AsyncExitStack() as stuck:
            for _ in range(7):
                await stuck.enter_async_context(connected(tmp_path))
            assert len(await answered(tmp_path, "stat")) == 1
            while len(control._connections) > 7:
                await asyncio.wait(control._connections, return_when=asyncio.FIRST_COMPLETED)
            await stuck.enter_async_context(connected(tmp_path))
            for _ in range(4):
                reader, _ = await stuck.enter_async_context(connected(tmp_path))
                await ended(reader)


async def test_the_end_does_not_wait_for_a_stuck_one(tmp_path: Path) -> None:
    async with AsyncExitStack() as stuck:
        async with controlled(tmp_path):
            reader, _ = await stuck.enter_async_context(connected(tmp_path))
            assert len(await answered(tmp_path, "stat")) == 1
        await ended(reader)


class Gate(FileCalls):
    """Reads wait, when they are told to."""

    def __init__(self) -> None:
        self.is_shut = threading.Event()
        self.has_come = threading.Event()
        self.opening = threading.Event()

    def read(self, descriptor: int, size: int) -> bytes:
        if self.is_shut.is_set():
            self.has_come.set()
            self.opening.wait(60)
        return super().read(descriptor, size)


async def test_who_goes_away_ends_the_request(tmp_path: Path, tools: Any) -> None:
    calls = Gate()
    async with Archive(tmp_path, durability="none", files=calls) as archive, Control(archive) as control:
        for number in range(3):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000
        await archive.reindex()
        calls.is_shut.set()
        asking = asyncio.ensure_future(answered(tmp_path, "verify"))
        await asyncio.to_thread(calls.has_come.wait, 60)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        calls.opening.set()
        while control._connections:
            await asyncio.wait(control._connections)
        assert [t for t in threading.enumerate() if t.name.startswith("asyncdicom-verify")] == []


async def test_an_error_of_a_method_is_one_line(tmp_path: Path) -> None:
    async with controlled(tmp_path):
        with pytest.raises(ControlError, match="no file in quarantine"):
            await answered(tmp_path, "quarantine accept", names=["0" * 32])


async def test_what_is_closed_early_is_no_error(tmp_path: Path, tools: Any) -> None:
    async with controlled(tmp_path) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        async with aclosing(ask(str(tmp_path), "verify", {})) as lines:
            async for _ in lines:
                break
        assert len(await answered(tmp_path, "stat")) == 1
