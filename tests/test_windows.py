"""The operations window is proposed by default; peers that mind it are sent one instance at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from helpers.manual_loop import ManualLoop
from helpers.peer import ABORT, CT, IDENTIFIER, RELEASE_RP, Listener, Peer, instance, listening, nothing_left  # noqa: F401

from asyncdicom import (
    STUDY_ROOT,
    Address,
    Association,
    AssociationError,
    AssociationPool,
    AssociationRejected,
    Destination,
    Limits,
    Request,
    Retrieval,
    Timeouts,
    UserIdentity,
    associate,
    serve,
)
from asyncdicom.dimse.messages import decode, response_to
from asyncdicom.options import OPERATIONS
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, answer
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ, decode_pdu
from asyncdicom.windows import WINDOWS, WindowMemory

WINDOW = (OPERATIONS, OPERATIONS)
HERE = Address("SCP", "192.0.2.1", 104)


def accepting(request: AAssociateRQ, window: int = 0) -> bytes:
    everything = {c.abstract_syntax: ANY_TRANSFER_SYNTAX for c in request.presentation_contexts}
    policy = Policy(everything, everything, operations_invoked=window, operations_performed=window)
    verdict = answer(request, policy)
    assert not isinstance(verdict, AAssociateRJ)
    return verdict[0].encode()


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


# the proposal


async def test_both_directions_are_proposed_and_granted_by_default() -> None:
    granted = []

    async def on_store(request: Request) -> int:
        granted.append(request.association.operations_invoked)  # for the C-STOREs of a C-GET
        await request.data.read()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association:
            granted.append(association.operations_invoked)
            await association.c_store(instance(10))
    assert granted == [OPERATIONS, OPERATIONS]


async def requests(peer_says: Callable[[Peer, AAssociateRQ], None], **options: Any) -> list[Any]:
    """Associate twice with a peer made by hand; the windows that were proposed, and the associations."""
    options = {"timeouts": Timeouts(acse=0.05)} | options
    proposed: list[Any] = []
    async with listening() as listener:

        async def serve_all() -> None:
            while True:
                peer = await listener.peer()
                request = await peer.requested()
                proposed.append(request.user_information.operations_window)
                peer_says(peer, request)

        serving = asyncio.ensure_future(serve_all())
        try:
            for _ in range(2):
                proposed.append("associate")
                try:
                    async with asyncio.timeout(5):
                        association = await associate(f"SCP@127.0.0.1:{listener.port}", **options)
                except AssociationError as error:
                    proposed.append(type(error))
                else:
                    await association.abort()
        finally:
            serving.cancel()
    return proposed


def rejects(result: int, source: int, reason: int) -> Callable[[Peer], None]:
    return lambda peer: peer.write(AAssociateRJ(result, source, reason).encode())


MINDING: dict[str, Callable[[Peer], None]] = {
    "rejects, provider": rejects(1, 2, 1),
    "rejects, user": rejects(1, 1, 1),
    "rejects, by a reserved number": rejects(1, 1, 9),
    "aborts": lambda peer: peer.write(ABORT),
    "closes": lambda peer: peer.writer.close(),
    "resets": lambda peer: peer.reset(),
    "is silent": lambda peer: None,
}


@pytest.mark.parametrize("how", MINDING)
async def test_who_minds_the_window_is_asked_again_without_it_once_and_remembered(how: str) -> None:
    def says(peer: Peer, request: AAssociateRQ) -> None:
        if request.user_information.operations_window is None:
            peer.write(accepting(request))
        else:
            MINDING[how](peer)

    assert await requests(says) == ["associate", WINDOW, None, "associate", None]


@pytest.mark.parametrize("how", MINDING)
async def test_who_takes_nothing_at_all_is_asked_twice_once(how: str) -> None:
    found = await requests(lambda peer, request: MINDING[how](peer))
    assert [each for each in found if not isinstance(each, type)] == [
        *("associate", WINDOW, None),
        *("associate", WINDOW),
    ], "it was not the window: nobody is asked twice for a while"
    assert len([each for each in found if isinstance(each, type)]) == 2


@pytest.mark.parametrize("why", [(1, 1, 7), (1, 1, 3), (1, 1, 2), (1, 2, 2), (2, 3, 1), (2, 3, 2)])
async def test_a_rejection_that_says_why_is_final(why: tuple[int, int, int]) -> None:
    found = await requests(lambda peer, request: rejects(*why)(peer))
    assert found == ["associate", WINDOW, AssociationRejected] * 2


async def test_a_refused_identity_is_not_tried_twice() -> None:
    identity = UserIdentity(2, b"ana", b"wrong")
    found = await requests(lambda peer, request: rejects(1, 1, 1)(peer), user_identity=identity)
    assert found == ["associate", WINDOW, AssociationRejected] * 2


async def test_a_c_move_destination_with_one_operation_is_proposed_no_window() -> None:
    async def give(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval([instance(10)])

    async with listening() as listener:
        destination = Destination(f"127.0.0.1:{listener.port}", operations_invoked=1)
        async with (
            serve("SCP@127.0.0.1:0", c_move=give, destinations={"WS": destination}) as server,
            associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association,
        ):
            moving = asyncio.ensure_future(association.c_move(IDENTIFIER, move_destination="WS"))
            peer = await listener.peer()
            request = await peer.accept()
            assert request.user_information.operations_window is None
            stored = await peer.message()
            peer.send(stored.context_id, response_to(stored.command, 0))
            assert (await moving).completed == 1


async def test_without_a_proposal_there_is_no_second_request() -> None:
    limits = Limits(operations_invoked=1, operations_performed=1)
    found = await requests(lambda peer, request: peer.write(ABORT), limits=limits)
    assert [each for each in found if not isinstance(each, type)] == ["associate", None] * 2


async def test_of_two_that_ask_at_once_the_later_one_is_taken_without_it_too() -> None:
    async with listening() as listener:

        async def proposed() -> tuple[asyncio.Future[Association], Peer]:
            opening = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[CT]))
            peer = await listener.peer()
            await peer.requested()
            return opening, peer

        async def takes() -> None:
            peer = await listener.peer()
            peer.write(accepting(await peer.requested()))

        for opening, peer in [await proposed(), await proposed()]:
            taking = asyncio.ensure_future(takes())
            rejects(1, 2, 1)(peer)
            try:
                await (await opening).abort()
            finally:
                taking.cancel()


async def test_nobody_there_is_not_asked_again() -> None:
    async with listening() as listener:
        pass
    for _ in range(2):
        with pytest.raises(AssociationError, match="refused"):
            await associate(f"SCP@127.0.0.1:{listener.port}")
    assert WINDOWS.may_ask_again(Address("SCP", "127.0.0.1", listener.port), 0)


@pytest.mark.parametrize(("granted", "window"), [(0, OPERATIONS), (1, 1), (3, 3), (99, OPERATIONS)])
async def test_what_is_granted_is_obeyed_and_any_number_is_ours(granted: int, window: int) -> None:
    async with listening() as listener:
        opening = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=[CT]))
        peer = await listener.peer()
        request = await peer.requested()
        peer.write(accepting(request, granted))
        association = await opening
        assert association.operations_invoked == window
        tasks = [asyncio.create_task(association.c_store(instance(10))) for _ in range(OPERATIONS + 4)]
        outstanding = [await peer.message() for _ in range(window)]
        for _ in range(len(tasks) - window):
            assert not peer.reader._buffer, "no more than it has granted"  # type: ignore[attr-defined]
            stored = outstanding.pop()
            peer.send(stored.context_id, response_to(stored.command, 0))
            outstanding.append(await peer.message())
        for stored in outstanding:
            peer.send(stored.context_id, response_to(stored.command, 0))
        assert [(await task).status for task in tasks] == [0] * len(tasks)
        await association.abort()


def test_a_silent_peer_costs_the_time_out_once() -> None:
    loop = ManualLoop()

    async def opened() -> float:
        """Associate with a peer that is silent when it is asked for a window; how long it took."""
        began, known = loop.now, len(loop.dialled)
        opening = loop.create_task(_open())
        while not opening.done():
            await asyncio.sleep(0.5)
            wire = loop.dialled[-1]
            if len(loop.dialled) > known and wire.sent[:1] == b"\x01" and wire.is_open:
                request = decode_pdu(1, bytes(wire.sent[6:]))
                assert isinstance(request, AAssociateRQ)
                if request.user_information.operations_window is None:
                    wire.feed(accepting(request))
        association = await opening
        took = loop.now - began
        await association.abort()
        return took

    async def _open() -> Association:
        return await associate("SCP@192.0.2.1:104")

    try:
        assert 30 <= loop.run_until_complete(opened()) < 33
        assert loop.run_until_complete(opened()) < 2
        assert len(loop.dialled) == 3
    finally:
        loop.close()


# one that ends the association when the second operation comes


async def strict(peer: Peer, stored: list[str], end: Callable[[Peer], None]) -> None:
    """A peer that grants what is proposed, and cannot do two at a time."""
    request = await peer.requested()
    peer.write(accepting(request))
    while True:
        pdu_type, body = await peer.pdu()
        if pdu_type != 4:
            peer.write(RELEASE_RP)
            await peer.close()
            return
        await peer.pdu()  # the data set
        await asyncio.sleep(0.005)
        if peer.reader._buffer:  # type: ignore[attr-defined]
            end(peer)
            return
        command = decode(body[6:])
        stored.append(command.affected_sop_instance_uid or "")
        peer.send(body[4], response_to(command, 0))


class Strict:
    """Listens as one."""

    def __init__(self, listener: Listener, end: Callable[[Peer], None]) -> None:
        self.stored: list[str] = []
        self.associations = 0
        self._listener = listener
        self._end = end
        self._tasks = [asyncio.create_task(self._serve())]

    async def _serve(self) -> None:
        while True:
            peer = await self._listener._arrived.get()
            self.associations += 1
            self._tasks.append(asyncio.create_task(strict(peer, self.stored, self._end)))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


ENDS: dict[str, Callable[[Peer], None]] = {
    "aborts": lambda peer: peer.write(ABORT),
    "closes": lambda peer: peer.writer.close(),
    "resets": lambda peer: peer.reset(),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("size", [1, 2])
async def test_a_pool_sends_all_to_one_that_ends_it_at_the_second(end: str, size: int) -> None:
    sources = [instance(10) for _ in range(12)]
    async with listening() as listener:
        peer = Strict(listener, ENDS[end])
        address = f"SCP@127.0.0.1:{listener.port}"
        async with AssociationPool(address, size=size, contexts=[CT]) as pool:
            responses = await asyncio.gather(*map(pool.c_store, sources))
        assert [response.status for response in responses] == [0] * 12
        assert sorted(peer.stored) == sorted(source.sop_instance_uid for source in sources)
        assert not WINDOWS.may_propose(Address.parse(address), asyncio.get_running_loop().time())
        opened = peer.associations
        async with AssociationPool(address, size=1, contexts=[CT]) as pool:
            await asyncio.gather(*map(pool.c_store, sources[:3]))
        assert peer.associations == opened + 1, "it is remembered"
        peer.stop()


@pytest.mark.parametrize("size", [1, 3])
async def test_what_was_lost_twice_goes_alone_whatever_is_known_of_the_peer(size: int) -> None:
    """Associations with a window may have been opened before it was known that the peer minds it."""
    sources = [instance(10) for _ in range(12)]

    def close(peer: Peer) -> None:
        WINDOWS.clear()
        peer.writer.close()

    async with listening() as listener:
        peer = Strict(listener, close)
        try:
            address = f"SCP@127.0.0.1:{listener.port}"
            async with AssociationPool(address, size=size, contexts=[CT]) as pool:
                responses = await asyncio.gather(*map(pool.c_store, sources))
        finally:
            peer.stop()
    assert [response.status for response in responses] == [0] * 12
    assert sorted(peer.stored) == sorted(source.sop_instance_uid for source in sources)


@pytest.mark.parametrize("end", ENDS)
async def test_a_c_move_sends_all_to_one_that_ends_it_at_the_second(end: str) -> None:
    sources = [instance(10) for _ in range(12)]

    async def give(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval(sources)

    async with listening() as listener:
        peer = Strict(listener, ENDS[end])
        destinations = {"WS": f"127.0.0.1:{listener.port}"}
        async with (
            serve("SCP@127.0.0.1:0", c_move=give, destinations=destinations) as server,
            associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association,
        ):
            result = await association.c_move(IDENTIFIER, move_destination="WS")
        assert (result.status, result.completed) == (0, 12)
        assert sorted(peer.stored) == sorted(source.sop_instance_uid for source in sources)
        peer.stop()


async def test_an_instance_that_the_peer_cannot_take_costs_no_other() -> None:
    sources = [instance(10) for _ in range(8)]
    poison = sources[3].sop_instance_uid
    stored = []

    async def on_store(request: Request) -> int:
        await request.data.read()
        if request.affected_sop_instance_uid == poison:
            await request.association.abort()
        stored.append(request.affected_sop_instance_uid)
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with AssociationPool(address, size=1, contexts=[CT]) as pool:
            ends = await asyncio.gather(*map(pool.c_store, sources), return_exceptions=True)
    failed = [source for source, end in zip(sources, ends, strict=True) if isinstance(end, Exception)]
    assert [source.sop_instance_uid for source in failed] == [poison]
    assert {source.sop_instance_uid for source in sources} - {poison} <= set(stored)


# others


async def test_a_window_of_one_peer_does_not_starve_others_that_ask_one_at_a_time() -> None:
    """Between two answers to the one, the other has had no more than a few windows of them."""
    answers: list[str] = []

    async def on_store(request: Request) -> int:
        await request.data.read()
        answers.append(request.calling_ae_title)
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server:
        address = f"SCP@127.0.0.1:{server.port}"

        async def ask(title: str, limits: Limits, tasks: int) -> None:
            async with associate(
                address, calling_ae_title=title, contexts=[CT], limits=limits
            ) as association:

                async def work() -> None:
                    while answers.count("SLOW") < 20:
                        await association.c_store(instance(10))

                await asyncio.gather(*(work() for _ in range(tasks)))

        one = Limits(operations_invoked=1, operations_performed=1)
        await asyncio.gather(ask("FAST", Limits(), OPERATIONS), ask("SLOW", one, 1))
    turns = "".join(title[0] for title in answers).split("S")
    assert max(map(len, turns[1:-1])) <= 4 * OPERATIONS


# the memory


def test_a_verdict_is_forgotten_in_time_and_the_oldest_when_there_are_too_many() -> None:
    memory = WindowMemory(maximum=2)
    memory.minds(HERE, 0.0)
    assert not memory.may_propose(HERE, 3599.0)
    assert memory.may_propose(HERE, 3600.0)
    for host in "abc":
        memory.minds(Address("SCP", host, 104), 0.0)
    assert [memory.may_propose(Address("SCP", host, 104), 1.0) for host in "abc"] == [True, False, False]


def test_it_is_the_called_ae_title_that_counts_beside_the_address() -> None:
    memory = WindowMemory()
    memory.minds(HERE, 0.0)
    assert memory.may_propose(HERE._replace(ae_title="OTHER"), 0.0)
    assert memory.may_propose(HERE._replace(port=105), 0.0)


def test_two_doubtful_losses_are_a_verdict_and_one_certain_one_is() -> None:
    memory = WindowMemory()
    assert not memory.lost(HERE, 0.0, is_certain=False)
    assert memory.may_propose(HERE, 1.0)
    assert memory.lost(HERE, 1.0, is_certain=False)
    assert not memory.may_propose(HERE, 2.0)
    other = HERE._replace(host="other")
    assert memory.lost(other, 0.0, is_certain=True)
    assert not memory.may_propose(other, 2.0)


def test_a_peer_that_fails_either_way_is_asked_once_only_for_a_while() -> None:
    memory = WindowMemory()
    assert memory.may_ask_again(HERE, 0.0)
    memory.cleared(HERE, 0.0)
    assert memory.may_propose(HERE, 1.0)
    assert not memory.may_ask_again(HERE, 59.0)
    assert memory.may_ask_again(HERE, 60.0)


def test_a_verdict_outlives_what_other_associations_tell_that_began_before_it() -> None:
    memory = WindowMemory()
    memory.minds(HERE, 0.0)
    assert memory.may_ask_again(HERE, 1.0), "who had proposed one before that is asked again as well"
    memory.cleared(HERE, 1.0)
    assert not memory.may_propose(HERE, 600.0)
    assert memory.lost(HERE, 700.0, is_certain=False)
    assert not memory.may_propose(HERE, 701.0)
