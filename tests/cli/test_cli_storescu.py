from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from cli.running import ENVIRONMENT, Tool, write_instance

from asyncdicom import Limits, Request, Response, Status, serve

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


class Received(dict[str, bytes]):
    """A C-STORE handler that keeps what it gets, and answers what it was told to."""

    def __init__(self, answers: dict[str, int] | None = None) -> None:
        super().__init__()
        self.answers = answers or {}
        self.calls: list[str] = []
        self.associations: set[int] = set()
        self.kept_alive: list[object] = []

    async def __call__(self, request: Request) -> int:
        uid = request.affected_sop_instance_uid
        self.calls.append(uid)
        self.associations.add(id(request.association))
        self.kept_alive.append(request.association)
        answer = self.answers.get(uid, 0)
        if answer < 0:
            await request.association.abort()
        self[uid] = await request.data.read()
        return answer


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, bytes]:
    """Five files in three folders: their UIDs, in the order they are to be sent, with their data sets."""
    (tmp_path / "in" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b").mkdir()
    places = ["0.dcm", "1", "a/0.dcm", "a/deep/0.ima", "b/0.dcm"]
    return {
        f"1.2.{number}": write_instance(tmp_path / "in" / place, (CT, MR)[number % 2], f"1.2.{number}")
        for number, place in enumerate(places)
    }


async def test_folders_and_files(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    received = Received()
    single = write_instance(tmp_path / "single.dcm", CT, "1.2.9")
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool(
            "storescu", "127.0.0.1", server.port, tmp_path / "in", tmp_path / "single.dcm"
        )
    assert (code, err) == (0, "")
    assert out.startswith("sent 6, warned 0, failed 0 in ")
    assert out.endswith(" MB/s)\n")
    assert received == folder | {"1.2.9": single}
    assert received.calls == [*folder, "1.2.9"]
    assert len(received.associations) == 1


async def test_what_is_not_dicom_is_named_and_the_rest_is_sent(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes]
) -> None:
    received = Received()
    (tmp_path / "in" / "a" / "notes.txt").write_text("hello")
    (tmp_path / "in" / "empty").touch()
    os.mkfifo(tmp_path / "in" / "b" / "pipe")
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool(
            "storescu", "--strict", "127.0.0.1", server.port, tmp_path / "in", tmp_path / "missing"
        )
    assert code == 1
    assert out.startswith("sent 5, warned 0, failed 4 in ")
    assert [line.partition(": ")[0].rpartition("/")[2] for line in sorted(err.splitlines())] == [
        "notes.txt",
        "pipe",
        "empty",
        "missing",
    ]
    assert "not a DICOM Part 10 file" in err
    assert received == folder


async def test_a_cd(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    """What lies beside the images is skipped; what may be a damaged image is not."""
    received = Received()
    write_instance(tmp_path / "in" / "DICOMDIR", "1.2.840.10008.1.3.10", "1.9")
    (tmp_path / "in" / "AUTORUN.INF").write_text("[autorun]")
    (tmp_path / "in" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "in" / "b" / "VIEWER.EXE").write_bytes(b"MZ" + bytes(500))
    os.mkfifo(tmp_path / "in" / "pipe")
    control = socket.socket(socket.AF_UNIX)
    here = os.open(tmp_path / "in", os.O_RDONLY)
    control.bind(f"/proc/self/fd/{here}/control")  # as an archive has it; its path may not be long
    os.close(here)
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
        control.close()
        assert (code, err) == (0, "")
        assert out.startswith("sent 5, warned 0, failed 0, skipped 6 in ")
        assert received == folder

        damaged = {
            "cut.dcm": b"",
            "meta": bytes(128) + b"DICM" + b"\2\0\2\0UI\x40\0",
            "bare": b"\x08\0\x16\0UI\4\0001.2",
            "big": b"\0\x08\0\x16UI\0\0041.2",
        }
        for name, data in damaged.items():
            (tmp_path / "in" / name).write_bytes(data)
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
        assert code == 1
        assert out.startswith("sent 5, warned 0, failed 4, skipped 6 in ")
        assert {line.partition(": ")[0].rpartition("/")[2] for line in err.splitlines()} == set(damaged)

        code, out, _ = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in" / "AUTORUN.INF")
        assert (code, out[:25]) == (1, "sent 0, warned 0, failed "), "it was asked for by its name"


async def test_names_and_comments_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    """LANG=C: every tool escapes what stdout, stderr and the log cannot show."""

    async def refuse(request: Request) -> Response:
        return Response(0xA700, error_comment="voll")

    (tmp_path / "Bildér").mkdir()
    write_instance(tmp_path / "Bildér" / "山.dcm", CT, "1.2.3")
    write_instance(tmp_path / "x", CT, "1.2.4")
    os.rename(tmp_path / "x", os.fsencode(tmp_path) + b"/\xff.dcm")
    (tmp_path / "\u2028.dcm").write_bytes(b"\x08\0\x05\0no")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    async with serve("SCP@127.0.0.1:0", c_store=refuse) as server:
        for options in ([], ["--json"], ["-d"]):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "asyncdicom", "storescu", *options),
                *(f"SCP@127.0.0.1:{server.port}", tmp_path),
                env=ENVIRONMENT | plain,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode == 1
            assert b"failed 3" in out or b'"failed": 3' in out
            assert (out + err).isascii()
            assert b"Traceback" not in err


@pytest.mark.parametrize("rubbish", [False, True])
async def test_nothing_is_found_to_send(tool: Tool, tmp_path: Path, rubbish: bool) -> None:
    if rubbish:
        (tmp_path / "notes.txt").write_text("hello")
    async with serve("SCP@127.0.0.1:0", c_store=Received()) as server:
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path)
    assert code == 1
    assert out.startswith("sent 0, warned 0, failed 0")
    assert err == f"asyncdicom storescu: no DICOM file to send in {tmp_path}\n"


