from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import pytest
from helpers.peer import CT, MR, eventually, instance, nothing_left  # noqa: F401

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AssociationClosed,
    AssociationPool,
    AssociationRejected,
    AssociationTimeout,
    Limits,
    LocalProtocolError,
    PresentationContextError,
    Request,
    StatusError,
    Timeouts,
    associate,
    retrieval_contexts,
    serve,
)

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


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


@pytest.mark.parametrize("granted", [1, 2])
async def test_who_wants_to_be_alone_gets_one_that_nobody_uses(granted: int) -> None:
    """However many operations the peer has granted, it is all of them."""
    limits = Limits(operations_performed=granted)
    async with serve("SCP@127.0.0.1:0", c_store=on_store, limits=limits) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT]) as pool, asyncio.timeout(60):
            async with pool.acquire(alone=True):
                behind = asyncio.create_task(pool.c_store(instance()))
                await asyncio.sleep(0)
                assert not behind.done()
            assert (await behind).status == 0


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


# contexts that are needed


def proposed(association: Any) -> set[str]:
    return {context.abstract_syntax for context in association._channel.request.presentation_contexts}


async def test_an_instance_gets_the_context_that_it_needs() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=2) as pool:
            for sop_class in (CT, MR, CT, MR):
                assert (await pool.c_store(instance(sop_class=sop_class))).status == 0
            assert server.associations == 2
            async with pool.acquire([MR]) as association:
                assert {CT, MR} <= proposed(association)
            pool.expect([SEGMENTATION])
            async with pool.acquire([STUDY_ROOT], alone=True) as association:
                assert {CT, MR, SEGMENTATION, STUDY_ROOT.find, VERIFICATION} <= proposed(association)
            assert server.associations == 2, "an idle one made room"


async def test_a_context_that_the_peer_refuses_is_not_asked_for_again() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store, contexts=[CT]) as server:
        async with AssociationPool(address(server), size=4) as pool:
            for _ in range(3):
                with pytest.raises(PresentationContextError):
                    await pool.c_store(instance(sop_class=MR))
            assert server.associations == 2 or len(pool._users) == 1


async def test_roles_of_one_sop_class_are_kept_apart() -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1) as pool:
            await pool.c_store(instance())
            async with pool.acquire(retrieval_contexts([CT])) as association:
                request: Any = association._channel.request
                (role,) = request.user_information.role_selections
                assert (role.scu_role, role.scp_role) == (False, True)
            assert (await pool.c_store(instance())).status == 0


async def test_no_more_contexts_than_an_association_has() -> None:
    classes = [f"1.2.3.{number}" for number in range(200)]
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1) as pool:
            pool.expect(classes)
            async with pool.acquire([STUDY_ROOT]) as association:
                there = proposed(association)
            assert len(there) == 128
            assert {classes[-1], VERIFICATION} <= there
            assert classes[0] not in there


async def test_a_peer_that_takes_no_more_is_served_over_what_there_is() -> None:
    limits = Limits(maximum_associations=1)
    async with serve("SCP@127.0.0.1:0", c_store=on_store, limits=limits) as server:
        async with AssociationPool(address(server), size=3, contexts=[CT], operations=1) as pool:
            responses = await asyncio.gather(*(pool.c_store(instance()) for _ in range(6)))
            assert [response.status for response in responses] == [0] * 6
            assert pool._most() == 1
            pool._fewer = (1, 0.0)
            assert pool._most() == 3, "after a while it is asked again"


@asynccontextmanager
async def one_at_a_time(server: Any) -> AsyncGenerator[asyncio.Server, None]:
    """A listener of a peer that rejects none: it takes the next connection when the first one has ended."""
    turn, calls = asyncio.Lock(), set[asyncio.Task[Any]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        calls.add(task)
        with suppress(asyncio.CancelledError, OSError), closing(writer):
            async with turn:
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", server.port)
                with closing(there_writer):
                    both = carry(reader, there_writer), carry(there_reader, writer)
                    await asyncio.gather(*both, return_exceptions=True)

    listener = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    try:
        yield listener
    finally:
        listener.close()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def at(listener: asyncio.Server) -> str:
    return f"SCP@127.0.0.1:{listener.sockets[0].getsockname()[1]}"


FOR_EVER = Timeouts(acse=None, connect=None)


@pytest.mark.parametrize("operations", [1, 4])
async def test_a_peer_that_lets_the_second_association_wait_is_served_over_the_first(operations: int) -> None:
    """Whoever waits takes what comes first, and none waits for an answer that may never come."""
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        one_at_a_time(server) as listener,
        AssociationPool(
            at(listener), size=3, contexts=[CT], operations=operations, timeouts=FOR_EVER
        ) as pool,
        asyncio.timeout(60),
    ):
        responses = await asyncio.gather(*(pool.c_store(instance()) for _ in range(6)))
        assert [response.status for response in responses] == [0] * 6
        assert (await pool.c_store(instance())).status == 0
        assert server.associations == 1


