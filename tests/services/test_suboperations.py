"""Sub-operations in parallel: any order of responses, and the loss of the destination at any of them.

Everything is in memory: the test is the requestor, and each association to the destination.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from helpers.manual_loop import Listener, ManualLoop, Wire, settle
from helpers.peer import ABORT, CT, IDENTIFIER, cancel_rq, instance, message
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdicom import STUDY_ROOT, BytesSource, Destination, Limits, Request, Retrieval, serve
from asyncdicom.dimse.messages import Command, CommandField, Priority, decode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, PresentationContext, answer, propose
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ, decode_pdu
from asyncdicom.windows import WINDOWS

STATUSES = (0x0000, 0x0000, 0x0000, 0xB000, 0xA700)
NO_RATE = Limits(accept_rate=None, operations_invoked=16)


class Side:
    """One end of a connection to the library: what it has sent, as messages."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.answered: set[int] = set()
        self.stores: dict[int, str] = {}  # every C-STORE that came: Message ID -> SOP Instance UID
        self.responses: list[Command] = []

    def look(self) -> None:
        """Read what came."""
        sent = self.wire.sent
        while len(sent) >= 6:
            length = 6 + int.from_bytes(sent[2:6], "big")
            pdu = bytes(sent[:length])
            del sent[:length]
            if pdu[0] == 1:
                self._accept(pdu)
            elif pdu[0] == 4:
                self._read(pdu[6:])

    def _accept(self, pdu: bytes) -> None:
        request = decode_pdu(1, pdu[6:])
        assert isinstance(request, AAssociateRQ)
        self.window = request.user_information.operations_window
        everything = {c.abstract_syntax: ANY_TRANSFER_SYNTAX for c in request.presentation_contexts}
        verdict = answer(request, Policy(everything, operations_performed=0))
        assert not isinstance(verdict, AAssociateRJ)
        self.wire.feed(verdict[0].encode())

    def _read(self, body: bytes) -> None:
        while body:
            length = int.from_bytes(body[:4], "big")
            if body[5] & 1:
                command = decode(body[6 : 4 + length])
                if command.command_field is CommandField.C_STORE_RQ:
                    self.stores[command.message_id or 0] = command.affected_sop_instance_uid or ""
                    self.context = body[4]
                elif command.is_response:
                    self.responses.append(command)
            body = body[4 + length :]

    @property
    def outstanding(self) -> list[int]:
        return [message_id for message_id in self.stores if message_id not in self.answered]

    def respond(self, message_id: int, status: int) -> None:
        self.answered.add(message_id)
        command = Command(
            CommandField.C_STORE_RSP,
            message_id_being_responded_to=message_id,
            affected_sop_class_uid=CT,
            affected_sop_instance_uid=self.stores.get(message_id, "1.2.3"),
            status=status,
        )
        self.wire.feed(message(self.context, command))

    @property
    def final(self) -> Command | None:
        ends = [response for response in self.responses if response.status not in (None, 0xFF00)]
        return ends[0] if ends else None


def run(test: Callable[[ManualLoop], Awaitable[None]]) -> None:
    loop = ManualLoop()
    WINDOWS.clear()  # what one example has taught of the destination would change the next one
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


def retrieving(sources: list[BytesSource]) -> Any:
    async def give(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval(sources)

    return give


async def asked(loop: ManualLoop, field: CommandField, window: int) -> Side:
    """Associate, and ask for a retrieval."""
    side = Side(await loop.connect())
    sop_class = STUDY_ROOT.get if field is CommandField.C_GET_RQ else STUDY_ROOT.move
    contexts = [
        PresentationContext(sop_class, (IMPLICIT_VR_LITTLE_ENDIAN,)),
        PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,), scu_role=False, scp_role=True),
    ]
    request = propose(contexts, called_ae_title="SCP", calling_ae_title="ME", operations_performed=window)
    side.wire.feed(request.encode())
    await settle()
    assert side.wire.sent[0] == 2
    side.look()
    command = Command(
        field,
        message_id=7,
        affected_sop_class_uid=sop_class,
        priority=Priority.MEDIUM,
        has_data_set=True,
        move_destination="WS" if field is CommandField.C_MOVE_RQ else None,
    )
    side.wire.feed(message(1, command, IDENTIFIER))
    await settle()
    side.look()
    return side


def served(sources: list[BytesSource], window: int, associations: int = 1, **options: Any) -> Any:
    give = retrieving(sources)
    destination = Destination("192.0.2.7:104", operations_invoked=window, associations=associations)
    options = {"limits": NO_RATE, "destinations": {"WS": destination}} | options
    return serve("SCP@192.0.2.99:104", sock=Listener(), c_get=give, c_move=give, **options)  # type: ignore


def check_counters(responses: list[Command], total: int) -> None:
    """Every Pending response tells of all sub-operations, and none goes back."""
    last = (0, 0, 0)
    for response in responses:
        ended = (
            response.number_of_completed_sub_operations or 0,
            response.number_of_failed_sub_operations or 0,
            response.number_of_warning_sub_operations or 0,
        )
        if response.status == 0xFF00:
            assert sum(ended) + (response.number_of_remaining_sub_operations or 0) == total
        assert all(now >= before for now, before in zip(ended, last, strict=True))
        last = ended


