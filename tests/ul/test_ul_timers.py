"""Time is an argument, so none of these tests waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asyncdicom.options import Timeouts
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.events import ProtocolViolation, TimerExpired
from asyncdicom.ul.items import ContextResult, UserInformation
from asyncdicom.ul.pdu import AAbort, AAssociateAC, AAssociateRQ, AReleaseRP, AReleaseRQ
from asyncdicom.ul.protocol import UpperLayer
from asyncdicom.ul.statetable import State

REQUEST = AAssociateRQ("SCP", "SCU", (), UserInformation())
ACCEPT = AAssociateAC("SCP", "SCU", (ContextResult(1, 0, "1.2"),), UserInformation())
MESSAGE = p_data_header(1, True, True, 4) + b"data"
PART = p_data_header(1, False, False, 4) + b"data"
USER_ABORT = AAbort(0, 0).encode()
OFF = Timeouts(acse=None, artim=None, receive=None, release=None, idle=None, close=None)


def receive(core: UpperLayer, data: bytes, now: float) -> None:
    if not core.continues(len(data), now):
        core.receive_data(memoryview(data), now)


def acceptor(timeouts: Timeouts) -> UpperLayer:
    core = UpperLayer(requestor=False, maximum_length=16384, timeouts=timeouts)
    core.connected(0)
    return core


def established(timeouts: Timeouts) -> UpperLayer:
    core = acceptor(timeouts)
    receive(core, REQUEST.encode(), 0)
    core.accept(ACCEPT, 0)
    core.data_to_send()
    return core


def expire(core: UpperLayer, when: float, which: str | None) -> None:
    """Nothing happens before ``when``, this timer just then, and nothing a second time."""
    assert core.next_deadline() == when
    assert core.handle_timer(when - 0.001) == []
    assert core.next_deadline() == when
    assert core.handle_timer(when) == ([TimerExpired(which)] if which else [])
    assert core.next_deadline() != when
    assert core.handle_timer(when) == []


def test_artim_for_the_request() -> None:
    core = acceptor(replace(OFF, artim=10.0))
    receive(core, REQUEST.encode()[:40], 9.0)  # a drip of bytes does not stop it
    expire(core, 10.0, "artim")
    assert core.wants_close
    assert core.data_to_send() == []


def test_artim_stops_when_the_request_has_come() -> None:
    core = acceptor(replace(OFF, artim=10.0))
    receive(core, REQUEST.encode(), 5.0)
    assert core.state is State.STA3
    assert core.next_deadline() is None
    assert core.handle_timer(10.0) == [], "a stale call does nothing"
    assert core.state is State.STA3


@pytest.mark.parametrize("way", ["release", "abort", "violation", "garbage"])
def test_artim_for_the_close(way: str) -> None:
    core = established(replace(OFF, close=5.0))
    if way == "release":
        receive(core, AReleaseRQ().encode(), 1.0)
        core.release_response(100.0)
    elif way == "abort":
        core.abort(100.0)
    elif way == "violation":
        receive(core, MESSAGE[:-1] + b"x" + b"\xff", 100.0)
    else:
        receive(core, b"\xff", 100.0)
    assert core.state is State.STA13
    receive(core, b"\0" * 50, 103.0)
    expire(core, 105.0, None)
    assert core.wants_close
    assert core.state is State.STA1


def test_association() -> None:
    core = UpperLayer(requestor=True, maximum_length=16384, timeouts=replace(OFF, acse=30.0, close=5.0))
    core.associate(REQUEST, 0)
    assert core.next_deadline() is None, "connecting is not ours to time"
    core.connected(2.0)
    core.data_to_send()
    receive(core, ACCEPT.encode()[:20], 31.0)
    expire(core, 32.0, "acse")
    assert core.data_to_send() == [USER_ABORT]
    expire(core, 37.0, None)
    assert core.wants_close


def test_release() -> None:
    core = established(replace(OFF, release=10.0))
    core.release(100.0)
    core.data_to_send()
    receive(core, MESSAGE, 105.0)
    expire(core, 110.0, "release")
    assert core.data_to_send() == [USER_ABORT]
    assert core.state is State.STA13


@pytest.mark.parametrize("state", [State.STA9, State.STA10, State.STA11])
def test_release_collision_is_timed_too(state: State) -> None:
    requestor = state is not State.STA10
    timeouts = replace(OFF, release=10.0)
    core = UpperLayer(requestor=requestor, maximum_length=16384, timeouts=timeouts)
    if requestor:
        core.associate(REQUEST, 0)
        core.connected(0)
        receive(core, ACCEPT.encode(), 0)
    else:
        core = established(timeouts)
    core.release(100.0)
    receive(core, AReleaseRQ().encode(), 103.0)
    if state is State.STA11:
        core.release_response(104.0)
    core.data_to_send()
    assert core.state is state
    expire(core, 114.0 if state is State.STA11 else 113.0, "release")
    assert core.data_to_send() == [USER_ABORT]


def test_our_own_answers_are_not_timed() -> None:
    core = established(Timeouts())
    receive(core, AReleaseRQ().encode(), 1.0)
    assert core.state is State.STA8
    assert core.next_deadline() is None
    requestor = established(replace(OFF, release=10.0))
    requestor.release(1.0)
    receive(requestor, AReleaseRQ().encode() + AReleaseRP().encode(), 2.0)
    assert requestor.state is State.STA12
    assert requestor.next_deadline() is None


@pytest.mark.parametrize("owed", [PART, MESSAGE[:1], MESSAGE[:8], MESSAGE[:-1], AReleaseRQ().encode()[:7]])
def test_receive_runs_while_something_is_incomplete(owed: bytes) -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, MESSAGE, 5.0)
    assert core.next_deadline() is None
    receive(core, owed, 1000.0)
    expire(core, 1060.0, "receive")
    assert core.data_to_send() == [USER_ABORT]
    assert core.state is State.STA13


def test_receive_runs_while_a_data_set_is_expected() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, MESSAGE, 5.0)
    core.expecting_data = True
    expire(core, 65.0, "receive")


def test_receive_ends_with_the_message() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, PART, 0.0)
    receive(core, p_data_header(1, False, True, 0), 59.0)
    assert core.next_deadline() is None


def test_receive_wants_progress_not_just_bytes() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, p_data_header(1, False, True, 16000), 0.0)
    for second in range(1, 60):
        receive(core, b"x", second)
    assert core.next_deadline() == 60.0, "one byte a second is not progress"
    receive(core, bytes(8 * 1024), 59.5)
    assert core.next_deadline() == 60 + 8 + 59 / 1024


def test_receive_wants_1_kib_a_second_of_the_whole() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, MESSAGE, 1000.0)
    receive(core, p_data_header(1, False, False, 16_000), 2000.0)
    for second in range(1, 13):
        receive(core, bytes(1024), 2000.0 + second)
    assert core.next_deadline() == 2072.0, "just in time: a new deadline with each"
    receive(core, bytes(1024), 2071.0)
    expire(core, 2073.0, "receive")


def test_nor_does_the_whole_go_on_while_we_do_not_read() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, p_data_header(1, False, False, 10_000), 0.0)
    core.pause(10.0)
    core.resume(1010.0)
    receive(core, bytes(2048), 1030.0)
    expire(core, 1062.0, "receive")


def test_a_new_message_is_a_new_beginning() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, MESSAGE[:10], 0.0)
    receive(core, MESSAGE[10:] + MESSAGE[:10], 50.0)
    assert core.next_deadline() == 110.0


def test_receive_stands_still_while_we_do_not_read() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, PART, 0.0)
    core.pause(10.0)
    core.pause(20.0)
    assert core.next_deadline() is None
    assert core.handle_timer(500.0) == []
    core.resume(1010.0)
    core.resume(1020.0)
    expire(core, 1060.0, "receive")


def test_idle_tells_and_does_nothing() -> None:
    core = established(replace(OFF, idle=300.0))
    receive(core, MESSAGE, 100.0)
    expire(core, 400.0, "idle")
    assert core.state is State.STA6
    assert core.data_to_send() == []
    assert core.next_deadline() == 700.0


def test_idle_waits_for_operations() -> None:
    core = established(replace(OFF, idle=300.0))
    core.set_busy(True, 10.0)
    assert core.next_deadline() is None
    core.set_busy(False, 5000.0)
    assert core.next_deadline() == 5300.0


@pytest.mark.parametrize("timeouts", [OFF])
def test_all_off_is_off(timeouts: Timeouts) -> None:
    core = established(timeouts)
    receive(core, PART, 0)
    assert core.next_deadline() is None
    core.abort(0)
    assert core.next_deadline() is None
    assert core.handle_timer(1e9) == []


def test_the_nearest_deadline_comes_first() -> None:
    core = established(replace(OFF, receive=60.0, idle=30.0, close=5.0))
    receive(core, PART, 0.0)
    expire(core, 30.0, "idle")
    assert core.handle_timer(60.0) == [TimerExpired("receive")]
    assert core.next_deadline() == 65.0


def test_a_fault_and_a_timer_do_not_both_abort() -> None:
    core = established(replace(OFF, receive=60.0))
    [event] = core.receive_data(memoryview(b"\xff"), 0.0)
    assert isinstance(event, ProtocolViolation)
    assert core.handle_timer(60.0) == []
    assert len(core.data_to_send()) == 1


def test_who_is_owed_nothing_may_be_paused() -> None:
    core = established(replace(OFF, receive=60.0))
    core.pause(10.0)
    core.resume(20.0)
    assert core.next_deadline() is None
    receive(core, PART, 30.0)
    expire(core, 90.0, "receive")


def test_who_waits_for_ever_may_be_paused() -> None:
    core = established(OFF)
    receive(core, PART, 0.0)
    core.pause(10.0)
    core.resume(20.0)
    assert core.next_deadline() is None


def test_reading_that_was_never_paused_is_not_resumed() -> None:
    core = established(replace(OFF, receive=60.0))
    receive(core, PART, 0.0)
    core.resume(50.0)
    assert core.next_deadline() == 60.0
