"""Associations that end in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from helpers.peer import ONE_AT_A_TIME, eventually, nothing_left  # noqa: F401

from asyncdicom import (
    Association,
    AssociationRejected,
    Limits,
    Request,
    Response,
    Server,
    Status,
    StatusError,
    associate,
    serve,
)
from asyncdicom.endings import Endings
from asyncdicom.ul.pdu import AAssociateRJ


class Slow:
    """A handler of C-ECHO that answers when it is told to; no association is released before."""

    def __init__(self) -> None:
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: Request) -> int:
        self.entered.set()
        await self.go_on.wait()
        return 0


@asynccontextmanager
async def busy(slow: Slow, **options: Any) -> AsyncIterator[tuple[Server, Association]]:
    """A server, and an association to it on which a C-ECHO is under way."""
    async with serve("SCP@127.0.0.1:0", c_echo=slow, **options) as server:
        association = await associate(address(server))
        echo = asyncio.create_task(association.c_echo())
        await slow.entered.wait()
        yield server, association
        await asyncio.wait([echo])
        if echo.exception() is None:
            assert echo.result().status == 0


def address(server: Server) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def test_a_release_is_not_waited_for_until_the_end() -> None:
    slow, told = Slow(), []
    async with busy(slow) as (_, association):
        async with Endings() as endings:
            endings.release(association, lambda: told.append("released"))
            await asyncio.sleep(0)
            assert len(endings) == 1
            assert told == []
            slow.go_on.set()
        assert told == ["released"]
        assert len(endings) == 0


async def test_what_does_not_end_in_time_is_aborted() -> None:
    slow = Slow()
    async with busy(slow) as (server, association):
        endings = Endings(0.01)
        endings.release(association)
        await endings.close()
        assert not association.is_established
        await eventually(lambda: server.associations == 0)


async def test_who_is_cancelled_while_he_waits_for_the_end_aborts() -> None:
    slow = Slow()
    async with busy(slow) as (server, association):
        endings = Endings()
        endings.release(association)
        closing = asyncio.create_task(endings.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await eventually(lambda: server.associations == 0)
        await association.wait_closed()
        await eventually(lambda: len(endings) == 0)


@pytest.mark.parametrize("error", [None, StatusError(Response(Status.OUT_OF_RESOURCES)), ZeroDivisionError()])
async def test_a_block_ends_as_that_of_associate_and_does_not_wait_for_its_release(
    error: Exception | None,
) -> None:
    ends = []

    def trace(direction: str, what: object) -> None:
        if direction == "received":
            ends.append(type(what).__name__)

    async with serve("SCP@127.0.0.1:0", trace=trace) as server, Endings() as endings:
        with suppress(StatusError, ZeroDivisionError):
            async with endings.instead_of(associate(address(server))) as association:
                if error is not None:
                    raise error
        assert len(endings) == (error is None)
        await association.wait_closed()
    assert ends[-1] == ("AbortIndication" if isinstance(error, ZeroDivisionError) else "ReleaseIndication")


async def test_a_peer_with_room_for_one_is_asked_again_when_the_one_before_has_ended() -> None:
    slow = Slow()

    def trace(direction: str, what: object) -> None:
        if isinstance(what, AAssociateRJ) or type(what).__name__ == "AssociateRejection":
            slow.go_on.set()

    one = Limits(maximum_associations=1)
    async with busy(slow, limits=one) as (server, association), Endings() as endings:
        endings.release(association)
        opening = associate(address(server), limits=ONE_AT_A_TIME, trace=trace)
        async with endings.instead_of(opening) as following:
            assert following.is_established


async def test_without_one_that_is_ending_a_rejection_is_final() -> None:
    async with serve("SCP@127.0.0.1:0", limits=Limits(maximum_associations=1)) as server:
        async with associate(address(server)), Endings() as endings:
            with pytest.raises(AssociationRejected):
                async with endings.instead_of(associate(address(server))):
                    raise AssertionError("it was taken")