def counted(final: Command) -> tuple[int | None, ...]:
    return (
        final.number_of_completed_sub_operations,
        final.number_of_failed_sub_operations,
        final.number_of_warning_sub_operations,
    )


def sums(statuses: list[int]) -> tuple[int, int, int]:
    failed, warned = statuses.count(0xA700), statuses.count(0xB000)
    return len(statuses) - failed - warned, failed, warned


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 5))
def test_responses_to_a_c_get_in_any_order_are_counted_once(data: st.DataObject, n: int, window: int) -> None:
    sources = [instance(10) for _ in range(n)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, window):
            side = await asked(loop, CommandField.C_GET_RQ, window)
            told: list[int] = []
            while side.final is None:
                outstanding = side.outstanding
                assert len(outstanding) == min(window, n - len(told)), "as many as the window allows"
                told.append(data.draw(st.sampled_from(STATUSES)))
                side.respond(data.draw(st.sampled_from(outstanding)), told[-1])
                await settle()
                side.look()
            assert counted(side.final) == sums(told)
            assert len(side.responses) == n, "a Pending response for each but the last"
            check_counters(side.responses, n)

    run(test)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.integers(0, 12))
def test_after_a_c_cancel_none_is_begun_and_those_under_way_end(
    data: st.DataObject, n: int, window: int, answered: int
) -> None:
    sources = [instance(10) for _ in range(n)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, window):
            side = await asked(loop, CommandField.C_GET_RQ, window)
            for _ in range(min(answered, n - 1)):
                side.respond(data.draw(st.sampled_from(side.outstanding)), 0)
                await settle()
                side.look()
            begun = dict(side.stores)
            side.wire.feed(message(1, cancel_rq(7)))
            await settle()
            while side.outstanding:
                assert side.final is None, "those under way have to end first"
                side.respond(data.draw(st.sampled_from(side.outstanding)), 0)
                await settle()
                side.look()
            assert side.stores == begun
            assert side.final is not None
            assert (side.final.status, *counted(side.final)) == (0xFE00, len(begun), 0, 0)
            assert side.final.number_of_remaining_sub_operations == n - len(begun)

    run(test)


class Far:
    """The destination of a C-MOVE: all associations to it, one after another."""

    def __init__(self, loop: ManualLoop) -> None:
        self._loop = loop
        self.sides: list[Side] = []

    async def look(self) -> None:
        for _ in range(2):  # a new association is accepted, and what is sent on it then
            await settle()
            self.sides += [Side(wire) for wire in self._loop.dialled[len(self.sides) :]]
            for side in self.sides:
                side.look()
        await settle()

    @property
    def last(self) -> Side:
        return self.sides[-1]

    def times_sent(self) -> Counter[str]:
        return Counter(uid for side in self.sides for uid in side.stores.values())


def lose(wire: Wire, how: str) -> None:
    if how == "abort":
        wire.feed(ABORT)
    else:
        wire.abort()


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 10), st.integers(1, 5))
def test_a_destination_lost_at_any_response_gets_what_was_not_answered_once_more(
    data: st.DataObject, n: int, window: int
) -> None:
    sources = [instance(10) for _ in range(n)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, window):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            told: dict[str, int] = {}
            losses: Counter[str] = Counter()
            lost = in_a_row = 0  # after three without an answer the destination is not called for a while
            await far.look()
            while side.final is None:
                here = far.last
                outstanding = here.outstanding
                assert 1 <= len(outstanding) <= window
                uids = [here.stores[message_id] for message_id in outstanding]
                assert len(uids) == 1 or not any(losses[uid] for uid in uids), "what was lost goes alone"
                assert not set(uids) & set(told), "what was answered is not sent again"
                if lost < 9 and in_a_row < 2 and data.draw(st.integers(0, 3)) == 0:
                    lost += 1
                    in_a_row += 1
                    losses.update(uids)
                    lose(here.wire, data.draw(st.sampled_from(["abort", "close"])))
                else:
                    message_id = data.draw(st.sampled_from(outstanding))
                    status = told[here.stores[message_id]] = data.draw(st.sampled_from(STATUSES))
                    here.respond(message_id, status)
                    in_a_row = 0
                await far.look()
                side.look()
            given_up = [uid for uid, times in losses.items() if times == 2 and uid not in told]
            assert len(told) + len(given_up) == n
            completed, failed, warned = sums(list(told.values()))
            assert counted(side.final) == (completed, failed + len(given_up), warned)
            assert all(far.times_sent()[uid] == 1 + min(losses[uid], 1) for uid in told)
            assert len(far.sides) <= lost + 1, "no association for nothing"
            check_counters(side.responses, n)

    run(test)


