"""Pages that say what to type are walked through, and the configuration that they show is read."""

from __future__ import annotations

import asyncio
import configparser
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.programs import once
from helpers.walking import DOCS, started, walk
from interop.peers import free_port

from asyncdicom import AssociationError, Client
from asyncdicom.archive import Archive
from asyncdicom.cli.config import read_config
from asyncdicom.cli.samples import write_samples


def block(page: str, mark: str) -> str:
    (text,) = re.findall(rf"<!-- {mark} -->\n```\w+\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return str(text)


@once
async def test_getting_started(tmp_path: Path) -> None:
    said = await walk("start.md", tmp_path)
    assert said[0].startswith("13 images of 4 studies")
    assert "Sample^Anna CT of a disc 6\n" in said[-1]
    for folder, count in (("got", 10), ("received", 13)):
        assert len(list((tmp_path / folder).rglob("*.dcm"))) == count


@once
async def test_the_first_server_of_ones_own(tmp_path: Path) -> None:
    program, port = block("start.md", "program: receives"), free_port()
    assert "127.0.0.1:11113" in program
    (tmp_path / "server.py").write_text(program.replace("127.0.0.1:11113", f"127.0.0.1:{port}"))
    write_samples(tmp_path / "images")
    process = await started(tmp_path, "python server.py")
    try:
        async with asyncio.timeout(100), Client(f"RECEIVER@127.0.0.1:{port}") as client:
            while True:  # until it listens
                try:
                    sent = await client.store(tmp_path / "images")
                    break
                except AssociationError:
                    await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        await process.communicate()
        assert (process.returncode, sent.sent) == (0, 13)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert len(list((tmp_path / "incoming").iterdir())) == 13


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@once
async def test_tls_in_ten_lines(tmp_path: Path) -> None:
    said = await walk("tls.md", tmp_path)
    assert "Success" in said[-1]
    assert read_config_of("tls.md", tmp_path)["tls"]["trusted"]


async def kept(folder: Path) -> None:
    write_samples(folder / "images")
    async with Archive(folder / "archive", durability="none") as archive:
        for path in (folder / "images").iterdir():
            await archive.store(path)


@once
async def test_backup_and_restore(tmp_path: Path) -> None:
    await kept(tmp_path)
    said = await walk("deploying.md", tmp_path)
    assert "13 files verified, 0 of them" in said[-1]


def read_config_of(page: str, folder: Path) -> dict[str, Any]:
    (folder / "archive.toml").write_text(block(page, "config"))
    return read_config(folder / "archive.toml")


def test_the_configurations_that_are_migrated_to(tmp_path: Path) -> None:
    assert read_config_of("from-dcmqrscp.md", tmp_path)["ae_title"] == "COMMON"
    assert read_config_of("from-orthanc.md", tmp_path)["commitment"] is True


def test_the_unit_has_what_systemd_needs() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block("deploying.md", "unit"))
    assert set(unit) - {"DEFAULT"} == {"Unit", "Service", "Install"}
    assert unit["Service"]["ExecStartPre"] == f"{unit['Service']['ExecStart']} --check"
    assert int(unit["Service"]["TimeoutStopSec"]) > 30 + 10
    log = block("deploying.md", "logrotate").partition(" ")[0]
    assert log.startswith(f"/var/log/{unit['Service']['LogsDirectory']}/"), "else it may not be written"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = block("deploying.md", "unit").replace("/opt/asyncdicom/bin/asyncdicom", sys.executable)
    (unit := tmp_path / "asyncdicom.service").write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=120
    )
    assert [line for line in said.stderr.splitlines() if unit.name in line] == []  # of others we know nothing


def test_the_container_can_write_to_its_volume() -> None:
    """A volume gets the owner that its folder has in the image; whoever runs there is not root."""
    lines = block("deploying.md", "containerfile").splitlines()
    (user,) = (line.split()[1] for line in lines if line.startswith("USER "))
    (volume,) = (line.split()[1] for line in lines if line.startswith("VOLUME "))
    made = next(number for number, line in enumerate(lines) if f"install -d -o {user} {volume}" in line)
    assert made < lines.index(f"USER {user}") < lines.index(f"VOLUME {volume}")
