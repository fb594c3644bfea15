"""One gate of reading an association: what a handler does not take holds the peer back, and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator

import pytest
from helpers.peer import (
    CT,
    EOF,
    IDENTIFIER,
    STUDY_CONTEXTS,
    Peer,
    aborted,
    cancel_rq,
    echo_rq,
    eventually,
    find_rq,
    fragments,
    instance,
    listening,
    message,
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Association,
    AssociationAborted,
    BytesSource,
    Limits,
    Request,
    Timeouts,
    associate,
    serve,
)
from asyncdicom.dimse.messages import encode, response_to
from asyncdicom.net.blocks import BLOCK_SIZE
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.encoder import p_data_header

BUDGET = 200_000


class Gate:
    """A handler that takes nothing until it is told to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.open = asyncio.Event()
        self.lengths: list[int] = []

    async def __call__(self, request: Request) -> int:
        self.requests.append(request)
        await self.open.wait()
        self.lengths.append(len(await request.data.read(1 << 30)))
        return 0


async def test_a_handler_that_does_not_read_holds_the_sender_back() -> None:
    gate = Gate()
    size = 60_000_000  # more than any buffer of the system between the two
    sent = 0

    class Counting(BytesSource):
        async def open(self) -> AsyncGenerator[list[bytes], None]:
            nonlocal sent
            piece = bytes(500_000)
            while sent < size:
                yield [piece]
                sent += len(piece)

    source = Counting(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, b"")
    async with (
        serve("SCP@127.0.0.1:0", c_store=gate, limits=Limits(read_budget=BUDGET)) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        storing = asyncio.create_task(association.c_store(source))
        await eventually(lambda: gate.requests and gate.requests[0].data.waiting > BUDGET)
        await asyncio.sleep(0.05)
        before = sent
        await asyncio.sleep(0.05)
        assert sent == before < size, "the sender is held back"
        assert gate.requests[0].data.received <= BUDGET + BLOCK_SIZE, "and little is kept in memory"
        gate.open.set()
        assert (await storing).status == 0
    assert gate.lengths == [size]


async def test_reading_resumes_and_pauses_as_often_as_it_takes() -> None:
    pauses = 0

    async def slow(request: Request) -> int:
        nonlocal pauses
        length = 0
        while (batch := await request.data.next_batch()) is not None:
            length += sum(map(len, batch))
            await asyncio.sleep(0.001)
            pauses += request.association._channel.inbox.budget.paused
        return 0 if length == 5_000_000 else 0xA900

    async with (
        serve("SCP@127.0.0.1:0", c_store=slow, limits=Limits(read_budget=BUDGET)) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        assert (await association.c_store(instance(5_000_000))).status == 0
    assert pauses > 1


async def test_the_budget_is_of_all_undelivered_bytes_of_an_association() -> None:
    gate = Gate()
    async with serve("SCP@127.0.0.1:0", c_store=gate, limits=Limits(read_budget=BUDGET)) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate(window=16)
            for message_id in range(1, 9):
                peer.send(3, store_rq(message_id, f"1.2.{message_id}"), bytes(50_000))
            channel = next(iter(server._associated))
            await eventually(lambda: channel.inbox.budget.paused)
            peer.send(1, echo_rq(99))
            await asyncio.sleep(0.03)
            assert not peer.reader._buffer  # type: ignore[attr-defined]  # it waits behind what is not read
            gate.open.set()
            answered = {(await peer.message()).command.message_id_being_responded_to for _ in range(9)}
            assert answered == {*range(1, 9), 99}
            assert channel.inbox.budget.undelivered == 0


async def test_other_associations_are_not_held_back() -> None:
    gate = Gate()
    async with serve("SCP@127.0.0.1:0", c_store=gate, limits=Limits(read_budget=BUDGET)) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, contexts=[CT]) as slow, associate(address) as other:
            storing = asyncio.create_task(slow.c_store(instance(5_000_000)))
            await eventually(lambda: gate.requests and gate.requests[0].data.waiting > BUDGET)
            for _ in range(10):
                assert (await other.c_echo()).status == 0
            gate.open.set()
            assert (await storing).status == 0


async def test_writing_does_not_depend_on_reading() -> None:
    """While the data set of a request waits, its handler may send on the same association."""
    sent = []

    async def on_store(request: Request) -> int:
        await eventually(lambda: request.association._channel.inbox.budget.paused)
        channel = request.association._channel
        await channel.outbox.send(request.context.context_id, response_to(request.command, 0xFF00))
        sent.append(True)
        return 0 if len(await request.data.read()) == 1_000_000 else 0xA900

    async with serve("SCP@127.0.0.1:0", c_store=on_store, limits=Limits(read_budget=BUDGET)) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.send(3, store_rq(1), bytes(1_000_000))
            assert (await peer.message()).command.status == 0xFF00
            assert (await peer.message()).command.status == 0
    assert sent


async def test_c_cancel_waits_behind_an_unread_data_set() -> None:
    gate = Gate()
    found = asyncio.Event()

    async def on_find(request: Request) -> AsyncGenerator[bytes, None]:
        found.set()
        yield IDENTIFIER
        await asyncio.Event().wait()

    async with serve(
        "SCP@127.0.0.1:0", c_store=gate, c_find=on_find, limits=Limits(read_budget=1000)
    ) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION, CT, *STUDY_CONTEXTS], window=4)
            peer.send(5, find_rq(1), IDENTIFIER)
            assert (await peer.message()).command.status == 0xFF00
            peer.send(3, store_rq(2), bytes(5_000_000))
            peer.send(5, cancel_rq(1))
            await asyncio.sleep(0.03)
            assert not peer.reader._buffer  # type: ignore[attr-defined]
            gate.open.set()
            statuses = {
                (reply := (await peer.message()).command).message_id_being_responded_to: reply.status
                for _ in range(2)
            }
            assert statuses == {1: 0xFE00, 2: 0}