async def test_failures_and_warnings(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    received = Received({"1.2.1": Status.OUT_OF_RESOURCES, "1.2.3": Status.ELEMENTS_DISCARDED})
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
    assert code == 1
    assert out.startswith("sent 3, warned 1, failed 1 in ")
    assert err.splitlines() == [
        f"{tmp_path}/in/1: status 0xA700 (Failure: out of resources)",
        f"{tmp_path}/in/a/deep/0.ima: status 0xB006 (Warning: elements discarded)",
    ]


async def test_warnings_alone_are_no_failure(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    async with serve("SCP@127.0.0.1:0", c_store=Received({"1.2.3": Status.ELEMENTS_DISCARDED})) as server:
        code, out, _ = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
    assert (code, out[:25]) == (0, "sent 4, warned 1, failed ")


async def test_json(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    (tmp_path / "in" / "notes.txt").write_text("hello")
    async with serve("SCP@127.0.0.1:0", c_store=Received({"1.2.1": 0xA700})) as server:
        result = await tool("storescu", "--json", "--strict", "127.0.0.1", server.port, tmp_path / "in")
    assert (result.code, result.err) == (1, "")
    bad, *answered, summary = result.json
    assert bad["file"] == f"{tmp_path}/in/notes.txt"
    assert "not a DICOM Part 10 file" in bad["error"]
    assert [line["status"] for line in answered] == [0, 0xA700, 0, 0, 0]
    seconds = summary.pop("seconds")
    assert seconds > 0
    assert summary == {
        "sent": 4,
        "warned": 0,
        "failed": 2,
        "not_sent": 0,
        "skipped": 0,
        "bytes": sum(len(data) for uid, data in folder.items() if uid != "1.2.1"),
    }


ALONE = ("storescu", "--operations", 1)


async def test_with_several_outstanding_a_lost_association_costs_only_what_it_was_lost_for(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes]
) -> None:
    received = Received({"1.2.1": -1, "1.2.4": -1})
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
    assert code == 1
    assert out.startswith("sent 3, warned 0, failed 2 in ")
    assert sorted(line.partition(": ")[0] for line in err.splitlines() if line.startswith(str(tmp_path))) == [
        f"{tmp_path}/in/1",
        f"{tmp_path}/in/b/0.dcm",
    ]


async def test_a_lost_association_is_replaced(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    received = Received({"1.2.1": -1, "1.2.4": -1})
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool(*ALONE, "127.0.0.1", server.port, tmp_path / "in")
    assert code == 1
    assert out.startswith("sent 3, warned 0, failed 2 in ")
    assert [line.partition(": ")[0] for line in err.splitlines()] == [
        f"{tmp_path}/in/1",
        f"{tmp_path}/in/b/0.dcm",
    ]
    assert received.calls == list(folder)
    assert len(received.associations) == 2


async def test_an_association_lost_again_at_once(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes]
) -> None:
    received = Received({"1.2.1": -1, "1.2.2": -1})
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool(*ALONE, "127.0.0.1", server.port, tmp_path / "in")
    assert code == 3
    assert out.startswith("sent 1, warned 0, failed 4 (2 not sent) in ")
    assert len(err.splitlines()) == 3
    assert received.calls == ["1.2.0", "1.2.1", "1.2.2"]


async def test_nobody_there(tool: Tool, tmp_path: Path, folder: dict[str, bytes], free_port: int) -> None:
    code, out, err = await tool("storescu", f"SCP@127.0.0.1:{free_port}", tmp_path / "in")
    assert code == 3
    assert out.startswith("sent 0, warned 0, failed 5 (5 not sent) in ")
    assert err.count("\n") == 1
    assert f"SCP@127.0.0.1:{free_port}: connection refused" in err


async def test_a_class_that_the_peer_refuses(tool: Tool, tmp_path: Path, folder: dict[str, bytes]) -> None:
    received = Received()
    async with serve("SCP@127.0.0.1:0", c_store=received, contexts=[CT]) as server:
        code, out, err = await tool("storescu", "127.0.0.1", server.port, tmp_path / "in")
    assert code == 1
    assert out.startswith("sent 3, warned 0, failed 2 in ")
    assert err.count("no accepted presentation context for MR Image Storage") == 2
    assert list(received) == ["1.2.0", "1.2.2", "1.2.4"]


async def test_more_contexts_than_an_association_has(tool: Tool, tmp_path: Path) -> None:
    received = Received()
    expected = {
        f"1.2.{number}": write_instance(tmp_path / f"{number:03}", f"1.2.3.{number}", f"1.2.{number}")
        for number in range(130)
    }
    async with serve("SCP@127.0.0.1:0", c_store=received, unknown_storage=True) as server:
        code, _, err = await tool("storescu", "127.0.0.1", server.port, tmp_path)
    assert (code, err) == (0, "")
    assert received == expected
    assert len(received.associations) == 3  # a class needs two: as it is, and Implicit VR Little Endian


class Slow(Received):
    """Answers nobody before so many associations have sent: one that is answered at once could take all."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted = wanted
        self._enough = asyncio.Event()

    async def __call__(self, request: Request) -> int:
        answer = await super().__call__(request)
        if len(self.associations) >= self._wanted:
            self._enough.set()
        await self._enough.wait()
        return answer


async def test_several_associations(tool: Tool, tmp_path: Path) -> None:
    received = Slow(3)
    expected = {
        f"1.2.{number}": write_instance(tmp_path / f"{number}", CT, f"1.2.{number}") for number in range(40)
    }
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, _, err = await tool("storescu", "--associations", 3, "127.0.0.1", server.port, tmp_path)
    assert (code, err) == (0, "")
    assert received == expected
    assert len(received.associations) == 3


class Window(Received):
    """Keeps how many operations are performed at a time, and waits until there are enough."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted = wanted
        self._enough = asyncio.Event()
        self._now = 0
        self.most = 0

    async def __call__(self, request: Request) -> int:
        self._now += 1
        self.most = max(self.most, self._now)
        if self._now >= self._wanted:
            self._enough.set()
        await self._enough.wait()
        answer = await super().__call__(request)
        self._now -= 1
        return answer


@pytest.mark.parametrize("associations", [1, 2])
async def test_several_operations(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes], associations: int
) -> None:
    for number in range(5, 12):
        folder[f"1.2.{number}"] = write_instance(tmp_path / "in" / f"{number}", CT, f"1.2.{number}")
    received = Window(4 * associations)
    many = ("--associations", associations, "--operations", 4)
    async with serve("SCP@127.0.0.1:0", c_store=received, limits=Limits(operations_performed=4)) as server:
        code, out, err = await tool("storescu", *many, "127.0.0.1", server.port, tmp_path / "in")
    assert (code, err) == (0, "")
    assert out.startswith("sent 12, warned 0, failed 0 in ")
    assert received == folder
    assert received.most == 4 * associations
    assert len(received.associations) == associations


@pytest.mark.parametrize(
    ("granted", "told"),
    [(1, "1 outstanding operation an association"), (3, "3 outstanding operations an association")],
)
async def test_fewer_operations_than_asked_for(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes], granted: int, told: str
) -> None:
    received = Window(1)
    many = ("--associations", 2, "--operations", 16)
    async with serve(
        "SCP@127.0.0.1:0", c_store=received, limits=Limits(operations_performed=granted)
    ) as server:
        code, _, err = await tool("storescu", *many, "127.0.0.1", server.port, tmp_path / "in")
    assert code == 0
    assert err == f"ANY-SCP@127.0.0.1:{server.port} allows {told}, not 16\n"
    assert received == folder
    assert received.most <= 2 * granted


async def test_a_lost_association_with_operations_outstanding(
    tool: Tool, tmp_path: Path, folder: dict[str, bytes]
) -> None:
    """All that were outstanding have failed, and the next is sent over a new association."""
    received = Received({"1.2.0": -1})
    async with serve("SCP@127.0.0.1:0", c_store=received) as server:
        code, out, err = await tool("storescu", "--operations", 4, "127.0.0.1", server.port, tmp_path / "in")
    assert code == 1
    assert "not sent" not in out
    assert received["1.2.4"] == folder["1.2.4"]
    assert 1 <= len(err.splitlines()) <= 4
