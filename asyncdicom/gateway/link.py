"""`Link`: one destination at work. The sender decides, the outbox keeps, the courier carries."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from random import random
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed, Settlement
from asyncdicom.archive.index.work import State, Which, is_revision_of
from asyncdicom.gateway.carrier import Carrier, Trip
from asyncdicom.gateway.config import GatewayDestination
from asyncdicom.gateway.courier import Courier
from asyncdicom.gateway.folder import FolderCourier, FolderTemplate
from asyncdicom.gateway.routing import DELIVERY
from asyncdicom.gateway.sender import Job, Sender, Settled
from asyncdicom.gateway.verdicts import Verdict, cause_of, verdict_of_error, verdict_of_status
from asyncdicom.services.contexts import Kind
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log

__all__ = ["Link"]

_LOG = Log("asyncdicom.gateway")

_LOOK = 30.0  # seconds between two looks at what may have to be taken over
_AFTER_ERROR = 2.0  # seconds, when the index could not be asked
_STATES = {"done": State.DONE, "failed": State.FAILED}

Chooser = Callable[[str], Sender | None]
"""Gives the sender that the deliveries of a line go to now: of several destinations, the first available."""


_Times = tuple[float, datetime]
"""The time of the event loop, and the time of day."""


class Link:
    """Sends what waits in the outbox for one destination, by its own line and those of its groups.

    A line that several destinations share is emptied by the one that `choose` gives. `on_trouble`: called
    when something was not delivered, so that others of a group look after it. `kinds`: what may come.
    `delivered`: counts by the destination's name; the next link of that name goes on counting.
    """

    def __init__(
        self,
        archive: Archive,
        destination: GatewayDestination,
        lines: Sequence[str],
        *,
        calling_ae_title: str,
        kinds: Iterable[Kind],
        choose: Chooser,
        on_trouble: Callable[[Link], None],
        delivered: Counter[str],
    ) -> None:
        self.destination = destination
        self.sender = Sender(destination.name, destination.options, random=random)
        self.lines = tuple(lines)
        self.last_status: int | None = None
        self._archive = archive
        self._outbox = archive.outbox
        self._courier = _carrier(archive, destination, calling_ae_title, kinds)
        self._choose = choose
        self._on_trouble = on_trouble
        self._delivered = delivered
        self._claimed: dict[int, Claimed] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._ends: list[Settlement] = []  # of what has been sent, to be settled
        self._settling: asyncio.Task[None] | None = None
        self._lanes: set[int] = set()  # those that send now, with `group_by`
        self._since: dict[int, float] = {}  # when those that do not have ended
        self._wake = asyncio.Event()
        self._is_dry = False  # there was less than we asked for, and nothing came since
        self._news = 0  # how many times there may have come something
        self._is_urgent = False
        self._is_stopping = False
        self._task: asyncio.Task[None] | None = None

    # from outside

    def start(self) -> None:
        """Begin to send."""
        if self.destination.name in self._outbox.paused:
            self.sender.pause()
        self._task = asyncio.ensure_future(self._run())

    async def stop(self, patience: float) -> None:
        """Begin nothing more, let what is under way end within some seconds, and give back the rest."""
        if self._task is None:
            return
        self._is_stopping = True  # not cancelled: what it is about to claim has to be given back
        self._outbox.stand(DELIVERY, self.destination.name, 0, None)
        self._wake.set()
        await asyncio.wait((self._task,))
        if self._busy:
            await asyncio.wait(self._busy, timeout=patience)
        for task in self._busy:
            task.cancel()
        if self._busy:
            await asyncio.wait(self._busy)
        with suppress(Exception):  # what is not given back is taken back at the next start
            await self._give_back(_times(), all_of_it=True)
        if self._settling is not None:
            await asyncio.wait((self._settling,))
        await self._courier.close()

    def wake(self, destinations: Mapping[str, int] | None = None) -> None:
        """Look again: there is work for these lines (None: perhaps for any), or something has changed."""
        if destinations is not None:
            urgency = [destinations[line] for line in self.lines if line in destinations]
            if not urgency:
                return
            self._is_urgent |= min(urgency) == 0
        else:  # another process may have paused it
            is_paused = self.destination.name in self._outbox.paused
            if is_paused != self.sender.is_paused:
                (self.sender.pause if is_paused else self.sender.resume)()
        self._is_dry = False
        self._news += 1
        self._wake.set()

    def pause(self, *, paused: bool) -> None:
        """Pause, or go on."""
        (self.sender.pause if paused else self.sender.resume)()
        self.wake()

    def count_delivered(self) -> None:
        """Count an instance that was delivered."""
        self._delivered[self.destination.name] += 1

    @property
    def courier(self) -> Courier | None:
        """What sends to it, if it is no folder."""
        return self._courier if isinstance(self._courier, Courier) else None

    def claimed(self) -> list[int]:
        """Give the deliveries that this process has."""
        return list(self._claimed)

    def status(self) -> dict[str, Any]:
        """Give what an operator wants to see, without any look at the index."""
        now, clock = _times()
        return {
            "destination": self.destination.name,
            "address": str(self.destination.destination.where),
            "state": self.sender.state(now, clock),
            "under_way": self.sender.underway,
            "delivered_since_start": self._delivered[self.destination.name],
            "failures_in_a_row": self.sender.failures,
            "last_status": None if self.last_status is None else f"0x{self.last_status:04X}",
            "last_trouble": self.sender.last_trouble,
        }

    # the loop

    async def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            times = _times()  # the same for all: what changes between two looks would be seen by neither
            try:
                await self._give_back(times)
                await self._claim(times)
                await self._claim_studies(times)
                if self._is_stopping:
                    return
                self._begin(times)
                self._stand(times)
                wait = self._let_go(times[0], self.sender.seconds_until_change(*times))
            except Exception as error:
                _LOG.error("%s: the outbox failed: %s", self.destination.name, error or type(error).__name__)
                wait, self._is_urgent = _AFTER_ERROR, False  # it waits for its turn: what is held goes on
            await self._sleep(wait)

    async def _sleep(self, wait: float | None) -> None:
        if len(self.lines) > 1 and wait is None:
            wait = _LOOK  # the hours of another of the group may end, which nobody tells
        elif wait is not None:
            wait = min(wait, _LOOK)  # its own may begin sooner: nobody tells that the clock was set
        rests = wait is None and not self._busy
        try:
            async with asyncio.timeout(self.destination.keep_open if rests else wait):
                await self._wake.wait()
        except TimeoutError:
            if rests:
                self._courier.rest()
                await self._wake.wait()
            else:
                self._is_dry = False

    async def _give_back(self, times: _Times, *, all_of_it: bool = False) -> None:
        back = self.sender.give_back(*times, all_of_it=all_of_it)
        if back:
            await self._settle(back)

    async def _claim(self, times: _Times) -> None:
        """Claim what the sender wants, from each line whose turn it is."""
        if self._is_dry or self._is_stopping:
            return
        self._outbox.stand(DELIVERY, self.destination.name, 0, self._take)  # what comes would be too much
        urgent, news = self._is_urgent, self._news
        wanted = self.sender.wanted(*times, urgent=urgent)
        urgent_alone = urgent and self.sender.wanted(*times) == 0  # what is not would take their room
        has_more = urgent and wanted == 0
        for line in self.lines:
            if wanted <= 0 or self._choose(line) is not self.sender:
                continue
            which = Which.URGENT if urgent_alone else self.sender.which
            claimed = await self._outbox.claim(DELIVERY, line, wanted, which)
            wanted -= len(claimed)
            has_more |= urgent_alone and wanted == 0
            await self._offer(claimed)
        # Until then nothing else begins; more of it is claimed as what is held is sent.
        self._is_urgent = has_more or (self._is_urgent and news != self._news)
        is_all = wanted > 0 and not urgent_alone
        self._is_dry = is_all and news == self._news  # it may have come while we asked

    async def _claim_studies(self, times: _Times) -> None:
        """Claim what waits of the studies that have an association: it may wait behind many others."""
        if self._is_dry:
            return
        for lane in self.sender.lanes:
            study, wanted = self.sender.wants_more_of(lane, *times)
            for line in self.lines:
                if wanted <= 0 or lane in self._lanes or self._choose(line) is not self.sender:
                    continue
                claimed = await self._outbox.claim(DELIVERY, line, wanted, of_study=study)
                wanted -= len(claimed)
                await self._offer(claimed)

    def _stand(self, times: _Times) -> None:
        """Have what comes claimed as it comes, while nothing else is ready."""
        room = self.sender.room(*times) if self._is_dry else 0
        self._outbox.stand(DELIVERY, self.destination.name, room, self._take)

    def _take(self, claimed: Sequence[Claimed]) -> None:
        """Take what has just come, and begin to send it."""
        self._wake.set()  # first: whatever fails here is tried again
        self._ends += self._accept(claimed)
        if self._ends:
            self._settle_soon()
        if self._is_dry:  # else more is being claimed, which may have to go first
            self._begin(_times())

    async def _offer(self, claimed: Sequence[Claimed]) -> None:
        ends = self._accept(claimed)
        if ends:
            await self._outbox.settle(ends)

    def _accept(self, claimed: Sequence[Claimed]) -> list[Settlement]:
        """Let the sender have what was claimed; gives the ends of what is not to be sent."""
        jobs, ends = self._sendable(claimed)
        self.sender.offer(jobs)  # before anything can fail: what nobody sends would be kept for ever
        if self.courier is not None:
            # No thread, no memory: what is not read ahead is read when it is sent, or that is told then.
            with suppress(RuntimeError, OSError, MemoryError):
                self.courier.expect(self._claimed[job.id] for job in jobs)
        if claimed and not jobs:
            self._wake.set()  # none of these ends: what is behind them is to be claimed, too
        return ends

    def _sendable(self, claimed: Sequence[Claimed]) -> tuple[list[Job], list[Settlement]]:
        """Give the jobs of what was claimed, and the ends of what is gone or out of date.

        What we have already is passed over: its lease had ended, as by a clock that was put forward, and is
        ours again.
        """
        now = self._outbox.clock()
        jobs: list[Job] = []
        ends: list[Settlement] = []
        for each in claimed:
            if each.id in self._claimed:
                continue
            if each.digest is None:
                gone = "the instance is not in the archive any more"
                ends.append(Settlement(each.id, State.FAILED, now, each.attempts, comment=gone))
            elif not is_revision_of(each.digest, each.revision):
                other = "another revision has taken its place"
                ends.append(Settlement(each.id, State.DONE, now, each.attempts, comment=other))
            else:
                self._claimed[each.id] = each
                jobs.append(_job(each, now))
        return jobs, ends

    def _begin(self, times: _Times) -> None:
        if not self.destination.options.group_by:
            while (job := self.sender.begin(*times)) is not None:
                self._spawn(job, None)
            return
        for lane in range(self.destination.lanes):
            if lane not in self._lanes:
                self._begin_lane(times, lane)
        for lane in self.sender.lanes:  # the one that was not used for longest takes another study
            if lane not in self._lanes and not self.sender.goes_on(lane) and self.sender.others_wait:
                self._leave(lane)
                self._begin_lane(times, lane)

    def _begin_lane(self, times: _Times, lane: int) -> None:
        job = self.sender.begin(*times, lane)
        if job is not None:
            self._lanes.add(lane)
            self._spawn(job, lane)

    def _leave(self, lane: int) -> None:
        self.sender.leave(lane)
        self._courier.leave(lane)

    def _let_go(self, now: float, wait: float | None) -> float | None:
        """End the associations of studies of which nothing has come for a while; gives when to look again."""
        for lane in self.sender.lanes:
            if lane in self._lanes:
                continue
            left = self._since.get(lane, now) + self.destination.keep_open - now
            if left <= 0 and not self.sender.goes_on(lane):
                self._leave(lane)
            elif left > 0:
                wait = left if wait is None else min(wait, left)
        return wait

    def _spawn(self, job: Job, lane: int | None) -> None:
        task = asyncio.get_running_loop().create_task(self._send_all(job, lane))
        self._busy.add(task)
        task.add_done_callback(partial(self._sent, lane))

    def _sent(self, lane: int | None, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        if lane is not None:
            self._lanes.discard(lane)
            self._since[lane] = asyncio.get_running_loop().time()
        self._wake.set()

    async def _send_all(self, job: Job | None, lane: int | None) -> None:
        """Send one instance, and those that may follow it at once."""
        trip = self._courier.trip(lane)
        try:
            while job is not None:
                job = await self._send(job, trip, lane)
        finally:
            await trip.end()

    # one instance

    async def _send(self, job: Job, trip: Trip, lane: int | None) -> Job | None:
        """Send one, and give the next one, if there is one and nobody has to look after anything else."""
        verdict, status, comment = Verdict.RETURNED, None, ""
        try:
            verdict, status, comment = await self._attempt(self._claimed[job.id], trip)
        finally:  # also when it was cancelled
            times = _times()
            settled = self.sender.ended(job.id, verdict, times[0], comment)
            if verdict is Verdict.DELIVERED:
                self.count_delivered()
            else:
                self._tell(job, verdict, settled, comment if status is None else f"status {status}")
            del self._claimed[job.id]
            self._ends.append(self._settlement(settled, verdict, status, comment))
            self._settle_soon()
        if verdict is not Verdict.DELIVERED or self._is_stopping:
            return None
        if self._is_urgent or (self.sender.is_low and not self._is_dry):
            self._wake.set()
        if self._is_urgent and not self.sender.next_is_urgent:
            return None  # more of it is claimed first
        return self.sender.begin(*times, lane or 0)

    async def _attempt(self, claimed: Claimed, trip: Trip) -> tuple[Verdict, Status | None, str]:
        is_begun = False

        def begun() -> None:
            nonlocal is_begun
            is_begun = True

        try:
            response = await trip.send(claimed, begun)
        except Exception as error:
            verdict = verdict_of_error(error, was_sending=is_begun)
            cause = cause_of(error)
            return verdict, None, str(cause) or type(cause).__name__
        self.last_status = int(response.status)
        comment = response.error_comment
        own = self.destination
        verdict = verdict_of_status(response.status, own.also_delivered, own.not_delivered)
        if comment or response.status != Status.SUCCESS:
            comment = f"{response.status}{': ' if comment else ''}{comment}"
        return verdict, response.status, comment

    def _tell(self, job: Job, verdict: Verdict, settled: Settled, why: str) -> None:
        claimed = self._claimed[job.id]
        _LOG.warning(
            "%s to %s: %s (%s); %s",
            claimed.sop_instance_uid,
            self.destination.name,
            verdict.value,
            why or "we stop",
            "given up"
            if settled.state == "failed"
            else f"tried again in {settled.delay:.0f} s at the earliest",
        )
        self._on_trouble(self)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        for each in settled:
            del self._claimed[each.id]
        if self.courier is not None:
            self.courier.forget([each.id for each in settled])
        await self._outbox.settle([self._settlement(each) for each in settled])
        if self.destination.options.ordered:
            self.wake()  # what is behind it was held up until now

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().create_task(self._settle_ends())

    async def _settle_ends(self) -> None:
        """Settle what has been sent; what ends meanwhile is settled together, afterwards."""
        try:
            while self._ends:
                ends, self._ends = self._ends, []
                with suppress(Exception):  # they stay leased, and are sent again: the archive's log tells why
                    await self._outbox.settle(ends)
                if self.destination.options.ordered:
                    self.wake()
        finally:
            self._settling = None

    def _settlement(
        self,
        settled: Settled,
        verdict: Verdict = Verdict.RETURNED,
        status: Status | None = None,
        comment: str = "",
    ) -> Settlement:
        now = self._outbox.clock()
        has_failed = verdict not in (Verdict.RETURNED, Verdict.DELIVERED)
        return Settlement(
            settled.id,
            _STATES.get(settled.state) or (State.WAITING if settled.delay else State.READY),
            now + settled.delay,
            settled.attempts,
            None if status is None else int(status),
            comment,
            now if has_failed else None,
        )


def _carrier(
    archive: Archive, destination: GatewayDestination, calling_ae_title: str, kinds: Iterable[Kind]
) -> Carrier:
    if isinstance(destination.destination, FolderTemplate):
        return FolderCourier(archive, destination.name, destination.destination)
    return Courier(
        archive,
        destination,
        destination.destination,
        calling_ae_title,
        uses_tls=lambda: archive.is_served_by_tls,
        kinds=kinds,
    )


def _job(claimed: Claimed, now: float) -> Job:
    failing = 0.0 if claimed.first_error_at is None else now - claimed.first_error_at
    study = claimed.study_instance_uid or ""
    return Job(
        claimed.id, claimed.priority, claimed.data_set_length or 0, study, claimed.attempts, max(failing, 0.0)
    )


def _times() -> _Times:
    return asyncio.get_running_loop().time(), datetime.now(UTC)
