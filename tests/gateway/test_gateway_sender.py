"""The sender of one destination: a machine that is given the time."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncdicom.gateway.schedule import Schedule
from asyncdicom.gateway.sender import Job, Sender, SenderOptions, Settled, first_available
from asyncdicom.gateway.verdicts import Verdict

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def a_sender(**options: Any) -> Sender:
    return Sender("PACS", SenderOptions(**options), random=lambda: 1.0)


def begin_all(sender: Sender, now: float = 0.0, lane: int = 0) -> list[int]:
    begun = []
    while (job := sender.begin(now, NOON, lane)) is not None:
        begun.append(job.id)
    return begun


def break_off(sender: Sender, times: int = 3, now: float = 0.0, first: int = 100) -> None:
    for job_id in range(first, first + times):
        sender.offer([Job(job_id)])
        assert sender.begin(now, NOON) is not None
        sender.ended(job_id, Verdict.DESTINATION, now, "no route")


# what goes next


def test_urgent_ones_go_first_then_those_that_came_first() -> None:
    sender = a_sender(concurrency=9)
    sender.offer([Job(3, 2), Job(2, 1), Job(1, 1), Job(4, 0)])
    assert begin_all(sender) == [4, 1, 2, 3]


def test_no_more_are_under_way_than_it_may_have() -> None:
    sender = a_sender(concurrency=2)
    sender.offer([Job(n) for n in range(5)])
    assert begin_all(sender) == [0, 1]
    assert sender.ended(0, Verdict.DELIVERED, 0) == Settled(0, "done", 1)
    assert begin_all(sender) == [2]


def test_it_wants_some_at_a_time() -> None:
    sender = a_sender()
    assert sender.wanted(0, NOON) == 64
    sender.offer([Job(n) for n in range(40)])
    assert sender.wanted(0, NOON) == 0
    assert sender.wanted(0, NOON, urgent=True) == 40
    begin_all(sender)
    for job_id in range(4):
        sender.ended(job_id, Verdict.DELIVERED, 0)
    begin_all(sender)
    assert sender.wanted(0, NOON) == 32


def test_there_is_room_for_some_that_are_urgent_however_much_is_held() -> None:
    sender = a_sender()
    sender.offer([Job(n) for n in range(200)])
    assert sender.wanted(0, NOON, urgent=True) == 16
    assert sender.room(0, NOON) == 0
    sender.offer([Job(200 + n, 0) for n in range(10)])
    assert sender.wanted(0, NOON, urgent=True) == 6
    sender.offer([Job(300 + n, 0) for n in range(10)])
    assert sender.wanted(0, NOON, urgent=True) == 0


def test_in_order_is_one_at_a_time_whatever_the_priorities() -> None:
    sender = a_sender(ordered=True)
    sender.offer([Job(2, 0), Job(1, 2), Job(3, 1)])
    assert sender.wanted(0, NOON) == 0
    assert begin_all(sender) == [1]
    sender.ended(1, Verdict.DELIVERED, 0)
    assert begin_all(sender) == [2]


def test_in_order_none_overtakes_one_that_is_tried_again() -> None:
    sender = a_sender(ordered=True)
    sender.offer([Job(1), Job(2)])
    begin_all(sender)
    assert sender.ended(1, Verdict.OBJECT, 0).state == "waiting"
    assert begin_all(sender) == []
    assert sender.give_back(0, NOON) == [Settled(2, "waiting", 0)]
    assert sender.wanted(0, NOON) == 64


def test_in_order_they_go_on_behind_one_that_has_failed() -> None:
    sender = a_sender(ordered=True)
    sender.offer([Job(1), Job(2)])
    begin_all(sender)
    assert sender.ended(1, Verdict.REFUSED, 0).state == "failed"
    assert sender.give_back(0, NOON) == []
    assert begin_all(sender) == [2]


def test_a_study_has_an_association_of_its_own() -> None:
    sender = a_sender(group_by="study", concurrency=2)
    sender.offer([Job(1, group="A"), Job(2, group="B"), Job(3, group="A")])
    first, other = sender.begin(0, NOON, 0), sender.begin(0, NOON, 1)
    assert first is not None
    assert other is not None
    assert (first.id, other.id) == (1, 2)
    sender.ended(1, Verdict.DELIVERED, 0)
    sender.ended(2, Verdict.DELIVERED, 0)
    assert sender.begin(0, NOON, 1) is None  # A is on the other one
    assert begin_all(sender, lane=0) == [3]
    sender.ended(3, Verdict.DELIVERED, 0)
    sender.offer([Job(4, group="C")])
    assert sender.begin(0, NOON, 0) is None
    sender.leave(0)
    assert begin_all(sender, lane=0) == [4]


# how much


def test_a_rate_is_kept() -> None:
    sender = a_sender(rate=2, concurrency=100)
    sender.offer([Job(n) for n in range(50)])
    begun = [len(begin_all(sender, now)) for now in (0, 0.25, 0.5, 1, 10)]
    assert begun == [2, 0, 1, 1, 2]
    assert sender.seconds_until_change(10, NOON) == 0.5


def test_a_bandwidth_is_kept_as_a_mean() -> None:
    sender = a_sender(bandwidth=1000, concurrency=100)
    sender.offer([Job(n, size=5000) for n in range(9)])
    assert begin_all(sender) == [0]
    assert begin_all(sender, 4.0) == []
    assert sender.seconds_until_change(4.0, NOON) == pytest.approx(0.001)
    assert begin_all(sender, 4.002) == [1]


def test_nothing_begins_outside_its_hours() -> None:
    sender = a_sender(schedule=Schedule(["13:00-14:00"]))
    sender.offer([Job(1)])
    assert begin_all(sender) == []
    assert sender.wanted(0, NOON) == 0
    assert sender.state(0, NOON) == "outside hours"
    assert sender.seconds_until_change(0, NOON) == 3600
    assert sender.give_back(0, NOON) == [Settled(1, "waiting", 0)]
    assert sender.wanted(0, NOON + timedelta(hours=1)) == 64


def test_what_is_paused_waits_and_nothing_is_held_meanwhile() -> None:
    sender = a_sender()
    sender.offer([Job(1), Job(2)])
    assert sender.begin(0, NOON) is not None
    sender.pause()
    assert begin_all(sender) == []
    assert sender.give_back(0, NOON) == [Settled(2, "waiting", 0)]
    assert sender.seconds_until_change(0, NOON) is None
    assert sender.state(0, NOON) == "paused"
    assert sender.ended(1, Verdict.DELIVERED, 0).state == "done"
    sender.resume()
    assert sender.wanted(0, NOON) == 64


# what fails


def test_a_destination_that_fails_is_left_alone_then_asked_with_one() -> None:
    sender = a_sender()
    break_off(sender)
    sender.offer([Job(1), Job(2)])
    assert sender.state(0, NOON) == "open"
    assert sender.last_trouble == "no route"
    assert begin_all(sender) == []
    assert sender.wanted(0, NOON) == 0
    assert len(sender.give_back(0, NOON)) == 2
    assert sender.seconds_until_change(0, NOON) == 5
    assert sender.wanted(5, NOON) == 4  # one more than those that it did not take: one of them is tried
    assert sender.state(5, NOON) == "half-open"
    sender.offer([Job(100), Job(1), Job(2)])
    assert begin_all(sender, 5) == [2]
    assert sender.wanted(5, NOON) == 0
    sender.ended(2, Verdict.DELIVERED, 6)
    assert begin_all(sender, 6) == []
    assert [back.id for back in sender.give_back(6, NOON)] == [1, 100]  # they may not be what is next
    sender.offer([Job(1)])
    assert begin_all(sender, 6) == [1]


def test_pauses_grow_and_are_shortened_at_random() -> None:
    numbers = iter([1.0] * 6 + [0.0] * 99)
    sender = Sender("A", SenderOptions(failures=1), random=lambda: next(numbers))
    now, pauses = 0.0, []
    for job_id in range(9):
        break_off(sender, 1, now, job_id)
        pauses.append(sender.seconds_until_change(now, NOON) or 0)
        now += pauses[-1]
    assert pauses == [5, 10, 20, 20, 40, 80, 150, 150, 150]


def test_a_days_outage_burns_no_attempts() -> None:
    sender = a_sender()
    now = 0.0
    for _ in range(100):
        now += sender.seconds_until_change(now, NOON) or 0
        sender.offer([Job(1, attempts=2)])
        assert sender.begin(now, NOON) is not None
        assert sender.ended(1, Verdict.DESTINATION, now)[:3] == (1, "waiting", 2)


def test_an_instance_that_is_not_taken_steps_aside_and_fails_in_the_end() -> None:
    sender = a_sender(object_attempts=3, concurrency=1)
    attempts = 0
    delays: list[float] = []
    for _ in range(2):
        sender.offer([Job(1, attempts=attempts), Job(2)])
        assert sender.begin(0, NOON) == Job(1, attempts=attempts)
        settled = sender.ended(1, Verdict.OBJECT, 0)
        assert settled.state == "waiting"
        attempts, delays = settled.attempts, [*delays, settled.delay]
        assert begin_all(sender) == [2]  # at once
        sender.ended(2, Verdict.DELIVERED, 0)
    assert delays == [5, 10]
    sender.offer([Job(1, attempts=attempts)])
    begin_all(sender)
    assert sender.ended(1, Verdict.OBJECT, 0) == Settled(1, "failed", 3)
    assert sender.state(0, NOON) == "ok"


def test_what_is_refused_fails_at_once() -> None:
    sender = a_sender()
    sender.offer([Job(1)])
    begin_all(sender)
    assert sender.ended(1, Verdict.REFUSED, 0) == Settled(1, "failed", 1)


def test_when_no_instance_is_taken_it_is_not_the_instances() -> None:
    """A peer whose database is down says 0x0110 to all of them: none of a million may fail for it."""
    sender = a_sender(object_attempts=2)
    now, states = 0.0, []
    for job_id in range(40):
        now += sender.seconds_until_change(now, NOON) or 0
        sender.offer([Job(job_id)])
        assert sender.begin(now, NOON) is not None
        states.append(sender.ended(job_id, Verdict.OBJECT, now)[1:3])
    assert states == [("waiting", 1)] * 20 + [("waiting", 0)] * 20
    assert sender.state(now, NOON) == "open"
    now += sender.seconds_until_change(now, NOON) or 0
    sender.offer([Job(99)])
    sender.begin(now, NOON)
    sender.ended(99, Verdict.DELIVERED, now)
    assert sender.state(now, NOON) == "ok"


def test_an_instance_that_kills_its_association_delays_the_others_by_one_attempt() -> None:
    sender = a_sender(concurrency=1)
    for _ in range(50):
        sender.offer([Job(1)])
        assert sender.begin(0, NOON) is not None
        settled = sender.ended(1, Verdict.BROKEN, 0, "aborted")
        assert settled.state == "waiting"  # it may have been the network
        assert sender.state(0, NOON) == "ok"
    assert settled.delay == 300
    sender.offer([Job(2)])
    assert begin_all(sender) == [2]


def test_a_lost_association_uses_up_no_attempt() -> None:
    sender = a_sender(object_attempts=2)
    for verdict, attempts in ((Verdict.BROKEN, 0), (Verdict.BROKEN, 0), (Verdict.OBJECT, 1)):
        sender.offer([Job(1)])
        begin_all(sender)
        assert sender.ended(1, verdict, 0)[1:3] == ("waiting", attempts)


def test_different_ones_that_are_lost_are_failures_of_the_destination() -> None:
    sender = a_sender()
    sender.offer([Job(1), Job(2), Job(3)])
    for job_id in begin_all(sender):
        sender.ended(job_id, Verdict.BROKEN, 0)
    assert sender.state(0, NOON) == "open"


class Line:
    """What waits for a destination, as the outbox gives it: the next ready ones, or the last of them."""

    def __init__(self, sender: Sender, first: int, behind: int, verdict: Verdict) -> None:
        self.sender = sender
        self.verdict = verdict
        self.bad = first
        self.rows = dict.fromkeys(range(first + behind), (0.0, 0))  # due, and attempts
        self.now = 0.0
        self.sent: list[int] = []
        self.done: list[int] = []

    def go_on(self, until: float) -> None:
        """Send until then, one at a time."""
        sender = self.sender
        while self.now < until:
            for back in sender.give_back(self.now, NOON):
                self.rows[back.id] = (self.now, back.attempts)
            ready = sorted(
                (job_id for job_id, (due, _) in self.rows.items() if due <= self.now),
                reverse=sender.wants_newest,
            )
            ready = [job_id for job_id in ready if job_id not in sender.claimed()]
            jobs = [Job(job_id, attempts=self.rows[job_id][1]) for job_id in ready]
            sender.offer(jobs[: sender.wanted(self.now, NOON)])
            job = sender.begin(self.now, NOON)
            if job is None:
                due = [due for due, _ in self.rows.values() if due > self.now]
                change = sender.seconds_until_change(self.now, NOON) or 1e9
                self.now = max(self.now + 0.01, min([*due, self.now + change, until]))
                continue
            self.sent.append(job.id)
            settled = sender.ended(job.id, self.verdict if job.id < self.bad else Verdict.DELIVERED, self.now)
            self.rows[job.id] = (self.now + settled.delay, settled.attempts)
            if settled.state != "waiting":
                del self.rows[job.id]
                self.done += [job.id] if settled.state == "done" else []


@pytest.mark.parametrize("verdict", [Verdict.OBJECT, Verdict.DESTINATION, Verdict.BROKEN])
@pytest.mark.parametrize("number", [1, 25, 200])
def test_any_number_that_it_never_takes_keep_no_others_from_it(verdict: Verdict, number: int) -> None:
    """Also of those that came when it had taken none for a night: it is tried with another one each time."""
    line = Line(a_sender(concurrency=1), number, 0, verdict)
    line.go_on(8 * 3600.0)
    assert len(line.sent) < 8 * 3600 / 150 + 4 * number + 20  # and it is left alone meanwhile
    late = range(number, number + 50)
    line.rows |= dict.fromkeys(late, (line.now, 0))
    line.go_on(line.now + 900)
    assert sorted(line.done) == list(late)


def test_one_that_it_has_never_room_for_waits_longer_and_longer_while_it_takes_others() -> None:
    line = Line(a_sender(concurrency=1), 1, 2000, Verdict.DESTINATION)
    due = {job_id: (5.0 * job_id, 0) for job_id in range(2001)}
    line.rows = due
    line.go_on(2 * 3600.0)
    assert line.sent.count(0) < 35
    assert line.sender.state(line.now, NOON) == "ok"


def test_in_order_nothing_is_tried_before_its_turn() -> None:
    line = Line(a_sender(ordered=True), 1, 5, Verdict.DESTINATION)
    line.rows = {0: (0.0, 0)}
    line.go_on(3600.0)
    assert set(line.sent) == {0}
    assert not line.sender.wants_newest


def test_what_cannot_be_read_here_says_nothing_of_the_destination() -> None:
    sender = a_sender(object_attempts=2)
    break_off(sender)
    sender.offer([Job(1)])
    assert sender.begin(5, NOON) is not None
    assert sender.ended(1, Verdict.UNREADABLE, 5) == Settled(1, "waiting", 1, 5.0)
    assert sender.state(5, NOON) == "half-open"
    sender.offer([Job(1, attempts=1)])
    sender.begin(5, NOON)
    assert sender.ended(1, Verdict.UNREADABLE, 5) == Settled(1, "failed", 2)


def test_when_no_file_can_be_read_it_is_not_the_files() -> None:
    """A disk that is not mounted: none of a million may fail for it."""
    line = Line(a_sender(object_attempts=2), 100, 0, Verdict.UNREADABLE)
    line.go_on(3600.0)
    assert len(line.rows) == 100
    assert line.sender.state(line.now, NOON) in ("open", "half-open")
    line.bad = 0
    line.go_on(2 * 3600.0)
    assert len(line.done) == 100


def test_what_cannot_be_read_now_uses_up_no_attempts() -> None:
    sender = a_sender(object_attempts=1)
    sender.offer([Job(1)])
    begin_all(sender)
    assert sender.ended(1, Verdict.HERE, 0)[1:3] == ("waiting", 0)


@pytest.mark.parametrize("give_up_after", [None, 10.0])
def test_what_was_not_sent_changes_nothing(give_up_after: float | None) -> None:
    sender = a_sender(give_up_after=give_up_after)
    sender.offer([Job(1, attempts=1, failing_for=3600.0)])
    begin_all(sender)
    assert sender.ended(1, Verdict.RETURNED, 0) == Settled(1, "waiting", 1)
    assert sender.failures == 0


@pytest.mark.parametrize("verdict", [Verdict.OBJECT, Verdict.DESTINATION, Verdict.BROKEN])
def test_nothing_is_given_up_by_age_unless_it_is_written(verdict: Verdict) -> None:
    for after, state in ((None, "waiting"), (86400.0, "failed")):
        sender = a_sender(give_up_after=after)
        sender.offer([Job(1, failing_for=1e6)])
        begin_all(sender)
        assert sender.ended(1, verdict, 0).state == state


def test_resume_ends_a_pause_for_failures_too() -> None:
    sender = a_sender()
    break_off(sender)
    sender.resume()
    assert sender.state(0, NOON) == "ok"


def test_the_first_that_can_be_reached_is_chosen() -> None:
    senders = {name: Sender(name, SenderOptions(), random=lambda: 1.0) for name in "AB"}
    assert first_available("AB", senders, 0, NOON) is senders["A"]
    break_off(senders["A"])
    assert first_available("AB", senders, 0, NOON) is senders["B"]
    assert first_available("AB", senders, 5, NOON) is senders["A"]  # one is tried
    senders["A"].offer([Job(1)])
    assert senders["A"].begin(5, NOON) is not None
    assert first_available("AB", senders, 5, NOON) is senders["B"]  # the others go on
    senders["B"].pause()
    assert first_available("AB", senders, 5, NOON) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"rate": 0},
        {"bandwidth": -1.0},
        {"rate": float("nan")},
        {"give_up_after": 0},
        {"group_by": "series"},
        {"ordered": True, "group_by": "study"},
        {"object_attempts": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        SenderOptions(**wrong)


OPTIONS = [
    SenderOptions(concurrency=3),
    SenderOptions(ordered=True, object_attempts=2),
    SenderOptions(concurrency=2, group_by="study"),
    SenderOptions(concurrency=5, rate=3.0, bandwidth=100.0),
    SenderOptions(concurrency=2, schedule=Schedule(["12:00-12:10"])),
    SenderOptions(concurrency=1, give_up_after=50.0, failures=1),
]


class SenderMachine(RuleBasedStateMachine):
    """Whatever happens, each delivery is in one place, and nothing begins that may not."""

    @initialize(options=st.sampled_from(OPTIONS), seed=st.integers(0, 99))
    def start(self, options: SenderOptions, seed: int) -> None:
        self.options = options
        self.sender = Sender("A", options, random=random.Random(seed).random)
        self.now = 0.0
        self.next_id = 0
        self.waiting: dict[int, int] = {}  # all that are not settled: id -> attempts
        self.claimed: set[int] = set()
        self.begun: dict[int, bool] = {}  # id -> whether it is a probe
        self.done: set[int] = set()

    @property
    def clock(self) -> datetime:
        return NOON + timedelta(seconds=self.now)

    def job(self, job_id: int) -> Job:
        return Job(job_id, job_id % 3, job_id % 50, "AB"[job_id % 2], self.waiting[job_id], self.now)

    @rule(count=st.integers(1, 5))
    def enqueue(self, count: int) -> None:
        for _ in range(count):
            self.waiting[self.next_id] = 0
            self.next_id += 1

    @rule(urgent=st.booleans())
    def claim(self, urgent: bool) -> None:
        wanted = self.sender.wanted(self.now, self.clock, urgent=urgent)
        assert wanted >= 0
        if wanted:
            assert self.sender.is_available(self.now, self.clock)
        ids = sorted(self.waiting.keys() - self.claimed - self.begun.keys())[:wanted]
        self.sender.offer([self.job(job_id) for job_id in ids])
        for job_id in ids:
            self.claimed.add(job_id)

    @rule(lane=st.integers(0, 2))
    def begin(self, lane: int) -> None:
        state = self.sender.state(self.now, self.clock)
        job = self.sender.begin(self.now, self.clock, lane)
        if job is None:
            return
        assert state in ("ok", "half-open")
        assert job.id in self.claimed
        if self.options.ordered:
            assert job.id == min(self.claimed)
        self.claimed.remove(job.id)
        self.begun[job.id] = state == "half-open"

    @precondition(lambda self: self.begun)
    @rule(which=st.integers(0, 99), verdict=st.sampled_from(Verdict))
    def end(self, which: int, verdict: Verdict) -> None:
        job_id = sorted(self.begun)[which % len(self.begun)]
        before = self.waiting[job_id]
        settled = self.sender.ended(job_id, verdict, self.now, verdict.value)
        del self.begun[job_id]
        assert settled.id == job_id
        assert settled.attempts >= before
        assert (settled.state == "done") == (verdict is Verdict.DELIVERED)
        if verdict in (Verdict.DESTINATION, Verdict.BROKEN, Verdict.HERE, Verdict.RETURNED):
            assert settled.attempts == before
            assert settled.state == "waiting" or self.options.give_up_after
        assert 0 <= settled.delay <= self.options.longest_pause
        self.settle(settled)

    @rule(all_of_it=st.booleans())
    def give_back(self, all_of_it: bool) -> None:
        for settled in self.sender.give_back(self.now, self.clock, all_of_it=all_of_it):
            self.claimed.remove(settled.id)
            assert settled.attempts == self.waiting[settled.id]
            self.settle(settled)

    def settle(self, settled: Settled) -> None:
        if settled.state == "waiting":
            self.waiting[settled.id] = settled.attempts
        else:
            del self.waiting[settled.id]
            self.done.add(settled.id)

    @rule(lane=st.integers(0, 2))
    def leave(self, lane: int) -> None:
        self.sender.leave(lane)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 400.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def wait_for_change(self) -> None:
        wait = self.sender.seconds_until_change(self.now, self.clock)
        if wait is not None:
            assert wait > 0
            self.now += wait
            if not self.begun and self.sender.seconds_until_change(self.now, self.clock) is None:
                assert self.sender.is_available(self.now, self.clock)

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        (self.sender.pause if paused else self.sender.resume)()
        self.begun = dict.fromkeys(self.begun, False)  # a resume lets all begin

    @invariant()
    def each_is_in_one_place(self) -> None:
        if not hasattr(self, "sender"):
            return
        assert sorted(self.sender.claimed()) == sorted([*self.claimed, *self.begun])
        assert self.sender.underway <= (1 if self.options.ordered else self.options.concurrency)
        assert sum(self.begun.values()) <= 1


SenderMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestSenderMachine = SenderMachine.TestCase


def test_a_machine_that_loses_a_delivery_is_noticed() -> None:
    """The invariant can fail."""
    machine = SenderMachine()
    machine.start(replace(OPTIONS[0]), 0)
    machine.enqueue(1)
    machine.claim(False)
    machine.sender.give_back(0, NOON, all_of_it=True)
    with pytest.raises(AssertionError):
        machine.each_is_in_one_place()