@pytest.mark.parametrize("at", range(1, 9))
def test_a_destination_killed_once_at_each_response_loses_nothing(at: int) -> None:
    sources = [instance(10) for _ in range(8)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, 4):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            answers = 0
            await far.look()
            while side.final is None:
                answers += 1
                if answers == at:
                    lose(far.last.wire, "close")
                else:
                    far.last.respond(far.last.outstanding[0], 0)
                await far.look()
                side.look()
            assert (side.final.status, *counted(side.final)) == (0, 8, 0, 0)
            assert len(far.sides) == 2

    run(test)


async def strange_twice(side: Side, message_id: int) -> None:
    side.respond(message_id, 0)
    side.respond(message_id, 0xA700)


async def strange_unknown(side: Side, message_id: int) -> None:
    side.respond(999, 0xA700)
    side.respond(message_id, 0)


async def strange_pending(side: Side, message_id: int) -> None:
    side.respond(message_id, 0xFF00)
    side.respond(message_id, 0)


@pytest.mark.parametrize("strange", [strange_twice, strange_unknown, strange_pending])
def test_strange_responses_are_not_counted(strange: Callable[[Side, int], Awaitable[None]]) -> None:
    sources = [instance(10) for _ in range(5)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, 3):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            await far.look()
            while side.final is None:
                await strange(far.last, far.last.outstanding[-1])
                await far.look()
                side.look()
            assert (side.final.status, *counted(side.final)) == (0, 5, 0, 0)
            check_counters(side.responses, 5)

    run(test)


def test_one_that_is_never_answered_fails_after_two_time_outs_and_the_others_arrive() -> None:
    sources = [instance(10) for _ in range(6)]
    silent = sources[2].sop_instance_uid

    async def test(loop: ManualLoop) -> None:
        async with served(sources, 3):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            began = loop.now
            await far.look()
            while side.final is None:
                here = far.last
                ready = [m for m in here.outstanding if here.stores[m] != silent]
                if ready:
                    here.respond(ready[0], 0)
                else:
                    loop.now += 30.0  # nothing but the time-out can happen
                await far.look()
                side.look()
            assert (side.final.status, *counted(side.final)) == (0xB000, 5, 1, 0)
            assert far.times_sent()[silent] == 2
            assert loop.now - began < 2 * 120 + 60

    run(test)


def test_the_bytes_under_way_are_bounded_and_one_may_always_go() -> None:
    sizes = [400, 400, 400, 5000, 100, 100]
    sources = [instance(size) for size in sizes]
    of = {source.sop_instance_uid: size for source, size in zip(sources, sizes, strict=True)}

    async def test(loop: ManualLoop) -> None:
        limits = Limits(accept_rate=None, operations_invoked=16, maximum_outstanding=1000)
        async with served(sources, 16, limits=limits):
            side = await asked(loop, CommandField.C_GET_RQ, 16)
            seen = []
            while side.final is None:
                under_way = [of[side.stores[message_id]] for message_id in side.outstanding]
                seen.append(under_way)
                assert sum(under_way) <= 1000 or len(under_way) == 1
                side.respond(side.outstanding[0], 0)
                await settle()
                side.look()
            assert seen == [[400, 400], [400, 400], [400], [5000], [100, 100], [100]]

    run(test)


@pytest.mark.parametrize(("n", "associations", "used"), [(9, 1, 1), (9, 3, 3), (2, 4, 2), (9, 9, 4)])
def test_a_c_move_uses_as_many_associations_as_the_destination_has(
    n: int, associations: int, used: int
) -> None:
    sources = [instance(10) for _ in range(n)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, 2, associations):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            await far.look()
            await far.look()
            assert sum(len(each.outstanding) for each in far.sides) == min(n, 2 * used)
            while side.final is None:
                busy = max(far.sides, key=lambda each: len(each.outstanding))
                busy.respond(busy.outstanding[0], 0)
                await far.look()
                side.look()
            assert (side.final.status, *counted(side.final)) == (0, n, 0, 0)
            assert len(far.sides) == used
            assert set(far.times_sent().values()) == {1}
            check_counters(side.responses, n)

    run(test)


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(1, 10), st.integers(1, 3))
def test_of_several_associations_any_may_be_lost(data: st.DataObject, n: int, window: int) -> None:
    sources = [instance(10) for _ in range(n)]

    async def test(loop: ManualLoop) -> None:
        async with served(sources, window, 3):
            side, far = await asked(loop, CommandField.C_MOVE_RQ, 1), Far(loop)
            lost = 0
            await far.look()
            while side.final is None:
                alive = [each for each in far.sides if each.outstanding and each.wire.is_open]
                here = data.draw(st.sampled_from(range(len(alive)))) if len(alive) > 1 else 0
                if lost < 2 and data.draw(st.integers(0, 3)) == 0:
                    lost += 1
                    lose(alive[here].wire, "abort")
                else:
                    alive[here].respond(alive[here].outstanding[0], 0)
                await far.look()
                side.look()
            completed, failed, _ = counted(side.final)
            assert (completed or 0) + (failed or 0) == n
            assert (failed or 0) <= lost // 2, "only who was lost twice"
            check_counters(side.responses, n)

    run(test)
