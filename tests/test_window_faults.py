"""Peers that grant an operations window, and use it otherwise than they should."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from helpers.peer import (
    ABORT,
    CT,
    EOF,
    IDENTIFIER,
    STUDY_CONTEXTS,
    Message,
    Peer,
    echo_rq,
    eventually,
    find_rq,
    instance,
    listening,
    nothing_left,  # noqa: F401
    store_rq,
)

from asyncdicom import (
    Association,
    AssociationError,
    AssociationTimeout,
    Limits,
    PresentationContext,
    Request,
    Timeouts,
    associate,
    serve,
)
from asyncdicom.dimse.messages import response_to
from asyncdicom.net.disk import Batch
from asyncdicom.options import OPERATIONS
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, VERIFICATION


@asynccontextmanager
async def granted(**options: Any) -> AsyncIterator[tuple[Association, Peer]]:
    """An association with a peer made by hand, which has granted what we proposed."""
    async with listening() as listener:
        opening = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[CT], **options))
        peer = await listener.peer()
        await peer.accept(window=OPERATIONS)
        association = await opening
        try:
            yield association, peer
        finally:
            peer.reset()
            await association.abort()


def stray(peer: Peer, request: Message) -> None:
    """Answer an operation that there never was, and then this one."""
    peer.send(request.context_id, response_to(store_rq(60_000), 0xA700))
    peer.send(request.context_id, response_to(request.command, 0))


def twice(peer: Peer, request: Message) -> None:
    for status in (0, 0xA700):
        peer.send(request.context_id, response_to(request.command, status))


@pytest.mark.parametrize("answer", [stray, twice])
async def test_what_answers_nothing_is_dropped_and_takes_nobodys_place(
    answer: Callable[[Peer, Message], None],
) -> None:
    async with granted() as (association, peer):
        tasks = [asyncio.create_task(association.c_store(instance(10))) for _ in range(2 * OPERATIONS)]
        outstanding = [await peer.message() for _ in range(OPERATIONS)]
        for _ in range(OPERATIONS):
            answer(peer, outstanding.pop())
            outstanding.append(await peer.message())
        for request in outstanding:
            answer(peer, request)
        assert [(await task).status for task in tasks] == [0] * len(tasks)


async def test_of_those_that_are_never_answered_each_tells_and_the_answered_are_done() -> None:
    async with granted(timeouts=Timeouts(dimse=0.2)) as (association, peer):
        tasks = [asyncio.create_task(association.c_store(instance(10))) for _ in range(OPERATIONS)]
        requests = [await peer.message() for _ in tasks]
        answered = {request.command.affected_sop_instance_uid for request in requests[::2]}
        for request in requests[::2]:
            peer.send(request.context_id, response_to(request.command, 0))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = Counter(type(end).__name__ for end in ends)
        assert kinds["Response"] == len(answered) == OPERATIONS // 2
        lost = [end for end in ends if isinstance(end, AssociationError)]
        assert len(lost) == OPERATIONS // 2
        assert any(isinstance(end, AssociationTimeout) for end in lost)


# in bytes


class Huge:
    """512 MiB that are made as they are read."""

    sop_class_uid, transfer_syntax_uid = CT, EXPLICIT_VR_LITTLE_ENDIAN
    length = 512 << 20
    read = 0
    opened = 0

    def __init__(self, number: int) -> None:
        self.sop_instance_uid = f"1.2.{number}"

    async def open(self) -> AsyncGenerator[Batch, None]:
        Huge.opened += 1
        piece = memoryview(bytes(1 << 16))
        for _ in range(self.length >> 16):
            Huge.read += len(piece)
            yield [piece]

    def at_hand(self) -> None:
        return None


async def test_of_16_times_512_mib_no_more_is_under_way_than_the_bytes_allow() -> None:
    """The window allows all of them at once; the bytes allow one, and that only as the peer takes it."""
    Huge.opened = Huge.read = 0
    async with granted() as (association, peer):
        tasks = [asyncio.create_task(association.c_store(Huge(number))) for number in range(OPERATIONS)]
        await peer.pdu()
        quiet = -1
        while quiet != Huge.read:  # the peer reads no more, so it comes to rest
            quiet = Huge.read
            await asyncio.sleep(0.05)
        assert Huge.opened == 1
        assert Huge.read <= 32 << 20, "what sockets and buffers hold"
        peer.reset()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, AssociationError) for end in ends)
        assert Huge.opened == 1


# as an acceptor: one that asks for more at a time than it was granted


class Busy:
    """Handlers that wait, and how many of each service there are at a time."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.go_on = asyncio.Semaphore(0)

    async def _work(self, service: str) -> int:
        self.running[service] += 1
        self.most |= self.running
        await self.go_on.acquire()
        self.running[service] -= 1
        return 0

    async def on_echo(self, request: Request) -> int:
        return await self._work("echo")

    async def on_store(self, request: Request) -> int:
        await request.data.read()
        return await self._work("store")

    async def on_find(self, request: Request) -> AsyncIterator[bytes]:
        await self._work("find")
        yield IDENTIFIER


