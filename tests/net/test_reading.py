"""What one association may take of a turn of the event loop, on receiving and on sending."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from helpers.peer import (
    CT,
    IDENTIFIER,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_CONTEXTS,
    Peer,
    aborted,
    echo_rq,
    eventually,
    instance,
    listening,
    message,
    store_rq,
)

from asyncdicom import STUDY_ROOT, VERIFICATION, Association, Request, associate, serve
from asyncdicom.dimse.fragmenter import MOST_FRAGMENTS
from asyncdicom.dimse.messages import response_to
from asyncdicom.dimse.operations import MAXIMUM_DUPLICATES
from asyncdicom.net import reading
from asyncdicom.net.outbox import Outbox
from asyncdicom.net.transport import Transport
from asyncdicom.ul.decoder import COMMAND_WEIGHT

ECHOES = 3000


@asynccontextmanager
async def largest_step(count: Callable[[], int]) -> AsyncIterator[list[int]]:
    """How much was done between two turns of the loop, at most; `count` tells how much was done."""
    steps = [0]

    async def tick() -> None:
        before = count()
        while True:
            await asyncio.sleep(0)
            steps[0] = max(steps[0], count() - before)
            before = count()

    ticking = asyncio.ensure_future(tick())
    try:
        yield steps
    finally:
        ticking.cancel()


async def flooded(monkeypatch: pytest.MonkeyPatch) -> int:
    """Many C-ECHOs come at once; gives how many of them were answered in one turn."""
    answered = 0
    send_at_once = Outbox.send_at_once

    def counting(outbox: Outbox, *arguments: object) -> bool:
        nonlocal answered
        answered += 1
        return send_at_once(outbox, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Outbox, "send_at_once", counting)
    async with serve("SCP@127.0.0.1:0") as server, await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION])
        async with largest_step(lambda: answered) as steps:
            peer.write(*(message(1, echo_rq(number)) for number in range(ECHOES)))
            for number in range(ECHOES):
                assert (await peer.message()).command.message_id_being_responded_to == number
    return steps[0]


async def test_a_flood_of_requests_is_answered_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TURN", 0.0)
    assert 0 < await flooded(monkeypatch) <= 2 * reading._SLICE / COMMAND_WEIGHT


async def test_a_flood_that_takes_one_turn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TURN", 60.0)
    assert await flooded(monkeypatch) > 2 * reading._SLICE / COMMAND_WEIGHT


@pytest.mark.parametrize("budget", [1 << 20, 1 << 16])
async def test_large_data_sets_let_others_have_their_turn(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pauses reading first, all of it arrives."""
    monkeypatch.setattr(reading, "_TURN", 0.0)
    monkeypatch.setattr(reading, "_TURN_BYTES", 1 << 15)
    turns = 0
    take_turn = reading.Reading._take_turn

    def counting(self: reading.Reading) -> None:
        nonlocal turns
        turns += 1
        take_turn(self)

    monkeypatch.setattr(reading.Reading, "_take_turn", counting)
    received: list[bytes] = []

    async def on_store(request: Request) -> int:
        await asyncio.sleep(0.001)
        received.append(await request.data.read())
        return 0

    source = instance(5_000_000)
    from asyncdicom import Limits

    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store, limits=Limits(read_budget=budget)) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        for _ in range(2):
            assert (await association.c_store(source)).status == 0
        assert (await association.c_store(instance(10))).status == 0
    assert received[:2] == [source.data, source.data]
    assert turns


async def test_the_end_of_the_connection_comes_behind_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TURN", 0.0)
    async with serve("SCP@127.0.0.1:0") as server, await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION])
        peer.write(*(message(1, echo_rq(number)) for number in range(500)), RELEASE_RQ)
        peer.writer.write_eof()
        for number in range(500):
            assert (await peer.message()).command.message_id_being_responded_to == number
        assert await peer.pdu() == (RELEASE_RP[0], RELEASE_RP[6:])


async def test_an_association_that_ends_between_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_TURN", 0.0)
    async with serve("SCP@127.0.0.1:0") as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION])
            peer.write(*(message(1, echo_rq(number)) for number in range(ECHOES)))
            await peer.message()
            peer.reset()
        await eventually(lambda: server.associations == 0)
        async with associate(f"SCP@127.0.0.1:{server.port}") as association:
            assert (await association.c_echo()).status == 0