async def test_who_waits_for_a_context_holds_up_nobody_else() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        one_at_a_time(server) as listener,
        AssociationPool(at(listener), size=2, contexts=[CT], operations=1, timeouts=FOR_EVER) as pool,
        asyncio.timeout(60),
    ):
        async with pool.acquire([CT]):
            other = asyncio.create_task(pool.c_store(instance(sop_class=MR)))
            await asyncio.sleep(0)
            behind = asyncio.create_task(pool.c_store(instance()))
            await asyncio.sleep(0)
        assert (await behind).status == 0
        assert not other.done()
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        assert (await pool.c_store(instance())).status == 0


async def test_a_peer_that_answers_none_is_told_to_all_who_wait() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        one_at_a_time(server) as listener,
        AssociationPool(at(listener), size=1, timeouts=FOR_EVER),
        AssociationPool(
            at(listener), size=2, contexts=[CT], operations=1, timeouts=Timeouts(acse=0.01)
        ) as late,
        associate(at(listener)),
        asyncio.timeout(60),
    ):
        asked = [late.c_store(instance()) for _ in range(5)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [AssociationTimeout] * 5


async def test_one_more_that_fails_disturbs_nobody_who_has_a_place() -> None:
    """It is not asked for again at once, whatever the reason was."""
    full, entered = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> int:
        entered.set()
        await full.wait()
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=slow) as server,
        one_at_a_time(server) as listener,
        AssociationPool(at(listener), size=3, contexts=[CT]) as pool,
        asyncio.timeout(60),
    ):
        first = asyncio.create_task(pool.c_store(instance()))
        await entered.wait()
        listener.close()
        second = asyncio.create_task(pool.c_store(instance()))
        await eventually(lambda: pool._most() == 1)
        assert not second.done()
        full.set()
        assert [(await each).status for each in (first, second)] == [0, 0]


async def test_one_that_was_begun_for_somebody_who_left_ends() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        one_at_a_time(server) as listener,
        associate(at(listener)) as only,
        AssociationPool(at(listener), size=1, contexts=[CT], timeouts=FOR_EVER) as pool,
        asyncio.timeout(60),
    ):
        left, stays = (asyncio.create_task(pool.c_store(instance())) for _ in range(2))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        await only.release()
        assert (await stays).status == 0, "one is opened for the next one"


@pytest.mark.parametrize("is_given", [False, True], ids=["waits", "has its turn"])
async def test_the_place_of_somebody_who_leaves_is_given_to_the_next(is_given: bool) -> None:
    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with AssociationPool(address(server), size=1, contexts=[CT], operations=1) as pool:
            async with pool.acquire():
                left, stays = (asyncio.create_task(pool.c_store(instance())) for _ in range(2))
                await asyncio.sleep(0)
                if not is_given:
                    left.cancel()
            if is_given:
                left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            assert (await stays).status == 0


async def test_one_more_that_fails_when_there_is_none_left_says_nothing_of_the_peer() -> None:
    server = await serve("SCP@127.0.0.1:0", c_store=on_store)
    async with (
        one_at_a_time(server) as listener,
        AssociationPool(at(listener), size=2, contexts=[CT], timeouts=FOR_EVER) as pool,
        asyncio.timeout(60),
    ):
        async with pool.acquire():
            assert (await pool.c_store(instance())).status == 0, "beside, one more is being opened"
            await server.close()
        await eventually(lambda: not pool._openings)
        assert pool._most() == 2
        with pytest.raises(AssociationClosed):
            await pool.c_store(instance())


async def test_a_pool_that_is_closed_tells_those_who_wait_and_ends_what_it_opens() -> None:
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        one_at_a_time(server) as listener,
        associate(at(listener)),
        asyncio.timeout(60),
    ):
        pool = AssociationPool(at(listener), size=1, contexts=[CT], timeouts=FOR_EVER)
        waiting = [asyncio.create_task(pool.c_store(instance())) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[2].cancel()
        await pool.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [LocalProtocolError] * 2 + [asyncio.CancelledError]
        assert not pool._openings


async def test_a_peer_that_takes_nobody_is_told() -> None:
    async with serve("SCP@127.0.0.1:0", limits=Limits(maximum_associations=0)) as server:
        async with AssociationPool(address(server)) as pool:
            with pytest.raises(AssociationRejected):
                await pool.c_store(instance())
