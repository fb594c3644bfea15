from __future__ import annotations

import asyncio
import signal

import pytest
from cli.running import Start, Tool

from asyncdicom import AccessPolicy, Request, Response, Status, serve


async def test_text(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0", access=AccessPolicy(called_ae_titles="SCP")) as server:
        for peer in ([f"SCP@127.0.0.1:{server.port}"], ["-aec", "SCP", "127.0.0.1", server.port]):
            result = await tool("echoscu", *peer)
            assert (result.code, result.err) == (0, "")
            assert result.out.startswith(f"SCP@127.0.0.1:{server.port}: 0x0000 (Success) in ")


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0:0:0:0:0:0:1"])
async def test_an_ipv6_address_with_a_port_of_its_own(tool: Tool, host: str) -> None:
    try:
        server = await serve("SCP@[::1]:0")
    except OSError:
        pytest.skip("no IPv6 here")
    result = await tool("echoscu", host, server.port)
    await server.close()
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"ANY-SCP@[{host.strip('[]')}]:{server.port}: 0x0000 (Success) in ")


async def test_json_and_repeat(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        result = await tool("echoscu", f"SCP@127.0.0.1:{server.port}", "--json", "--repeat", 3)
    assert result.code == 0
    assert [(line["status"], line["category"]) for line in result.json] == [(0, "Success")] * 3


async def test_a_failure(tool: Tool) -> None:
    async def c_echo(request: Request) -> Status:
        return Status.PROCESSING_FAILURE

    async with serve("SCP@127.0.0.1:0", c_echo=c_echo) as server:
        result = await tool("echoscu", "127.0.0.1", server.port)
    assert result.code == 1
    assert "0x0110 (Failure: processing failure)" in result.out


async def test_the_explanation_of_a_failure_is_shown(tool: Tool) -> None:
    async def c_echo(request: Request) -> Response:
        return Response(0x0110, error_comment="maintenance until noon")

    async with serve("SCP@127.0.0.1:0", c_echo=c_echo) as server:
        text = await tool("echoscu", "127.0.0.1", server.port)
        in_json = await tool("echoscu", "127.0.0.1", server.port, "--json")
    assert "0x0110 (Failure: processing failure): maintenance until noon in " in text.out
    assert in_json.json[0]["error_comment"] == "maintenance until noon"


async def test_our_ae_title_and_the_end(tool: Tool) -> None:
    calling: list[str] = []

    async def c_echo(request: Request) -> int:
        calling.append(request.calling_ae_title)
        return 0

    seen: list[str] = []

    def trace(direction: str, what: object) -> None:
        seen.append(type(what).__name__)

    async with serve("SCP@127.0.0.1:0", c_echo=c_echo, trace=trace) as server:
        await tool("echoscu", "127.0.0.1", server.port)
        assert seen[-1] == "ReleaseIndication"
        await tool("echoscu", "-aet", "ME", "--abort", "127.0.0.1", server.port)
        assert seen[-1] == "AbortIndication"
    assert calling == ["ECHOSCU", "ME"]


async def test_verbose_and_debug(start: Start) -> None:
    said = []
    async with serve("SCP@127.0.0.1:0") as server:
        for options in ([], ["-v"], ["-d"]):
            async with start("echoscu", *options, "127.0.0.1", server.port) as process:
                said.append((await process.communicate())[1].decode())
    quiet, verbose, debug = said
    assert quiet == ""
    assert "I: ANY-SCP@127.0.0.1:" in verbose
    assert "1 of 1 presentation contexts accepted" in verbose
    assert "C-ECHO-RQ" not in verbose
    for line in (
        "D: sent A-ASSOCIATE-RQ",
        "D:   ECHOSCU calls ANY-SCP",
        "D:     1 accepted with Explicit VR Little Endian (1.2.840.10008.1.2.1)",
        "D: sent C-ECHO-RQ",
        "D: received C-ECHO-RSP",
        "D:   Message ID Being Responded To     : 1",
        "D:   Status                            : 0x0000 (Success)",
    ):
        assert line in debug.splitlines()


async def test_interrupted(start: Start) -> None:
    """Ctrl-C: one line (after the one with ^C), exit code 130, and the peer sees an abort."""
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def c_echo(request: Request) -> int:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_echo=c_echo) as server,
        start("echoscu", "127.0.0.1", server.port) as process,
    ):
        await asked.wait()
        process.send_signal(signal.SIGINT)
        assert await process.communicate() == (b"", b"\nasyncdicom echoscu: interrupted\n")
        assert process.returncode == 130
        await asyncio.wait_for(cancelled.wait(), 10)