@asynccontextmanager
async def asking(window: int, busy: Busy) -> AsyncIterator[Peer]:
    """A peer made by hand whose association has this window; the contexts are 1, 3 and 5."""
    contexts: list[str | PresentationContext] = [
        VERIFICATION,
        PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),
        *STUDY_CONTEXTS,
    ]
    limits = Limits(operations_performed=window)
    handlers: dict[str, Any] = {"c_echo": busy.on_echo, "c_store": busy.on_store, "c_find": busy.on_find}
    async with (
        serve("SCP@127.0.0.1:0", limits=limits, **handlers) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate(contexts, window=window)
        yield peer


async def answered(peer: Peer, count: int) -> Counter[int | None]:
    """The Message IDs of so many final responses."""
    final: Counter[int | None] = Counter()
    while final.total() < count:
        command = (await peer.message()).command
        if command.status == 0:
            final[command.message_id_being_responded_to] += 1
    return final


@pytest.mark.parametrize("window", [1, 2])
async def test_one_that_counts_the_window_for_each_service_is_served(window: int) -> None:
    busy, ids = Busy(), []
    async with asking(window, busy) as peer:
        for number in range(window):
            peer.send(1, echo_rq(1 + number))
            peer.send(3, store_rq(11 + number), bytes(100))
            peer.send(5, find_rq(21 + number), IDENTIFIER)
            ids += [1 + number, 11 + number, 21 + number]
        await eventually(lambda: busy.running.total() == 3 * window)
        for _ in ids:
            busy.go_on.release()
        assert await answered(peer, len(ids)) == Counter(ids)
    assert busy.most["store"] == window


@pytest.mark.parametrize("window", [1, 3])
async def test_no_more_handlers_of_c_store_run_at_a_time_than_the_window(window: int) -> None:
    """A peer may run ahead of it by as many again; a handler that must run alone says so by a window of 1."""
    busy = Busy()
    async with asking(window, busy) as peer:
        for number in range(2 * window):
            peer.send(3, store_rq(1 + number), bytes(100_000))
        await eventually(lambda: busy.running["store"] == window)
        for _ in range(2 * window):
            busy.go_on.release()
        assert await answered(peer, 2 * window) == Counter(range(1, 2 * window + 1))
    assert busy.most == Counter(store=window)


async def test_one_that_ends_while_requests_wait_for_their_turn_leaves_nothing() -> None:
    busy = Busy()
    async with asking(1, busy) as peer:
        peer.send(3, store_rq(1), bytes(10))
        peer.send(3, store_rq(2), bytes(10))
        await eventually(lambda: busy.running["store"] == 1)
        peer.write(ABORT)
        assert await peer.pdu() == EOF
    assert busy.most == Counter(store=1)
