"""The twelve jobs of the README run as they stand there; only ports and file names are put in."""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import socket
import ssl
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from asyncdicom import Address, Limits, Status, associate, open_file, serve, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.cli.config import read_config

README = Path(__file__).parent.parent / "README.md"
JOBS = dict(re.findall(r"<!-- job: (\w+) -->\n```python\n(.*?)```", README.read_text(), re.DOTALL))
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"

Run = Callable[..., Awaitable[dict[str, object]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pydicom_files: Path) -> AsyncIterator[Run]:
    """Runs one job in a folder of its own, with an archive that holds what is in `images`."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "received"):
        (tmp_path / name).mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(pydicom_files / name, tmp_path / "images")
    ports = {
        port: str(free_port()) for port in ("11113", "11114", "11115", "11116", "11117", "11118", "2762")
    }
    access = {"*": None, "WS1": Address("WS1", "127.0.0.1", int(ports["11113"]))}
    async with (
        Archive(tmp_path / "archive") as archive,
        serve_archive(archive, "ASYNCDICOM@127.0.0.1:0", access=access) as server,
    ):
        ports["11112"] = str(server.port)

        async def run(job: str, *, stored: bool = True) -> dict[str, object]:
            if stored:
                files = [await open_file(path) for path in Path("images").glob("*.dcm")]
                address = f"ASYNCDICOM@127.0.0.1:{server.port}"
                async with associate(address, contexts=storage_contexts(files)) as association:
                    for file in files:
                        assert (await association.c_store(file)).status.is_success
            text = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: ports[port[0]], JOBS[job])
            code = compile(text, f"README job {job}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            names: dict[str, object] = {"archive": archive}
            await types.FunctionType(code, names)()
            return names

        run.ports = ports  # type: ignore[attr-defined]
        yield run


def test_there_are_twelve_jobs() -> None:
    assert len(JOBS) == 12


async def test_echo(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("echo")
    assert capsys.readouterr().out == "0x0000 (Success)\n"


async def test_store(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = await run("store", stored=False)
    assert capsys.readouterr().out == ""
    assert (await names["archive"].counts())["instance"] == 2  # type: ignore[attr-defined]


async def test_pool(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("pool", stored=False)
    assert capsys.readouterr().out == "2 stored\n"


async def test_find(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("find")
    out = capsys.readouterr().out
    assert "CompressedSamples^CT1 20040119" in out
    assert "the first one is 1.3.6.1.4.1.5962.1.2." in out


async def test_get(run: Run, pydicom_files: Path) -> None:
    await run("get")
    [received] = Path("received").iterdir()
    original = (pydicom_files / "CT_small.dcm").read_bytes()
    file = await open_file(received)
    assert received.read_bytes()[file.offset :] == original[-file.length :]


def test_the_access_policy() -> None:
    (text,) = re.findall(r"<!-- access -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    access = names["access"]
    assert access.refuses_address("10.0.9.9") is None
    assert access.peers["CT1"].grant.services == {"echo", "store"}
    assert set(access.destinations) == {"WS1"}


def test_the_destinations() -> None:
    (text,) = re.findall(r"<!-- destinations -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["destinations"]["WS1"].ssl is names["secure"]
    assert names["destinations"]["OLD"].plain


def test_the_configuration_of_the_archive(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "archive.toml").write_text(text)
    config = read_config(tmp_path / "archive.toml")
    assert config["port"] == 104
    assert set(config["access"]["peers"]) == {"WORKSTATION", "CT1", "CT2", "WS2", "OLD"}


async def test_move(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("move")
    assert capsys.readouterr().out == "0x0000 (Success) 1\n"
    assert len(list(Path("received").iterdir())) == 1


async def connected(port: str, **options: object) -> object:
    """An association with a job that has just been started."""
    for _ in range(100):
        try:
            return await associate(f"PEER@127.0.0.1:{port}", **options)  # type: ignore[arg-type]
        except OSError:
            raise
        except Exception:
            await asyncio.sleep(0.02)
    raise AssertionError(f"nobody listens on port {port}")


async def test_receive(run: Run) -> None:
    job = asyncio.ensure_future(run("receive", stored=False))
    file = await open_file("images/CT_small.dcm")
    for caller, status, count in (("SPAM", Status.NOT_AUTHORIZED, 0), ("CT1", Status.SUCCESS, 1)):
        association = await connected(
            run.ports["11114"],  # type: ignore[attr-defined]
            calling_ae_title=caller,
            contexts=storage_contexts([file]),
        )
        assert (await association.c_store(file)).status == status  # type: ignore[attr-defined]
        await association.release()  # type: ignore[attr-defined]
        assert len(list(Path("received").iterdir())) == count
    await ended(job)


async def ended(job: asyncio.Future[dict[str, object]]) -> None:
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_answer(run: Run) -> None:
    job = asyncio.ensure_future(run("answer", stored=False))
    association = await connected(run.ports["11115"], contexts=[PATIENT_ROOT_FIND])  # type: ignore[attr-defined]
    keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "2", "PatientName": ""}
    [match] = await association.c_find(keys, information_model=PATIENT_ROOT_FIND)  # type: ignore[attr-defined]
    assert match.PatientName == "Roe^Richard"
    await association.release()  # type: ignore[attr-defined]
    await ended(job)


async def test_gateway(run: Run) -> None:
    job = asyncio.ensure_future(run("gateway", stored=False))
    file = await open_file("images/CT_small.dcm")
    association = await connected(run.ports["11116"], contexts=storage_contexts([file]))  # type: ignore[attr-defined]
    assert (await association.c_store(file)).status == Status.SUCCESS  # type: ignore[attr-defined]
    await association.release()  # type: ignore[attr-defined]
    address = f"ASYNCDICOM@127.0.0.1:{run.ports['11112']}"  # type: ignore[attr-defined]
    async with associate(address, contexts=["1.2.840.10008.5.1.4.1.2.2.1"]) as archive:
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
        assert len(await archive.c_find(keys)) == 1
    await ended(job)


async def test_normalized(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("normalized", stored=False)
    assert capsys.readouterr().out == "0x0000 (Success) COMPLETED\n"


async def test_services(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("services", stored=False)
    assert capsys.readouterr().out == "Doe^Jane False 1 1\n"


async def test_errors(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path("hospital-ca.pem")
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(secure)
    port = run.ports["2762"]  # type: ignore[attr-defined]

    async def failing(request: object) -> Status:
        return Status.PROCESSING_FAILURE

    await run("errors", stored=False)
    assert "connection refused" in capsys.readouterr().out
    async with serve(f"PACS@127.0.0.1:{port}", ssl=secure):
        await run("errors", stored=False)
        assert capsys.readouterr().out == ""
    async with serve(f"PACS@127.0.0.1:{port}", ssl=secure, c_echo=failing):
        await run("errors", stored=False)
        assert capsys.readouterr().out == "failed: 0x0110 (Failure: processing failure)\n"
    async with serve(f"PACS@127.0.0.1:{port}", ssl=secure, limits=Limits(maximum_associations=0)):
        await run("errors", stored=False)
        assert capsys.readouterr().out == "refused: 2 3 2\n"