async def test_the_loss_of_the_connection_waits_with_it_and_then_is_noticed() -> None:
    gate = Gate()
    async with serve("SCP@127.0.0.1:0", c_store=gate, limits=Limits(read_budget=1000)) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.write(message(3, store_rq(1), bytes(50_000))[:-100])
            await eventually(lambda: gate.requests and gate.requests[0].data.waiting > 1000)
            await peer.close()
            gate.open.set()
            await eventually(lambda: server.associations == 0)
    assert gate.lengths == []


async def test_the_peers_timer_stands_still_while_reading_is_paused() -> None:
    gate = Gate()
    async with serve(
        "SCP@127.0.0.1:0", c_store=gate, limits=Limits(read_budget=1000), timeouts=Timeouts(receive=0.1)
    ) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            whole = message(3, store_rq(1), bytes(50_000))
            peer.write(whole[:30_000])
            await eventually(lambda: gate.requests and gate.requests[0].data.waiting > 1000)
            await asyncio.sleep(0.2)
            gate.open.set()
            peer.write(whole[30_000:])
            assert (await peer.message()).command.status == 0


async def test_our_response_timer_stands_still_while_reading_is_paused() -> None:
    """A user who collects slowly does not make the peer late."""

    async def on_find(request: Request) -> AsyncGenerator[bytes, None]:
        for _ in range(50):
            yield bytes(20_000)

    async with (
        serve("SCP@127.0.0.1:0", c_find=on_find) as server,
        associate(
            f"SCP@127.0.0.1:{server.port}",
            contexts=[STUDY_ROOT],
            limits=Limits(read_budget=50_000),
            timeouts=Timeouts(dimse=0.1),
        ) as association,
    ):
        async with association.c_find(IDENTIFIER, raw=True) as query:
            count = 0
            async for _ in query:
                count += 1
                if count in (1, 20):
                    await eventually(lambda: association._channel.inbox.budget.paused)
                    await asyncio.sleep(0.15)
        assert count == 50


