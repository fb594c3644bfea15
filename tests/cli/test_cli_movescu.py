from __future__ import annotations

from pathlib import Path

import pytest
from cli.nodes import Instance, Node, data_sets, expected
from cli.running import Tool

from asyncdicom import AssociationRejected, Request, Retrieval, associate, serve, storage_contexts

STUDY = [Instance("1.1", "1.1.1", "1.1.1.1"), Instance("1.1", "1.1.1", "1.1.1.2")]
KEY = ("-k", "StudyInstanceUID=1.1")


async def test_to_a_destination(tool: Tool) -> None:
    received = []

    async def c_store(request: Request) -> int:
        received.append(request.affected_sop_instance_uid)
        return 0

    node = Node(STUDY)
    async with (
        serve("OTHER@127.0.0.1:0", c_store=c_store) as other,
        serve(
            "SCP@127.0.0.1:0", c_move=node.retrieve, destinations={"OTHER": f"127.0.0.1:{other.port}"}
        ) as server,
    ):
        result = await tool("movescu", "127.0.0.1", server.port, "-aem", "OTHER", *KEY)
    assert (result.code, result.err) == (0, "")
    assert result.out == "completed 2, warned 0, failed 0, status 0x0000 (Success)\n"
    assert received == ["1.1.1.1", "1.1.1.2"]


@pytest.mark.parametrize("destination", [["-aet", "ME"], ["-aem", "ME"]])
async def test_to_our_own_port(tool: Tool, tmp_path: Path, free_port: int, destination: list[str]) -> None:
    node = Node(STUDY)
    async with serve(
        "SCP@127.0.0.1:0", c_move=node.retrieve, destinations={"ME": f"127.0.0.1:{free_port}"}
    ) as server:
        result = await tool(
            "movescu",
            "127.0.0.1",
            server.port,
            *destination,
            "--port",
            free_port,
            "-od",
            tmp_path,
            "--json",
            *KEY,
        )
    assert result.code == 0
    (line,) = result.json
    assert (line["status"], line["completed"], line["received"]) == (0, 2, 2)
    assert data_sets(tmp_path) == expected(STUDY)


async def test_what_is_counted_and_does_not_come_here(tool: Tool, tmp_path: Path, free_port: int) -> None:
    """The peer has another address for our AE title, and is content."""

    async def elsewhere(request: Request) -> int:
        return 0

    async with (
        serve("ME@127.0.0.1:0", c_store=elsewhere) as other,
        serve(
            "SCP@127.0.0.1:0",
            c_move=Node(STUDY).retrieve,
            destinations={"ME": f"127.0.0.1:{other.port}"},
        ) as server,
    ):
        here = ("-aem", "ME", "--port", free_port, "-od", tmp_path)
        result = await tool("movescu", "127.0.0.1", server.port, *here, *KEY)
    assert result.code == 1
    assert "completed 2, warned 0, failed 0, received 0" in result.out
    assert "2 that the peer counts as sent did not come here" in result.err


async def test_an_unknown_destination(tool: Tool, caplog: pytest.LogCaptureFixture) -> None:
    async with serve("SCP@127.0.0.1:0", c_move=Node(STUDY).retrieve, destinations={}) as server:
        result = await tool("movescu", "127.0.0.1", server.port, "-aem", "NOBODY", *KEY)
    assert result.code == 1
    assert "status 0xA801 (Failure: move destination unknown)" in result.out
    assert "has no address for the AE title NOBODY: it has to be told" in caplog.text


async def test_a_destination_that_is_not_there(tool: Tool, free_port: int) -> None:
    async with serve(
        "SCP@127.0.0.1:0", c_move=Node(STUDY).retrieve, destinations={"OFF": f"127.0.0.1:{free_port}"}
    ) as server:
        result = await tool("movescu", "127.0.0.1", server.port, "-aem", "OFF", *KEY)
    assert result.code == 1
    assert result.out.splitlines()[:2] == ["failed: 1.1.1.1", "failed: 1.1.1.2"]


async def test_a_port_that_is_taken(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        result = await tool("movescu", "127.0.0.1", server.port, "--port", server.port, *KEY)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert (
        f"cannot listen on 127.0.0.1:{server.port}: Address already in use; choose another port" in result.err
    )


async def test_a_receiver_that_the_peer_cannot_reach(tool: Tool, caplog: pytest.LogCaptureFixture) -> None:
    assert (await tool("movescu", "host.invalid", 104, "--port", 0, *KEY)).code == 3
    assert (
        "listening on 127.0.0.1, where ANY-SCP@host.invalid:104 cannot connect to: see --host" in caplog.text
    )
    caplog.clear()
    assert (await tool("movescu", "host.invalid", 104, "--port", 0, "--host", "0.0.0.0", *KEY)).code == 3
    assert "see --host" not in caplog.text


@pytest.mark.parametrize("stranger", ["SCP", "OTHER"])
async def test_what_others_send_meanwhile_is_refused(
    tool: Tool, tmp_path: Path, free_port: int, stranger: str
) -> None:
    """Rejected: another AE title. Refused: what was sent for the C-MOVE of another, or not asked for."""
    refused: list[int] = []

    async def attack(request: Request) -> Retrieval:
        await request.data.read()
        for originator, instance in (("ELSE", STUDY[0]), (None, Instance("6.6", "6.6.1", "6.6.1.1"))):
            source = instance.source()
            try:
                async with associate(
                    f"ME@127.0.0.1:{free_port}",
                    calling_ae_title=stranger,
                    contexts=storage_contexts([source]),
                ) as association:
                    by = None if originator is None else (originator, 1)
                    refused.append((await association.c_store(source, move_originator=by)).status)
            except AssociationRejected as error:
                refused.append(error.reason)
        return Retrieval([instance.source() for instance in STUDY])

    async with serve(
        "SCP@127.0.0.1:0", c_move=attack, destinations={"ME": f"127.0.0.1:{free_port}"}
    ) as server:
        where = f"SCP@127.0.0.1:{server.port}"
        result = await tool("movescu", where, "-aet", "ME", "--port", free_port, "-od", tmp_path, *KEY)
    assert refused == ([0x0124, 0x0124] if stranger == "SCP" else [3, 3])
    assert result.code == (1 if stranger == "SCP" else 0)
    assert data_sets(tmp_path) == expected(STUDY)


async def test_who_asks_by_tls_receives_by_tls(tool: Tool, tmp_path: Path) -> None:
    code, _, err = await tool("movescu", "SCP@127.0.0.1:1", "--tls", "--port", 0, "-od", tmp_path, *KEY)
    assert code == 2
    assert "is received by TLS, too: add +tls KEY CERT" in err
