from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.ul.decoder import PDataFragment
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.events import (
    AbortIndication,
    AssociateConfirmation,
    AssociateIndication,
    AssociateRejection,
    Event,
    ProtocolViolation,
    ReleaseConfirmation,
    ReleaseIndication,
    TransportClosed,
)
from asyncdicom.ul.items import ContextResult, ProposedContext, UserInformation
from asyncdicom.ul.pdu import AAbort, AAssociateAC, AAssociateRJ, AAssociateRQ, AReleaseRP, AReleaseRQ
from asyncdicom.ul.protocol import MAXIMUM_DRAIN, UpperLayer
from asyncdicom.ul.statetable import State

REQUEST = AAssociateRQ(
    "SCP", "SCU", (ProposedContext(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),), UserInformation(16384)
)
ACCEPT = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, "1.2.840.10008.1.2"),), UserInformation(16384))
REJECT = AAssociateRJ(1, 1, 7)
DATA = p_data_header(1, True, True, 4) + b"data"


def upper_layer(requestor: bool) -> UpperLayer:
    return UpperLayer(requestor=requestor, maximum_length=16384)


def receive(core: UpperLayer, data: bytes, now: float = 0.0) -> list[Event]:
    return core.receive_data(memoryview(data).toreadonly(), now)


def carry(sender: UpperLayer, receiver: UpperLayer) -> list[Event]:
    return receive(receiver, b"".join(sender.data_to_send()))


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


def pair() -> tuple[UpperLayer, UpperLayer]:
    """Requestor and acceptor of one association, in Sta6."""
    requestor, acceptor = upper_layer(True), upper_layer(False)
    assert requestor.associate(REQUEST, 0)
    assert acceptor.connected(0)
    assert requestor.connected(0)
    [indication] = carry(requestor, acceptor)
    assert isinstance(indication, AssociateIndication)
    assert indication.request.presentation_contexts == REQUEST.presentation_contexts
    assert acceptor.accept(ACCEPT, 0)
    [confirmation] = carry(acceptor, requestor)
    assert isinstance(confirmation, AssociateConfirmation)
    assert confirmation.accept.presentation_contexts == ACCEPT.presentation_contexts
    assert (requestor.state, acceptor.state) == (State.STA6, State.STA6)
    return requestor, acceptor


def colliding() -> tuple[UpperLayer, UpperLayer]:
    """Both have asked for the release and have received the other's request."""
    requestor, acceptor = pair()
    assert requestor.release(0)
    assert acceptor.release(0)
    crossing = requestor.data_to_send(), acceptor.data_to_send()
    assert receive(acceptor, b"".join(crossing[0])) == [ReleaseIndication(collision=True)]
    assert receive(requestor, b"".join(crossing[1])) == [ReleaseIndication(collision=True)]
    return requestor, acceptor


def in_state(state: State) -> UpperLayer:
    """An upper layer that got into this state by an ordinary way."""
    if state is State.STA1:
        return upper_layer(False)
    if state in (State.STA2, State.STA3):
        core = upper_layer(False)
        core.connected(0)
        if state is State.STA3:
            receive(core, REQUEST.encode())
    elif state in (State.STA4, State.STA5):
        core = upper_layer(True)
        core.associate(REQUEST, 0)
        if state is State.STA5:
            core.connected(0)
    elif state in (State.STA9, State.STA11):
        core, _ = colliding()
        if state is State.STA11:
            core.release_response(0)
    elif state in (State.STA10, State.STA12):
        _, core = colliding()
        if state is State.STA12:
            receive(core, AReleaseRP().encode())
    else:
        core, _ = pair()
        if state is State.STA7:
            core.release(0)
        elif state is State.STA8:
            receive(core, AReleaseRQ().encode())
        elif state is State.STA13:
            receive(core, AReleaseRQ().encode())
            core.release_response(0)
    core.data_to_send()
    assert core.state is state
    return core