async def test_views_stay_valid_after_the_blocks_were_used_again() -> None:
    """A recycled block must never show one patient's bytes inside another's."""
    kept: list[tuple[str, list[memoryview]]] = []

    async def keep(request: Request) -> int:
        views = [view async for view in request.data]
        kept.append((request.affected_sop_instance_uid, views[:: max(len(views) // 4, 1)]))
        return 0

    async with (
        serve("SCP@127.0.0.1:0", c_store=keep) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        sources = [instance(700_000 + 64 * number) for number in range(25)]
        for source in sources:
            await association.c_store(source)
    for source, (uid, views) in zip(sources, kept, strict=True):
        assert uid == source.sop_instance_uid
        for view in views:
            assert view.readonly
            assert bytes(view) in source.data
    kept.clear()
    gc.collect()


async def test_more_to_discard_than_allowed_ends_the_association() -> None:
    async def refuse(request: Request) -> int:
        return 0xA700

    limits = Limits(maximum_discarded=1_000_000)
    async with serve("SCP@127.0.0.1:0", c_store=refuse, limits=limits) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate()
            peer.send(3, store_rq(1), bytes(900_000))
            assert (await peer.message()).command.status == 0xA700
            peer.send(3, store_rq(2), bytes(5_000_000))
            assert await peer.pdu() in (aborted(0, 0), EOF)


@pytest.mark.parametrize("window", [1, 8])
async def test_a_data_set_of_a_response_has_a_bound(window: int) -> None:
    """What a peer answers is gathered in memory, so it must not be endless."""
    from helpers.peer import listening

    async with listening() as listener:
        task = asyncio.ensure_future(
            associate(
                f"SCP@127.0.0.1:{listener.port}",
                contexts=[STUDY_ROOT],
                limits=Limits(operations_invoked=window, maximum_data_set=100_000),
            )
        )
        peer = await listener.peer()
        await peer.accept(window=window)
        association = await task
        asking = asyncio.ensure_future(association.c_find(IDENTIFIER, raw=True))
        request = await peer.message()
        pending = response_to(request.command, 0xFF00, has_data_set=True)
        peer.send(request.context_id, pending, bytes(100_000))
        peer.write(fragments(request.context_id, True, encode(pending)))
        peer.write(fragments(request.context_id, False, bytes(120_000)))
        assert await peer.pdu() == aborted(2, 6)
        await peer.close()
        with pytest.raises(Exception, match="larger than allowed"):
            await asking


async def test_who_waits_for_a_whole_piece_does_not_wait_for_what_is_held_back() -> None:
    """The budget is spent by one handler; another one, that gathers what it writes, must not starve."""
    gate = Gate()

    async def on_store(request: Request) -> int:
        if request.affected_sop_instance_uid == "1.2.1":
            return await gate(request)
        async for _ in request.data.batches(150_000):
            pass
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store, limits=Limits(read_budget=BUDGET)) as server:
        async with await Peer.connect(server.port) as peer:
            await peer.associate(window=4)
            peer.send(3, store_rq(1, "1.2.1"), bytes(BUDGET // 2 - 10_000))
            peer.send(3, store_rq(2, "1.2.2"), bytes(1_000_000))
            answer = await peer.message()
            assert (answer.command.message_id_being_responded_to, answer.command.status) == (2, 0)
            gate.open.set()
            assert (await peer.message()).command.status == 0


async def test_a_response_that_grows_too_large_within_one_fragment_aborts() -> None:
    async with listening() as listener:
        address = f"SCP@127.0.0.1:{listener.port}"

        async def connect() -> Association:
            return await associate(address, contexts=STUDY_CONTEXTS, limits=Limits(maximum_data_set=1000))

        connecting = asyncio.create_task(connect())
        peer = await listener.peer()
        await peer.accept()
        association = await connecting

        async def find() -> object:
            return await association.c_find(IDENTIFIER, raw=True)

        finding = asyncio.create_task(find())
        request = await peer.message()
        pending = response_to(request.command, 0xFF00, has_data_set=True)
        peer.write(fragments(request.context_id, True, encode(pending)))
        peer.write(p_data_header(request.context_id, False, True, 8000) + bytes(500))
        await eventually(lambda: association._channel.core._layer._decoder._begun)
        peer.write(bytes(2000))  # not the end of the fragment
        assert await peer.pdu() == aborted(2, 6)
        with pytest.raises(AssociationAborted):
            await finding
        await association.abort()
