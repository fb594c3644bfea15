"""The whole association without a socket: bytes and time in, events and bytes out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, pairwise
from typing import Any

import pytest
from helpers.peer import cancel_rq, echo_rq, find_rq, fragments, message, store_rq
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.dimse.assembler import DataReceived, MessageStarted
from asyncdicom.dimse.association import AssociationCore
from asyncdicom.dimse.events import (
    CancelReceived,
    CommandDropped,
    DuplicateRefused,
    Ended,
    Established,
    OperationFailed,
    OperationsFailed,
    ResponseReceived,
)
from asyncdicom.dimse.messages import Command, CommandField, Priority, encode, response_to
from asyncdicom.dimse.operations import MAXIMUM_DUPLICATES, Invoked
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
    AssociationTimeout,
    LocalProtocolError,
)
from asyncdicom.options import Limits, Timeouts
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT, VERIFICATION
from asyncdicom.ul.events import AssociateIndication, ProtocolViolation, ReleaseIndication, TimerExpired
from asyncdicom.ul.items import ContextResult, RoleSelection, UserInformation
from asyncdicom.ul.negotiation import Policy, PresentationContext, answer, propose
from asyncdicom.ul.pdu import AAbort, AAssociateAC, AAssociateRJ, AReleaseRP, AReleaseRQ
from asyncdicom.ul.statetable import State

CT = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS = (VERIFICATION, CT, STUDY_ROOT.find, STUDY_ROOT.get)
ECHO_ID, CT_ID, FIND_ID, GET_ID = 1, 3, 5, 7
SYNTAX = (IMPLICIT_VR_LITTLE_ENDIAN,)
REQUEST = propose(
    [PresentationContext(uid, SYNTAX, True, uid == CT) for uid in CONTEXTS],
    called_ae_title="SCP",
    calling_ae_title="SCU",
    operations_invoked=0,
    operations_performed=0,
)
POLICY = Policy(dict.fromkeys(CONTEXTS, SYNTAX), {CT: SYNTAX}, operations_invoked=0, operations_performed=0)
TIMEOUTS = Timeouts(acse=30, artim=10, dimse=20, receive=60, cancel=5, release=10, idle=300, close=4)
NOTHING = memoryview(b"")
IDENTIFIER = b"\x08\0\x52\0\x06\0\0\0STUDY "


def receive(core: AssociationCore, data: bytes, now: float = 0.0) -> list[Any]:
    return core.receive_data(memoryview(data), now)


def accept(core: AssociationCore, events: list[Any], policy: Policy = POLICY) -> None:
    [indication] = [event for event in events if isinstance(event, AssociateIndication)]
    verdict = answer(indication.request, policy)
    assert not isinstance(verdict, AAssociateRJ)
    core.accept(*verdict, 0.0)


def acceptor(policy: Policy = POLICY, **options: Any) -> AssociationCore:
    """An established association that a peer has asked for."""
    core = AssociationCore(requestor=False, timeouts=TIMEOUTS, **options)
    core.connected(0.0)
    accept(core, receive(core, REQUEST.encode()), policy)
    assert [type(event) for event in core.events()] == [Established]
    core.data_to_send()
    return core


def pair(**options: Any) -> tuple[AssociationCore, AssociationCore]:
    """Both sides of an established association."""
    requestor = AssociationCore(requestor=True, timeouts=TIMEOUTS, **options)
    requestor.associate(REQUEST, 0.0)
    requestor.connected(0.0)
    other = AssociationCore(requestor=False, timeouts=TIMEOUTS, **options)
    other.connected(0.0)
    accept(other, receive(other, b"".join(requestor.data_to_send())))
    receive(requestor, b"".join(other.data_to_send()))
    assert requestor.is_established
    assert other.is_established
    other.events()
    return requestor, other


def invoke(core: AssociationCore, context_id: int, command: Command, data: bytes | None = None) -> Invoked:
    operation = core.invoke(context_id, command, 0.0)
    core.begin(context_id, command)
    core.sent(operation, 0.0)
    return operation


def kinds(events: list[Any]) -> list[type]:
    return [type(event) for event in events]


def ended(events: list[Any]) -> AssociationError:
    [end] = [event for event in events if isinstance(event, Ended)]
    error: AssociationError = end.error
    return error


# However the bytes are cut and however small the budget is, the same happens.

STRANGE = echo_rq(9)
TOLD = b"".join(
    [
        message(ECHO_ID, echo_rq(1)),
        message(CT_ID, store_rq(2), bytes(range(256)) * 20),
        fragments(CT_ID, True, encode(store_rq(3)), 7),
        fragments(CT_ID, False, bytes(300), 1),
        message(FIND_ID, find_rq(4), IDENTIFIER),
        message(FIND_ID, cancel_rq(4)),
        message(FIND_ID, cancel_rq(99)),
        message(ECHO_ID, echo_rq(1)),
        message(CT_ID, store_rq(2), bytes(3000)),
        message(ECHO_ID, response_to(STRANGE, 0)),
        message(FIND_ID, response_to(find_rq(9), 0xFF00, has_data_set=True), IDENTIFIER),
        AReleaseRQ().encode(),
    ]
)


def happened(core: AssociationCore, pieces: Iterator[bytes], budgets: Iterator[int]) -> list[Any]:
    """All events, their data joined; no call goes beyond its budget."""
    seen: list[Any] = []
    for piece in pieces:
        view = memoryview(piece)
        while True:
            budget = next(budgets)
            events = core.receive_data(view, 0.0, budget)
            messages = sum(hasattr(event, "command") for event in events)
            views = sum(len(event.views) for event in events if isinstance(event, DataReceived))
            assert max(messages, views) <= budget
            for event in events:
                if isinstance(event, DataReceived) and seen and seen[-1][0] == "data":
                    seen[-1] = ("data", seen[-1][1] + b"".join(event.views), event.is_last)
                elif isinstance(event, DataReceived):
                    seen.append(("data", b"".join(event.views), event.is_last))
                else:
                    seen.append((type(event), repr(event)))
            if not core.has_more:
                break
            view = NOTHING
    return seen


EXPECTED = happened(acceptor(), iter([TOLD]), cycle([1 << 20]))


def test_what_a_peer_tells_is_understood() -> None:
    kinds = [kind if isinstance(kind, str) else kind.__name__ for kind, *_ in EXPECTED]
    assert kinds == [
        *("MessageStarted", "MessageStarted", "data", "MessageStarted", "data", "MessageStarted", "data"),
        *("CancelReceived", "CommandDropped", "DuplicateRefused", "DuplicateRefused"),
        *("CommandDropped", "CommandDropped", "ReleaseIndication", "OperationsFailed"),
    ]


@given(
    cuts=st.lists(st.integers(1, len(TOLD) - 1), max_size=40).map(sorted),
    budgets=st.lists(st.integers(1, 40), min_size=1, max_size=10),
)
def test_cuts_and_budgets_change_nothing(cuts: list[int], budgets: list[int]) -> None:
    edges = [0, *cuts, len(TOLD)]
    pieces = (TOLD[start:stop] for start, stop in pairwise(edges))
    assert happened(acceptor(), pieces, cycle(budgets)) == EXPECTED


def test_byte_by_byte_and_one_at_a_time() -> None:
    pieces = (TOLD[at : at + 1] for at in range(len(TOLD)))
    assert happened(acceptor(), pieces, cycle([1])) == EXPECTED


def test_what_waits_is_not_copied() -> None:
    core = acceptor()
    block = bytearray(message(CT_ID, store_rq(1), bytes(100_000)))
    views: list[memoryview] = []
    view = memoryview(block)
    while True:
        views += [v for e in core.receive_data(view, 0.0, 1) if type(e) is DataReceived for v in e.views]
        if not core.has_more:
            break
        view = NOTHING
    assert len(views) > 5
    assert all(view.obj is block for view in views)


def test_what_arrives_while_something_waits_comes_behind_it() -> None:
    core = acceptor()
    first, second = message(ECHO_ID, echo_rq(1)) + message(ECHO_ID, echo_rq(2)), message(ECHO_ID, echo_rq(3))
    events: list[Any] = core.receive_data(memoryview(first), 0.0, 1)
    events += core.receive_data(memoryview(second), 0.0, 1)
    while core.has_more:
        events += core.receive_data(NOTHING, 0.0, 1)
    assert [e.command.message_id for e in events] == [1, 2, 3]


def test_what_arrives_while_a_request_is_held_back_comes_behind_it() -> None:
    core = acceptor()
    held = message(ECHO_ID, echo_rq(1)) * 2
    [started] = receive(core, held)
    assert core.has_more
    core.performed(started.command, 0.0)
    events = receive(core, message(ECHO_ID, echo_rq(2)))
    while core.has_more:
        events += core.receive_data(NOTHING, 0.0)
    assert [event.command.message_id for event in events] == [1, 2]


def test_only_the_data_set_of_a_request_takes_the_short_cut() -> None:
    core = acceptor()
    whole = message(CT_ID, store_rq(1), bytes(10_000))
    receive(core, whole[:-5000])
    assert core.continues(1000, 0.0)
    assert not core.continues(4000, 0.0), "the end of the fragment is no middle"
    events: list[Any] = core.receive_data(memoryview(whole[-4000:]), 0.0)
    assert kinds(events) == [DataReceived]
    assert events[0].is_last
    core.receive_data(memoryview(message(ECHO_ID, echo_rq(2)) * 2), 0.0, 1)
    assert core.has_more
    assert not core.continues(1, 0.0)


# Nothing is left when all is said.


def test_after_a_conversation_nothing_is_left() -> None:
    us, them = pair()
    operation = invoke(us, CT_ID, store_rq(), bytes(10))
    started, _ = receive(them, message(CT_ID, store_rq(operation.message_id), bytes(10)))
    assert not them.is_quiet
    assert not us.is_quiet
    them.responding(started.command)
    [response] = receive(us, message(CT_ID, response_to(started.command, 0)))
    assert response.is_final
    them.performed(started.command, 1.0)
    for core in (us, them):
        assert core.is_quiet
        assert not any((core.has_more, core.expecting_data, core.is_owed, core.operations))
        assert core.performing == 0
        assert core.next_deadline() in (None, 300, 301)  # only of idleness


@pytest.mark.parametrize("size", [1, 50])
def test_data_sets_in_tiny_fragments_do_not_weigh_more(size: int) -> None:
    us, _ = pair()
    command = find_rq()
    operation = invoke(us, FIND_ID, command, IDENTIFIER)
    pending = response_to(find_rq(operation.message_id), 0xFF00, has_data_set=True)
    receive(us, fragments(FIND_ID, True, encode(pending)))
    told = fragments(FIND_ID, False, bytes(size * 5000), size)
    receive(us, told[:-1])
    gathering: Any = us._incoming
    assert len(gathering.views) <= 16 + (size * 5000 >> 10)
    [response] = receive(us, told[-1:])
    assert response.data == bytes(size * 5000)


def test_the_data_set_of_a_response_has_a_bound() -> None:
    us, _ = pair(limits=Limits(maximum_data_set=1000, operations_invoked=0))
    operation = invoke(us, FIND_ID, find_rq(), IDENTIFIER)
    pending = response_to(find_rq(operation.message_id), 0xFF00, has_data_set=True)
    [response] = receive(us, message(FIND_ID, pending, bytes(1000)))
    assert len(response.data) == 1000
    events = receive(us, message(FIND_ID, pending, bytes(1001)))
    assert kinds(events) == [ProtocolViolation, Ended]
    assert "larger than allowed" in str(ended(events))


@pytest.mark.parametrize("what", ["a stray response", "a request under a Message ID in use"])
def test_what_nobody_wants_has_a_bound(what: str) -> None:
    core = acceptor(limits=Limits(maximum_discarded=1000))
    if what == "a stray response":
        command, context_id = response_to(find_rq(), 0xFF00, has_data_set=True), FIND_ID
    else:
        receive(core, message(ECHO_ID, echo_rq(1)))
        command, context_id = store_rq(1), CT_ID
    assert core.failure is None
    receive(core, message(context_id, command, bytes(1000)))
    assert core.failure is None
    error = ended(receive(core, message(context_id, command, bytes(1001))))
    assert isinstance(error, AssociationAborted)
    assert "1000 bytes to discard" in str(error)


def test_behind_an_abort_of_our_own_nothing_is_taken() -> None:
    core = acceptor(limits=Limits(maximum_discarded=1000))
    stray = message(FIND_ID, response_to(find_rq(), 0xFF00, has_data_set=True), bytes(1001))
    events = receive(core, stray + message(ECHO_ID, echo_rq(1)))
    assert kinds(events) == [CommandDropped, Ended]
    assert core.performing == 0


def test_a_message_in_a_context_without_a_role_is_a_violation() -> None:
    """The peer has accepted it, and neither role in it: so nobody may ask for anything."""
    core = AssociationCore(requestor=True, timeouts=TIMEOUTS)
    core.associate(REQUEST, 0.0)
    core.connected(0.0)
    results = (ContextResult(ECHO_ID, 0, SYNTAX[0]), ContextResult(CT_ID, 0, SYNTAX[0]))
    information = UserInformation(role_selections=(RoleSelection(CT, False, False),))
    assert kinds(receive(core, AAssociateAC("SCP", "SCU", results, information).encode()))[-1] is Established
    assert list(core.contexts) == [ECHO_ID]
    error = ended(receive(core, message(CT_ID, store_rq(1), b"12")))
    assert f"presentation context {CT_ID} was not accepted" in str(error)


def test_a_message_id_in_use_is_refused_without_being_performed() -> None:
    core = acceptor()
    [started] = receive(core, message(ECHO_ID, echo_rq(1)))
    [refused] = receive(core, message(ECHO_ID, echo_rq(1)))
    assert refused.response.status == 0x0210
    assert refused.response.message_id_being_responded_to == 1
    assert core.performing == 1
    core.responding(started.command)
    assert kinds(receive(core, message(ECHO_ID, echo_rq(1)))) == [MessageStarted]


def test_a_message_id_in_use_is_refused_when_its_data_set_has_come() -> None:
    core = acceptor()
    receive(core, message(CT_ID, store_rq(1), bytes(10)))
    whole = message(CT_ID, store_rq(1), bytes(5000))
    assert receive(core, whole[:-1]) == []
    assert kinds(receive(core, whole[-1:])) == [DuplicateRefused]


def test_message_ids_in_use_come_to_an_end() -> None:
    core = acceptor()
    receive(core, message(ECHO_ID, echo_rq(1)))
    for _ in range(MAXIMUM_DUPLICATES):
        assert kinds(receive(core, message(ECHO_ID, echo_rq(1)))) == [DuplicateRefused]
    assert kinds(receive(core, message(ECHO_ID, echo_rq(1)))) == [ProtocolViolation, Ended]


def test_requests_beyond_the_window_wait_until_the_others_could_be_answered() -> None:
    core = acceptor(POLICY._replace(operations_performed=1))
    told = b"".join(message(ECHO_ID, echo_rq(number)) for number in range(1, 8)) + AReleaseRQ().encode()
    answered = []
    events = receive(core, told)
    while True:
        for event in events:
            if isinstance(event, MessageStarted):
                answered.append(event.command.message_id)
                core.begin(ECHO_ID, response_to(event.command, 0))
                core.performed(event.command, 0.0)
        if not core.has_more:
            break
        events = core.receive_data(NOTHING, 0.0)
    assert answered == [1, 2, 3, 4, 5, 6, 7]
    assert isinstance(core.failure, AssociationReleased)


def test_requests_beyond_the_window_that_nobody_answers_are_a_violation() -> None:
    core = acceptor(POLICY._replace(operations_performed=1))
    told = b"".join(message(ECHO_ID, echo_rq(number)) for number in range(1, 8))
    assert kinds(receive(core, told)) == [MessageStarted] * 2
    assert core.has_more
    assert kinds(core.receive_data(NOTHING, 0.0)) == [ProtocolViolation, Ended]


@pytest.mark.parametrize("budget", [1, 3])
def test_what_waits_behind_them_keeps_to_the_budget(budget: int) -> None:
    core = acceptor()
    told = message(ECHO_ID, echo_rq(1)) * 2 + fragments(CT_ID, True, encode(store_rq(2)), 16)
    told += fragments(CT_ID, False, bytes(100), 1)
    assert kinds(core.receive_data(memoryview(told), 0.0, 1000)) == [MessageStarted]
    seen = happened(core, iter([b""]), cycle([budget]))
    assert [kind for kind, *_ in seen] == [DuplicateRefused, MessageStarted, "data"]
    assert seen[-1] == ("data", bytes(100), True)


# operations


def test_a_response_says_itself_whether_it_is_final() -> None:
    us, _ = pair()
    operation = invoke(us, FIND_ID, find_rq(), IDENTIFIER)
    request = find_rq(operation.message_id)
    pending, final = response_to(request, 0xFF00, has_data_set=True), response_to(request, 0)
    events = receive(us, message(FIND_ID, pending, IDENTIFIER) + message(FIND_ID, final))
    assert [event.is_final for event in events] == [False, True]


def test_an_abandoned_operation_ends_unseen() -> None:
    us, _ = pair()
    operation = invoke(us, FIND_ID, find_rq(), IDENTIFIER)
    us.abandon(operation)
    request = find_rq(operation.message_id)
    events = receive(us, message(FIND_ID, response_to(request, 0)))
    assert kinds(events) == [CommandDropped]
    assert operation.closed
    assert us.is_quiet


def test_a_cancel_is_sent_once_for_what_is_open() -> None:
    us, _ = pair()
    operation = invoke(us, FIND_ID, find_rq(), IDENTIFIER)
    command = us.cancel(operation, 0.0)
    assert command is not None
    assert (command.command_field, command.message_id_being_responded_to) == (CommandField.C_CANCEL_RQ, 1)
    assert us.next_deadline() == 5
    receive(us, message(FIND_ID, response_to(find_rq(1), 0xFE00)))
    assert us.cancel(operation, 0.0) is None
    us.abandon(operation)
    assert us.is_quiet


def test_a_cancel_reaches_its_request() -> None:
    core = acceptor()
    started, _ = receive(core, message(FIND_ID, find_rq(4), IDENTIFIER))
    [cancel] = receive(core, message(FIND_ID, cancel_rq(4)))
    assert isinstance(cancel, CancelReceived)
    assert cancel.request is started.command
    core.responding(started.command)
    assert kinds(receive(core, message(FIND_ID, cancel_rq(4)))) == [CommandDropped]


def test_a_request_that_never_left_leaves_room() -> None:
    us, _ = pair()
    operation = us.invoke(ECHO_ID, echo_rq(), 0.0)
    assert not us.is_quiet
    us.unsent(operation, 1.0)
    assert us.is_quiet
    assert us.operations == []


def test_a_request_may_have_a_time_out_of_its_own() -> None:
    us, _ = pair()
    assert us.has_room
    us.sent(us.invoke(ECHO_ID, echo_rq(), 0.0, timeout=3.0), 0.0)
    assert us.next_deadline() == 3.0
    us.sent(us.invoke(ECHO_ID, echo_rq(), 0.0), 0.0)
    assert us.has_room_for(1 << 20)
    assert us.next_deadline() == 3.0


def test_a_request_that_was_refused_before_its_last_byte_left() -> None:
    us, _ = pair()
    operation = us.invoke(CT_ID, store_rq(), 0.0)
    [response] = receive(us, message(CT_ID, response_to(store_rq(operation.message_id), 0xA700)))
    assert response.is_final
    assert not us.is_quiet, "we are still sending"
    us.unsent(operation, 1.0)
    assert us.is_quiet


def test_the_same_response_may_be_sent_again() -> None:
    core = acceptor()
    pending = response_to(find_rq(), 0xFF00, has_data_set=True)
    _, first = core.begin(FIND_ID, pending)
    _, second = core.begin(FIND_ID, pending)
    assert first == second
    _, other = core.begin(FIND_ID, response_to(find_rq(), 0))
    assert other != first


def test_messages_by_turns_are_each_in_their_own_context() -> None:
    core = acceptor()
    context_ids = [FIND_ID, ECHO_ID, ECHO_ID, FIND_ID]
    begun = [b"".join(core.begin(context_id, echo_rq())[1]) for context_id in context_ids]
    assert [pdu[10] for pdu in begun] == context_ids


def test_it_is_settled_when_all_was_carried_out() -> None:
    core = acceptor()
    assert core.is_settled
    core.abort(1.0)
    assert not core.is_settled, "there is news"
    core.events()
    assert not core.is_settled, "there is an A-ABORT to be sent"
    core.data_to_send()
    assert core.is_settled is not core.wants_close


# the release (PS3.8 7.2)


def exchange(one: AssociationCore, other: AssociationCore) -> list[tuple[AssociationCore, Any]]:
    """Let all that is sent arrive."""
    seen: list[tuple[AssociationCore, Any]] = []
    for _ in range(10):
        for sender, receiver in ((one, other), (other, one)):
            data = b"".join(sender.data_to_send())
            if data:
                seen += [(receiver, event) for event in receive(receiver, data)]
    return seen


def test_a_release() -> None:
    us, them = pair()
    us.release(0.0)
    exchange(us, them)
    assert isinstance(us.failure, AssociationReleased)
    assert isinstance(them.failure, AssociationReleased)
    assert (us.state, them.state) == (State.STA1, State.STA13)
    assert us.wants_close


def test_a_release_waits_for_what_is_under_way() -> None:
    us, them = pair()
    operation = invoke(us, ECHO_ID, echo_rq())
    us.release(0.0)
    assert us.data_to_send() == []
    [response] = receive(us, message(ECHO_ID, response_to(echo_rq(operation.message_id), 0)))
    assert isinstance(response, ResponseReceived)
    assert us.state is State.STA7
    exchange(us, them)
    assert isinstance(us.failure, AssociationReleased)


def test_a_release_waits_for_the_last_byte_of_a_request() -> None:
    us, _ = pair()
    operation = us.invoke(CT_ID, store_rq(), 0.0)
    us.release(0.0)
    receive(us, message(CT_ID, response_to(store_rq(operation.message_id), 0xA700)))
    assert us.state is State.STA6
    us.sent(operation, 1.0)
    assert us.state is State.STA7


def test_a_release_waits_for_who_waits_for_room() -> None:
    us, _ = pair()
    us.queued = 1
    us.release(0.0)
    assert us.state is State.STA6
    us.queued = 0
    us.reconsider(1.0)
    assert us.state is State.STA7


def test_a_release_that_waits_too_long_is_an_abort() -> None:
    us, _ = pair()
    invoke(us, ECHO_ID, echo_rq())
    us.release(1.0)
    assert us.next_deadline() == 11
    error = ended(us.handle_timer(11.0))
    assert isinstance(error, AssociationAborted)
    assert "did not end in time" in str(error)


def test_responses_may_be_sent_before_the_release_is_answered() -> None:
    core = acceptor()
    [started] = receive(core, message(ECHO_ID, echo_rq()))
    events = receive(core, AReleaseRQ().encode())
    assert kinds(events) == [ReleaseIndication, OperationsFailed]
    assert core.state is State.STA8
    assert core.data_to_send() == []
    core.begin(ECHO_ID, response_to(started.command, 0))
    core.performed(started.command, 1.0)
    assert core.data_to_send() == [AReleaseRP().encode()]
    assert isinstance(ended(core.events()), AssociationReleased)


def test_a_release_is_answered_in_time() -> None:
    core = acceptor()
    receive(core, message(ECHO_ID, echo_rq()))
    receive(core, AReleaseRQ().encode(), 2.0)
    assert core.next_deadline() == 12
    assert isinstance(ended(core.handle_timer(12.0)), AssociationReleased)
    assert core.data_to_send() == [AReleaseRP().encode()]


def test_a_release_inside_a_message_is_answered_at_once() -> None:
    core = acceptor()
    receive(core, fragments(CT_ID, True, encode(store_rq())))
    assert core.expecting_data
    assert isinstance(ended(receive(core, AReleaseRQ().encode())), AssociationReleased)


@pytest.mark.parametrize("first", [True, False])
def test_a_collision_ends_in_peace(first: bool) -> None:
    us, them = pair()
    us.release(0.0)
    them.release(0.0)
    exchange(*((us, them) if first else (them, us)))
    assert isinstance(us.failure, AssociationReleased)
    assert isinstance(them.failure, AssociationReleased)
    assert {us.state, them.state} == {State.STA1, State.STA13}


def test_no_operation_begins_after_the_peer_asked_for_the_release() -> None:
    core = acceptor()
    receive(core, message(ECHO_ID, echo_rq()))
    receive(core, AReleaseRQ().encode())
    with pytest.raises(AssociationReleased, match="asked for the release"):
        core.invoke(CT_ID, store_rq(), 0.0)


def test_requests_behind_our_release_are_dropped() -> None:
    us, _ = pair()
    us.release(0.0)
    events = receive(us, message(CT_ID, store_rq(), bytes(100)) + AReleaseRP().encode())
    assert kinds(events)[0] is CommandDropped
    assert isinstance(us.failure, AssociationReleased)


# other ends


def test_a_rejection() -> None:
    core = AssociationCore(requestor=False, timeouts=TIMEOUTS)
    core.connected(0.0)
    receive(core, REQUEST.encode())
    core.reject(AAssociateRJ(1, 1, 7), 0.0)
    assert isinstance(ended(core.events()), AssociationRejected)


def test_an_answer_that_comes_too_late_is_none() -> None:
    core = AssociationCore(requestor=False, timeouts=TIMEOUTS)
    core.connected(0.0)
    [indication] = receive(core, REQUEST.encode())
    verdict = answer(indication.request, POLICY)
    assert not isinstance(verdict, AAssociateRJ)
    core.connection_closed(0.0)
    core.events()
    core.accept(*verdict, 0.0)
    core.reject(AAssociateRJ(1, 1, 7), 0.0)
    assert core.events() == []
    assert core.data_to_send() == []
    assert not core.is_established
    assert isinstance(core.failure, AssociationClosed)


def test_an_accepted_request_keeps_no_proposals() -> None:
    core = acceptor()
    assert core.request is not None
    assert core.request.presentation_contexts == ()
    assert core.request.calling_ae_title == "SCU"


def test_an_abort_is_said_once() -> None:
    core = acceptor()
    core.abort(0.0, "because")
    core.abort(0.0)
    assert len(core.data_to_send()) == 1
    assert "because" in str(ended(core.events()))
    with pytest.raises(AssociationAborted):
        core.check_open()
    with pytest.raises(AssociationAborted):
        core.begin(ECHO_ID, echo_rq())
    with pytest.raises(AssociationAborted):
        core.invoke(ECHO_ID, echo_rq(), 0.0)


def test_who_stops_aborts_when_it_is_quiet() -> None:
    core = acceptor()
    [started] = receive(core, message(ECHO_ID, echo_rq()))
    core.stop(30.0, 0.0)
    core.release(0.0)  # comes too late
    assert core.failure is None
    core.performed(started.command, 1.0)
    assert isinstance(core.failure, AssociationAborted)


@pytest.mark.parametrize("patience", [0.0, 7.0])
def test_who_stops_does_not_wait_for_ever(patience: float) -> None:
    core = acceptor()
    receive(core, message(ECHO_ID, echo_rq()))
    core.stop(patience, 0.0)
    if patience:
        assert core.next_deadline() == patience
        core.handle_timer(patience)
    assert isinstance(core.failure, AssociationAborted)


def test_a_lost_connection() -> None:
    core = acceptor()
    cause = OSError("gone")
    core.connection_closed(0.0, "the connection", cause)
    error = ended(core.events())
    assert isinstance(error, AssociationClosed)
    assert error.__cause__ is cause
    assert core.next_deadline() is None


def test_who_has_asked_still_gets_its_answer_when_it_closes_its_half() -> None:
    core = acceptor()
    [started] = receive(core, message(ECHO_ID, echo_rq()))
    assert core.eof(0.0)
    assert not core.wants_close
    with pytest.raises(AssociationClosed, match="closed its half"):
        core.invoke(CT_ID, store_rq(), 0.0)
    core.performed(started.command, 1.0)
    assert core.wants_close


def test_who_has_closed_its_half_is_not_answered_for_ever() -> None:
    core = acceptor()
    receive(core, message(ECHO_ID, echo_rq()))
    core.closed_behind(1.0)  # it is known before all is read
    end = 1.0 + (TIMEOUTS.half_closed or 0)
    assert core.eof(2.0)
    assert core.next_deadline() == end
    core.handle_timer(end - 0.1)
    assert core.failure is None
    core.handle_timer(end)
    assert isinstance(core.failure, AssociationAborted)


@pytest.mark.parametrize("case", ["nothing", "data is owed", "a response is owed", "it has ended"])
def test_half_a_connection_is_of_no_use_otherwise(case: str) -> None:
    core = acceptor()
    if case == "data is owed":
        receive(core, fragments(CT_ID, True, encode(store_rq())))
    elif case == "a response is owed":
        receive(core, message(ECHO_ID, echo_rq()))
        invoke(core, CT_ID, store_rq(), b"12")
    elif case == "it has ended":
        receive(core, message(ECHO_ID, echo_rq()))
        core.abort(0.0)
    assert not core.eof(0.0)


def test_behind_a_fault_nothing_is_taken() -> None:
    core = acceptor()
    events = receive(core, fragments(ECHO_ID, True, b"garbage!") + message(ECHO_ID, echo_rq()))
    assert kinds(events) == [ProtocolViolation, Ended]
    assert core.performing == 0


@pytest.mark.parametrize(
    ("outstanding", "end", "is_broken"),
    [
        (2, "the peer aborts", True),
        (1, "the peer aborts", False),
        (2, "the peer closes", None),
        (2, "we abort", False),
        (2, "the peer does not answer", None),
    ],
)
def test_whether_the_peer_has_ended_it_because_of_the_window(
    outstanding: int, end: str, is_broken: bool | None
) -> None:
    core = acceptor(POLICY._replace(operations_invoked=4))
    for _ in range(outstanding):
        invoke(core, CT_ID, store_rq(), b"12")
    if end == "the peer aborts":
        receive(core, AAbort(0, 0).encode())
    elif end == "the peer closes":
        core.connection_closed(1.0)
    elif end == "we abort":
        core.abort(1.0)
    else:
        core.handle_timer(20.0)
    assert core.failure is not None
    assert core.is_broken_by_window is is_broken


# time


@pytest.mark.parametrize(("deadline", "which"), [(20, "dimse"), (None, "")])
def test_a_response_has_to_come_in_time(deadline: float | None, which: str) -> None:
    us, _ = pair()
    operation = us.invoke(ECHO_ID, echo_rq(), 0.0)
    assert us.next_deadline() is None, "it is still being sent"
    us.sent(operation, 0.0)
    assert us.next_deadline() == 20
    if deadline is None:
        us.pause(5.0)
        assert us.next_deadline() is None
        us.resume(105.0)
        assert us.next_deadline() == 120
        return
    failed, end = us.handle_timer(deadline)
    assert isinstance(failed, OperationFailed)
    assert failed.operation is operation
    assert isinstance(failed.error, AssociationTimeout)
    assert failed.error.which == which
    assert isinstance(end, Ended)
    assert us.handle_timer(deadline) == []


def test_a_c_get_may_take_long_while_an_instance_comes() -> None:
    us, _ = pair()
    command = Command(
        CommandField.C_GET_RQ,
        affected_sop_class_uid=STUDY_ROOT.get,
        priority=Priority.MEDIUM,
        has_data_set=True,
    )
    invoke(us, GET_ID, command, IDENTIFIER)
    receive(us, message(CT_ID, store_rq(7), bytes(5000))[:-100], 19.0)
    assert us.handle_timer(20.0) == []
    assert us.failure is None
    receive(us, bytes(100), 21.0)
    assert kinds(us.handle_timer(41.0)) == [OperationFailed, Ended]


def test_an_acceptor_aborts_and_a_requestor_releases_when_idle() -> None:
    us, them = pair()
    assert (us.next_deadline(), them.next_deadline()) == (300, 300)
    assert kinds(us.handle_timer(300.0)) == [TimerExpired]
    assert us.state is State.STA7
    assert kinds(them.handle_timer(300.0)) == [TimerExpired, Ended]
    assert isinstance(them.failure, AssociationAborted)


def test_who_is_busy_is_not_idle() -> None:
    core = acceptor()
    [started] = receive(core, message(ECHO_ID, echo_rq()))
    assert core.next_deadline() is None
    core.performed(started.command, 50.0)
    assert core.next_deadline() == 350


@pytest.mark.parametrize("requestor", [True, False])
def test_an_association_has_to_come_about_in_time(requestor: bool) -> None:
    core = AssociationCore(requestor=requestor, timeouts=TIMEOUTS)
    if requestor:
        core.associate(REQUEST, 0.0)
    core.connected(0.0)
    deadline = core.next_deadline()
    assert deadline == (30 if requestor else 10)
    error = ended(core.handle_timer(deadline))
    assert isinstance(error, AssociationTimeout)
    assert error.which == ("acse" if requestor else "artim")


def test_the_peer_owes_more_while_a_response_is_awaited() -> None:
    """Then what was received is acknowledged at once: a peer with Nagle's algorithm waits for that."""
    us, _ = pair()
    assert not us.is_owed
    operation = invoke(
        us,
        GET_ID,
        Command(CommandField.C_GET_RQ, priority=0, has_data_set=True, affected_sop_class_uid=STUDY_ROOT.get),
        IDENTIFIER,
    )
    assert us.is_owed
    get = Command(CommandField.C_GET_RQ, message_id=operation.message_id, affected_sop_class_uid="1")
    receive(us, message(GET_ID, response_to(get, 0xFF00)))
    assert us.is_owed, "the next C-STORE"
    receive(us, message(GET_ID, response_to(get, 0)))
    assert not us.is_owed


def test_no_message_begins_before_the_association_stands() -> None:
    core = AssociationCore(requestor=False)
    core.connected(0.0)
    with pytest.raises(LocalProtocolError):
        core.begin(ECHO_ID, echo_rq())