# Message IDs in use


async def test_a_message_id_in_use_costs_no_task() -> None:
    started: list[asyncio.Event] = []

    async def on_store(request: Request) -> int:
        started.append(asyncio.Event())
        await started[0].wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION, CT], window=4)
        peer.send(3, store_rq(7), b"12")
        await eventually(lambda: started)
        tasks = len(asyncio.all_tasks())
        for _ in range(MAXIMUM_DUPLICATES):
            peer.send(3, store_rq(7), bytes(100))
        for _ in range(MAXIMUM_DUPLICATES):
            answer = await peer.message()
            assert (answer.command.message_id_being_responded_to, answer.command.status) == (7, 0x0210)
            assert len(asyncio.all_tasks()) <= tasks
        assert len(started) == 1
        peer.send(3, store_rq(7), bytes(100))
        assert await peer.pdu() == aborted(2, 6)


async def test_answers_of_the_association_itself_wait_for_the_message_that_is_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then one task sends them all."""
    stuck = True
    monkeypatch.setattr(
        Transport, "is_writing_paused", property(lambda transport: stuck, lambda transport, is_paused: None)
    )

    async def drain(transport: Transport) -> None:
        while stuck:
            await asyncio.sleep(0.001)

    monkeypatch.setattr(Transport, "drain", drain)
    gate = asyncio.Event()

    async def on_store(request: Request) -> int:
        await gate.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION, CT], window=4)
        tasks = len(asyncio.all_tasks())
        for _ in range(50):
            peer.send(3, store_rq(7), b"12")
        [handled] = server._associated
        await eventually(lambda: len(handled.outbox._answers) == 49)
        assert len(asyncio.all_tasks()) == tasks + 2, "the handler and who sends"
        stuck = False
        for _ in range(49):
            assert (await peer.message()).command.status == 0x0210
        gate.set()
        assert (await peer.message()).command.status == 0


# peers with a tiny Maximum Length


async def connected(listener: object, maximum_length: int) -> tuple[Association, Peer]:
    async def connect() -> Association:
        return await associate(f"SCP@127.0.0.1:{listener.port}", contexts=[CT, *STUDY_CONTEXTS])  # type: ignore[attr-defined]

    connecting = asyncio.ensure_future(connect())
    peer = await listener.peer()  # type: ignore[attr-defined]
    await peer.accept(maximum_length=maximum_length)
    return await connecting, peer


@pytest.mark.parametrize("maximum_length", [8, 16384])
async def test_tiny_fragments_are_made_while_they_are_sent(
    maximum_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    write = Transport.write

    def measuring(transport: Transport, buffers: list[bytes]) -> None:
        nonlocal longest
        longest = max(longest, len(buffers))
        write(transport, buffers)

    monkeypatch.setattr(Transport, "write", measuring)
    async with listening() as listener:
        association, peer = await connected(listener, maximum_length)
        source = instance(10 * MOST_FRAGMENTS)
        storing = asyncio.ensure_future(association.c_store(source))
        request = await peer.message()
        assert request.data == source.data
        assert max(peer.pdu_lengths) <= maximum_length or peer.pdu_lengths[0] > maximum_length
        assert longest <= 2 * MOST_FRAGMENTS + 2
        peer.send(request.context_id, response_to(request.command, 0))
        assert (await storing).status == 0
        await peer.close()
        await association.abort()


async def test_a_long_identifier_goes_the_way_of_data_sets() -> None:
    async with listening() as listener:
        association, peer = await connected(listener, 8)
        identifier = IDENTIFIER * 500

        async def find() -> object:
            return await association.c_find(identifier, raw=True, information_model=STUDY_ROOT)

        finding = asyncio.ensure_future(find())
        request = await peer.message()
        assert request.data == identifier
        peer.send(request.context_id, response_to(request.command, 0))
        assert await finding == []
        await peer.close()
        await association.abort()


async def test_a_message_of_tiny_fragments_that_is_cut_short_aborts() -> None:
    async with listening() as listener:
        association, peer = await connected(listener, 8)
        storing = asyncio.ensure_future(association.c_store(instance(10_000_000)))
        for _ in range(200):
            assert (await peer.pdu())[0] == 4
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        while (pdu := await peer.pdu())[0] == 4:
            pass
        assert pdu == aborted(0, 0)
        await peer.close()
        await association.abort()
