"""``asyncdicom trace`` and ``--trace``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cli.running import Start, Tool

from asyncdicom import AssociationClosed, associate, serve

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the tools have event loops of their own


@pytest.mark.parametrize(
    ("listen", "to"), [("nowhere:x", "127.0.0.1:104"), ("0", "127.0.0.1:x"), ("70000", "127.0.0.1:104")]
)
async def test_addresses_that_are_none(tool: Tool, listen: str, to: str) -> None:
    result = await tool("trace", "--listen", listen, "--to", to)
    assert result.code == 2
    assert result.err.count("\n") == 1


async def test_a_proxy_in_a_process(start: Start, tmp_path: Path) -> None:
    import json

    pcap = tmp_path / "wire.pcap"
    async with serve("SCP@127.0.0.1:0") as server:
        to = f"127.0.0.1:{server.port}"
        arguments = ("trace", "--listen", 0, "--to", to, "--json", "--pcap", pcap, "--connections", 1)
        async with start(*arguments) as process:
            port = json.loads(await process.stdout.readline())["port"]
            async with associate(f"SCP@127.0.0.1:{port}") as association:
                await association.c_echo()
            out, _ = await process.communicate()
    lines = [json.loads(line) for line in out.decode().splitlines()]
    assert process.returncode == 0
    assert [line["message"] for line in lines if line["event"] == "message"] == ["C-ECHO-RQ", "C-ECHO-RSP"]
    assert {line["connection"] for line in lines} == {1}
    assert pcap.read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"


async def test_a_capture_that_is_there_is_not_replaced(tool: Tool, tmp_path: Path) -> None:
    pcap = tmp_path / "wire.pcap"
    pcap.write_bytes(b"dear")
    result = await tool("trace", "--listen", 0, "--to", "127.0.0.1:1", "--pcap", pcap)
    assert result.code == 1
    assert "exists" in result.err
    assert pcap.read_bytes() == b"dear"


async def test_a_proxy_in_a_thread_says_where_it_listens(tool: Tool, free_port: int) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        arguments = ("trace", "--listen", free_port, "--to", f"127.0.0.1:{server.port}", "--connections", 1)
        tracing = asyncio.ensure_future(tool(*arguments))
        while not tracing.done():  # until it listens
            try:
                async with associate(f"SCP@127.0.0.1:{free_port}") as association:
                    await association.c_echo()
                break
            except AssociationClosed:
                await asyncio.sleep(0.05)
        result = await tracing
    assert result.code == 0
    assert result.lines[0] == f"127.0.0.1:{free_port} passes on to 127.0.0.1:{server.port}"
    assert any("C-ECHO-RSP 1 0x0000 (Success)" in line for line in result.lines)


async def test_the_tools_trace_themselves(tool: Tool, tmp_path: Path) -> None:
    pcap = tmp_path / "own.pcap"
    async with serve("SCP@127.0.0.1:0") as server:
        peer = f"SCP@127.0.0.1:{server.port}"
        traced = await tool("echoscu", "--trace", "--trace-pcap", pcap, peer)
        quiet = await tool("echoscu", "--trace-pcap", tmp_path / "other.pcap", peer)
        both = await tool("echoscu", "-d", "--trace", peer)
        refused = await tool("conformance", "--trace", peer)
        again = await tool("echoscu", "--trace-pcap", pcap, peer)
    assert traced.code == 0
    assert "Success" in traced.out
    assert "-> C-ECHO-RQ 1 Verification" in traced.err
    assert pcap.stat().st_size > 500
    assert (quiet.code, quiet.err) == (0, "")
    assert "-> C-ECHO-RQ 1" in both.err
    assert (refused.code, again.code) == (2, 1)
    assert "exists" in again.err


async def test_a_server_traces_itself(start: Start, tmp_path: Path) -> None:
    async with start("storescp", 0, "-od", tmp_path, "--trace") as process:
        line = (await process.stdout.readline()).decode()
        port = int(line.partition("127.0.0.1:")[2].partition(",")[0])
        async with associate(f"STORESCP@127.0.0.1:{port}") as association:
            await association.c_echo()
        process.terminate()
        _, err = await process.communicate()
    assert "C-ECHO-RSP 1 0x0000 (Success)" in err.decode()
