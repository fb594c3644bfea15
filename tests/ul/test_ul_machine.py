"""The state machine against a second transcription of its tables, and two of them against each other.

``Modelled`` is one core beside a model that reads ``standard/table_9_10.py``: whatever is done to both, they
have to agree. All 247 cells are tried one by one, then hypothesis tries sequences. The local timers of
``UpperLayer`` are the only thing the model knows that the standard does not.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.options import Timeouts
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
    TimerExpired,
    TransportClosed,
)
from asyncdicom.ul.items import ContextResult, ProposedContext, UserInformation
from asyncdicom.ul.pdu import AAbort, AAssociateAC, AAssociateRJ, AAssociateRQ, AReleaseRP, AReleaseRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

STANDARD = runpy.run_path(str(Path(__file__).parents[1] / "standard" / "table_9_10.py"))
SENDS, CLOSES = STANDARD["SENDS"], STANDARD["CLOSES"]
TABLE = {
    (int(state), int(event)): action
    for state, cells in re.findall(r"Sta(\d+) +(.*)", STANDARD["BY_STATE"])
    for event, action in re.findall(r"(\d+):(\S+)", cells)
}
LEADS_TO = {
    action: [int(state) for state in states.split("/")]
    for action, states in re.findall(r"(A[ER]-\d+|DT-\d|AA-\d) +(\S+)", STANDARD["NEXT_STATES"])
}
# How long each state may last: ARTIM where the standard has it, elsewhere, in any state in which a peer can
# keep us waiting, a timer of ours, which has the effect of an A-ABORT request.
TIMEOUTS = Timeouts(artim=10.0, close=5.0, acse=30.0, release=10.0, receive=None, idle=None)
LASTS = {2: 10.0, 5: 30.0, 7: 10.0, 9: 10.0, 10: 10.0, 11: 10.0, 13: 5.0}
EXPIRED = {2: "artim", 5: "acse", 7: "release", 9: "release", 10: "release", 11: "release"}

REQUEST = AAssociateRQ(
    "SCP", "SCU", (ProposedContext(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),), UserInformation(16384)
)
ACCEPT = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, "1.2.840.10008.1.2"),), UserInformation(16384))
REJECT = AAssociateRJ(1, 1, 7)
DATA = p_data_header(1, True, True, 4) + b"data"

# What the peer may send; "faulty" is an Evt19 after which the byte stream can still be followed, after
# "garbage" it cannot.
PDUS = {
    3: ACCEPT.encode(),
    4: REJECT.encode(),
    6: REQUEST.encode(),
    10: DATA,
    12: AReleaseRQ().encode(),
    13: AReleaseRP().encode(),
    16: AAbort(0, 0).encode(),
}
GARBAGE = b"GET / HTTP/1.1\r\n\r\n"
UNACCEPTABLE = REQUEST._replace(protocol_version=2).encode()
MALFORMED = {  # by the state in which the body is read
    2: PDUS[6][:76] + b"\xff\xff" + PDUS[6][78:],  # the first item reaches past its PDU
    5: PDUS[3][:76] + b"\xff\xff" + PDUS[3][78:],
    6: p_data_header(3, True, True, 4) + b"data",
    7: p_data_header(3, True, True, 4) + b"data",
}
LOCAL: dict[int, Callable[[UpperLayer, float], bool]] = {
    1: lambda core, now: core.associate(REQUEST, now),
    2: lambda core, now: core.connected(now),
    5: lambda core, now: core.connected(now),
    7: lambda core, now: core.accept(ACCEPT, now),
    8: lambda core, now: core.reject(REJECT, now),
    11: lambda core, now: core.release(now),
    14: lambda core, now: core.release_response(now),
    15: lambda core, now: core.abort(now),
}
INDICATES: dict[str, type] = {
    "AE-3": AssociateConfirmation,
    "AE-4": AssociateRejection,
    "AE-6": AssociateIndication,
    "DT-2": PDataFragment,
    "AR-2": ReleaseIndication,
    "AR-3": ReleaseConfirmation,
    "AR-6": PDataFragment,
    "AR-8": ReleaseIndication,
    "AR-10": ReleaseConfirmation,
    "AA-1": ProtocolViolation,
    "AA-3": AbortIndication,
    "AA-4": TransportClosed,
    "AA-8": ProtocolViolation,
}
FIRST_BYTES = {"ASSOCIATE_RQ": 1, "ASSOCIATE_AC": 2, "ASSOCIATE_RJ": 3, "RELEASE_RQ": 5, "RELEASE_RP": 6}


class Modelled:
    """A core and what the table says about it; every method checks that they agree."""

    def __init__(self, requestor: bool) -> None:
        self.core = UpperLayer(requestor=requestor, maximum_length=16384, timeouts=TIMEOUTS)
        self.requestor = requestor
        self.state = 1
        self.now = 0.0
        self.deadline: float | None = None
        self.deaf = False  # what comes now cannot be understood, or is behind an A-ABORT
        self.closed = False
        self.abort_sent = False

    def local(self, event: int) -> None:
        """One of the user's primitives, whether it is due or not."""
        state = self.state
        if event in (2, 5):
            event = 2 if self.requestor else 5
        if (state, event) == (2, 15):
            # A cell that the standard leaves blank: no request has come, so there is nothing to abort.
            effective = LOCAL[15](self.core, self.now)
            self._agree(18, [], effective)
            return
        effective = LOCAL[event](self.core, self.now)
        self._agree(event, [], effective)

    def data_request(self) -> None:
        """Evt9: tells its caller alone that it comes too late."""
        if (self.state, 9) in TABLE:
            self.core.check_p_data()
        else:
            with pytest.raises(LocalProtocolError):
                self.core.check_p_data()
        self._agree(9, [], None)

    def receive(self, event: int, data: bytes, *, bytewise: bool = False, acceptable: bool = True) -> None:
        """Something from the peer, at once or a byte at a time."""
        size = 1 if bytewise else len(data)
        told: list[Event] = []
        for start in range(0, len(data), size):
            told += self.core.receive_data(memoryview(data[start : start + size]), self.now)
        if self.deaf or self.state == 1:
            self._agree(None, told, None)
            return
        self.deaf = event == 16 or data == GARBAGE
        self._agree(event, told, None, acceptable=acceptable)

    def violation(self) -> None:
        """DIMSE finds a fault in what was delivered: Evt19, but after the end nobody cares."""
        told = self.core.violation(RemoteProtocolError("found further up"), self.now)
        self._agree(None if self.state == 13 else 19, told, None)

    def connection_closed(self) -> None:
        """Evt17."""
        self._agree(17, self.core.connection_closed(self.now), None)

    def handle_timer(self) -> None:
        """The event loop calls: in time, or for a deadline that is gone."""
        told = self.core.handle_timer(self.now)
        if self.deadline is None or self.now < self.deadline:
            self._agree(None, told, None)
        elif self.state in (2, 13):
            assert told == ([TimerExpired("artim")] if self.state == 2 else [])
            self._agree(18, [], None)
        else:
            assert told == [TimerExpired(EXPIRED[self.state])]
            self._agree(15, [], None)

    def _agree(
        self, event: int | None, told: list[Event], effective: bool | None, *, acceptable: bool = True
    ) -> None:
        """Take the event to the table, then compare state, PDUs, indications, timer and connection."""
        action = TABLE.get((self.state, event)) if event is not None else None
        if action is None:
            assert told == []
            assert self.core.data_to_send() == []
            assert not effective
        else:
            self._perform(action, event, told, acceptable)
            assert effective is not False
        assert self.core.state == self.state
        assert self.core.wants_close == self.closed
        assert self.core.next_deadline() == self.deadline

    def _perform(self, action: str, event: int | None, told: list[Event], acceptable: bool) -> None:
        states = LEADS_TO[action]
        sends = SENDS.get(action)
        indication = INDICATES.get(action)
        state = states[0]
        if action == "AE-6" and not acceptable:
            state, sends, indication = states[1], "ASSOCIATE_RJ", AssociateRejection
        elif action == "AR-8" and not self.requestor:
            state = states[1]
        if event == 15:
            indication = None
        kinds = [type(one) for one in told]
        if action in ("DT-2", "AR-6") and len(kinds) > 1:  # a fragment that comes in pieces is told in pieces
            ends = [one.is_last for one in told if type(one) is PDataFragment]
            assert ends == [False] * (len(told) - 1) + [True]
            kinds = list(dict.fromkeys(kinds))
        assert kinds == ([indication] if indication else [])
        if action in ("AR-2", "AR-8"):
            assert told == [ReleaseIndication(collision=action == "AR-8")]
        self._sent(sends)
        if state != self.state or action in STANDARD["STOPS_ARTIM"]:
            self.deadline = self.now + LASTS[state] if state in LASTS else None
        self.state = state
        self.closed = self.closed or action in CLOSES

    def _sent(self, expected: str | None) -> None:
        sent = self.core.data_to_send()
        if expected in (None, "P_DATA"):
            assert sent == []
        elif expected in ("USER_ABORT", "PROVIDER_ABORT"):
            if self.abort_sent:  # AA-7: said once, however much garbage follows
                assert sent == []
                return
            self.abort_sent = True
            [abort] = sent
            assert (abort[0], abort[8]) == (7, 0 if expected == "USER_ABORT" else 2)
        else:
            [pdu] = sent
            assert pdu[0] == FIRST_BYTES[expected]


