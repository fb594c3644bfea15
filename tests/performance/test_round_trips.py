"""How many round trips things take: over a distance nothing else counts. Counted, not timed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trustme
from cli.nodes import Instance, Node
from helpers.distance import DistantLoop
from helpers.peer import CT, IDENTIFIER, ONE_AT_A_TIME, instance

from asyncdicom import (
    STUDY_ROOT,
    AssociationPool,
    Destination,
    Limits,
    Request,
    Retrieval,
    Timeouts,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.endings import Endings
from asyncdicom.options import OPERATIONS
from asyncdicom.scu.identifiers import Wanted
from asyncdicom.scu.planning import find_instances
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CONNECT = ASSOCIATE = OPERATION = RELEASE = 1
SCP = "SCP@192.0.2.99:104"
INSTANCES = 100


@pytest.fixture
def loop() -> Iterator[DistantLoop]:
    loop = DistantLoop()
    yield loop
    loop.close()


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


async def retrieved(request: Request) -> Retrieval:
    return Retrieval([instance(1000) for _ in range(INSTANCES)])


def count(loop: DistantLoop, work: Callable[[], Awaitable[object]], **options: Any) -> float:
    """How many round trips something takes, while we serve."""

    async def run() -> float:
        async with serve(SCP, sock=loop.listener, c_store=on_store, **options):
            return await loop.round_trips(work())

    return loop.run_until_complete(run())


def rounds(operations: int = INSTANCES, window: int = OPERATIONS) -> int:
    """How many round trips operations take with a window."""
    return -(-operations // window)


# one association


async def echo(**options: Any) -> None:
    async with associate(SCP, **options) as association:
        await association.c_echo()


def test_each_step_of_an_association_takes_one(loop: DistantLoop) -> None:
    assert count(loop, echo) == CONNECT + ASSOCIATE + OPERATION + RELEASE


@pytest.mark.parametrize(
    ("version", "first", "second"), [(ssl.TLSVersion.TLSv1_2, 2, 1), (ssl.TLSVersion.TLSv1_3, 1, 1)]
)
def test_tls_takes_one_more_and_of_an_old_version_two_the_first_time(
    loop: DistantLoop, version: ssl.TLSVersion, first: int, second: int
) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("192.0.2.99").configure_cert(server)
    client = ssl.create_default_context()
    client.maximum_version = version
    authority.configure_trust(client)
    plain = CONNECT + ASSOCIATE + OPERATION + RELEASE
    assert count(loop, lambda: echo(ssl=client), ssl=server) == plain + first
    assert count(loop, lambda: echo(ssl=client), ssl=server) == plain + second


def test_what_an_operation_does_not_wait_for_leaves_with_it(loop: DistantLoop) -> None:
    """The release follows the last response at once, and nothing is waited for to fill the window."""

    async def store() -> None:
        async with associate(SCP, contexts=[CT]) as association:
            await asyncio.gather(*(association.c_store(instance()) for _ in range(INSTANCES)))

    assert count(loop, store) == CONNECT + ASSOCIATE + rounds() + RELEASE


# retrievals


@pytest.mark.parametrize("limits", [Limits(), ONE_AT_A_TIME], ids=["a window", "none"])
def test_a_c_get_takes_those_of_its_sub_operations_and_no_other(loop: DistantLoop, limits: Limits) -> None:
    async def get() -> None:
        contexts: list[Any] = [STUDY_ROOT, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
        async with associate(SCP, contexts=contexts, c_store=on_store, limits=limits) as association:
            result = await association.c_get(IDENTIFIER)
            assert result.completed == INSTANCES

    # The request, and the final response, are on their way for half of one each.
    expected = CONNECT + ASSOCIATE + 1 + rounds(window=OPERATIONS if limits == Limits() else 1) + RELEASE
    assert count(loop, get, c_get=retrieved) == expected


def test_a_c_move_takes_those_of_another_association_and_does_not_wait_for_its_release(
    loop: DistantLoop,
) -> None:
    async def move() -> None:
        async with associate(SCP, contexts=[STUDY_ROOT]) as association:
            result = await association.c_move(IDENTIFIER, move_destination="SCP")
            assert result.completed == INSTANCES

    there = CONNECT + ASSOCIATE + rounds()
    expected = CONNECT + ASSOCIATE + OPERATION + there + RELEASE
    destinations = {"SCP": Destination("SCP@192.0.2.99:104")}
    assert count(loop, move, c_move=retrieved, destinations=destinations) == expected


@pytest.mark.parametrize(
    ("limits", "of_series"), [(Limits(), 1), (ONE_AT_A_TIME, 10)], ids=["a window", "none"]
)
def test_what_is_in_many_series_is_asked_for_at_the_same_time(
    loop: DistantLoop, limits: Limits, of_series: int
) -> None:
    """Before a C-GET the peer is asked what there is: the series, and the instances of each."""
    node = Node([Instance("1.1", f"1.1.{number}", f"1.1.{number}.1") for number in range(10)])
    wanted = Wanted(STUDY_ROOT, "STUDY", {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.1"})

    async def find() -> None:
        async with associate(SCP, contexts=[STUDY_ROOT], limits=limits) as association:
            assert len(await find_instances(association, wanted)) == 10

    assert count(loop, find, c_find=node.find) == CONNECT + ASSOCIATE + OPERATION + of_series + RELEASE
    assert node.finds_asked == 11


# pools


def test_a_pool_keeps_its_associations_warm(loop: DistantLoop) -> None:
    async def store() -> None:
        async with AssociationPool(SCP, contexts=[CT]) as pool:
            assert await loop.round_trips(pool.c_store(instance())) == CONNECT + ASSOCIATE + OPERATION
            for _ in range(10):
                assert await loop.round_trips(pool.c_store(instance())) == OPERATION

    assert count(loop, store) == CONNECT + ASSOCIATE + 11 * OPERATION + RELEASE
    assert loop.connections == 1


def test_one_that_was_idle_for_too_long_is_opened_again_and_what_crossed_its_end_is_sent_again(
    loop: DistantLoop,
) -> None:
    """The peer ends it after a minute; that is told half a round trip later."""

    async def store() -> None:
        async with AssociationPool(SCP, contexts=[CT]) as pool:
            assert (await pool.c_store(instance())).status == 0
            await asyncio.sleep(59.97)
            for _ in range(2):
                assert (await pool.c_store(instance())).status == 0

    count(loop, store, timeouts=Timeouts(idle=60.0))
    assert loop.connections == 2


def test_a_pool_ends_what_nobody_uses_after_the_time_that_it_was_given(loop: DistantLoop) -> None:
    async def store() -> None:
        async with AssociationPool(SCP, contexts=[CT], timeouts=Timeouts(idle=10.0)) as pool:
            for pause, connections in ((1.0, 1), (9.0, 1), (11.0, 1), (1.0, 2)):
                assert (await pool.c_store(instance())).status == 0
                assert loop.connections == connections
                await asyncio.sleep(pause)

    count(loop, store)


def test_a_pool_releases_its_associations_together(loop: DistantLoop) -> None:
    async def store() -> None:
        async with AssociationPool(SCP, size=4, operations=1, contexts=[CT]) as pool:
            await asyncio.gather(*(pool.c_store(instance()) for _ in range(8)))

    assert count(loop, store) == CONNECT + ASSOCIATE + 2 * OPERATION + RELEASE


def test_who_does_not_wait_for_the_release_opens_the_next_association_meanwhile(loop: DistantLoop) -> None:
    async def twice() -> None:
        async with Endings() as endings:
            for _ in range(2):
                association = await associate(SCP)
                await association.c_echo()
                endings.release(association)

    assert count(loop, twice) == 2 * (CONNECT + ASSOCIATE + OPERATION) + RELEASE
