"""``asyncdicom conformance``: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json

import pytest

from asyncdicom import serve
from asyncdicom.__main__ import main

Output = pytest.CaptureFixture[str]


async def run(*arguments: object) -> int:
    return await asyncio.to_thread(main, ["conformance", *map(str, arguments)])


async def test_passed(capfd: Output) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        assert await run(f"SCP@127.0.0.1:{server.port}", "--case", "P-02", "--case", "A-05c") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "P-02a  passed     PDU type 00H"
    assert lines[3] == "A-05c  passed     protocol version 3"
    assert lines[-1].split() == ["all", "4", "0", "0", "0"]


async def test_skipped_and_tolerated(capfd: Output) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        assert await run("127.0.0.1", server.port, "--case", "A-03a", "--case", "D-18") == 0
    out = capfd.readouterr().out
    assert "presentation context 3 was not accepted" in out
    assert "expected  reject 1 1 7\n" in out
    assert "got       accept 0, goes on\n" in out


async def test_json(capfd: Output) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        await run(f"SCP@127.0.0.1:{server.port}", "--case", "P-02b", "--json")
    line = json.loads(capfd.readouterr().out)
    assert (line["id"], line["result"], line["got"]) == ("P-02b", "passed", "abort 2 1")
    assert line["received"].endswith("07000000000400000201")
    assert bytes.fromhex(line["sent"])[10:26] == b"SCP".ljust(16), "the AE title is that of the peer"


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a word, and say nothing."""
    await reader.read(1)
    writer.close()


async def test_failed(capfd: Output) -> None:
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await run("127.0.0.1", port, "--case", "P-04a", "--case", "P-02a") == 1
    out = capfd.readouterr().out
    assert "got       closed\n" in out
    assert "got       no association: closed\n" in out
    assert "sent      01000000 0000\n" in out
    assert "received  nothing\n" in out


async def test_no_peer(capfd: Output) -> None:
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    assert await run("127.0.0.1", port) == 3
    assert "onnect" in capfd.readouterr().err


async def test_no_such_case(capfd: Output) -> None:
    assert await run("127.0.0.1", "--case", "M-01") == 2
    assert (
        "there is no case M-01: a file that we read; see asyncdicom conformance --help"
        in capfd.readouterr().err
    )