# Each cell of the table, on every side on which its state can be reached.

WAYS = {
    (False, 1): [],
    (False, 2): [5],
    (False, 3): [5, 6],
    (False, 6): [5, 6, 7],
    (False, 7): [5, 6, 7, 11],
    (False, 8): [5, 6, 7, 12],
    (False, 10): [5, 6, 7, 11, 12],
    (False, 12): [5, 6, 7, 11, 12, 13],
    (False, 13): [5, 6, 7, 12, 14],
    (True, 1): [],
    (True, 4): [1],
    (True, 5): [1, 2],
    (True, 6): [1, 2, 3],
    (True, 7): [1, 2, 3, 11],
    (True, 8): [1, 2, 3, 12],
    (True, 9): [1, 2, 3, 11, 12],
    (True, 11): [1, 2, 3, 11, 12, 14],
    (True, 13): [1, 2, 3, 12, 14],
}


def do(both: Modelled, event: int) -> None:
    if event in LOCAL:
        both.local(event)
    elif event == 9:
        both.data_request()
    elif event in PDUS:
        both.receive(event, PDUS[event])
    elif event == 17:
        both.connection_closed()
    elif event == 18:
        both.handle_timer()
    else:
        both.receive(19, GARBAGE)


def brought_to(state: int, requestor: bool) -> Modelled:
    both = Modelled(requestor)
    for event in WAYS[requestor, state]:
        do(both, event)
    assert both.core.state == state
    return both


