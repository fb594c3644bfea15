"""The recipe for a process pool runs as it stands there; only its port is put in."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from helpers.programs import once

from asyncdicom import AssociationError, Client

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be taken")
@once
async def test_what_was_received_is_computed_in_another_process(tmp_path: Path, pydicom_files: Path) -> None:
    text = (REPOSITORY / "docs" / "recipes" / "process-pool.md").read_text()
    (program,) = re.findall(r"<!-- recipe: process_pool -->\n```python\n(.*?)```", text, re.DOTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "127.0.0.1:11112" in program
    (tmp_path / "program.py").write_text(program.replace("127.0.0.1:11112", f"127.0.0.1:{port}"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "program.py",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120), Client(f"AI@127.0.0.1:{port}") as node:
            while True:  # until it listens
                try:
                    result = await node.store(pydicom_files / "CT_small.dcm")
                    break
                except AssociationError:
                    await asyncio.sleep(0.1)
            assert result.raise_for_failures().sent == 1
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 120)  # to the end of its stdout
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert line.split()[1] == "32768"
    assert len(list((tmp_path / "received").rglob("*.dcm"))) == 1
