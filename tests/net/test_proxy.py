"""Behind a proxy: what is counted, judged and logged is the caller that it tells of."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest
import trustme
from helpers.proxying import LOCAL, NOT_SAID, PROXY, SIGNATURE, TCP4, TCP6, UDP4, UNIX, header, made, proxy
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom import AccessPolicy, Association, AssociationError, Limits, Timeouts, associate, serve
from asyncdicom.net.proxy import FIXED_LENGTH, ProxyHeaderError, caller, length_of


def read(data: bytes) -> tuple[str, int] | None:
    fixed, rest = data[:FIXED_LENGTH], data[FIXED_LENGTH:]
    assert length_of(fixed) == len(rest)
    return caller(fixed, rest)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=300))
def test_the_caller_and_its_port_are_read_whatever_follows(where: Any, port: int, extra: bytes) -> None:
    read_back = read(header(str(where), port, extra=extra))
    assert read_back is not None
    assert socket.getaddrinfo(read_back[0], 0)[0][4][0] == socket.getaddrinfo(str(where), 0)[0][4][0]
    assert read_back[1] == port


@pytest.mark.parametrize("family", [NOT_SAID, UNIX])
@pytest.mark.parametrize("command", [LOCAL, PROXY])
def test_who_has_no_such_address_is_the_proxy_itself(command: int, family: int) -> None:
    assert read(made(command, family, bytes(216))) is None
    assert read(made(LOCAL, TCP4, b"")) is None  # its check: the addresses may be missing


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x01\x00\x00\x00\x00\xcd" + bytes(10), "sends no PROXY header"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "version 1"),
        (made(0x11, TCP4, bytes(12)), "0x11"),  # another version
        (made(0x22, TCP4, bytes(12)), "0x22"),  # another command
        (made(PROXY, UDP4, bytes(12)), "not TCP"),
        (made(PROXY, TCP4, bytes(11)), "too short"),
        (made(PROXY, TCP6, bytes(35)), "too short"),
        (made(PROXY, TCP4, bytes(4097)), "4097 bytes"),
    ],
)
def test_what_is_no_header_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ProxyHeaderError, match=why):
        length_of(data[:FIXED_LENGTH])


@given(st.binary(min_size=FIXED_LENGTH, max_size=FIXED_LENGTH))
def test_any_bytes_are_a_header_or_refused(fixed: bytes) -> None:
    for start in (b"", SIGNATURE, SIGNATURE + bytes([PROXY]), SIGNATURE + bytes([PROXY, TCP4])):
        data = start + fixed[len(start) :]
        with contextlib.suppress(ProxyHeaderError):
            caller(data, bytes(length_of(data)))


BEHIND = AccessPolicy(proxies=["127.0.0.0/8"])


async def test_the_caller_is_seen_by_hooks_logs_and_networks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncdicom")
    seen: list[Association] = []
    policy = AccessPolicy(proxies="127.0.0.1", networks=["10.1.0.0/16", "2001:db8::/32"])
    callers = ("10.1.2.3", "2001:db8::7", "10.2.0.1")
    async with (
        serve("SCP@127.0.0.1:0", access=policy, association_opened=seen.append) as server,
        proxy(server.port, *map(header, callers)) as port,
    ):
        for _ in callers[:2]:
            async with associate(f"SCP@127.0.0.1:{port}") as association:
                await association.c_echo()
        with pytest.raises(AssociationError):
            async with associate(f"SCP@127.0.0.1:{port}"):
                pass
    assert ["10.1.2.3:50104" in str(seen[0]), "[2001:db8::7]:50104" in str(seen[1])] == [True, True]
    assert "10.2.0.1: a connection is closed: not an allowed address" in caplog.text


async def test_limits_of_an_address_are_the_callers() -> None:
    limits = Limits(maximum_associations_per_address=1)
    callers = ("10.0.0.1", "10.0.0.2", "10.0.0.1")
    async with (
        serve("SCP@127.0.0.1:0", access=BEHIND, limits=limits) as server,
        proxy(server.port, *map(header, callers)) as port,
        associate(f"SCP@127.0.0.1:{port}") as first,
        associate(f"SCP@127.0.0.1:{port}") as second,
    ):
        with pytest.raises(AssociationError, match="local limit exceeded"):
            async with associate(f"SCP@127.0.0.1:{port}"):
                pass
        await first.c_echo()
        await second.c_echo()


async def test_connections_of_one_caller_are_bounded_and_those_of_the_proxy_are_not() -> None:
    limits = Limits(maximum_not_associated_per_address=1)
    callers = ("10.0.0.1", "10.0.0.2", "10.0.0.1")
    async with serve("SCP@127.0.0.1:0", access=BEHIND, limits=limits) as server:
        waiting = []
        for host in callers:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(header(host))
            waiting.append((reader, writer))
        assert await waiting[2][0].read() == b""  # the second one of 10.0.0.1 is closed
        for _, writer in waiting:
            writer.close()


async def test_a_check_of_the_proxy_itself_is_its_own() -> None:
    seen: list[Association] = []
    async with (
        serve("SCP@127.0.0.1:0", access=BEHIND, association_opened=seen.append) as server,
        proxy(server.port, made(LOCAL, NOT_SAID, b"")) as port,
        associate(f"SCP@127.0.0.1:{port}") as association,
    ):
        await association.c_echo()
    assert "127.0.0.1:" in str(seen[0])


async def test_who_is_no_proxy_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncdicom")
    async with (
        serve("SCP@127.0.0.1:0", access=AccessPolicy(proxies=["10.9.9.9"])) as server,
        proxy(server.port, header("10.1.2.3")) as port,
    ):
        with pytest.raises(AssociationError):
            async with associate(f"SCP@127.0.0.1:{port}"):
                pass
    assert "10.1.2.3" not in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", id="version 1"),
        pytest.param(made(PROXY, UDP4, bytes(12)), id="UDP"),
    ],
)
async def test_a_proxy_that_says_nothing_right_is_closed_and_told(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serve("SCP@127.0.0.1:0", access=BEHIND) as server,
        proxy(server.port, data) as port,
    ):
        with pytest.raises(AssociationError):
            async with associate(f"SCP@127.0.0.1:{port}"):
                pass
    warnings = {line for line in caplog.messages if "a connection is closed" in line}  # it is asked twice
    assert len(warnings) == 1
    assert min(warnings).startswith("127.0.0.1: ")


@pytest.mark.parametrize("sent", [b"", SIGNATURE, header("10.0.0.1")[:-1]], ids=["nothing", "some", "most"])
async def test_a_header_that_does_not_come_has_its_time(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve("SCP@127.0.0.1:0", access=BEHIND, timeouts=Timeouts(artim=0.1)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        assert await reader.read() == b""
        writer.close()
    assert "the proxy did not say in time who calls" in caplog.text


async def test_a_header_that_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncdicom")
    async with serve("SCP@127.0.0.1:0", access=BEHIND) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(SIGNATURE)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert "it ended within the header of the proxy" in caplog.text


async def test_the_oldest_connection_makes_room_for_a_proxys() -> None:
    limits = Limits(maximum_not_associated=2)
    async with serve("SCP@127.0.0.1:0", access=BEHIND, limits=limits) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        async with (
            proxy(server.port, header("10.0.0.1")) as port,
            associate(f"SCP@127.0.0.1:{port}") as association,
        ):
            await association.c_echo()
            assert await silent[0][0].read() == b""
        for _, writer in silent:
            writer.close()


async def test_a_proxys_connection_that_has_no_room_is_closed_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_asked, goes_on = asyncio.Event(), asyncio.Event()

    async def check(*_: Any) -> bool:
        is_asked.set()
        await goes_on.wait()
        return True

    policy = AccessPolicy(proxies=["127.0.0.0/8"], user_identity=check)
    limits = Limits(maximum_not_associated=1)
    async with (
        serve("SCP@127.0.0.1:0", access=policy, limits=limits) as server,
        proxy(server.port, header("10.0.0.1")) as port,
    ):
        opening = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{port}").__aenter__())
        await is_asked.wait()  # the one that is there waits for us
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()
        goes_on.set()
        await (await opening).release()
    assert "the last by a proxy: 1 closed" in caplog.text


async def test_tls_begins_behind_the_header() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    seen: list[Association] = []
    async with (
        serve("SCP@127.0.0.1:0", access=BEHIND, ssl=server_context, association_opened=seen.append) as server,
        proxy(server.port, header("10.1.2.3")) as port,
        associate(f"SCP@127.0.0.1:{port}", ssl=client_context) as association,
    ):
        await association.c_echo()
    assert "10.1.2.3:50104" in str(seen[0])
