"""A stdout that nobody reads, or that is closed, holds up nobody."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from cli.nodes import Instance, Node
from cli.running import ENVIRONMENT

from asyncdicom import DicomNetworkError, associate, serve, storage_contexts
from asyncdicom.cli.printing import Printer, show, tell


@pytest.fixture
def full() -> Iterator[tuple[int, int]]:
    """Give a pipe that takes nothing more, and nobody reads: where to read, where to write."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield reading, writing
    os.close(reading)
    with suppress(OSError):
        os.close(writing)


async def started(tool: str, *arguments: object, stdout: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncdicom", tool, *map(str, arguments)),
        env=ENVIRONMENT,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )


async def echoes_when_it_listens(port: int) -> Any:
    for _ in range(1000):
        try:
            return await associate(f"ANY@127.0.0.1:{port}", contexts=storage_contexts([SOURCE]))
        except DicomNetworkError:
            await asyncio.sleep(0.02)
    raise AssertionError("it does not listen")


SOURCE = Instance("1", "1.1", "1.1.1").source()


async def test_storescp_answers_while_nobody_reads(full: tuple[int, int], free_port: int) -> None:
    process = await started("storescp", free_port, "--ignore", "--json", stdout=full[1])
    try:
        association = await echoes_when_it_listens(free_port)
        assert [(await association.c_store(SOURCE)).status for _ in range(20)] == [0] * 20
        await association.release()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_findscu_waits_outside_the_event_loop(full: tuple[int, int]) -> None:
    """The peer hears from it that it is gone, although its stdout takes nothing."""
    node = Node([Instance("1", "1.1", "1.1.1")])
    async with serve("SCP@127.0.0.1:0", c_find=node.find) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        process = await started("findscu", address, "-k", "StudyInstanceUID", stdout=full[1])
        while not node.finds_asked:
            await asyncio.sleep(0.01)
        assert process.returncode is None
        process.send_signal(2)
        assert await asyncio.wait_for(process.wait(), 60) == 130


def test_lines_that_are_lost_are_told_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    got: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1 << 20):
            got.append(piece)

    reader = threading.Thread(target=read)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with Printer(as_json=True) as printer:
            for number in range(20_000):
                printer.line(json.dumps({"number": number, "padding": "x" * 300}))
            reader.start()
            printer.flush()
            printer.line('{"last": true}')
    reader.join()
    os.close(reading)
    *lines, last = map(json.loads, b"".join(got).splitlines())
    numbers = [line["number"] for line in lines if "number" in line]
    assert numbers == sorted(set(numbers)), "what is not lost is in its order"
    assert len(numbers) < 20_000
    told = [
        line["warning"].partition(" lines are lost: stdout did not take them")
        for line in lines
        if "warning" in line
    ]
    assert sum(int(number) for number, _, _ in told) == 20_000 - len(numbers)
    assert last == {"last": True}


async def test_a_stream_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As programs put them in the place of stdout and stderr, to look at what is printed."""
    streams = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    await show("shown")
    await tell("told \x1b[31m")
    assert [stream.getvalue() for stream in streams.values()] == ["shown\n", "told \\x1b[31m\n"]
