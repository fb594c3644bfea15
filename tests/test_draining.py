"""`Server.drain`: nobody new comes in, and who is there goes on until it is done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers.peer import ABORTED_BY_USER, EOF, RELEASE_RP, RELEASED, Peer, eventually, store_rq
from helpers.proxying import LOCAL, NOT_SAID, header, made

from asyncdicom import (
    AccessPolicy,
    AssociationAborted,
    AssociationClosed,
    BytesSource,
    Request,
    Server,
    Timeouts,
    associate,
    serve,
)
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"
CHECK = made(LOCAL, NOT_SAID, b"")  # what a proxy sends that speaks for itself
LATE = 100.0


def address(server: Server) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Server]:
    timeouts = Timeouts(
        **{"drain": LATE, "drain_idle": LATE, "drain_notice": LATE} | options.pop("times", {})
    )
    async with serve("SCP@127.0.0.1:0", c_store=on_store, timeouts=timeouts, **options) as server:
        yield server


def instance(number: int) -> BytesSource:
    return BytesSource(CT, f"1.2.3.{number}", EXPLICIT_VR_LITTLE_ENDIAN, bytes(100))


async def refuses(server: Server) -> bool:
    try:
        await (await Peer.connect(server.port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_an_association_between_two_operations_goes_on() -> None:
    async with serving() as server:
        async with associate(address(server), contexts=[CT]) as association:
            assert (await association.c_store(instance(1))).status == 0
            draining = asyncio.ensure_future(server.drain())
            await eventually(lambda: server.is_closing)
            while not await refuses(server):
                await asyncio.sleep(0)
            for number in (2, 3):
                assert (await association.c_store(instance(number))).status == 0
            assert not draining.done()
        await draining
        assert server.associations == 0
        await server.drain()
        await server.serve_forever()


async def test_nobody_there_is_nothing_to_wait_for() -> None:
    async with serving() as server:
        await server.drain()
        assert await refuses(server)


async def test_one_that_is_idle_is_released() -> None:
    async with serving(times={"drain_idle": 0}) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            draining = asyncio.ensure_future(server.drain())
            assert await peer.pdu() == RELEASED
            assert not draining.done()
        await draining


async def test_our_own_requestor_agrees_to_that(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(times={"drain_idle": 0.01}) as server:
        association = await associate(address(server), contexts=[CT])
        await association.c_store(instance(1))
        with caplog.at_level(logging.WARNING):
            await server.drain()
        await association.wait_closed()
    assert not caplog.records


async def test_a_request_that_crosses_the_release_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be answered (PS3.8 9.2.1): for who has asked it was not performed."""
    async with serving(times={"drain_idle": 0}) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            draining = asyncio.ensure_future(server.drain())
            assert await peer.pdu() == RELEASED
            with caplog.at_level(logging.WARNING):
                peer.send(3, store_rq(1), bytes(10))
                peer.write(RELEASE_RP)
                assert await peer.pdu() == EOF
        await draining
    assert not caplog.records


async def test_what_does_not_end_in_time_is_aborted(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(times={"drain": 0.01}) as server:
        association = await associate(address(server), contexts=[CT])
        await association.c_store(instance(1))
        await server.drain()
        with pytest.raises(AssociationAborted):
            await association.c_store(instance(2))
    assert "1 associations have not ended in 0.01 s: they are aborted" in caplog.text


async def test_who_is_connected_already_gets_in() -> None:
    """A server that drains accepts who came before, and lets it go on as the others."""
    async with serving(times={"drain_idle": 0}) as server:
        late = await Peer.connect(server.port)
        await eventually(lambda: len(server._waiting) == 1)
        draining = asyncio.ensure_future(server.drain())
        while not await refuses(server):
            await asyncio.sleep(0)
        async with late:
            await late.associate()
            assert await late.pdu() == RELEASED
        await draining


async def test_who_waits_in_the_listening_socket_gets_in() -> None:
    async with serving() as server:
        callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        draining = asyncio.ensure_future(server.drain())  # before the server has seen one of them
        await eventually(lambda: server.is_closing)
        await eventually(lambda: len(server._waiting) == 5)
        for caller in callers:
            caller.close()
        await draining


async def test_closing_breaks_it_off() -> None:
    async with serving() as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            draining = asyncio.ensure_future(server.drain())
            await eventually(lambda: server.is_closing)
            await server.close()
            assert await peer.pdu() == ABORTED_BY_USER
        await draining


async def test_cancelled_it_goes_on() -> None:
    async with serving() as server:
        async with associate(address(server), contexts=[CT]) as association:
            draining = asyncio.ensure_future(server.drain())
            await eventually(lambda: server.is_closing)
            draining.cancel()
            await asyncio.wait([draining])
            assert (await association.c_store(instance(1))).status == 0
        await server.drain()


async def test_behind_a_proxy_it_fails_checks_before_it_refuses_callers() -> None:
    policy = AccessPolicy(proxies=["127.0.0.1"])
    async with serving(access=policy, times={"drain_idle": 0, "drain_notice": 0.5}) as server:
        async with await Peer.connect(server.port) as check:
            check.write(CHECK)
            await check.associate()
        draining = asyncio.ensure_future(server.drain())
        await eventually(lambda: server.is_closing)
        async with await Peer.connect(server.port) as check:
            check.write(CHECK)
            assert await check.pdu() == EOF
        async with await Peer.connect(server.port) as caller:
            caller.write(header("10.0.0.1"))
            await caller.associate()
            assert not draining.done()
            assert await caller.pdu() == RELEASED  # once it is known that nobody comes any more
            assert await refuses(server)
        await draining


async def test_with_no_time_it_is_closed() -> None:
    async with serving(times={"drain": 0}, access=AccessPolicy(proxies=["127.0.0.1"])) as server:
        await server.drain()
        with pytest.raises(AssociationClosed):
            await associate(address(server))