def test_the_table_is_whole() -> None:
    assert len(TABLE) == 123
    assert len(TABLE) + 124 == 13 * 19
    assert {state for _, state in WAYS} == set(range(1, 14))


@pytest.mark.parametrize("event", range(1, 20))
@pytest.mark.parametrize(("requestor", "state"), WAYS)
def test_every_cell(requestor: bool, state: int, event: int) -> None:
    """A filled cell does what the table says, a blank one nothing; then everything else is harmless."""
    both = brought_to(state, requestor)
    if event == 18 and both.deadline is not None:
        both.now = both.deadline
    do(both, event)
    for late in (7, 8, 9, 11, 14, 15, 15, 17, 7, 8, 9, 11, 14, 15, 17):
        do(both, late)


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("requestor", "state"), WAYS)
def test_faults_that_the_table_does_not_tell_apart(requestor: bool, state: int, bytewise: bool) -> None:
    brought_to(state, requestor).violation()
    if state in MALFORMED:
        brought_to(state, requestor).receive(19, MALFORMED[state], bytewise=bytewise)
    if state == 2:
        brought_to(state, requestor).receive(6, UNACCEPTABLE, bytewise=bytewise, acceptable=False)


@pytest.mark.parametrize(("requestor", "state"), [way for way in WAYS if way[1] in LASTS])
def test_a_timer_is_neither_early_nor_late(requestor: bool, state: int) -> None:
    both = brought_to(state, requestor)
    deadline = both.deadline or 0.0
    for both.now in (deadline - 0.001, deadline, deadline):
        do(both, 18)
    assert both.state in (1, 13)


@pytest.mark.parametrize(("requestor", "state"), [way for way in WAYS if way[1] in LASTS])
def test_a_timer_that_has_been_stopped_does_nothing(requestor: bool, state: int) -> None:
    """The event loop had it ready when the state changed: Evt18 in a state that has no such timer."""
    both = brought_to(state, requestor)
    deadline = both.deadline or 0.0
    both.now = deadline - 0.001
    do(both, 17)
    both.now = deadline
    do(both, 18)


@pytest.mark.parametrize(("requestor", "state"), [way for way in WAYS if way[1] in LASTS])
def test_a_timer_and_an_event_at_the_same_moment(requestor: bool, state: int) -> None:
    for event in (3, 4, 6, 10, 11, 12, 13, 14, 15, 16, 17, 19):
        for order in ((18, event), (event, 18)):
            both = brought_to(state, requestor)
            both.now = both.deadline or 0.0
            for each in order:
                do(both, each)
            both.now += 5
            do(both, 18)


