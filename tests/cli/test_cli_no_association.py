"""No association: one line on stderr with the peer, the reason and what to check, exit code 3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from cli.running import Result, Tool

from asyncdicom import AccessPolicy, Limits, Request, serve
from asyncdicom.ul.pdu import AAbort


def said(result: Result) -> str:
    assert result.code == 3
    assert result.out == ""
    assert result.err.count("\n") == 1
    return result.err


@asynccontextmanager
async def peer(answer: bytes | None) -> AsyncIterator[int]:
    """Something that is no DICOM application: it answers the first bytes with these (None: never)."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_nobody_listens(tool: Tool, free_port: int) -> None:
    err = said(await tool("echoscu", f"SCP@127.0.0.1:{free_port}"))
    assert (
        f"SCP@127.0.0.1:{free_port}: connection refused; is the peer running, and is the port right?" in err
    )


async def test_a_program_that_reads_stdout_is_told(tool: Tool) -> None:
    result = await tool("echoscu", "--json", "host.invalid", 104)
    (line,) = result.json
    assert (result.code, line["exit_code"]) == (3, 3)
    assert line["error"] in result.err


async def test_no_such_host(tool: Tool) -> None:
    err = said(await tool("echoscu", "host.invalid", 104))
    assert "ANY-SCP@host.invalid:104: " in err
    assert "check the host name" in err


async def test_a_port_that_says_nothing(tool: Tool) -> None:
    async with peer(None) as port:
        err = said(await tool("echoscu", "-ta", 0.1, "127.0.0.1", port))
    assert f"127.0.0.1:{port}" in err
    assert "did not answer" in err
    assert "check that this is a DICOM port, and whether it is one for TLS" in err


async def test_a_web_server(tool: Tool) -> None:
    async with peer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        err = said(await tool("echoscu", "127.0.0.1", port))
    assert f"127.0.0.1:{port}" in err
    assert "HTTP" in err


async def test_a_peer_that_aborts(tool: Tool) -> None:
    async with peer(AAbort(2, 1).encode()) as port:
        err = said(await tool("echoscu", "127.0.0.1", port))
    assert f"127.0.0.1:{port}" in err
    assert "abort" in err


async def test_tls_where_there_is_none(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        err = said(await tool("echoscu", "-ic", "-to", 5, "127.0.0.1", server.port))
    assert f"ANY-SCP@127.0.0.1:{server.port}" in err
    assert "TLS" in err


@pytest.mark.parametrize(
    ("options", "arguments", "reason", "advice"),
    [
        (
            {"access": AccessPolicy(called_ae_titles="SCP")},
            ["-aec", "WRONG"],
            "called AE title not recognized",
            "see -aec",
        ),
        (
            {"access": ["FRIEND"]},
            ["-aet", "STRANGER"],
            "calling AE title not recognized",
            "see -aet",
        ),
    ],
)
async def test_rejected(
    tool: Tool, options: dict[str, object], arguments: list[str], reason: str, advice: str
) -> None:
    async with serve("SCP@127.0.0.1:0", **options) as server:  # type: ignore[arg-type]
        err = said(await tool("echoscu", *arguments, "127.0.0.1", server.port))
    assert f"127.0.0.1:{server.port}" in err
    assert reason in err
    assert advice in err


async def test_no_room(tool: Tool) -> None:
    from asyncdicom import associate

    async with (
        serve("SCP@127.0.0.1:0", limits=Limits(maximum_associations=1)) as server,
        associate(f"SCP@127.0.0.1:{server.port}"),
    ):
        err = said(await tool("echoscu", "127.0.0.1", server.port))
    assert "try again later" in err


async def test_aborted_in_the_middle(tool: Tool) -> None:
    async def c_echo(request: Request) -> int:
        await request.association.abort()
        return 0

    async with serve("SCP@127.0.0.1:0", c_echo=c_echo) as server:
        err = said(await tool("echoscu", "127.0.0.1", server.port))
    assert "aborted by the peer" in err
