from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.peer import CT, eventually, instance, nothing_left  # noqa: F401

from asyncdicom import (
    AssociationClosed,
    AssociationPool,
    Limits,
    LocalProtocolError,
    Request,
    StatusError,
    serve,
)


def address(server: Any) -> str:
    return f"SCP@127.0.0.1:{server.port}"


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


async def test_associations_are_opened_when_needed_and_kept() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=4, contexts=[CT]) as pool:
            assert server.associations == 0
            for _ in range(5):
                assert (await pool.c_store(instance())).status == 0
            assert server.associations == 1
        await eventually(lambda: server.associations == 0)


async def test_no_more_than_its_size() -> None:
    most = 0

    async def count(request: Request) -> int:
        nonlocal most
        most = max(most, server.associations)
        await asyncio.sleep(0.005)
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=count) as server,
        AssociationPool(address(server), size=3, contexts=[CT]) as pool,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(12):
            group.create_task(pool.c_store(instance()))
    assert most == 3


async def test_a_lost_association_is_not_given_out_again() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
            async with pool.acquire() as association:
                await association.abort()
            async with pool.acquire() as other:
                assert other is not association
                other._channel.transport.abort()
                await other.wait_closed()
            assert (await pool.c_store(instance())).status == 0


async def test_one_that_was_lost_while_idle_is_not_given_out_either() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
            async with pool.acquire() as association:
                pass
            association._channel.transport.abort()
            await association.wait_closed()
            assert (await pool.c_store(instance())).status == 0


async def test_operations_are_shared_out_evenly_while_an_association_is_being_opened() -> None:
    """A task that found its association full would wait for a turn that may never come."""
    users: dict[int, int] = {}
    all_there = asyncio.Event()

    async def together(request: Request) -> int:
        users[id(request.association)] = users.get(id(request.association), 0) + 1
        if sum(users.values()) == 8:
            all_there.set()
        await all_there.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=together, limits=Limits(operations_performed=4)) as server:
        async with AssociationPool(address(server), size=2, operations=4, contexts=[CT]) as pool:
            await asyncio.gather(*(pool.c_store(instance()) for _ in range(8)))
    assert list(users.values()) == [4, 4]


async def test_cancelled_while_waiting_nothing_was_taken() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
            async with pool.acquire():
                waiting = asyncio.create_task(pool.c_store(instance()))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            assert (await pool.c_store(instance())).status == 0


async def test_cancelled_while_storing_the_place_is_free_again() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> int:
        entered.set()
        await go_on.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=slow) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
            storing = asyncio.create_task(pool.c_store(instance()))
            await entered.wait()
            storing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await storing
            go_on.set()
            assert (await pool.c_store(instance())).status == 0


async def test_leaving_by_an_exception_aborts() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        with pytest.raises(ZeroDivisionError):
            async with AssociationPool(address(server), contexts=[CT]) as pool:
                await pool.c_store(instance())
                raise ZeroDivisionError
        await eventually(lambda: server.associations == 0)


async def test_a_failure_to_associate_frees_the_place() -> None:
    server = await serve("SCP@127.0.0.1:0")
    await server.close()
    async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
        for _ in range(3):
            with pytest.raises(AssociationClosed):
                await pool.c_store(instance())


async def test_a_closed_pool_gives_nothing() -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        async with AssociationPool(address(server)) as pool:
            pass
        with pytest.raises(LocalProtocolError, match="closed"):
            async with pool.acquire():
                pass


def test_it_has_at_least_one() -> None:
    with pytest.raises(ValueError):
        AssociationPool("SCP@127.0.0.1:104", size=0)


async def test_a_failed_status_is_no_reason_to_give_an_association_up() -> None:
    async def refuse(request: Request) -> int:
        return 0xA700

    async with serve("SCP@127.0.0.1:0", c_store=refuse) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool:
            with pytest.raises(StatusError):
                (await pool.c_store(instance())).raise_for_status()
            async with pool.acquire() as association:
                assert association.is_established
            assert server.associations == 1
