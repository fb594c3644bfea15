"""A TLS session is resumed by the next association with the same peer, and by nobody else."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import trustme

from asyncdicom import AssociationClosed, Request, associate, serve
from asyncdicom.net.tls_sessions import SESSIONS, Sessions

PEER = ("192.0.2.1", 2762)
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def of_server(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", *names).configure_cert(context)
    return context


def of_client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def is_resumed(port: int, context: ssl.SSLContext, **options: Any) -> bool:
    """Associate once; whether that resumed a session."""
    async with associate(f"SCP@127.0.0.1:{port}", ssl=context, **options) as association:
        assert (await association.c_echo()).status == 0
        connection = association.get_extra_info("ssl_object")
        assert connection.context is context
        return bool(connection.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_next_association_resumes_the_session(
    authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    context = of_client(authority)
    context.maximum_version = version
    async with serve("SCP@127.0.0.1:0", ssl=of_server(authority)) as server:
        assert [await is_resumed(server.port, context) for _ in range(3)] == [False, True, True]


async def test_another_name_or_context_or_verification_resumes_nothing(authority: trustme.CA) -> None:
    context = of_client(authority)
    async with serve("SCP@127.0.0.1:0", ssl=of_server(authority, "scp.example")) as server:
        assert not await is_resumed(server.port, context)
        assert not await is_resumed(server.port, context, server_hostname="scp.example")
        assert not await is_resumed(server.port, of_client(authority))
        trustme.CA().configure_trust(context)  # or a revocation list
        assert not await is_resumed(server.port, context)
        assert await is_resumed(server.port, context)


async def test_what_was_not_verified_is_resumed_by_nobody_who_verifies(authority: trustme.CA) -> None:
    context = ssl.create_default_context()  # which trusts nobody here
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with serve("SCP@127.0.0.1:0", ssl=of_server(authority)) as server:
        assert not await is_resumed(server.port, context)
        context.verify_mode = ssl.CERT_REQUIRED
        with pytest.raises(AssociationClosed, match="certificate"):
            await is_resumed(server.port, context)


async def test_the_server_knows_the_certificate_of_who_resumes(authority: trustme.CA) -> None:
    shown = []

    async def look(request: Request) -> int:
        shown.append(request.association.get_extra_info("ssl_object").getpeercert())
        return 0

    strict, context = of_server(authority), of_client(authority)
    authority.configure_trust(strict)
    strict.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("ws1.example").configure_cert(context)
    async with serve("SCP@127.0.0.1:0", ssl=strict, c_echo=look) as server:
        assert [await is_resumed(server.port, context) for _ in range(2)] == [False, True]
    assert shown[0] == shown[1]
    assert ("DNS", "ws1.example") in shown[1]["subjectAltName"]


async def test_a_server_with_another_certificate_is_called_as_before(authority: trustme.CA) -> None:
    context = of_client(authority)
    async with serve("SCP@127.0.0.1:0", ssl=of_server(authority)) as server:
        assert not await is_resumed(server.port, context)
        server.renew(ssl=of_server(authority))
        assert not await is_resumed(server.port, context)
        assert await is_resumed(server.port, context)


async def test_a_peer_that_minds_the_session_is_called_again_without(authority: trustme.CA) -> None:
    calls = 0
    context = of_client(authority)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Breaks off the second handshake."""
        nonlocal calls
        calls += 1
        if calls == 2:
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", server.port)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                target.write(data)
            target.close()

        await asyncio.gather(carry(reader, back), carry(there, writer), return_exceptions=True)

    async with serve("SCP@127.0.0.1:0", ssl=of_server(authority)) as server:
        proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        assert [await is_resumed(port, context) for _ in range(3)] == [False, False, True]
        proxy.close()
    assert calls == 4


async def test_a_handshake_that_fails_without_a_session_is_not_tried_again(authority: trustme.CA) -> None:
    calls = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        writer.close()

    listener = await asyncio.start_server(close, "127.0.0.1", 0)
    with pytest.raises(AssociationClosed):
        await is_resumed(listener.sockets[0].getsockname()[1], of_client(authority))
    listener.close()
    assert calls == 1


# the memory alone; time is given


class Connection(ssl.SSLObject):
    """What is known of a connection."""

    session = "a session"  # type: ignore[assignment]
    session_reused = False

    def __init__(self) -> None: ...


class Resumed(Connection):
    session = "the session that came of it"
    session_reused = True


def test_a_session_expires_and_is_not_made_younger_by_being_resumed(authority: trustme.CA) -> None:
    context, sessions = of_client(authority), Sessions(lifetime=900)
    sessions.keep(context, PEER, "scp", Connection(), 0.0)
    assert sessions.get(context, PEER, "scp", 899.0) == "a session"
    sessions.keep(context, PEER, "scp", Resumed(), 899.0)
    assert sessions.get(context, PEER, "scp", 899.5) == "the session that came of it"
    assert sessions.get(context, PEER, "scp", 900.0) is None
    sessions.keep(context, PEER, "other", Connection(), 900.0)
    assert len(sessions) == 1


def test_no_more_are_kept_than_there_is_room_for(authority: trustme.CA) -> None:
    context, sessions = of_client(authority), Sessions(maximum=2)
    for number in range(3):
        sessions.keep(context, PEER, str(number), Connection(), 0.0)
    assert [sessions.get(context, PEER, str(number), 1.0) is None for number in range(3)] == [
        True,
        False,
        False,
    ]


def test_what_has_no_session_leaves_nothing(authority: trustme.CA) -> None:
    SESSIONS.keep(of_client(authority), PEER, "scp", None, 0.0)
    assert len(SESSIONS) == 0
