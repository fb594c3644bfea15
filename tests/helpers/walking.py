"""A page of docs is walked through: its commands in their order, in one folder, at ports that are free.

Blocks are marked: `<!-- server -->` starts what runs meanwhile, `<!-- walk -->` are commands, each of
which has to succeed (`walk: fails`: to fail), `<!-- walk: program -->` is a program.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from interop.peers import free_port

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"<!-- (server|walk(?:: \w+)?) -->\n```\w+\n(.*?)```", re.DOTALL)


async def started(folder: Path, command: str) -> asyncio.subprocess.Process:
    """A command of a page, or a program, as a process: our tools and Python are those that are tested."""
    command = re.sub(r"^asyncdicom ", f"{sys.executable} -m asyncdicom ", command)
    command = re.sub(r"^python ", f"{sys.executable} ", command)
    return await asyncio.create_subprocess_shell(
        f"exec {command}",
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def serving(folder: Path, command: str) -> AsyncIterator[None]:
    """A server of a page runs, and listens, until the block is left."""
    process = await started(folder, command)
    try:
        assert process.stdout is not None
        said = await process.stdout.readline()
        assert b"listens on" in said, said + await process.stdout.read()
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.communicate(), 60)
        finally:
            await _gone(process)


async def _gone(process: asyncio.subprocess.Process) -> None:
    """Whatever happened, it does not stay."""
    if process.returncode is None:
        process.kill()
        await process.wait()


async def run(folder: Path, command: str, *, fails: bool = False) -> str:
    """Run a command or program to its end, and give what it said."""
    process = await started(folder, command)
    try:
        output, _ = await process.communicate()
    finally:
        await _gone(process)
    assert (process.returncode != 0) == fails, f"{command}\n{output.decode()}"
    return output.decode()


async def walk(page: str, folder: Path, places: Mapping[str, str] | None = None) -> list[str]:
    """Walk through a page with other ports, and other `places`; give what the commands said."""
    text = (DOCS / page).read_text()
    blocks = _BLOCK.findall(text)
    assert blocks
    for port in sorted(set(re.findall(r"\b(11112|11113|2762)\b", "".join(block for _, block in blocks)))):
        blocks = [(how, block.replace(port, f"<{port}>")) for how, block in blocks]
        number = str(free_port())
        blocks = [(how, block.replace(f"<{port}>", number)) for how, block in blocks]
    for before, after in (places or {}).items():
        assert any(before in block for _, block in blocks), before
        blocks = [(how, block.replace(before, after)) for how, block in blocks]
    marks = [how for how, _ in blocks]
    first = marks.index("server") if "server" in marks else len(blocks)
    said = [line for how, block in blocks[:first] for line in await _steps(folder, how, block)]
    for _, command in blocks[first : first + 1]:
        async with serving(folder, command.strip()):
            for how, block in blocks[first + 1 :]:
                said += await _steps(folder, how, block)
    return said


async def _steps(folder: Path, how: str, block: str) -> list[str]:
    if how == "walk: program":
        (folder / "program.py").write_text(block)
        return [await run(folder, "python program.py")]
    return [await run(folder, line, fails=how == "walk: fails") for line in block.strip().splitlines()]