class OneCore(RuleBasedStateMachine):
    """Any sequence of anything."""

    @initialize(requestor=st.booleans(), steps=st.integers(0, 6))
    def begin(self, requestor: bool, steps: int) -> None:
        self.both = Modelled(requestor)
        ways = [way for (side, _), way in WAYS.items() if side is requestor]
        for event in max(ways, key=len)[:steps]:
            do(self.both, event)

    @property
    def has_begun(self) -> bool:
        return self.both.state != 1 or self.both.closed or self.both.now > 0

    # An association is not begun twice.
    @precondition(lambda self: not self.has_begun)
    @rule()
    def begin_connection(self) -> None:
        do(self.both, 1 if self.both.requestor else 5)
        self.both.now += 0.5

    @precondition(lambda self: self.both.state != 1)
    @rule(event=st.sampled_from([1, 2, 7, 8, 9, 11, 14, 15]))
    def local(self, event: int) -> None:
        do(self.both, event)

    @precondition(lambda self: self.both.state == 1)
    @rule(event=st.sampled_from([7, 8, 9, 11, 14, 15]))
    def too_late(self, event: int) -> None:
        do(self.both, event)

    @rule(event=st.sampled_from(list(PDUS)), bytewise=st.booleans())
    def receive(self, event: int, bytewise: bool) -> None:
        self.both.receive(event, PDUS[event], bytewise=bytewise)

    @rule(bytewise=st.booleans())
    def receive_garbage(self, bytewise: bool) -> None:
        self.both.receive(19, GARBAGE, bytewise=bytewise)

    @precondition(lambda self: self.both.state in MALFORMED)
    @rule(bytewise=st.booleans())
    def receive_something_malformed(self, bytewise: bool) -> None:
        self.both.receive(19, MALFORMED[self.both.state], bytewise=bytewise)

    @precondition(lambda self: self.both.state == 2)
    @rule()
    def receive_what_the_provider_cannot_take(self) -> None:
        self.both.receive(6, UNACCEPTABLE, acceptable=False)

    @rule()
    def fault_found_further_up(self) -> None:
        self.both.violation()

    @precondition(lambda self: self.both.state != 1)
    @rule()
    def connection_closed(self) -> None:
        do(self.both, 17)

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.999, 5.0, 10.0, 30.0]))
    def time_passes_unnoticed(self, seconds: float) -> None:
        """The event loop is busy: deadlines may be overdue when the next event comes."""
        self.both.now += seconds

    @rule()
    def handle_timer(self) -> None:
        do(self.both, 18)

    @precondition(lambda self: self.both.deadline is not None)
    @rule()
    def just_in_time(self) -> None:
        self.both.now = max(self.both.now, self.both.deadline or 0.0)
        do(self.both, 18)


TestOneCore = OneCore.TestCase
TestOneCore.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


