"""The program and the twelve jobs of the README run as they stand there; only ports are put in."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import socket
import ssl
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.programs import once

from asyncdicom import Address, Limits, Status, associate, open_file, serve, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.cli.config import read_config
from asyncdicom.cli.samples import write_samples
from asyncdicom.gateway import Facts, parse_gateway

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
ACCESS = DOCS / "access.md"
PROGRAM = re.findall(r"<!-- program -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
JOBS = dict(re.findall(r"<!-- job: (\w+) -->\n```python\n(.*?)```", README.read_text(), re.DOTALL))
PIECES = JOBS | dict(
    re.findall(
        r"<!-- (?:daily|piece): (\w+) -->\n```python\n(.*?)```",
        "".join(page.read_text() for page in (README, DOCS / "index.md", DOCS / "archive.md")),
        re.DOTALL,
    )
)
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"

Run = Callable[..., Awaitable[dict[str, object]]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Runs one job in a folder of its own, with an archive that holds the samples, which are in `images`."""
    monkeypatch.chdir(tmp_path)
    write_samples(tmp_path / "images")
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
            text = re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda port: ports[port[0]], PIECES[job])
            code = compile(text, f"README job {job}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            names: dict[str, object] = {"archive": archive}
            await types.FunctionType(code, names)()
            return names

        run.ports = ports  # type: ignore[attr-defined]
        yield run


@once
async def test_the_program_runs_as_copied_in_an_empty_folder(tmp_path: Path) -> None:
    (program,) = PROGRAM
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(README.parent), "PYTHONIOENCODING": "utf-8"}
    for _ in range(2):  # again over what is there then
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "program.py",
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
    found = [line for line in out.decode().splitlines() if ": " in line]
    assert sorted(found) == [
        "Müster^Jörg: Film, scanned, 2 received",
        "Sample^Anna: CT of a disc, 6 received",
        "Sample^Anna: MR of a disc, 4 received",
        "Yamada^Tarou=山田^太郎=やまだ^たろう: Ultrasound, moving, 1 received",
    ]
    assert len(list((tmp_path / "received").iterdir())) == 13
    assert "C-GET" in err.decode(), "logging is on"


def test_what_evaluators_look_for_is_in_the_first_screen() -> None:
    beginning = README.read_text().partition("## A whole program")[0]
    for what in ("**Status**", "**Licence**", "git clone https://", "| not here |", "`logging`", "issues"):
        assert what in beginning, what


def test_links_within_the_readme_lead_somewhere() -> None:
    text = README.read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    for path in re.findall(r"\]\((?!https?:|#)([^)]*)\)", text):
        assert (README.parent / path).exists(), path


def test_no_target_that_was_missed_is_put_before_a_newcomer() -> None:
    assert "missed |" not in README.read_text()
    assert "| missed |" in (README.parent / "benchmarks" / "README.md").read_text()


def test_there_are_twelve_jobs() -> None:
    assert len(JOBS) == 12


async def test_the_daily_jobs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("client")
    assert "13 sent []" in capsys.readouterr().out
    assert list(Path("received").iterdir())


async def test_the_first_piece_of_the_site(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("index")
    told = capsys.readouterr().out.splitlines()
    assert sorted(told) == sorted(map(str, Path("received").rglob("*.dcm")))
    assert told


async def test_the_archive_in_a_program(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("archive", stored=False)
    uid, modalities = capsys.readouterr().out.split(" ", 1)
    assert (uid[:5], modalities) == ("2.25.", "['CT']\n")


async def test_echo(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("echo")
    assert capsys.readouterr().out == "0x0000 (Success)\n"


async def test_store(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = await run("store", stored=False)
    assert capsys.readouterr().out == ""
    assert (await names["archive"].counts())["instance"] == 13  # type: ignore[attr-defined]


async def test_pool(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("pool", stored=False)
    assert capsys.readouterr().out == "13 stored\n"


async def test_find(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("find")
    out = capsys.readouterr().out
    assert "Sample^Anna 20260105" in out
    assert "the first one is 2.25." in out


async def test_get(run: Run) -> None:
    await run("get")
    received = {}
    for folder in ("received", "images"):
        files = [await open_file(path) for path in Path(folder).iterdir()]
        received[folder] = {f.sop_instance_uid: Path(f.path).read_bytes()[f.offset :] for f in files}
    assert len(received["received"]) == 6
    assert received["received"].items() <= received["images"].items()


def test_the_access_policy() -> None:
    (text,) = re.findall(r"<!-- access -->\n```python\n(.*?)```", ACCESS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    access = names["access"]
    assert access.refuses_address("10.0.9.9") is None
    assert access.peers["CT1"].grant.services == {"echo", "store"}
    assert set(access.destinations) == {"WS1"}


def test_the_destinations() -> None:
    (text,) = re.findall(r"<!-- destinations -->\n```python\n(.*?)```", ACCESS.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(text, names)
    assert names["destinations"]["WS1"].ssl is names["secure"]
    assert names["destinations"]["OLD"].plain


def test_the_configuration_of_the_archive(tmp_path: Path) -> None:
    (text,) = re.findall(
        r"<!-- configuration -->\n```toml\n(.*?)```", (DOCS / "archive.md").read_text(), re.DOTALL
    )
    (tmp_path / "archive.toml").write_text(text)
    config = read_config(tmp_path / "archive.toml")
    assert config["port"] == 104
    assert set(config["access"]["peers"]) == {"WORKSTATION", "CT1", "CT2", "WS2", "OLD"}


def test_the_configuration_of_the_gateway() -> None:
    (text,) = re.findall(r"<!-- routes -->\n```toml\n(.*?)```", (DOCS / "gateway.md").read_text(), re.DOTALL)
    config = parse_gateway(text)
    assert set(config.destinations) == {"PACS", "BACKUP", "RESEARCH", "AI"}
    (target,) = config.rules.decide(Facts(calling="US1")).targets
    assert target.destinations == ("PACS", "BACKUP")


async def test_move(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    await run("move")
    assert capsys.readouterr().out == "0x0000 (Success) 6\n"
    assert len(list(Path("received").iterdir())) == 6


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
    file = await open_file("images/ct-1-1-1.dcm")
    for caller, status, count in (("SPAM", Status.NOT_AUTHORIZED, 0), ("CT1", Status.SUCCESS, 1)):
        association = await connected(
            run.ports["11114"],  # type: ignore[attr-defined]
            calling_ae_title=caller,
            contexts=storage_contexts([file]),
        )
        assert (await association.c_store(file)).status == status  # type: ignore[attr-defined]
        await association.release()  # type: ignore[attr-defined]
        assert len(list(Path("received").glob("*"))) == count
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
    file = await open_file("images/ct-1-1-1.dcm")
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


async def test_errors(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "hospital-ca.pem")  # what the system trusts
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
