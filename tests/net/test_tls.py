"""TLS, with certificates made for the test."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import trustme
from helpers.peer import CT, EOF, Peer, aborted, eventually, instance

from asyncdicom import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    Limits,
    Request,
    Status,
    Timeouts,
    associate,
    serve,
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "scp.example").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def on_store(request: Request) -> int:
    return Status.SUCCESS if len(await request.data.read(1 << 30)) > 0 else 0xA900


@pytest.mark.parametrize("size", [10, 300_000, 5_000_001])
async def test_echo_and_store(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, size: int) -> None:
    got = []

    async def keep(request: Request) -> int:
        got.append(await request.data.read())
        return 0

    source = instance(size)
    async with (
        serve("SCP@127.0.0.1:0", c_store=keep, ssl=server_tls) as server,
        associate(address(server), ssl=client_tls, contexts=["1.2.840.10008.1.1", CT]) as association,
    ):
        assert association.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        assert (await association.c_echo()).status == 0
        assert (await association.c_store(source)).status == 0
    assert got == [source.data]


async def test_stalled_handshakes_make_room_for_those_that_go_on(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    hello = bytes.fromhex("1603010200010001fc0303") + bytes(100)  # less than it says
    async with serve("SCP@127.0.0.1:0", ssl=server_tls, limits=Limits(maximum_not_associated=3)) as server:
        stalled = [await Peer.connect(server.port) for _ in range(3)]
        for peer in stalled:
            peer.write(hello)
        async with associate(address(server), ssl=client_tls) as association:
            assert (await association.c_echo()).status == 0
        assert await stalled[0].pdu() == EOF
        for peer in stalled:
            await peer.close()


async def test_the_name_can_differ_from_the_host(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=server_tls) as server:
        async with associate(address(server), ssl=client_tls, server_hostname="scp.example") as association:
            assert (await association.c_echo()).status == 0
        with pytest.raises(AssociationClosed, match="certificate"):
            await associate(address(server), ssl=client_tls, server_hostname="other.example")


async def test_an_unknown_authority_is_not_trusted(server_tls: ssl.SSLContext) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=server_tls) as server:
        with pytest.raises(AssociationClosed, match="TLS: the certificate of the peer was not accepted"):
            await associate(address(server), ssl=ssl.create_default_context())
        assert server.associations == 0


async def test_a_client_certificate_can_be_asked_for(
    authority: trustme.CA, client_tls: ssl.SSLContext
) -> None:
    strict = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(strict)
    authority.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    known = ssl.create_default_context()
    authority.configure_trust(known)
    authority.issue_cert("ws1.example").configure_cert(known)
    async with serve("SCP@127.0.0.1:0", ssl=strict) as server:
        async with associate(address(server), ssl=known) as association:
            assert (await association.c_echo()).status == 0
        with pytest.raises(AssociationError):
            await associate(address(server), ssl=client_tls)


async def test_plain_on_a_tls_port(server_tls: ssl.SSLContext) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=server_tls) as server:
        with pytest.raises((AssociationClosed, AssociationAborted)):
            await associate(address(server))
        await eventually(lambda: not server._waiting)


async def test_tls_on_a_plain_port(client_tls: ssl.SSLContext) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        with pytest.raises(AssociationClosed, match="does the peer speak TLS"):
            await associate(address(server), ssl=client_tls)
        async with await Peer.connect(server.port) as peer:
            peer.write(b"\x16\x03\x01\x02\x00\x01")
            assert await peer.pdu() == aborted(0, 0)


async def test_a_stalled_handshake_is_cut_off_and_does_not_hold_up_others(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=server_tls, timeouts=Timeouts(tls_handshake=0.3)) as server:
        stalled = [await Peer.connect(server.port) for _ in range(5)]
        stalled[0].write(b"\x16\x03\x01\x02\x00")
        async with asyncio.timeout(0.25):
            async with associate(address(server), ssl=client_tls) as association:
                assert (await association.c_echo()).status == 0
        for peer in stalled:
            assert await peer.pdu() == EOF
            await peer.close()
        await eventually(lambda: not server._waiting)


async def test_a_client_does_not_wait_for_ever_for_the_handshake(client_tls: ssl.SSLContext) -> None:
    from helpers.peer import listening

    async with listening() as listener:
        with pytest.raises(AssociationError):
            await associate(f"SCP@127.0.0.1:{listener.port}", ssl=client_tls, timeouts=Timeouts(connect=0.05))


async def test_a_server_closes_in_the_middle_of_a_handshake(server_tls: ssl.SSLContext) -> None:
    server = await serve("SCP@127.0.0.1:0", ssl=server_tls)
    peer = await Peer.connect(server.port)
    peer.write(b"\x16\x03\x01\x02\x00")
    await eventually(lambda: server._waiting)
    async with asyncio.timeout(2):
        await server.close()
    await peer.close()


async def test_back_pressure_works_through_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    requests: list[Request] = []
    go_on = asyncio.Event()

    async def slow(request: Request) -> int:
        requests.append(request)
        await go_on.wait()
        return 0 if len(await request.data.read(1 << 30)) == 30_000_000 else 0xA900

    async with (
        serve("SCP@127.0.0.1:0", c_store=slow, ssl=server_tls, limits=Limits(read_budget=300_000)) as server,
        associate(address(server), ssl=client_tls, contexts=[CT]) as association,
    ):
        storing = asyncio.create_task(association.c_store(instance(30_000_000)))
        await eventually(lambda: requests and requests[0].data.waiting > 300_000)
        await asyncio.sleep(0.05)
        assert requests[0].data.received < 300_000 + (2 << 20)
        assert not storing.done()
        go_on.set()
        assert (await storing).status == 0


async def test_a_peer_that_vanishes_is_noticed(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store, ssl=server_tls) as server:
        association = await associate(address(server), ssl=client_tls, contexts=[CT])
        association._channel.transport.abort()
        await eventually(lambda: server.associations == 0)
        await association.wait_closed()
