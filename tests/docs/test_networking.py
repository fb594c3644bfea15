"""docs/networking.md is walked through: every command in its order, in an empty folder, at other ports."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from interop.peers import free_port

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "networking.md").read_text()
WALK = re.findall(r"<!-- walk(.*?) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)


async def started(folder: Path, command: str) -> asyncio.subprocess.Process:
    """A command of the page, or its program, as a process."""
    command = re.sub(r"^asyncdicom ", "-m asyncdicom ", command)
    return await asyncio.create_subprocess_shell(
        f"exec {sys.executable} {command}",
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def test_the_walk(tmp_path: Path) -> None:
    asyncio.run(walk(tmp_path))


async def walk(tmp_path: Path) -> None:
    archive, own = str(free_port()), str(free_port())
    (server,) = re.findall(r"<!-- server -->\n```sh\n(.*?)\n```", TEXT, re.DOTALL)
    serving = await started(tmp_path, server.replace("11112", archive).replace("11113", own))
    try:
        assert serving.stdout is not None
        assert b"listens on" in await serving.stdout.readline()
        for how, block in WALK:
            here = block.replace("11112", archive).replace("11113", own)
            (tmp_path / "program.py").write_text(here)
            for command in ["program.py"] if "program" in how else here.strip().splitlines():
                process = await started(tmp_path, command)
                output, _ = await process.communicate()
                assert (process.returncode != 0) == ("fails" in how), output.decode()
    finally:
        serving.send_signal(signal.SIGINT)
        await serving.communicate()
    for folder in ("got", "moved", "retrieved"):
        assert len(list((tmp_path / folder).rglob("*.dcm"))) == 10, folder
