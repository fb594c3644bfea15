"""The programs of the recipes run as they stand there, each in an empty folder and a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pydicom
import pytest
from helpers.programs import once
from interop.peers import free_port
from pydicom.uid import generate_uid

from asyncdicom import AssociationError, Client
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    name: program
    for path in sorted((ROOT / "docs" / "recipes").glob("*.md"))
    for name, program in re.findall(
        r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", path.read_text(), re.DOTALL
    )
}


@asynccontextmanager
async def running(
    tmp_path: Path, name: str, port: int, *command: str, places: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A recipe as a process, at another port than in the text and with what else has to be changed."""
    program = PROGRAMS[name]
    for before, after in (("127.0.0.1:11112", f"127.0.0.1:{port}"), *(places or {}).items()):
        assert before in program
        program = program.replace(before, after)
    (tmp_path / f"{name}.py").write_text(program)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(command or (f"{name}.py",)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:  # its own processes end with it: they have its stdout, too
            process.send_signal(signal.SIGINT)
        await process.communicate()


async def is_there(port: int) -> None:
    while True:
        try:
            async with Client(f"ANY@127.0.0.1:{port}", calling_ae_title="CT1") as client:
                await client.echo()
        except AssociationError:
            await asyncio.sleep(0.05)
        else:
            return


@once
async def test_the_receiver(tmp_path: Path, pydicom_files: Path, free_ports: tuple[int, int]) -> None:
    port, web = free_ports
    uvicorn = ("-m", "uvicorn", "--port", str(web), "--log-level", "error", "receiver:app")
    async with running(tmp_path, "receiver", port, *uvicorn):
        await is_there(port)
        async with Client(f"RECEIVER@127.0.0.1:{port}", calling_ae_title="CT1") as client:
            sent = await client.store(pydicom_files / "CT_small.dcm")
        assert sent.sent == 1
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", web)
                break
            except OSError:
                await asyncio.sleep(0.05)
        writer.write(b"GET /instances HTTP/1.0\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
    uid = pydicom.dcmread(pydicom_files / "CT_small.dcm").SOPInstanceUID
    assert answer.endswith(f'["{uid}"]')
    assert [path.name for path in (tmp_path / "received").iterdir()] == [f"{uid}.dcm"]


@once
async def test_the_functions(tmp_path: Path, pydicom_files: Path) -> None:
    """By the command line of the page; what waits is told when it is stopped."""
    page = (ROOT / "docs" / "recipes" / "storescp.md").read_text()
    (line,) = re.findall(r"```sh\nasyncdicom (storescp .*?)```", page, re.DOTALL)
    (tmp_path / "handlers.py").write_text(PROGRAMS["handlers"])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "asyncdicom", *shlex.split(line.replace(" 11112 ", " 0 ").replace("\\\n", " "))),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        listens = (await process.stdout.readline()).decode()
        port = int(listens.partition(",")[0].rpartition(":")[2])
        async with Client(f"STORESCP@127.0.0.1:{port}", calling_ae_title="CT1") as client:
            assert (await client.store(pydicom_files / "CT_small.dcm")).sent == 1
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = await process.communicate()
    image = pydicom.dcmread(pydicom_files / "CT_small.dcm")
    study = f"in/1CT1/{image.StudyInstanceUID}"
    assert output.decode().splitlines()[-1] == f"1 instances in {study}"
    assert (tmp_path / study / "0001-CT" / f"{image.SOPInstanceUID}.dcm").is_file()


@once
async def test_the_pipeline(tmp_path: Path, pydicom_files: Path, free_ports: tuple[int, int]) -> None:
    port, _ = free_ports
    dataset = pydicom.dcmread(pydicom_files / "CT_small.dcm")
    dataset.StudyInstanceUID = generate_uid()
    folder = tmp_path / "sent"
    folder.mkdir()
    for number in range(3):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number}.dcm")
    async with running(tmp_path, "ai", port, places={"quiet=10": "quiet=1"}) as process:
        await is_there(port)
        async with Client(f"AI@127.0.0.1:{port}", calling_ae_title="CT1") as client:
            assert (await client.store(folder)).sent == 3
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
    assert line.startswith(f"{dataset.StudyInstanceUID}: 3 images, ")


@once
async def test_the_gateway_in_a_program(
    tmp_path: Path, pydicom_files: Path, free_ports: tuple[int, int]
) -> None:
    port, _ = free_ports
    async with (
        Archive(tmp_path / "archive", durability="none") as archive,
        serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server,
    ):
        sent_to = {"127.0.0.1:11113": f"127.0.0.1:{server.port}"}
        async with running(tmp_path, "gateway", port, places=sent_to) as process:
            await is_there(port)
            async with Client(f"GATE@127.0.0.1:{port}", calling_ae_title="CT1") as client:
                assert (await client.store(pydicom_files / "CT_small.dcm")).sent == 1
            while not (await archive.counts())["instance"]:
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            await process.communicate()
            assert process.returncode == 0


@once
async def test_the_download(tmp_path: Path, corpus: list[Path]) -> None:
    async with (
        Archive(tmp_path / "archive", durability="none") as archive,
        serve_archive(archive, "ASYNCDICOM@127.0.0.1:0") as server,
    ):
        for path in corpus:
            await archive.store(path)
        patients = {str(pydicom.dcmread(path).PatientID) for path in corpus}
        (tmp_path / "patients.txt").write_text("\n".join([*sorted(patients), "NOBODY"]))
        for _ in range(2):  # the second time replaces nothing
            async with running(tmp_path, "download", server.port) as process:
                output, _ = await process.communicate()
            assert process.returncode == 0
            assert output.decode().splitlines()[-1] == "NOBODY 0 received "
    assert len(list((tmp_path / "images").rglob("*.dcm"))) == len(corpus)


@pytest.fixture
def free_ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def corpus(pydicom_files: Path) -> list[Path]:
    folder = pydicom_files / "dicomdirtests" / "77654033"
    return sorted(path for path in folder.rglob("*") if path.is_file())