def test_an_association_from_end_to_end() -> None:
    requestor, acceptor = pair()
    requestor.check_p_data()
    [fragment] = receive(acceptor, DATA)
    assert isinstance(fragment, PDataFragment)
    assert (fragment.context_id, fragment.is_command, fragment.is_last) == (1, True, True)
    assert requestor.release(0)
    assert carry(requestor, acceptor) == [ReleaseIndication(collision=False)]
    assert acceptor.release_response(0)
    assert kinds(carry(acceptor, requestor)) == [ReleaseConfirmation]
    assert requestor.wants_close
    assert requestor.state is State.STA1
    assert not acceptor.wants_close, "the requestor closes (Sta13)"
    assert acceptor.connection_closed(0) == []
    assert acceptor.state is State.STA1


def test_a_rejection() -> None:
    requestor, acceptor = upper_layer(True), upper_layer(False)
    requestor.associate(REQUEST, 0)
    requestor.connected(0)
    acceptor.connected(0)
    carry(requestor, acceptor)
    assert acceptor.reject(REJECT, 0)
    assert acceptor.state is State.STA13
    assert carry(acceptor, requestor) == [AssociateRejection(REJECT)]
    assert requestor.wants_close


@pytest.mark.parametrize("acceptor_first", [True, False])
def test_release_collision(acceptor_first: bool) -> None:
    requestor, acceptor = colliding()
    assert (requestor.state, acceptor.state) == (State.STA9, State.STA10)
    if acceptor_first:  # it is not its turn: nothing happens
        assert not acceptor.release_response(0)
        assert acceptor.data_to_send() == []
    assert requestor.release_response(0)
    assert requestor.state is State.STA11
    assert kinds(carry(requestor, acceptor)) == [ReleaseConfirmation]
    assert acceptor.state is State.STA12
    assert acceptor.release_response(0)
    assert acceptor.state is State.STA13
    assert kinds(carry(acceptor, requestor)) == [ReleaseConfirmation]
    assert (requestor.state, requestor.wants_close) == (State.STA1, True)
    assert not requestor.release_response(0)
    assert acceptor.connection_closed(0) == []


def test_data_may_come_until_the_release_is_confirmed() -> None:
    requestor, acceptor = pair()
    requestor.release(0)
    carry(requestor, acceptor)
    acceptor.check_p_data()  # Sta8: AR-7
    assert kinds(receive(requestor, DATA)) == [PDataFragment]  # Sta7: AR-6
    assert kinds(receive(acceptor, DATA)) == [ProtocolViolation]  # Sta8: AA-8
    with pytest.raises(LocalProtocolError, match="Sta7"):
        requestor.check_p_data()


def test_an_abort_by_the_user() -> None:
    requestor, acceptor = pair()
    assert requestor.abort(0)
    assert carry(requestor, acceptor) == [AbortIndication(0, 0)]
    assert acceptor.wants_close
    assert acceptor.data_to_send() == []


def test_an_abort_by_the_provider() -> None:
    requestor, acceptor = pair()
    error = RemoteProtocolError("from further up", reason=5)
    assert acceptor.violation(error, 0) == [ProtocolViolation(error)]
    assert carry(acceptor, requestor) == [AbortIndication(2, 5)]
    assert acceptor.violation(error, 0) == []
    assert acceptor.data_to_send() == []
    assert requestor.violation(error, 0) == []


def test_a_fault_found_after_the_release_changes_nothing() -> None:
    core = in_state(State.STA13)
    assert core.violation(RemoteProtocolError("late"), 0) == []
    assert core.data_to_send() == []


