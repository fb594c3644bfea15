"""doctor names the cause in set-ups that are broken in one place, and finds nothing in one that is right."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cli.nodes import Instance, Node
from cli.running import Result, Tool

from asyncdicom import (
    STUDY_ROOT,
    AccessPolicy,
    Address,
    Limits,
    Peer,
    Proposable,
    Request,
    Status,
    StatusError,
    Storage,
    associate,
    serve,
)
from asyncdicom.cli.samples import write_samples
from asyncdicom.services.responses import Response
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE, VERIFICATION

# The tool runs on an event loop of its own; that of the peers beside it makes no difference.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

NODE = Node([Instance("1.2.1", "1.2.1.1", "1.2.1.1.1")])
ALL = {"c_find": NODE.find, "c_get": NODE.retrieve, "c_move": NODE.retrieve}
FAST = ("-to", 5, "-ta", 5, "-td", 20)


async def stored(request: Request) -> Status:
    return Status.SUCCESS


def causes(result: Result) -> list[str]:
    return [line["cause"] for line in result.json if "cause" in line]


def step(result: Result, name: str) -> dict[str, Any]:
    (found,) = (line for line in result.json if line.get("step") == name)
    return found


@asynccontextmanager
async def provider(**options: Any) -> AsyncIterator[int]:
    async with serve("SCP@127.0.0.1:0", **{"c_store": stored, **ALL, **options}) as server:
        yield server.port


async def doctor(tool: Tool, port: int, *options: object, title: str = "SCP") -> Result:
    return await tool("doctor", "--json", *FAST, f"{title}@127.0.0.1:{port}", *options)


async def test_nothing_is_wrong(tool: Tool, free_port: int) -> None:
    known = {"DOCTOR": Address("DOCTOR", "127.0.0.1", free_port)}
    async with provider(destinations=known) as port:
        result = await doctor(tool, port, "--port", free_port)
        text = await tool("doctor", f"SCP@127.0.0.1:{port}", "--port", free_port)
    assert (result.code, causes(result), result.err) == (0, [], "")
    assert [line["result"] for line in result.json[:-1]] == ["ok", "ok", "skipped", *["ok"] * 7]
    assert result.json[-1] == {"peer": f"SCP@127.0.0.1:{port}", "failed": 0, "exit_code": 0}
    assert text.lines[-1] == f"SCP@127.0.0.1:{port}: nothing is wrong"


async def test_without_a_receiver_there_is_no_move(tool: Tool) -> None:
    async with provider() as port:
        result = await doctor(tool, port)
    assert result.code == 0
    assert "--port" in step(result, "move")["detail"]


async def test_an_empty_peer_has_nothing_wrong(tool: Tool, free_port: int) -> None:
    empty = Node([])
    known = {"DOCTOR": Address("DOCTOR", "127.0.0.1", free_port)}
    options = {"c_find": empty.find, "c_get": empty.retrieve, "c_move": empty.retrieve}
    async with provider(destinations=known, **options) as port:
        result = await doctor(tool, port, "--port", free_port)
    assert (result.code, causes(result)) == (0, [])
    assert "no study was found" in step(result, "find")["detail"]
    assert "no image to try with" in step(result, "move")["detail"]


# the way there


async def test_a_host_that_nobody_knows(tool: Tool) -> None:
    result = await tool("doctor", "--json", "-to", 20, "SCP@host.invalid:104")
    assert (result.code, causes(result)) == (3, ["unknown host name"])
    assert {line["result"] for line in result.json[1:-1]} == {"skipped"}


async def test_the_wrong_port(tool: Tool, free_port: int) -> None:
    result = await doctor(tool, free_port)
    assert (result.code, causes(result)) == (3, ["wrong port"])


async def test_a_firewall_that_drops(tool: Tool) -> None:
    with socket.socket() as listener:  # nobody accepts: when its queue is full, connecting is not answered
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            for _ in range(4):
                connection = socket.socket()
                waiting.append(connection)
                connection.setblocking(False)
                connection.connect_ex(listener.getsockname())
            port = listener.getsockname()[1]
            result = await tool("doctor", "--json", "-to", 0.5, f"SCP@127.0.0.1:{port}")
        finally:
            for connection in waiting:
                connection.close()
    assert (result.code, causes(result)) == (3, ["firewall"])
    assert step(result, "tcp")["side"] == "network"


async def test_a_port_that_says_nothing(tool: Tool) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await tool("doctor", "--json", "-to", 0.3, "-ta", 0.3, f"SCP@127.0.0.1:{port}")
    assert (result.code, causes(result)) == (3, ["no answer"])


async def test_a_web_server(tool: Tool) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    async with server:
        result = await doctor(tool, server.sockets[0].getsockname()[1])
    assert (result.code, causes(result)) == (3, ["other application"])


@pytest.mark.parametrize(
    ("access", "options", "cause", "side"),
    [
        (AccessPolicy(called_ae_titles="SCP"), ("-aec", "WRONG"), "wrong called AE title", "here"),
        (["FRIEND"], (), "unknown caller", "peer"),
    ],
)
async def test_titles(tool: Tool, access: Any, options: tuple[str, ...], cause: str, side: str) -> None:
    async with provider(access=access) as port:
        result = await doctor(tool, port, *options)
    assert (result.code, causes(result)) == (3, [cause])
    found = step(result, "ae titles")
    assert (found["result"], found["side"]) == ("failed", side)
    assert step(result, "association")["result"] == "ok"


async def test_a_peer_at_its_limit(tool: Tool) -> None:
    async with provider(limits=Limits(maximum_associations=1)) as port, associate(f"SCP@127.0.0.1:{port}"):
        result = await doctor(tool, port)
    assert (result.code, causes(result)) == (3, ["peer at its limit"])


# TLS


class Certificates:
    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.trusted = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.trusted))

    def server(self, *names: str, days: int = 30, asks: bool = False) -> ssl.SSLContext:
        ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(
            *names, not_before=ends - datetime.timedelta(days=60), not_after=ends
        ).configure_cert(context)
        if asks:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def test_nothing_is_wrong_with_tls(tool: Tool, certificates: Certificates) -> None:
    async with provider(ssl=certificates.server("127.0.0.1")) as port:
        result = await doctor(tool, port, "+cf", certificates.trusted, "--port", 0)
    assert (result.code, causes(result)) == (0, [])
    assert "TLS" in step(result, "tls")["detail"]
    assert "+tls" in step(result, "move")["detail"]


async def test_tls_here_only(tool: Tool) -> None:
    async with provider() as port:
        result = await doctor(tool, port, "-ic")
    assert (result.code, causes(result)) == (3, ["TLS here only"])
    assert step(result, "tls")["side"] == "here"


async def test_tls_at_the_peer_only(tool: Tool, certificates: Certificates) -> None:
    async with provider(ssl=certificates.server("127.0.0.1")) as port:
        result = await doctor(tool, port)
    assert (result.code, causes(result)) == (3, ["TLS at the peer only"])


async def test_tls_where_nothing_speaks(tool: Tool) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    server = await asyncio.start_server(closes, "127.0.0.1", 0)
    async with server:
        result = await doctor(tool, server.sockets[0].getsockname()[1], "-ic")
    assert (result.code, causes(result)) == (3, ["no TLS"])


@pytest.mark.parametrize(
    ("names", "days", "cause"),
    [
        (("127.0.0.1",), -1, "expired certificate"),
        (("other.example",), 30, "wrong host name"),
    ],
)
async def test_certificates(
    tool: Tool, certificates: Certificates, names: tuple[str, ...], days: int, cause: str
) -> None:
    async with provider(ssl=certificates.server(*names, days=days)) as port:
        result = await doctor(tool, port, "+cf", certificates.trusted)
    assert (result.code, causes(result)) == (3, [cause])


async def test_a_certificate_by_nobody_who_is_trusted(tool: Tool, certificates: Certificates) -> None:
    async with provider(ssl=certificates.server("127.0.0.1")) as port:
        result = await doctor(tool, port, "--tls")
    assert (result.code, causes(result)) == (3, ["untrusted certificate"])


async def test_a_certificate_of_ours_is_missing(tool: Tool, certificates: Certificates) -> None:
    async with provider(ssl=certificates.server("127.0.0.1", asks=True)) as port:
        result = await doctor(tool, port, "+cf", certificates.trusted)
    # How the peer breaks off is left to TLS 1.3: by an alert, or by closing before it was read.
    assert result.code == 3
    assert causes(result)[0] in ("client certificate", "closed without a word", "TLS refused")


# what it is for


async def test_no_context(tool: Tool) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        result = await doctor(tool, server.port)
        echo_only = await doctor(tool, server.port, "--service", "echo")
    assert (result.code, causes(result)) == (1, ["no context"])
    assert "refused: store, find, get, move; accepted: echo" in step(result, "contexts")["why"]
    assert step(result, "echo")["result"] == "ok"
    assert step(result, "find")["result"] == "skipped"
    assert (echo_only.code, causes(echo_only)) == (0, [])


class ImplicitStorage(Storage):
    transfer_syntaxes = (IMPLICIT_VR_LITTLE_ENDIAN,)


async def test_implicit_only(tool: Tool) -> None:
    async with provider(c_store=None, services=[ImplicitStorage(stored)]) as port:
        result = await doctor(tool, port)
    assert (result.code, causes(result)) == (0, ["Implicit only"])
    assert step(result, "contexts")["result"] == "warning"


async def test_an_unknown_move_destination(tool: Tool) -> None:
    async with provider() as port:
        result = await doctor(tool, port, "--port", 0)
    assert (result.code, causes(result)) == (1, ["unknown move destination"])


async def test_the_destination_is_down(tool: Tool, free_port: int) -> None:
    known = {"DOCTOR": Address("DOCTOR", "127.0.0.1", free_port)}  # and we listen elsewhere
    async with provider(destinations=known) as port:
        result = await doctor(tool, port, "--port", 0)
    assert (result.code, causes(result)) == (1, ["destination down"])


async def test_the_receiver_cannot_listen(tool: Tool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with provider() as port:
            result = await doctor(tool, port, "--port", taken.getsockname()[1])
    assert (result.code, causes(result)) == (1, ["receiver"])


async def test_a_peer_that_refuses_echo_and_aborts_queries(tool: Tool) -> None:
    async def c_echo(request: Request) -> Response:
        return Response(0x0122)

    async def c_find(request: Request) -> AsyncIterator[dict[str, str]]:
        await request.association.abort()
        yield {}

    async with provider(c_echo=c_echo, c_find=c_find) as port:
        result = await doctor(tool, port)
    assert result.code == 1
    assert causes(result) == ["no context", "association lost"]
    assert step(result, "move")["detail"] == "needs: find"


async def test_retrievals_that_fail(tool: Tool) -> None:
    async def refused(request: Request) -> None:
        raise StatusError(Response(0xA701, error_comment="disk \x1b[2Jfull"))

    async def nothing(request: Request) -> Status:
        return Status.SUCCESS

    async with provider(c_get=refused, c_find=NODE.find) as port:
        failing = await doctor(tool, port)
    async with provider(c_get=nothing) as port:
        empty = await doctor(tool, port)
    assert causes(failing) == ["out of resources"]
    assert "\x1b" not in failing.out
    assert causes(empty) == ["not delivered"]


async def test_not_authorized(tool: Tool) -> None:
    async def forbidden(request: Request) -> Status:
        return Status.NOT_AUTHORIZED

    async with provider(c_get=forbidden) as port:
        assert causes(await doctor(tool, port)) == ["not authorized"]


async def test_no_storage_role(tool: Tool) -> None:
    access = AccessPolicy(peers={"DOCTOR": Peer()})
    contexts: list[Proposable] = [VERIFICATION, STUDY_ROOT, *STORAGE]
    async with serve(
        "SCP@127.0.0.1:0", access=access, c_store=stored, c_find=NODE.find, contexts=contexts
    ) as server:
        result = await doctor(tool, server.port, "--service", "find")
    assert result.code == 0
    assert step(result, "get")["result"] == "skipped"


async def test_a_study_of_the_users_choice(tool: Tool, tmp_path: Path) -> None:
    write_samples(tmp_path)  # other instances lie around; what is asked for is found
    two = Node([Instance("1.2.1", "1.2.1.1", "1.2.1.1.1"), Instance("1.2.2", "1.2.2.1", "1.2.2.1.1")])
    async with provider(c_find=two.find, c_get=two.retrieve) as port:
        result = await doctor(tool, port, "--study", "1.2.2")
    assert result.code == 0
    assert "1.2.2.1.1" in step(result, "find")["detail"]
