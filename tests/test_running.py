"""`run` and `serve_until_stopped`: whatever hangs, a signal ends the process."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from helpers.archive_process import CT, data_set
from helpers.peer import ABORTED_BY_USER, EOF, RELEASED, Peer, eventually, fragments, message, store_rq

from asyncdicom import PresentationContext, Request, associate, serve, serve_until_stopped
from asyncdicom.running import hold_reloads
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONTEXT = PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))

# What a program does with an instance, by name.
HANDLERS = {
    "stores": "return 0",
    "hangs in a thread": """
    def hang():
        print("at work", flush=True)
        while True:
            time.sleep(60)
    await asyncio.to_thread(hang)
    return 0""",
    "hangs in the loop": """
    print("at work", flush=True)
    while True:
        time.sleep(60)""",
    "ignores its cancellation": """
    print("at work", flush=True)
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)""",
}
PROGRAM = """
import asyncio, sys, time
from contextlib import asynccontextmanager, suppress
import asyncdicom

async def on_store(request):
    await request.data.read()
    {handler}

@asynccontextmanager
async def serving():
    timeouts = asyncdicom.Timeouts(drain={drain}, drain_idle=0)
    async with asyncdicom.serve("SCP@127.0.0.1:0", c_store=on_store, timeouts=timeouts) as server:
        # When the signals are taken: nothing waits between here and there.
        asyncio.get_running_loop().call_soon(lambda: print(server.port, flush=True))
        yield server
    print("closed", flush=True)

def reload():
    print("reloaded", flush=True)

def broken():
    raise OSError("no such certificate")

