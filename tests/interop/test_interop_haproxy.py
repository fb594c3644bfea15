"""Two nodes behind HAProxy, with the configuration that `asyncdicom haproxy` writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from ssl import Purpose, SSLContext, create_default_context
from typing import NamedTuple

import pytest
import trustme
from helpers.peer import Peer
from helpers.proxying import header
from interop import field
from interop.peers import PATIENCE, free_port, running

from asyncdicom import AccessPolicy, Association, Server, Timeouts, access, associate, serve
from asyncdicom.cli.config import read_config
from asyncdicom.cli.haproxy import configuration

pytestmark = pytest.mark.interop

CONFIG = """
ae_title = "NODE"
proxies = ["127.0.0.1"]
[peers]
HAPROXY = ""
"""


class Balanced(NamedTuple):
    """What a test is given: where callers call, the nodes, who was let in, and HAProxy's socket."""

    address: str
    nodes: tuple[Server, Server]
    seen: list[tuple[int, str]]
    admin: Path

    async def ask(self, command: str) -> str:
        """Give HAProxy a command."""
        reader, writer = await asyncio.open_unix_connection(self.admin)
        writer.write(f"{command}\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()

    async def row(self, node: int, column: str) -> str:
        """What HAProxy thinks of a node."""
        rows = (await self.ask("show stat -1 4 -1")).splitlines()
        names = rows[0].lstrip("# ").split(",")
        found = (dict(zip(names, row.split(","), strict=False)) for row in rows[1:])
        return next(row[column] for row in found if row["svname"] == f"node{node}")

    async def asked(self, node: int) -> None:
        """Wait until HAProxy has asked a node, and is satisfied (layer 7)."""
        async with asyncio.timeout(PATIENCE):
            while await self.row(node, "check_status") != "L7OK":
                await asyncio.sleep(0.1)

    async def becomes(self, node: int, state: str) -> None:
        """Wait until HAProxy thinks that a node is UP, DOWN ..."""
        async with asyncio.timeout(PATIENCE):
            while not (await self.row(node, "status")).startswith(state):
                await asyncio.sleep(0.1)


@pytest.fixture
async def balanced(tmp_path: Path) -> AsyncIterator[Balanced]:
    async with two_nodes(tmp_path, CONFIG) as made:
        yield made


@contextlib.asynccontextmanager
async def two_nodes(
    tmp_path: Path, configured: str, ssl: SSLContext | None = None
) -> AsyncIterator[Balanced]:
    field.need("haproxy")
    seen: list[tuple[int, str]] = []
    peers = dict.fromkeys(("HAPROXY", "CALLER", "PEER"), access.Peer())
    policy = AccessPolicy(proxies=["127.0.0.1"], peers=peers)
    timeouts = Timeouts(drain=300, drain_notice=300)

    def of(number: int) -> Callable[[Association], None]:
        def opened(association: Association) -> None:
            if association.calling_ae_title == "CALLER":
                seen.append((number, str(association)))

        return opened

    port, admin = free_port(), tmp_path / "admin.sock"
    config = tmp_path / "node.toml"
    config.write_text(configured)
    written = tmp_path / "haproxy.cfg"
    async with (
        serve("NODE@127.0.0.1:0", access=policy, ssl=ssl, timeouts=timeouts, association_opened=of(1)) as one,
        serve(
            "NODE@127.0.0.1:0", access=policy, ssl=ssl, timeouts=timeouts, association_opened=of(2)
        ) as other,
    ):
        places = [f"127.0.0.1:{node.port}" for node in (one, other)]
        text = configuration(
            read_config(config), places, f"127.0.0.1:{port}", str(admin), made_from="node.toml"
        )
        written.write_text(text)
        with running([str(field.haproxy()), "-f", str(written)], port, tmp_path / "haproxy.log"):
            yield Balanced(f"NODE@127.0.0.1:{port}", (one, other), seen, admin)


@contextlib.asynccontextmanager
async def callers(balanced: Balanced, count: int) -> AsyncIterator[list[Association]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(associate(balanced.address, calling_ae_title="CALLER"))
            for _ in range(count)
        ]


async def test_each_node_gets_half_and_sees_who_calls(balanced: Balanced) -> None:
    async with callers(balanced, 8) as associations:
        for association in associations:
            await association.c_echo()
        await balanced.asked(1)
        assert Counter(node for node, _ in balanced.seen) == {1: 4, 2: 4}
        names = (association._channel.transport.get_extra_info("sockname") for association in associations)
        ports = {f"127.0.0.1:{name[1]}" for name in names if isinstance(name, tuple)}
        assert {shown.split("(")[1].partition(")")[0] for _, shown in balanced.seen} == ports


async def test_a_node_that_drains_keeps_what_it_has_and_gets_no_more(balanced: Balanced) -> None:
    async with callers(balanced, 2) as before:
        await balanced.ask("set server dicom/node1 state drain")
        async with callers(balanced, 3) as after:
            for association in (*before, *after):
                await association.c_echo()
    assert Counter(node for node, _ in balanced.seen[2:]) == {2: 3}


async def test_nobody_is_turned_away_when_a_node_ends(balanced: Balanced) -> None:
    await balanced.nodes[0].close()
    async with callers(balanced, 4) as associations:  # before HAProxy knows, too
        for association in associations:
            await association.c_echo()
    assert {node for node, _ in balanced.seen} == {2}
    await balanced.becomes(1, "DOWN")
    async with callers(balanced, 1) as [association]:
        await association.c_echo()


async def test_a_node_that_drains_is_left_before_it_refuses_anybody(balanced: Balanced) -> None:
    node = balanced.nodes[0]
    await balanced.asked(1)
    async with callers(balanced, 2) as before:
        draining = asyncio.ensure_future(node.drain())
        await balanced.becomes(1, "DOWN")
        async with await Peer.connect(node.port) as late:  # it was on its way
            late.write(header("10.0.0.1"))
            await late.associate()
        async with callers(balanced, 3) as after:
            for association in (*before, *after):
                await association.c_echo()
    await node.close()
    await draining
    assert Counter(node for node, _ in balanced.seen if node == 2) == {2: 4}


async def test_tls_passes_through_and_nodes_are_asked_by_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    ours, theirs = create_default_context(Purpose.CLIENT_AUTH), create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    secured = CONFIG + '[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n'
    async with two_nodes(tmp_path, secured, ours) as balanced:
        async with associate(balanced.address, calling_ae_title="CALLER", ssl=theirs) as association:
            await association.c_echo()
        await balanced.asked(1)
