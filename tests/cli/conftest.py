"""Running the tools: in a thread of the test's process, or in a process of their own."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cli.running import ENVIRONMENT, Result, Start, Tool

from asyncdicom.__main__ import main


@pytest.fixture
def tool(capfd: pytest.CaptureFixture[str]) -> Iterator[Tool]:
    """Run a tool in a thread, so that the server of a test goes on meanwhile."""

    async def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = await asyncio.to_thread(main, [str(argument) for argument in arguments])
        return Result(code, *capfd.readouterr())

    logger = logging.getLogger("asyncdicom")
    level = logger.level
    yield run
    logger.setLevel(level)


@pytest.fixture
def start() -> Start:
    """Start a tool in a process of its own: ``async with start("storescp", 0) as process``."""

    @asynccontextmanager
    async def process(
        *arguments: object, cwd: Path | None = None
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "asyncdicom"),
            *map(str, arguments),
            env=ENVIRONMENT,
            cwd=cwd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield started
        finally:
            if started.returncode is None:
                started.kill()
            await started.communicate()

    return process


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
