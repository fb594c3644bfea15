"""A process that serves a configuration file, for tests: started on free ports, and ended in any case."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncdicom
from asyncdicom import BytesSource, PresentationContext, Request, Server, associate, serve
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(asyncdicom.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENCE = 60  # seconds, of which a busy machine takes some


class Running:
    """A process and the first line that it has told."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self.process = process
        self.told = told
        self.log: list[str] = []

    @property
    def address(self) -> str:
        return f"{self.told['ae_title']}@127.0.0.1:{self.told['port']}"

    async def logged(self, text: str) -> str:
        """Wait for a line of the log, from the last one that was read on."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"it has ended, and told: {self.log}"
                self.log.append(line)
        return line

    async def ended(self) -> int:
        """Wait for its end; gives the exit code."""
        async with asyncio.timeout(PATIENCE):
            _, err = await self.process.communicate()
        self.log += err.decode().splitlines()
        code = self.process.returncode
        assert code is not None
        return code


@asynccontextmanager
async def started(
    *words: str, env: Mapping[str, str] = ENVIRONMENT, cwd: Path | None = None, ends_by: int = signal.SIGKILL
) -> AsyncIterator[Running]:
    """Run `asyncdicom WORDS`, which prints a line when it is ready; it is ended by a signal, or killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncdicom", *words),
        env=env,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await process.stdout.readline()
        if not line:
            _, err = await process.communicate()
            raise AssertionError(err.decode())
        yield Running(process, json.loads(line) if line.startswith(b"{") else {"line": line.decode()})
    finally:
        if process.returncode is None:
            process.send_signal(ends_by)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await process.communicate()
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def serving(config: Path, *options: str) -> AsyncIterator[Running]:
    """Run `asyncdicom serve CONFIG --json`."""
    async with started("serve", str(config), "--json", *options, cwd=config.parent) as running:
        yield running


class Sink:
    """An application entity that takes instances, and notes their UIDs."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.server: Server | None = None

    async def store(self, request: Request) -> int:
        await request.data.read()
        self.received.append(request.affected_sop_instance_uid)
        return 0

    @property
    def place(self) -> str:
        assert self.server is not None
        return f"127.0.0.1:{self.server.port}"

    async def has(self, uids: Sequence[str]) -> None:
        """Wait until all of these were received."""
        async with asyncio.timeout(PATIENCE):
            while not set(uids) <= set(self.received):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def sinks(*ae_titles: str) -> AsyncIterator[list[Sink]]:
    async with AsyncExitStack() as stack:
        found = []
        for title in ae_titles:
            sink = Sink()
            sink.server = await stack.enter_async_context(serve(f"{title}@127.0.0.1:0", c_store=sink.store))
            found.append(sink)
        yield found


def ct(uid: str, body_part: str = "CHEST") -> BytesSource:
    data = encode(
        [
            (0x00080016, "UI", CT.encode()),
            (0x00080018, "UI", uid.encode()),
            (0x00100020, "LO", b"1"),
            (0x00180015, "CS", body_part.encode()),
            (0x0020000D, "UI", b"1.2"),
            (0x0020000E, "UI", b"1.2.1"),
            (0x7FE00010, "OB", bytes(100)),
        ],
        EXPLICIT_VR_LITTLE_ENDIAN,
    )
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


async def send(address: str, calling: str, *instances: BytesSource) -> list[int]:
    contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    async with associate(address, calling_ae_title=calling, contexts=contexts) as association:
        return [int((await association.c_store(each)).status) for each in instances]