class TwoCores(RuleBasedStateMachine):
    """Two cores and two pipes: their users do what they like, and time passes; neither core accuses the
    other, and once somebody wants the end both come to it, even if the network is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cores = tuple(
            UpperLayer(requestor=side == 0, maximum_length=16384, timeouts=TIMEOUTS) for side in (0, 1)
        )
        self.pipes = bytearray(), bytearray()
        self.is_cut = False
        self.collisions = 0
        requestor, acceptor = self.cores
        requestor.associate(REQUEST, 0)
        requestor.connected(0)
        acceptor.connected(0)
        self._flush()
        self.deliver(0, 1 << 20)
        acceptor.accept(ACCEPT, 0)
        self._flush()
        self.deliver(1, 1 << 20)
        assert [core.state for core in self.cores] == [State.STA6, State.STA6]

    def _flush(self) -> None:
        for core, pipe in zip(self.cores, self.pipes, strict=True):
            pipe += b"".join(core.data_to_send())

    def _told(self, side: int, events: list[Event]) -> None:
        for event in events:
            assert not isinstance(event, ProtocolViolation), (self.cores[side].state, event.error)
            if isinstance(event, ReleaseIndication) and event.collision:
                self.collisions += 1
        self._flush()

    @rule(side=st.integers(0, 1), size=st.sampled_from([1, 5, 10, 100, 1 << 20]))
    def deliver(self, side: int, size: int) -> None:
        data = bytes(self.pipes[side][:size])
        del self.pipes[side][:size]
        if data and not self.is_cut:
            self._told(1 - side, self.cores[1 - side].receive_data(memoryview(data), self.now))

    @rule(side=st.integers(0, 1))
    def release(self, side: int) -> None:
        self.cores[side].release(self.now)
        self._flush()

    @rule()
    def release_both(self) -> None:
        self.release(0)
        self.release(1)

    @rule(side=st.integers(0, 1))
    def respond(self, side: int) -> None:
        """As early or as late as anybody likes."""
        self.cores[side].release_response(self.now)
        self._flush()

    @rule(side=st.integers(0, 1))
    def send_data(self, side: int) -> None:
        try:
            self.cores[side].check_p_data()
        except LocalProtocolError:
            return
        self.pipes[side].extend(DATA)

    @rule(side=st.integers(0, 1), late=st.sampled_from(["accept", "reject", "connected"]))
    def come_too_late(self, side: int, late: str) -> None:
        core = self.cores[side]
        if core.state is not State.STA1:
            do_late = {"accept": LOCAL[7], "reject": LOCAL[8], "connected": LOCAL[2]}[late]
            assert not do_late(core, self.now)
        assert core.data_to_send() == []

    @precondition(lambda self: self.now > 3)
    @rule(side=st.integers(0, 1))
    def abort(self, side: int) -> None:
        self.cores[side].abort(self.now)
        self._flush()

    @rule(seconds=st.sampled_from([0.5, 2.5, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(side=st.integers(0, 1))
    def handle_timer(self, side: int) -> None:
        self._told(side, self.cores[side].handle_timer(self.now))

    @rule(side=st.integers(0, 1))
    def see_the_connection_close(self, side: int) -> None:
        if self.cores[1 - side].wants_close and not self.pipes[1 - side]:
            self._told(side, self.cores[side].connection_closed(self.now))

    @precondition(lambda self: self.now > 10)
    @rule()
    def cut_the_wire(self) -> None:
        self.is_cut = True

    @invariant()
    def nobody_aborts_as_the_provider(self) -> None:
        for pipe in self.pipes:
            assert AAbort(2, 2).encode() not in pipe

    def teardown(self) -> None:
        """Both want the end now, and answer whatever they are asked."""
        give_up = self.now + TIMEOUTS.release + TIMEOUTS.close  # type: ignore[operator]
        while any(core.state is not State.STA1 for core in self.cores):
            assert self.now <= give_up
            for side in (0, 1):
                self.release(side)
                self.respond(side)
                self.deliver(side, 1 << 20)
                self.see_the_connection_close(side)
            deadlines = [core.next_deadline() for core in self.cores]
            if self.is_cut or all(state in (State.STA1, State.STA13) for state in self._states()):
                self.now = max(self.now, min((d for d in deadlines if d is not None), default=self.now))
            for side in (0, 1):
                self.handle_timer(side)

    def _states(self) -> list[State]:
        return [core.state for core in self.cores]


TestTwoCores = TwoCores.TestCase
TestTwoCores.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("eager", [True, False])
def test_release_collision(order: tuple[int, int], eager: bool) -> None:
    """Both ask at once; whoever answers first, and however eagerly, both end within their deadlines."""
    two = TwoCores()
    two.release_both()
    for side in order:
        two.deliver(side, 1 << 20)
    assert two.collisions == 2
    assert two._states() == [State.STA9, State.STA10]
    if eager:  # the acceptor's answer has to wait for the requestor's (PS3.8 AR-8)
        two.respond(1)
        assert not two.pipes[1]
    two.respond(0)
    two.deliver(0, 1 << 20)
    assert two._states() == [State.STA11, State.STA12]
    two.respond(1)
    two.deliver(1, 1 << 20)
    assert two._states() == [State.STA1, State.STA13]
    assert two.cores[0].wants_close
    two.see_the_connection_close(1)
    assert two._states() == [State.STA1, State.STA1]


@pytest.mark.parametrize("silent", [0, 1])
def test_release_collision_with_a_peer_that_vanishes(silent: int) -> None:
    two = TwoCores()
    two.release_both()
    for side in (0, 1):
        two.deliver(side, 1 << 20)
    other = two.cores[1 - silent]
    if other.requestor:
        other.release_response(two.now)
    assert other.next_deadline() == 10.0
    assert other.handle_timer(10.0) == [TimerExpired("release")]
    assert other.data_to_send()[-1] == AAbort(0, 0).encode()
    assert other.handle_timer(15.0) == []
    assert other.wants_close
