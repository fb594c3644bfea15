"""TLS handshakes that fail, that stall, and that come all at once."""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import trustme
from helpers.peer import EOF, aborted, eventually
from helpers.peer import Peer as RawPeer

from asyncdicom import (
    AccessPolicy,
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    Limits,
    Peer,
    Server,
    associate,
    serve,
)
from asyncdicom.net.tls import certificate_of

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
NOBODY = ssl.create_default_context()


def server_context(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Demands a certificate of the client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (certificate or AUTHORITY.issue_cert("127.0.0.1")).configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


WS1 = client_context(AUTHORITY.issue_cert("ws1.example"))
SERVER = server_context()


def address(server: Server) -> str:
    return f"SCP@127.0.0.1:{server.port}"


def old(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = client_context(AUTHORITY.issue_cert("ws1.example"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def weak(ciphers: str) -> ssl.SSLContext:
    context = client_context(AUTHORITY.issue_cert("ws1.example"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers + ":@SECLEVEL=0")
    return context


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What an administrator reads, of refusals and of connections that failed."""
    marks = ("closed:", "refused", "aborted")
    messages = (record.getMessage() for record in caplog.records if record.levelno >= logging.INFO)
    return [text for text in messages if any(mark in text for mark in marks)]


# who is not let in

CLIENTS = {
    "no certificate": client_context(),
    "of another authority": client_context(STRANGER.issue_cert("ws1.example")),
    "expired": client_context(AUTHORITY.issue_cert("ws1.example", not_after=YESTERDAY)),
    "TLS 1.0": old(ssl.TLSVersion.TLSv1),
    "TLS 1.1": old(ssl.TLSVersion.TLSv1_1),
    "no encryption": weak("eNULL"),
    "no authentication": weak("aNULL"),
    "no forward secrecy": weak("AES128-SHA256"),
    "SHA-1": weak("ECDHE-RSA-AES128-SHA"),
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_client_that_is_not_let_in(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncdicom.server")
    async with serve("SCP@127.0.0.1:0", ssl=SERVER) as server:
        with pytest.raises(AssociationClosed, match="TLS") as caught:
            await associate(address(server), ssl=CLIENTS[name])
        assert "\n" not in str(caught.value)
        await eventually(lambda: not server._waiting and lines(caplog))
        (line,) = set(lines(caplog))  # it is asked once more, without an operations window
        assert line.startswith("127.0.0.1: a connection is closed: TLS")
        async with associate(address(server), ssl=WS1) as association:
            assert (await association.c_echo()).status == 0


SERVERS = {
    "of another authority": (STRANGER.issue_cert("127.0.0.1"), "not accepted"),
    "expired": (AUTHORITY.issue_cert("127.0.0.1", not_after=YESTERDAY), "certificate has expired"),
    "of somebody else": (AUTHORITY.issue_cert("10.0.0.1"), "not valid for '127.0.0.1'"),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_that_is_not_trusted(name: str) -> None:
    certificate, why = SERVERS[name]
    async with serve("SCP@127.0.0.1:0", ssl=server_context(certificate)) as server:
        with pytest.raises(AssociationClosed, match=why):
            await associate(address(server), ssl=WS1)
        await eventually(lambda: not server._waiting)


# certificates and AE titles


def shown(context: ssl.SSLContext) -> Any:
    """What a server sees of a client."""
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(ours, theirs, server_hostname="127.0.0.1")
    server = SERVER.wrap_bio(theirs, ours, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return certificate_of(server)


async def test_an_ae_title_is_bound_to_its_certificate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncdicom.server")
    ws2 = client_context(AUTHORITY.issue_cert("ws2.example", "ws2@hospital.example"))
    assert "email:ws2@hospital.example" in shown(ws2).names
    access = {"WS1": Peer(certificates="ws1.example"), "WS2": Peer(certificates=shown(ws2).fingerprint)}
    async with serve("SCP@127.0.0.1:0", ssl=SERVER, access=access) as server:
        for title, context, fits in (
            ("WS1", WS1, True),
            ("WS2", ws2, True),
            ("WS1", ws2, False),
            ("WS2", WS1, False),
        ):
            caplog.clear()
            if fits:
                async with associate(address(server), ssl=context, calling_ae_title=title) as association:
                    assert association.is_established
                assert not lines(caplog)
                continue
            with pytest.raises(AssociationRejected) as caught:
                await associate(address(server), ssl=context, calling_ae_title=title)
            assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 3)
            assert [
                line.endswith("not the certificate of this AE title (1/1/3)") for line in lines(caplog)
            ] == [True]


async def test_a_certificate_is_not_known_where_none_was_asked_for() -> None:
    careless = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(careless)
    policies = (
        AccessPolicy(certificates="ws1.example"),
        AccessPolicy(peers={"WS1": Peer(certificates="ws1.example")}),
    )
    for policy in policies:
        async with serve("SCP@127.0.0.1:0", ssl=careless, access=policy) as server:
            with pytest.raises(AssociationRejected):
                await associate(address(server), ssl=WS1, calling_ae_title="WS1")


# who speaks something else


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (b"\x01\x00\x00\x00\x00\xd0", "DICOM without TLS"),
        (b"GET / HTTP/1.1\r\n", "HTTP without TLS"),
        (b"S", "SSH"),
        (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY header before TLS"),
        (b"PROXY TCP4 ", "a PROXY header before it"),
        (b"\x80", "something that begins with 80H"),
        (b"\x16\x03\x01\xff\xff", "the first record is too long"),
    ],
)
async def test_no_tls_on_a_tls_port(said: bytes, what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncdicom.server")
    async with serve("SCP@127.0.0.1:0", ssl=SERVER) as server, await RawPeer.connect(server.port) as peer:
        peer.write(said)
        assert await peer.pdu() == EOF
        await eventually(lambda: not server._waiting)
        assert [what in line for line in lines(caplog)] == [True]


@pytest.mark.parametrize(
    ("said", "what"),
    [(b"G", "HTTP"), (b"\x16", "TLS"), (b"PROXY TCP6", "a PROXY header"), (b"\r\n\r\n\0", "a PROXY header")],
)
async def test_a_stranger_on_a_plain_port(said: bytes, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The first byte is enough."""
    caplog.set_level(logging.INFO, "asyncdicom")
    async with serve("SCP@127.0.0.1:0") as server, await RawPeer.connect(server.port) as peer:
        peer.write(said)
        assert await peer.pdu() == aborted(0, 0)
        assert [what in line for line in lines(caplog)] == [True]


async def test_the_wrong_kind_of_port_is_told_at_once() -> None:
    async with serve("SCP@127.0.0.1:0", ssl=SERVER) as secure, serve("SCP@127.0.0.1:0") as plain:
        with pytest.raises((AssociationClosed, AssociationAborted), match="does its port want TLS"):
            await associate(address(secure))
        with pytest.raises(AssociationClosed, match="does the peer speak TLS on this port"):
            await associate(address(plain), ssl=WS1)


async def test_who_only_looks_in_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncdicom")
    async with serve("SCP@127.0.0.1:0") as server:
        for _ in range(3):
            await (await RawPeer.connect(server.port)).close()
        await eventually(lambda: not server._waiting)
    assert not lines(caplog)


# many at once


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        WS1.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


HELLO = client_hello()


@contextmanager
def connections(server: Server, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(count)
        ]


def is_wrapped(server: Server) -> list[bool]:
    return [channel.transport.get_extra_info("socket") is not None for channel in server._waiting]


@pytest.mark.parametrize("maximum", [1, 2, 5, 20])
async def test_so_many_are_computed_at_once(maximum: int) -> None:
    """In one pass of the event loop: nobody else waits for more of them."""
    passes = 0
    begun: Counter[int] = Counter()

    def count(*_: object) -> None:
        begun[passes] += 1

    async def tick() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    context = server_context()
    context.sni_callback = count  # called in the middle of answering a ClientHello
    ticking = asyncio.create_task(tick())
    async with serve("SCP@127.0.0.1:0", ssl=context, limits=Limits(maximum_tls_handshakes=maximum)) as server:
        with connections(server, 20) as sockets:
            await eventually(lambda: len(server._waiting) == 20)
            assert not any(is_wrapped(server)), "who has not spoken has no buffer"
            for connection in sockets:
                connection.sendall(HELLO)
            await eventually(lambda: begun.total() == 20)
            assert max(begun.values()) <= maximum
            assert maximum < 20 or max(begun.values()) > 5, "they do come together"
    ticking.cancel()


@pytest.mark.parametrize(
    "said", [b"", HELLO[:1], HELLO[:-1], HELLO], ids=["nothing", "a byte", "most", "all"]
)
async def test_who_stalls_keeps_no_turn(said: bytes) -> None:
    async with serve("SCP@127.0.0.1:0", ssl=SERVER, limits=Limits(maximum_tls_handshakes=1)) as server:
        with connections(server, 30) as sockets:
            for connection in sockets:
                connection.sendall(said)
            await eventually(lambda: len(server._waiting) == 30)
            async with associate(address(server), ssl=WS1) as association:
                assert (await association.c_echo()).status == 0
            assert len(server._waiting) == 30, "they have time left"


async def test_who_waits_for_his_turn_does_not_lose_his_time() -> None:
    """All of them came before the first one was served; and a slow one comes in pieces."""
    async with serve("SCP@127.0.0.1:0", ssl=SERVER, limits=Limits(maximum_tls_handshakes=1)) as server:

        async def slow() -> None:
            async with await RawPeer.connect(server.port) as peer:
                for position in range(0, len(HELLO), 100):
                    peer.write(HELLO[position : position + 100])
                    await asyncio.sleep(0.002)
                async with asyncio.timeout(5):
                    assert await peer.reader.readexactly(1) == b"\x16"

        async def echo() -> None:
            async with associate(address(server), ssl=WS1) as association:
                assert (await association.c_echo()).status == 0

        await asyncio.gather(slow(), *(echo() for _ in range(20)))


async def test_the_server_can_be_closed_with_all_of_them_waiting() -> None:
    server = await serve("SCP@127.0.0.1:0", ssl=SERVER, limits=Limits(maximum_tls_handshakes=1))
    with connections(server, 30) as sockets:
        for number, connection in enumerate(sockets):
            connection.sendall(HELLO[: number * len(HELLO) // 29])
        async with asyncio.timeout(3):
            await asyncio.sleep(0.01)
            await server.close()
    assert not server._waiting
    with pytest.raises(AssociationError):
        await associate(address(server), ssl=WS1)
