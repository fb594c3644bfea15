"""`Sender`: what is sent to one destination, and when. Time is an argument; nothing here waits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from asyncdicom.archive.index.work import Which
from asyncdicom.breaker import Breaker, pause_after
from asyncdicom.gateway.schedule import Schedule
from asyncdicom.gateway.verdicts import Verdict

__all__ = ["Job", "Sender", "SenderOptions", "Settled", "first_available"]

_HELD = 64  # deliveries that are claimed together: one at a time costs twenty times as much
_HELD_FOR_EACH = 4  # of those that are under way at the same time: more are claimed before they run out
_ROOM_FOR_URGENT = 16
_SUSPICIOUS = 20  # instances in a row that were not taken: then it is not the instances
_REMEMBERED = 1000  # deliveries that came to nothing when they were last sent


@dataclass(frozen=True)
class SenderOptions:
    """How a destination is sent to. Raises ValueError for numbers that make no sense."""

    concurrency: int = 4
    """Instances that are under way at the same time."""

    rate: float | None = None
    """Instances a second, at most; None: as many as it takes."""

    bandwidth: float | None = None
    """Bytes of data sets a second, at most, as a mean; None: as many as it takes."""

    schedule: Schedule = field(default_factory=Schedule)
    """When it is sent to. What is under way at the end of a window is finished."""

    ordered: bool = False
    """One instance after the other, in the order in which they came: all wait for one that is tried again."""

    group_by: str = ""
    """"study": all instances of a study that wait are sent on one association, and no others."""

    object_attempts: int = 3
    """How often an instance is offered that is not taken (0xA9xx, 0xCxxx, 0x0110)."""

    give_up_after: float | None = None
    """Seconds after the first failure after which a delivery is given up; None: never."""

    failures: int = 3
    """Failures of the destination in a row after which there is a pause."""

    first_pause: float = 5.0
    """Seconds; each further pause is twice as long, and shortened at random by up to a half."""

    longest_pause: float = 300.0
    """Seconds."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.object_attempts < 1 or self.failures < 1:
            raise ValueError("concurrency, object_attempts and failures are at least 1")
        for name in ("rate", "bandwidth", "give_up_after", "first_pause", "longest_pause"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is a number greater than 0, not {value}")
        if self.group_by not in ("", "study"):
            raise ValueError(f'group_by is "study" or not there, not {self.group_by!r}')
        if self.ordered and self.group_by:
            raise ValueError("ordered and group_by exclude each other")


class Job(NamedTuple):
    """A delivery that was claimed. `size` in bytes, `failing_for` in seconds since it first failed."""

    id: int
    priority: int = 1
    size: int = 0
    group: str = ""
    attempts: int = 0
    failing_for: float = 0.0


class Settled(NamedTuple):
    """What becomes of a delivery: "done", "failed" (an operator may have it tried again) or "waiting".

    `delay`: seconds until it is due again. `attempts`: those that count against it so far.
    """

    id: int
    state: str
    attempts: int
    delay: float = 0.0


class _Bucket:
    """So much a second, and that much in a burst; what is larger makes those behind it wait the longer."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._burst = self._level = max(rate or 0.0, 1.0)
        self._at: float | None = None

    def wait(self, now: float) -> float:
        """Give the seconds until something may be taken."""
        if self._rate is None:
            return 0.0
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(1.0 - self._level, 0.0) / self._rate

    def take(self, amount: float) -> None:
        if self._rate is not None:
            self._level -= amount


class _Underway(NamedTuple):
    job: Job
    attempt: int


class _Untaken(NamedTuple):
    """A delivery that came to nothing: how many times, and how many had been delivered before the first."""

    times: int
    delivered: int


class Sender:
    """The deliveries to one destination that this process has claimed; which one goes next, and what follows.

    `wanted` says how many to claim, `offer` takes them. `begin` gives the next one that may be sent now, or
    None; `ended` takes what came of it and gives what becomes of the delivery. `give_back` gives what is
    claimed in vain: ask for it after each of these. `seconds_until_change` says when to ask again.

    Failures of the destination (no connection, rejections, 0xA7xx) make a pause for all, and count against no
    delivery; what is about one instance makes a pause for that one. `random` gives numbers from 0 to 1.
    `now` is in seconds, of a clock that is never put back; `clock` is the time of day.
    """

    def __init__(self, name: str, options: SenderOptions, *, random: Callable[[], float]) -> None:
        self.name = name
        self.options = options
        self.is_paused = False
        self.last_trouble = ""
        self._random = random
        self._breaker = Breaker(
            options.failures, options.first_pause, options.longest_pause, jitter=self._jittered
        )
        self._most = max(_HELD, _HELD_FOR_EACH * options.concurrency)
        self._held: list[tuple[int, int, Job]] = []  # a heap
        self._underway: dict[int, _Underway] = {}
        self._rate = _Bucket(options.rate)
        self._bandwidth = _Bucket(options.bandwidth)
        self._is_out_of_order = False  # one that is tried again is behind those that are held
        self._lanes: dict[int, str] = {}
        self._suspects: set[int] = set()  # deliveries that were lost with their association
        self._refusals: set[int] = set()  # those not taken since one was
        self._delivered = 0
        self._untaken: dict[int, _Untaken] = {}  # those that came to nothing, the last one at the end

    # what it is about

    @property
    def held(self) -> int:
        """How many deliveries are claimed and not under way."""
        return len(self._held)

    @property
    def is_low(self) -> bool:
        """Whether so little is held that more is to be claimed."""
        return len(self._held) <= self._most // 2

    @property
    def next_is_urgent(self) -> bool:
        """Whether something urgent is held."""
        return bool(self._held) and self._held[0][2].priority == 0

    @property
    def underway(self) -> int:
        """How many are being sent."""
        return len(self._underway)

    def claimed(self) -> list[int]:
        """Give the deliveries that this process has: their leases are to be renewed."""
        return [job.id for _, _, job in self._held] + list(self._underway)

    def state(self, now: float, clock: datetime) -> str:
        """Give "ok", "paused", "outside hours", "open" (it is left alone for a while) or "half-open"."""
        if self.is_paused:
            return "paused"
        if not self._breaker.is_closed:
            return "half-open" if self._breaker.wait(now) == 0 else "open"
        return "ok" if self.options.schedule.is_open(clock) else "outside hours"

    @property
    def failures(self) -> int:
        """How many times in a row the destination has failed."""
        return self._breaker.failures

    def is_available(self, now: float, clock: datetime) -> bool:
        """Tell whether something may be sent now, as far as the destination is concerned."""
        return not self.is_paused and self.options.schedule.is_open(clock) and self._breaker.lets_through(now)

    def pause(self) -> None:
        """Begin nothing more until `resume`; what is under way is finished."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on; a pause because of failures is over, too."""
        self.is_paused = False
        self._breaker.succeeded()

    # claiming

    def wanted(self, now: float, clock: datetime, *, urgent: bool = False) -> int:
        """Say how many deliveries to claim now. `urgent`: for those that shall overtake what is held."""
        if not self.is_available(now, clock):
            return 0
        if not self._breaker.is_closed:  # one to try it with, other than those that it did not take
            most = 1 if self.options.ordered else min(1 + len(self._untaken), _HELD)
            return max(most - self.held, 0)
        if self.options.ordered:
            return 0 if self._held or self._underway else _HELD
        if urgent:  # there is room for some, however much is held that is not
            held = sum(job.priority == 0 for _, _, job in self._held)
            return max(self._most + _ROOM_FOR_URGENT - self.held, _ROOM_FOR_URGENT - held, 0)
        return self._most - self.held if self.is_low else 0

    def room(self, now: float, clock: datetime) -> int:
        """Say how many deliveries to claim as they come, while nothing waits."""
        if self.options.ordered or not (self._breaker.is_closed and self.is_available(now, clock)):
            return 0
        return max(self._most - self.held, 0)

    @property
    def wants_newest(self) -> bool:
        """Whether to claim those that came last, and not those that are next.

        A destination that takes none of those that are next may take others. So it is tried with one of the
        next and one of the last by turns, and with none again as long as there are others.
        """
        is_odd = self._breaker.failures % 2 == 1
        return is_odd and not (self._breaker.is_closed or self.options.ordered)

    @property
    def which(self) -> Which:
        """Which of what is ready is to be claimed."""
        if self.options.ordered:
            return Which.IN_ORDER
        return Which.NEWEST if self.wants_newest else Which.NEXT

    def offer(self, jobs: Iterable[Job]) -> None:
        """Take deliveries that were claimed."""
        for job in jobs:
            heapq.heappush(self._held, (0 if self.options.ordered else job.priority, job.id, job))

    def give_back(self, now: float, clock: datetime, *, all_of_it: bool = False) -> list[Settled]:
        """Give up what has not begun, if nothing may be sent for a while, or `all_of_it`."""
        waits = self.is_paused or self._breaker.wait(now) > 0 or not self.options.schedule.is_open(clock)
        if not (all_of_it or waits or self._is_out_of_order):
            return []
        self._is_out_of_order = False
        held, self._held = self._held, []
        return [Settled(job.id, "waiting", job.attempts) for _, _, job in held]

    # sending

    def begin(self, now: float, clock: datetime, lane: int = 0) -> Job | None:
        """Give the delivery to send now; None if there is none, or none may be.

        `lane`: the number of an association, for `group_by`: it has one study until `leave` is called.
        """
        options = self.options
        if len(self._underway) >= (1 if options.ordered else options.concurrency):
            return None
        if not self._held or self._is_out_of_order or not self.is_available(now, clock):
            return None
        if max(self._rate.wait(now), self._bandwidth.wait(now)) > 0:
            return None
        job = self._take(lane)
        if job is None:
            return None
        attempt = self._breaker.begin(now)
        if attempt is None:  # `is_available` says that there is one
            self.offer([job])
            return None
        self._rate.take(1)
        self._bandwidth.take(job.size)
        self._underway[job.id] = _Underway(job, attempt)
        return job

    def _take(self, lane: int) -> Job | None:
        is_trial = not self._breaker.is_closed
        if not (self.options.group_by or is_trial):
            return heapq.heappop(self._held)[2]
        own = self._lanes.get(lane)
        taken = set(self._lanes.values())
        in_turn = sorted(self._held, reverse=self.wants_newest)
        if is_trial:  # one that has not been tried, or whose turn was the longest ago
            turns = {job_id: turn for turn, job_id in enumerate(self._untaken)}
            in_turn.sort(key=lambda each: turns.get(each[2].id, -1))
        for each in in_turn:
            group = each[2].group
            if not self.options.group_by or group == own or (own is None and group not in taken):
                self._held.remove(each)
                heapq.heapify(self._held)
                if self.options.group_by:
                    self._lanes.pop(lane, None)
                    self._lanes[lane] = group  # the one that was used last is the last
                return each[2]
        return None

    @property
    def lanes(self) -> list[int]:
        """Give the associations that have a study; the one that was used last is the last."""
        return list(self._lanes)

    @property
    def others_wait(self) -> bool:
        """Whether something is held of a study that no association has."""
        taken = set(self._lanes.values())
        return any(job.group not in taken for _, _, job in self._held)

    def goes_on(self, lane: int) -> bool:
        """Tell whether something is held of the study that an association has."""
        return any(job.group == self._lanes.get(lane) for _, _, job in self._held)

    def wants_more_of(self, lane: int, now: float, clock: datetime) -> tuple[str, int]:
        """Give the study of an association of which nothing is held, and how much of it to claim."""
        study = self._lanes.get(lane, "")
        if not study or self.goes_on(lane) or not self._breaker.is_closed:
            return "", 0
        return study, _HELD if self.is_available(now, clock) else 0

    def leave(self, lane: int) -> None:
        """Say that an association has ended: its study may be taken up on another one."""
        self._lanes.pop(lane, None)

    def ended(self, job_id: int, verdict: Verdict, now: float, trouble: str = "") -> Settled:
        """Take what came of a delivery that `begin` has given, and say what becomes of it."""
        job, attempt = self._underway.pop(job_id)
        if verdict is not Verdict.DELIVERED and trouble:
            self.last_trouble = trouble
        settled = self._settle(job, attempt, verdict, now)
        after = self.options.give_up_after
        is_over = after is not None and job.failing_for >= after and verdict is not Verdict.RETURNED
        if settled.state == "waiting" and is_over:
            return settled._replace(state="failed", delay=0.0)
        self._is_out_of_order |= self.options.ordered and settled.state == "waiting"
        return settled

    def _settle(self, job: Job, attempt: int, verdict: Verdict, now: float) -> Settled:
        match verdict:
            case Verdict.DELIVERED:
                self._answered()
                self._refusals.clear()
                self._delivered += 1
                self._untaken.pop(job.id, None)
                return Settled(job.id, "done", job.attempts + 1)
            case Verdict.REFUSED:
                self._answered()
                return Settled(job.id, "failed", job.attempts + 1)
            case Verdict.OBJECT | Verdict.UNREADABLE:
                return self._not_taken(job, attempt, now, verdict)
            case Verdict.DESTINATION | Verdict.HERE:
                return self._not_now(job, attempt, now)
            case Verdict.BROKEN:
                return self._lost(job, attempt, now)
            case Verdict.RETURNED:
                self._breaker.abandoned(attempt)
                return Settled(job.id, "waiting", job.attempts)

    def _answered(self) -> None:
        if not self._breaker.is_closed and self._held:
            self._is_out_of_order = True  # what was claimed for the trial is not what is next
        self._breaker.succeeded()
        self._suspects.clear()

    def _not_taken(self, job: Job, attempt: int, now: float, verdict: Verdict) -> Settled:
        """The peer works, and does not take this one. When it takes none, it does not work either.

        So it is with a disk: one file may be missing; if all are, it is not mounted.
        """
        self._refusals.add(job.id)
        self._remember(job)
        if len(self._refusals) > _SUSPICIOUS:
            self._breaker.failed(attempt, now)
            return Settled(job.id, "waiting", job.attempts, self._pause(job.attempts + 1))
        if verdict is Verdict.OBJECT:
            self._answered()
        else:
            self._breaker.abandoned(attempt)
        return self._again_or_failed(job)

    def _not_now(self, job: Job, attempt: int, now: float) -> Settled:
        """Nothing can be sent now; or not this one, if others were since it first came to nothing."""
        is_about_it, times = self._remember(job)
        if is_about_it and self._breaker.is_closed:  # else it was tried because there is no other
            self._breaker.abandoned(attempt)
        else:
            self._breaker.failed(attempt, now)
        return Settled(job.id, "waiting", job.attempts, self._pause(times if is_about_it else 1))

    def _remember(self, job: Job) -> tuple[bool, int]:
        """Note that one came to nothing; tells whether others were delivered since it first did, and how
        many times it did.
        """
        before = self._untaken.pop(job.id, _Untaken(0, self._delivered))
        times = before.times + 1
        self._untaken[job.id] = _Untaken(times, before.delivered)
        if len(self._untaken) > _REMEMBERED:
            del self._untaken[next(iter(self._untaken))]
        return self._delivered > before.delivered, times

    def _again_or_failed(self, job: Job) -> Settled:
        attempts = job.attempts + 1
        if attempts >= self.options.object_attempts:
            return Settled(job.id, "failed", attempts)
        return Settled(job.id, "waiting", attempts, self._pause(attempts))

    def _lost(self, job: Job, attempt: int, now: float) -> Settled:
        """One that kills its associations every time must not keep the others waiting: only it waits."""
        is_about_it, times = self._remember(job)
        if (is_about_it or job.id in self._suspects) and self._breaker.is_closed:
            self._breaker.abandoned(attempt)
        else:
            self._suspects.add(job.id)
            self._breaker.failed(attempt, now)
        return Settled(job.id, "waiting", job.attempts, self._pause(times))

    def _pause(self, attempts: int) -> float:
        return self._jittered(pause_after(attempts, self.options.first_pause, self.options.longest_pause))

    def _jittered(self, pause: float) -> float:
        return pause * (0.5 + self._random() / 2)

    # time

    def seconds_until_change(self, now: float, clock: datetime) -> float | None:
        """Give when asking `wanted` or `begin` again is worth it; None: when something else has happened."""
        if self.is_paused:
            return None
        wait = max(self._breaker.wait(now), self.options.schedule.seconds_until_open(clock))
        if self._held:
            wait = max(wait, self._rate.wait(now), self._bandwidth.wait(now))
        return wait or None


def first_available(
    names: Sequence[str], senders: Mapping[str, Sender], now: float, clock: datetime
) -> Sender | None:
    """Choose among the destinations of a `first_of`: the first that may be sent to now."""
    return next((sender for name in names if (sender := senders[name]).is_available(now, clock)), None)
