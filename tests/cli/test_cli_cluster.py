"""`asyncdicom cluster demo`: a cluster that is really there, and nothing of it afterwards."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli.running import ENVIRONMENT, Start
from helpers.get_page import ask
from helpers.postgres import programs
from helpers.programs import once
from helpers.serving import Running, ct, send, started
from interop import field

from asyncdicom import STUDY_ROOT, associate
from asyncdicom.cli.own_postgres import OwnPostgres, find_programs, user_of_server
from asyncdicom.cli.parts import Part, PartFailed, run_once

PATIENCE = 60  # seconds, of which a busy machine takes some


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user can get to, where the tests run as root."""
    if programs() is None:
        assert not os.environ.get("ASYNCDICOM_REQUIRE_PEERS")
        pytest.skip("PostgreSQL's server is not here: apt-get install postgresql")
    made = Path(tempfile.mkdtemp(prefix="cluster-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@asynccontextmanager
async def cluster(*options: str, temporary: Path) -> AsyncIterator[Running]:
    words = ("cluster", "demo", "--port", "0", *options)
    env = ENVIRONMENT | {"TMPDIR": str(temporary)}
    async with started(*words, env=env, ends_by=signal.SIGTERM) as running:  # all of it has to end
        yield running


async def studies(address: str) -> int:
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
    async with associate(address, contexts=[STUDY_ROOT]) as association:
        return len(await association.c_find(keys))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@once
async def _used(folder: Path) -> None:
    temporary, kept = folder / "temporary", folder / "kept"
    temporary.mkdir(mode=0o711)
    balancer = ["HAProxy"] if field.haproxy() else []
    options = ("--keep", str(kept), "--json", "--workers", "2" if balancer else "1")
    async with cluster(*options, temporary=temporary) as running:
        told = running.told
        parts = told["parts"]
        assert list(parts) == [
            "PostgreSQL",
            *(["worker 1", "worker 2"] if balancer else ["qrscp"]),
            *balancer,
        ]
        assert await send(running.address, "CT1", ct("1.2.3"), ct("1.2.4")) == [0, 0]
        for port in told["http"]:
            status, _, body = await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
            assert (status.partition(" ")[2], "asyncdicom_" in body.decode()) == ("200 OK", True)
        for name in ("worker 2", *balancer) if balancer else ():
            os.kill(parts[name], signal.SIGKILL)
            assert "killed by SIGKILL" in await running.logged(f"{name} (pid {parts[name]}) has ended")
        assert await studies(running.address) == 1  # who calls while HAProxy is started again waits
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 130
    assert not any(is_alive(pid) for pid in parts.values())
    assert list(temporary.iterdir()) == []
    assert {path.name for path in kept.iterdir()} >= {"archive", "postgres", "postgres.log"}

    async with cluster(*options[:2], "--workers", "1", "--no-haproxy", temporary=temporary) as again:
        address, _, rest = again.told["line"].partition(": ")
        assert rest == "1 worker, one archive\n"
        assert await studies(address) == 1
        assert again.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while b"Ctrl-C ends all of it." not in await again.process.stdout.readline():
                pass
        for number in (signal.SIGHUP, signal.SIGTERM):  # the terminal is closed; and at once
            again.process.send_signal(number)
        assert await again.ended() == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.timeout(4 * PATIENCE)
def test_a_cluster_is_used_killed_ended_and_begun_again_on_its_folder(folder: Path) -> None:
    _used(folder)


@once
async def test_a_port_that_is_used_is_one_line(start: Start, folder: Path) -> None:
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with start("cluster", "demo", "--port", port, "--keep", folder) as process:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, out) == (1, b"")
    assert b"Address already in use" in err


@once
async def test_what_a_folder_lacks_is_one_line(start: Start, folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "of somebody else").touch()
    async with start("cluster", "demo", "--port", 0, "--keep", folder) as process:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, out) == (1, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith("asyncdicom cluster demo: initdb")
    assert "exists but is not empty" in line


def test_where_postgresql_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debians = str(tmp_path / "debian")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_programs(debians=debians) is None
    with pytest.raises(LookupError, match="apt-get install postgresql haproxy"):
        OwnPostgres.in_folder(tmp_path / "data", tmp_path / "socket", debians=debians)
    assert not (tmp_path / "data").exists()
    initdb = tmp_path / "initdb"
    initdb.touch(mode=0o755)
    assert find_programs(debians=debians) == tmp_path
    for version in ("9.6", "17", "15", "broken"):
        place = tmp_path / "debian" / version / "bin"
        place.mkdir(parents=True)
        (place / "initdb").touch()
    found = {wanted: find_programs(wanted, debians=debians) for wanted in (None, "15", "14")}
    assert [place.parent.name for place in found.values() if place] == ["17", "15", "17"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("15\n")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    own = OwnPostgres.in_folder(tmp_path / "data", tmp_path / "socket", debians=debians)
    assert (own.is_new, own.programs.parent.name, own.as_user) == (False, "15", {"cwd": tmp_path / "socket"})


def test_as_whom_the_server_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"nobody": SimpleNamespace(pw_uid=65534, pw_gid=65534)}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: known[name])
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert user_of_server() is known["nobody"]
    known.clear()
    with pytest.raises(LookupError, match="does not run as root"):
        user_of_server()
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert user_of_server() is None


async def _never() -> bool:
    return False


@once
async def test_a_part_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    said = "echo one; echo FATAL: no room; echo HINT: make some; exit 3"
    part = Part("it", lambda: ("sh", "-c", said), log_to=tmp_path / "log")
    with pytest.raises(PartFailed, match=r"^it has ended: exit code 3: FATAL: no room HINT: make some$"):
        await part.start(_never)
    part = Part("it", lambda: ("sh", "-c", "exec 1>&-; kill -9 $$"))
    with pytest.raises(PartFailed, match=r"^it has ended: killed by SIGKILL$"):
        await part.start()
    part = Part("it", lambda: ("sh", "-c", "exit 3"), log_to=tmp_path / "missing" / "log")
    with pytest.raises(PartFailed, match=r"^it: .*missing.* No such file"):
        await part.start(_never)
    await part.ended()  # it was never there
    part.kill()


@once
async def test_a_part_that_does_not_hear_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    part = Part("it", lambda: ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    await part.start()
    part.tell_to_end()
    await part.ended(0.01)
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["SIGTERM", "SIGKILL"]


@once
async def test_a_part_that_cannot_be_started_again_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it is told by is a file, so that nobody waits for a time."""
    began = tmp_path / "began"
    part = Part("it", lambda: ("sh", "-c", f"echo >> {began}; exit 3"), pause=0.0)
    with pytest.raises(PartFailed):
        await part.start()
    keeping = asyncio.ensure_future(part.keep())
    async with asyncio.timeout(PATIENCE):
        while not (began.exists() and len(began.read_text()) > 2):
            await asyncio.sleep(0.01)
    part.kill()
    await asyncio.wait_for(keeping, PATIENCE)
    assert "it (pid" in caplog.messages[0]
    assert "is started again: exit code 3" in caplog.messages[0]


@once
async def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(PartFailed, match=r"^it: sh: error: no$"):
        await run_once("it", ("sh", "-c", "echo sh: error: no; exit 1"), {})
    with pytest.raises(PartFailed, match=r"^it: /nowhere/sh cannot be started|No such file"):
        await run_once("it", ("/nowhere/sh",), {})
    running = asyncio.ensure_future(run_once("it", ("sleep", "600"), {}))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