PRIMITIVES: dict[str, tuple[Callable[[UpperLayer], Any], dict[State, State]]] = {
    # Which primitive does something in which state, and where that leads. It does nothing anywhere else.
    "accept": (lambda core: core.accept(ACCEPT, 0), {State.STA3: State.STA6}),
    "reject": (lambda core: core.reject(REJECT, 0), {State.STA3: State.STA13}),
    "release": (lambda core: core.release(0), {State.STA6: State.STA7}),
    "release_response": (
        lambda core: core.release_response(0),
        {State.STA8: State.STA13, State.STA9: State.STA11, State.STA12: State.STA13},
    ),
    "abort": (
        lambda core: core.abort(0),
        {
            State.STA2: State.STA1,
            State.STA4: State.STA1,
            **{state: State.STA13 for state in State if state == 3 or 5 <= state <= 12},
        },
    ),
    "associate": (lambda core: core.associate(REQUEST, 0), {State.STA1: State.STA4}),
    "connected": (lambda core: core.connected(0), {State.STA1: State.STA2, State.STA4: State.STA5}),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", PRIMITIVES)
def test_local_primitives_that_come_too_late_are_dropped(name: str, state: State) -> None:
    call, effective = PRIMITIVES[name]
    core = in_state(state)
    assert call(core) is (state in effective)
    assert core.state is effective.get(state, state)
    if state not in effective:
        assert core.data_to_send() == []
        assert not core.wants_close


@pytest.mark.parametrize("state", State)
def test_aborts_send_one_pdu_or_close(state: State) -> None:
    core = in_state(state)
    core.abort(0)
    sent = [] if state in (State.STA1, State.STA2, State.STA4, State.STA13) else [AAbort(0, 0).encode()]
    assert core.data_to_send() == sent
    assert core.wants_close == (state in (State.STA2, State.STA4))


@pytest.mark.parametrize("state", State)
def test_data_may_be_sent_in_two_states(state: State) -> None:
    core = in_state(state)
    if state in (State.STA6, State.STA8):
        core.check_p_data()
    else:
        with pytest.raises(LocalProtocolError):
            core.check_p_data()


@pytest.mark.parametrize("state", State)
def test_the_loss_of_the_connection_is_told_where_there_is_an_association(state: State) -> None:
    core = in_state(state)
    told = [] if state in (State.STA1, State.STA2, State.STA13) else [TransportClosed]
    assert kinds(core.connection_closed(0)) == told
    assert core.state is State.STA1
    assert core.next_deadline() is None


@pytest.mark.parametrize("state", [state for state in State if state not in (State.STA1, State.STA4)])
def test_an_abort_ends_every_state_without_an_answer(state: State) -> None:
    core = in_state(state)
    silent = state in (State.STA2, State.STA13)
    assert receive(core, AAbort(2, 6).encode()) == ([] if silent else [AbortIndication(2, 6)])
    assert core.wants_close
    assert core.state is State.STA1
    assert core.data_to_send() == []


def test_a_request_that_cannot_be_encoded_changes_nothing() -> None:
    core = upper_layer(True)
    with pytest.raises(LocalProtocolError):
        core.associate(REQUEST._replace(called_ae_title="x" * 17), 0)
    assert core.state is State.STA1
    core = in_state(State.STA3)
    with pytest.raises(LocalProtocolError):
        core.accept(ACCEPT._replace(reserved=bytes(32), protocol_version=-1), 0)
    assert core.state is State.STA3
    assert core.accept(ACCEPT, 0)


def test_awaiting_the_close_pdus_are_ignored() -> None:
    core = in_state(State.STA13)
    for data in (ACCEPT.encode(), REJECT.encode(), DATA, AReleaseRQ().encode(), AReleaseRP().encode()):
        assert receive(core, data) == []
    assert core.data_to_send() == []
    assert core.state is State.STA13


@pytest.mark.parametrize("bad", [REQUEST.encode(), b"GET / HTTP/1.1"])
def test_awaiting_the_close_only_the_first_fault_is_answered(bad: bytes) -> None:
    core = in_state(State.STA13)
    deadline = core.next_deadline()
    assert receive(core, bad, 1.0) == []
    assert len(core.data_to_send()) == 1
    for _ in range(3):
        assert receive(core, bad, 2.0) == []
    assert core.data_to_send() == []
    assert core.next_deadline() == deadline, "ARTIM is not restarted (AA-7)"


def test_the_drain_is_bounded() -> None:
    core = in_state(State.STA13)
    block = DATA * 10000
    for _ in range(MAXIMUM_DRAIN // len(block)):
        receive(core, block)
    assert not core.wants_close
    assert receive(core, block) == []
    assert core.wants_close
    assert core.state is State.STA1


def test_only_where_data_may_come_a_fragment_continues() -> None:
    begun = p_data_header(1, False, True, 100) + b"data"
    for state in (State.STA6, State.STA7):
        core = in_state(state)
        assert kinds(receive(core, begun)) == [PDataFragment]
        assert core.continues(10, 0.0)
    refused = p_data_header(5, False, True, 100) + b"data"
    core = in_state(State.STA6)
    assert kinds(receive(core, refused)) == [ProtocolViolation]
    assert not core.continues(10, 0.0)


def test_only_accepted_contexts_carry_data() -> None:
    contexts = (ContextResult(1, 3), ContextResult(3, 0, "1.2.840.10008.1.2"))
    for core in (in_state(State.STA3), in_state(State.STA5)):
        accept = ACCEPT._replace(presentation_contexts=contexts)
        if core.requestor:
            receive(core, accept.encode())
        else:
            core.accept(accept, 0)
            core.data_to_send()
        good = p_data_header(3, True, True, 2) + b"ab"
        assert kinds(receive(core, good)) == [PDataFragment]
        assert kinds(receive(core, DATA + good)) == [ProtocolViolation]
        assert core.data_to_send() == [AAbort(2, 6).encode()]


class TwoCores(RuleBasedStateMachine):
    """Two upper layers and two pipes in between: whatever their users do, neither breaks the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.cores = pair()
        self.pipes: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self.aborted = False

    def flush(self, side: int) -> None:
        for data in self.cores[side].data_to_send():
            self.pipes[side].extend(data)

    @rule(side=st.integers(0, 1), size=st.integers(1, 60))
    def deliver(self, side: int, size: int) -> None:
        data = bytes(self.pipes[side][:size])
        del self.pipes[side][:size]
        other = self.cores[1 - side]
        if not other.wants_close:
            for event in receive(other, data):
                assert not isinstance(event, ProtocolViolation), event

    @rule(side=st.integers(0, 1))
    def release(self, side: int) -> None:
        self.cores[side].release(0)
        self.flush(side)

    @rule(side=st.integers(0, 1))
    def respond(self, side: int) -> None:
        self.cores[side].release_response(0)
        self.flush(side)

    @precondition(lambda self: not self.aborted)
    @rule(side=st.integers(0, 1))
    def send(self, side: int) -> None:
        try:
            self.cores[side].check_p_data()
        except LocalProtocolError:
            return
        self.pipes[side].extend(DATA)

    @rule(side=st.integers(0, 1))
    def abort(self, side: int) -> None:
        if self.cores[side].abort(0):
            self.aborted = True
        self.flush(side)

    @invariant()
    def nobody_accuses_the_other(self) -> None:
        for pipe in self.pipes:
            assert AAbort(2, 2).encode() not in pipe

    def teardown(self) -> None:
        """Both users answer every release: whoever did not abort comes to the end."""
        for _ in range(8):
            for side in (0, 1):
                self.release(side)
                self.respond(side)
                self.deliver(side, len(self.pipes[side]))
        states = {core.state for core in self.cores}
        assert states <= {State.STA1, State.STA13}
        assert State.STA1 in states


TestTwoCores = TwoCores.TestCase
TestTwoCores.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_events_without_numbers_say_what_they_are() -> None:
    assert repr(ReleaseConfirmation()) == "ReleaseConfirmation()"
    assert repr(TransportClosed()) == "TransportClosed()"