sys.exit(asyncdicom.run(serving(), on_reload=[broken, reload], grace={grace}))
"""


class Program:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 30)).decode().strip()

    async def accepts(self) -> bool:
        try:
            await (await Peer.connect(self.port)).close()
        except OSError:
            return False
        return True

    async def end(self) -> tuple[int | None, str]:
        _, err = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode, (err or b"").decode()


@asynccontextmanager
async def program(
    handler: str, *, drain: float = 0.05, grace: float = 0.3, stderr: int = subprocess.PIPE
) -> AsyncIterator[Program]:
    code = PROGRAM.format(handler=HANDLERS[handler], drain=drain, grace=grace)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=stderr
    )
    running = Program(process, 0)
    try:
        running.port = int(await running.line())
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def begin_a_store(running: Program) -> Peer:
    peer = await Peer.connect(running.port)
    await peer.associate([CONTEXT])
    peer.write(message(1, store_rq(uid="1.2.3")) + fragments(1, False, data_set("1.2.3")))
    await peer.writer.drain()
    return peer


@pytest.mark.parametrize(
    ("number", "end", "code"), [(signal.SIGTERM, RELEASED, 0), (signal.SIGINT, ABORTED_BY_USER, 130)]
)
async def test_a_signal_closes_it(number: signal.Signals, end: tuple[int, bytes], code: int) -> None:
    async with program("stores", drain=30, grace=30) as running:
        async with await Peer.connect(running.port) as idle:
            await idle.associate([CONTEXT])
            running.signal(number)
            assert await idle.pdu() == end
        assert await running.line() == "closed"
        assert await running.end() == (code, "")


@pytest.mark.parametrize(
    ("handler", "where"),
    [
        ("hangs in a thread", " in hang (<string>:"),
        ("hangs in the loop", "MainThread in on_store (<string>:"),
        ("ignores its cancellation", ""),
    ],
)
async def test_what_hangs_does_not_keep_it(handler: str, where: str) -> None:
    async with program(handler) as running:
        peer = await begin_a_store(running)
        assert await running.line() == "at work"
        running.signal()
        code, err = await running.end()
        await peer.close()
    assert code == 4
    assert "the process is ended by force: it did not end in time. At work: " in err
    assert where in err


async def test_a_third_signal_ends_it_at_once() -> None:
    async with program("hangs in a thread", drain=60, grace=60) as running:
        peer = await begin_a_store(running)
        assert await running.line() == "at work"
        running.signal()
        while await running.accepts():
            await asyncio.sleep(0.01)
        running.signal()
        assert await peer.pdu() in (ABORTED_BY_USER, EOF)
        await peer.close()
        running.signal()
        code, err = await running.end()
    assert code == 4
    assert "ended by force: a third signal came" in err


async def test_a_log_that_nobody_reads_does_not_keep_it() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    try:
        async with program("hangs in a thread", stderr=writing) as running:
            peer = await begin_a_store(running)
            assert await running.line() == "at work"
            running.signal()
            code, _ = await running.end()
            await peer.close()
        assert code == 4
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_a_hang_up_reloads_and_goes_on() -> None:
    async with program("stores", drain=30, grace=30) as running:
        for _ in range(2):
            running.signal(signal.SIGHUP)
            assert await running.line() == "reloaded"
        async with associate(f"SCP@127.0.0.1:{running.port}", contexts=[CT]) as association:
            assert association.contexts
        running.signal()
        assert await running.line() == "closed"
        code, err = await running.end()
    assert code == 0
    assert err.count("a reload failed; what was loaded before goes on") == 2
    assert err.count("OSError: no such certificate") == 2  # Python 3.13 shows the line of source, too


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_a_hang_up_before_the_server_is_there_reloads_when_it_is() -> None:
    before = signal.getsignal(signal.SIGHUP)
    hold_reloads()
    os.kill(os.getpid(), signal.SIGHUP)
    try:
        async with serve("SCP@127.0.0.1:0") as server:
            told: list[str] = []

            async def reload() -> None:
                told.append("reloaded")
                await server.close()

            done = await serve_until_stopped(
                server, on_reload=[reload], on_ready=lambda: told.append("listens")
            )
        assert (done, told) == (0, ["listens", "reloaded"])
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_server_that_is_closed_by_others() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with serve("SCP@127.0.0.1:0") as server:
        serving = asyncio.ensure_future(serve_until_stopped(server))
        await asyncio.sleep(0)
        await server.close()
        assert await serving == 0
    assert signal.getsignal(signal.SIGTERM) == before


async def test_cancelled_it_closes_the_server_and_gives_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with serve("SCP@127.0.0.1:0") as server:
        serving = asyncio.ensure_future(serve_until_stopped(server))
        await asyncio.sleep(0)
        assert signal.getsignal(signal.SIGTERM) != before
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await server.serve_forever()
    assert signal.getsignal(signal.SIGTERM) == before


async def test_an_archive_whose_disk_hangs_ends(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys, time
import asyncdicom
from contextlib import asynccontextmanager
from asyncdicom.archive import Archive
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.dimse import serve_archive

class Hanging(FileCalls):
    def write(self, *arguments):
        print("at work", flush=True)
        while True:
            time.sleep(60)

@asynccontextmanager
async def serving():
    timeouts = asyncdicom.Timeouts(drain=0.05)
    async with Archive({str(tmp_path / "archive")!r}, files=Hanging()) as archive:
        async with serve_archive(archive, "SCP@127.0.0.1:0", timeouts=timeouts) as server:
            print(server.port, flush=True)
            yield server

sys.exit(asyncdicom.run(serving(), grace=0.3))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    running = Program(process, 0)
    try:
        running.port = int(await running.line())
        peer = await begin_a_store(running)
        assert await running.line() == "at work"
        running.signal()
        status, err = await running.end()
        await peer.close()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
    assert status == 4
    assert "asyncdicom-files_0 in write (<string>:" in err


async def nothing(request: Request) -> int:
    return 0


@pytest.mark.parametrize("often", [700, 0, 100_000], ids=["default", "off", "seldom already"])
async def test_the_garbage_collector_leaves_alone_what_is_there_at_the_start(often: int) -> None:
    frozen, before = gc.get_freeze_count(), gc.get_threshold()
    gc.set_threshold(often)
    try:
        async with serve("SCP@127.0.0.1:0", c_store=nothing) as server:
            serving = asyncio.ensure_future(serve_until_stopped(server))
            await eventually(lambda: gc.get_freeze_count() > frozen)
            assert gc.get_threshold()[0] == {700: 5000}.get(often, often)
            await server.close()
            await serving
        assert gc.get_freeze_count() == 0, "it is the program's again"
        assert gc.get_threshold()[0] == often
    finally:
        gc.set_threshold(*before)
