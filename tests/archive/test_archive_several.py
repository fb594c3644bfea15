"""`qrscp --processes N`: one process accepts, the others serve, and all are one archive."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.archive_process import Qrscp, data_set, opened, qrscp
from helpers.postgres import Server

from asyncdicom.__main__ import main
from asyncdicom.cli.asking import result_of
from asyncdicom.exceptions import AssociationRejected


@asynccontextmanager
async def several(folder: Path, postgres: Server, *options: str) -> AsyncIterator[Qrscp]:
    options = ("--index", postgres.url(), "--processes", "2", "--durability", "process", *options)
    async with qrscp(folder, *options) as started:
        yield started


def workers_of(archive: Qrscp) -> list[int]:
    found = Path(f"/proc/{archive.pid}/task/{archive.pid}/children").read_text().split()
    return [int(pid) for pid in found]


async def state(archive: Qrscp) -> dict[str, Any]:
    return dict(await result_of(str(archive.root), "top"))


async def test_several_processes_are_one_archive(postgres: Server, tmp_path: Path) -> None:
    """Long associations are balanced; one that dies is started again, and the others go on meanwhile."""
    folder = tmp_path / "archive"
    (tmp_path / "file.toml").write_text("[limits]\nmaximum_associations = 8\n")
    async with several(folder, postgres, "--config", str(tmp_path / "file.toml")) as archive:
        first, second = workers_of(archive)
        async with AsyncExitStack() as stack:
            with opened(tmp_path / "journal") as journal:
                for n in range(8):
                    association = await stack.enter_async_context(archive.associate())
                    uid = f"1.2.{n}"
                    assert await journal.store(association, uid, data_set(uid)) == 0
                assert [_connections(pid, archive.port) for pid in (first, second)] == [4, 4]
                with pytest.raises(AssociationRejected):
                    async with archive.associate():
                        pass
                told = await state(archive)
                assert (told["processes"], told["associations"]["open"]) == (2, 8)
                assert told["archive"]["instance"] == 8
                assert {each["number"] for each in told["operations"]} == {8}
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(60):
                while (await state(archive))["associations"]["open"] != 4:
                    await asyncio.sleep(0.05)
        async with asyncio.timeout(100):
            while (await state(archive))["processes"] != 2:
                assert await archive.echo()
                await asyncio.sleep(0.05)
        assert first not in workers_of(archive)
        assert second in workers_of(archive)
        assert (await result_of(str(folder), "stat"))["instance"] == 8
        assert len(await archive.fetch("1.2.3")) == 1
        assert _stored(await state(archive)) == 8, "what the one had counted that was killed is kept"
        await _renewed(archive, tmp_path / "journal")
        archive.process.terminate()
        assert await archive.process.wait() == 0
    assert "was killed by SIGKILL" in archive.log.read_text()


def _stored(state: dict[str, Any]) -> int:
    return sum(each["number"] for each in state["operations"] if each["operation"] == "C-STORE")


async def _renewed(archive: Qrscp, path: Path) -> None:
    """Start the processes anew: associations go on, whoever calls gets in, and no count falls."""
    former = set(workers_of(archive))
    before, stored, left = _stored(await state(archive)), 0, 20
    with opened(path) as journal:
        async with asyncio.timeout(200), archive.associate() as association:
            archive.process.send_signal(signal.SIGUSR2)
            while left:  # not until its process has gone, which may be the first one that is to go
                uid = f"1.3.{stored}"
                assert await journal.store(association, uid, data_set(uid)) == 0
                stored += 1
                left -= former != set(workers_of(archive))
                assert await archive.echo()
                await asyncio.sleep(0.05)
        async with asyncio.timeout(200):
            while former & set(workers_of(archive)):
                assert await archive.echo()
                assert _stored(await state(archive)) >= before + stored
                await asyncio.sleep(0.05)
    assert len(workers_of(archive)) == 2
    assert _stored(await state(archive)) == before + stored


def _connections(pid: int, port: int) -> int:
    """How many connections to a port a process has."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}")}
    found = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
    return sum(each in there for each in found)


async def test_who_starts_them_dies_and_they_end(postgres: Server, tmp_path: Path) -> None:
    async with several(tmp_path / "archive", postgres) as archive:
        pids = workers_of(archive)
        await archive.kill()
        async with asyncio.timeout(100):
            while any(Path(f"/proc/{pid}/exe").exists() for pid in pids):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "2 processes need the index in PostgreSQL"),
        (
            ("--index", "postgresql:///x", "--blobs", "s3://b", "--ack", "spool"),
            "with --ack spool it is one process",
        ),
    ],
    ids=["sqlite", "spool"],
)
def test_where_only_one_may_be_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    arguments = ["--data", str(tmp_path / "archive"), "--port", "0", "--processes", "2", *more]
    assert main(["qrscp", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "archive").exists()
