"""The outbox: work that is owed to others, kept until it is done; rows of the index, claimed and settled.

Work that instances lead to is enqueued in the transaction that indexes them; other work by `enqueue`. Whoever
does it claims some, by leases and in batches, does it without any transaction being open, and settles. A
process that dies leaves its leases behind: they are taken back at the next start, so that everything is done
at least once, and nothing more than once again for each death.

Claims and settlements are not synced on their own, but together with the next instance: what a power cut
takes back is claimed, or done, once more. Settlements wait for others, for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from asyncdicom.archive.errors import reason
from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.base import RowFailed
from asyncdicom.archive.index.deliveries import Claimed, Settlement
from asyncdicom.archive.index.delivery_reader import DeliveryReader
from asyncdicom.archive.index.enqueue import enqueue, enqueue_for_instances
from asyncdicom.archive.index.hints import Hints
from asyncdicom.archive.index.work import LEASE, State, Which, Work, urgency_of
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.standing import Standing, Taken
from asyncdicom.net.threads import Threads, Told, in_thread
from asyncdicom.telemetry.log import Log

__all__ = ["Outbox"]

_LOG = Log("asyncdicom.archive")
_T = TypeVar("_T")

_LONGEST_WAIT = 7 * 86400.0  # what is due later than that was written by a clock that was wrong
_LOOK = 30.0  # seconds between two looks at leases, and at what is due
_PUT_BACK = 60.0  # seconds by which a clock goes back that was set, and not only corrected
_LOOK_AT_OTHERS = 3.0  # seconds between two looks at what other processes have done to it
_MOMENT = 0.02  # seconds that settlements wait for others: each transaction costs hops between threads
_MANY = 64  # settlements that do not wait any more

Listener = Callable[[Mapping[str, int] | None], None]
"""Told of new work: destinations, with the priority of the most urgent work; None: perhaps for any."""

Taker = Callable[[Sequence[Claimed]], None]
"""Takes work that was claimed for it; see `Outbox.stand`."""


class _Pending(NamedTuple):
    """A change that is asked for, and who waits for what it gives; some can wait for others for a moment."""

    apply: Callable[[Writer], Any]
    future: asyncio.Future[Any]
    is_durable: bool
    is_patient: bool


class _Index(Protocol):
    """Has the index's writer make changes; see `Ingest`."""

    def change(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:  # pragma: no cover
        ...

    def begin_change(
        self,
        apply: Callable[[Writer], _T],
        tell: Callable[[_T | None, BaseException | None], None],
        *,
        is_durable: bool = True,
    ) -> None:  # pragma: no cover
        ...


class Outbox:
    """The outbox of an open archive; `archive.outbox` gives it.

    `index` has the index's writer make changes, and `threads` are where it is looked at; `hints` go to other
    processes, and come from them; `standing` are the claims that the writer makes by itself; `clock` gives
    the seconds since 1970.
    """

    def __init__(
        self,
        index: _Index,
        reader: DeliveryReader,
        threads: Threads,
        hints: Hints,
        standing: Standing,
        *,
        is_shared: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._reader = reader
        self._threads = threads
        self._hints = hints
        self._standing = standing
        self._takers: dict[tuple[str, str], Taker] = {}
        self.is_shared = is_shared
        """Whether other processes may work on it, too."""
        self.clock = clock
        self.paused: set[str] = set()
        """The destinations that an operator has paused; they are it after a start, too."""
        self.happened: Counter[str] = Counter()
        """What happened to claimed work since the start, by its new state, and what was "retried"."""
        self._claimed: dict[int, tuple[Claimed, float]] = {}  # and until when
        self._is_closing = False
        self._next_due: float | None = None
        self._ahead: float | None = None  # of the time of the event loop, at the last look
        self._listeners: list[Listener] = []
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._timing: asyncio.Task[None] | None = None
        self._timer = asyncio.Event()

    def open(self, *, is_alone: bool = True) -> None:
        """Take back what a process that is gone has claimed. Blocks, and is called before all else.

        Not `is_alone`: others have it open now. What they have claimed stays theirs until their leases end.
        """
        until = float("inf") if is_alone else self.clock()
        taken_back = self._index.change(lambda writer: deliveries.reclaim(writer, until))
        if taken_back:
            _LOG.warning("%d deliveries were under way when the archive was last stopped", taken_back)
        self.paused = self._reader.paused()
        self._next_due = self._reader.next_due()

    def start(self) -> None:
        """Look after what is due, from now on, in the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._timing = self._loop.create_task(self._time())
        self._hints.start(self._hear)

    async def close(self) -> None:
        """Make the changes that were asked for, and end."""
        self._is_closing = True
        if self._timing is not None:
            self._timing.cancel()
            await asyncio.wait((self._timing,))
        if self._flushing is not None:
            self._hurry.set()
            await asyncio.wait((self._flushing,))

    # telling

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a listener told of new work, in the event loop; gives what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, destinations: Mapping[str, int] | None = None) -> None:
        """Tell the listeners of new work; see `Listener`."""
        for listener in list(self._listeners):
            listener(destinations)

    def _tell_all(self, destinations: Mapping[str, int] | None, taken: Taken | None = None) -> None:
        """Tell the listeners, and other processes, of work that has just been committed here."""
        for whose, claimed in (taken or {}).items():
            try:
                self._hand(whose, claimed)
            except Exception as error:  # the others are given theirs all the same
                _LOG.error("what has come for %s is not sent at once: %s", whose[1], reason(error))
        if destinations != {}:
            self._hints.send(destinations)
            self.tell(destinations)

    def tell_from_thread(self, destinations: Mapping[str, int], taken: Taken | None = None) -> None:
        """Tell the listeners and other processes, from the thread that has enqueued the work.

        `taken`: what was claimed of it already; see `stand`.
        """
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell_all, destinations, taken)

    def _hear(self, destinations: Mapping[str, int] | None) -> None:
        """Another process has told of work; in a thread of its own."""
        act = self._timer.set if destinations is None else partial(self.tell, destinations)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(act)

    # the work

    async def enqueue(self, work: Sequence[Work], *, promised: Sequence[str] = ()) -> None:
        """Enqueue work that is about no instance; it is durable, as the archive promises, when this returns.

        `promised`: SOP Instance UIDs of instances that it says are here; where several processes delete, they
        have to be. Raises what the disk or the index raise; then nothing was enqueued. Cancelled: it may have
        been.
        """
        now = self.clock()

        def apply(writer: Writer) -> None:
            if writer.is_shared and promised:
                writer.keep_others_out(is_shared=True)
                if len(writer.find_all(promised)) < len(set(promised)):
                    raise RowFailed("an instance that it is about was deleted meanwhile")
            enqueue(writer.execute_all, work, now)

        await self._changed(apply)
        self._tell_all(urgency_of(work))

    async def enqueue_for_instance(self, sop_instance_uid: str, digest: str, work: Sequence[Work]) -> None:
        """Enqueue work about an instance that is stored, and its digest; as `enqueue`.

        What was enqueued before for the same bytes is not enqueued again, unless the work says so.
        """
        await self.enqueue_for_instances([(sop_instance_uid, digest, each) for each in work])

    async def enqueue_for_instances(self, work: Sequence[tuple[str, str, Work]]) -> None:
        """Enqueue work about instances: their UIDs and digests; as `enqueue_for_instance`."""
        now = self.clock()
        await self._changed(lambda writer: enqueue_for_instances(writer.execute_all, work, now))
        self._tell_all(urgency_of(each for _, _, each in work))

    async def claim(
        self, kind: str, destination: str, limit: int, which: Which = Which.NEXT, *, of_study: str = ""
    ) -> list[Claimed]:
        """Claim ready work for a destination, at most so much; `LEASE` seconds long.

        `of_study`: the next that is about instances of this one. Raises what the disk or the index raise.
        Cancelled: what was claimed meanwhile is free again after `LEASE` seconds.
        """
        until = self.clock() + LEASE
        claimed = await self._changed(
            lambda writer: deliveries.claim(
                writer, kind, destination, limit, until, which, of_study=of_study
            ),
            is_durable=False,
        )
        self._note_claimed(claimed, until)
        return claimed

    def stand(self, kind: str, destination: str, room: int, take: Taker | None) -> None:
        """Have work for a destination claimed as it comes, and given to `take`, at most so much; 0: none.

        It replaces what was said for the destination before, but what is just being committed may still be
        claimed by that. Without `take` nobody takes any more: such work is ready again at once. Work is
        claimed in the transaction that enqueues it, with what is ready and was there before; listeners are
        told only of what may be left.
        """
        self._standing.stand(kind, destination, 0 if take is None else room)
        if take is not None:
            self._takers[kind, destination] = take
        else:
            self._takers.pop((kind, destination), None)

    def _hand(self, whose: tuple[str, str], claimed: Sequence[Claimed]) -> None:
        """Give what was claimed to who takes it; what nobody takes is ready again."""
        if self._is_closing:
            return  # it is taken back at the next start, or by other processes when its lease ends
        now = self.clock()
        self._note_claimed(claimed, now + LEASE)
        take = self._takers.get(whose)
        if take is not None:
            take(claimed)
        else:
            self._settle([Settlement(each.id, State.READY, now, each.attempts) for each in claimed])

    def _note_claimed(self, claimed: Sequence[Claimed], until: float) -> None:
        self._claimed.update((each.id, (each, until)) for each in claimed)

    async def renew(self, ids: Sequence[int]) -> None:
        """Keep claimed work for another `LEASE` seconds."""
        until = self.clock() + LEASE
        await self._changed(lambda writer: deliveries.renew(writer, ids, until), is_durable=False)
        for each in ids:
            if each in self._claimed:
                self._claimed[each] = (self._claimed[each][0], until)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Note what became of claimed work; the death of this process changes nothing then.

        What is given up is logged. Cancelled: it is noted all the same. Raises what the disk or the index
        raise: then it stays claimed, and is done again.
        """
        await asyncio.shield(self._settle(settlements))

    def _settle(self, settlements: Sequence[Settlement]) -> asyncio.Future[None]:
        settling = self._ask(
            lambda writer: deliveries.settle(writer, settlements), is_durable=False, is_patient=True
        )
        settling.add_done_callback(lambda ended: self._settled(ended, settlements))
        return settling

    def _settled(self, ended: asyncio.Future[None], settlements: Sequence[Settlement]) -> None:
        if ended.exception() is not None:
            return
        free: dict[str, int] = {}
        for each in settlements:
            claimed, _ = self._claimed.pop(each.id, (None, 0.0))
            self.happened[each.state.name.lower()] += 1
            if each.state is State.FAILED:
                _tell_failure(each, claimed)
            elif each.state is State.WAITING:
                self._expect(each.due)
            elif each.state is State.READY and claimed is not None:
                free[claimed.destination] = min(
                    claimed.priority, free.get(claimed.destination, claimed.priority)
                )
        if free:
            self.tell(free)

    # what an operator says

    async def retry(self, ids: Sequence[int] | None = None, destination: str | None = None) -> int:
        """Let failed and waiting work be ready now: by its ids, of a destination, or all; gives how much."""
        now = self.clock()
        changed = await self._repeat(
            lambda writer: deliveries.retry_waiting(writer, ids, destination), deliveries.PAGE
        )
        changed += await self._repeat(lambda writer: deliveries.retry_failed(writer, ids, destination, now))
        self.happened["retried"] += changed
        self._reader.count_again()
        if changed:
            self._tell_all(None)
        return changed

    async def drop(self, ids: Sequence[int] | None = None, destination: str | None = None) -> int:
        """Give up work that nobody is doing; as `retry`. It is logged, and its rows stay."""
        changed = await self._repeat(lambda writer: deliveries.drop(writer, ids, destination))
        self.happened["dropped"] += changed
        self._reader.count_again()
        if changed:
            whose = f" for {destination}" if destination else ""
            _LOG.warning("%d deliveries%s were dropped by an operator", changed, whose)
        return changed

    async def _repeat(
        self, change: Callable[[Writer], int], whole: int = 1, *, is_durable: bool = True
    ) -> int:
        """Change page after page, until one has less than a `whole` page: no transaction takes long."""
        total = 0
        while True:
            changed = await self._changed(change, is_durable=is_durable)
            total += changed
            if changed < whole:
                return total

    async def pause(self, destination: str, *, paused: bool) -> None:
        """Note that a destination is paused, or is no more, and tell the listeners."""
        await self._changed(lambda writer: deliveries.pause(writer, destination, paused))
        (self.paused.add if paused else self.paused.discard)(destination)
        self._tell_all(None)

    # changes, many in a transaction

    async def _changed(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:
        """Have a change made, together with those that others ask for meanwhile, and give what it gives."""
        return await self._ask(apply, is_durable=is_durable)

    def _ask(
        self, apply: Callable[[Writer], _T], *, is_durable: bool, is_patient: bool = False
    ) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(apply, future, is_durable, is_patient))
        if not is_patient or len(self._pending) >= _MANY:
            self._hurry.set()
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush())
        return future

    async def _flush(self) -> None:
        while self._pending:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOMENT):
                    await self._hurry.wait()
            self._hurry.clear()
            batch, self._pending = self._pending, []
            await self._write(batch)

    async def _write(self, batch: Sequence[_Pending]) -> None:
        """Make changes in one transaction, and tell who asked for them; a bad one fails alone."""
        changes = [each.apply for each in batch]
        is_durable = any(each.is_durable for each in batch)
        told = Told()
        try:
            self._index.begin_change(
                lambda writer: [change(writer) for change in changes], told.tell, is_durable=is_durable
            )
            results = await told.ending
        except Exception as error:
            if isinstance(error, RowFailed) and len(batch) > 1:
                for each in batch:
                    await self._write([each])
                return
            _LOG.error("the outbox could not be written: %s", reason(error))
            for each in batch:
                if not each.future.done():
                    each.future.set_exception(error)
        else:
            for each, result in zip(batch, results, strict=True):
                if not each.future.done():
                    each.future.set_result(result)

    # time

    def _expect(self, due: float) -> None:
        if self._next_due is None or due < self._next_due:
            self._next_due = due
            self._timer.set()

    async def _time(self) -> None:
        """Make ready what is due, and free what was claimed and forgotten."""
        while True:
            wait = _LOOK_AT_OTHERS if self.is_shared else _LOOK
            if self._next_due is not None:
                wait = min(max(self._next_due - self.clock(), 0.0), wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._timer.wait()
            self._timer.clear()
            try:
                await self._look()
                if self.is_shared:
                    await self._look_at_others()
            except Exception as error:
                _LOG.error("the outbox could not be looked at: %s", type(error).__name__)
                await asyncio.sleep(1.0)

    async def _look(self) -> None:
        now = self.clock()
        due = self._next_due
        was_put_back = self._was_put_back(now)
        if due is not None and (due <= now or due > now + _LONGEST_WAIT or was_put_back):
            until = float("inf") if was_put_back else now
            await self._repeat(
                lambda writer: deliveries.promote(writer, until, _LONGEST_WAIT),
                deliveries.PAGE,
                is_durable=False,
            )
            self._next_due = None
            found = await in_thread(self._threads, self._reader.next_due)
            if found is not None:
                self._expect(found)
            self.tell(None)
        if not self.is_shared and await in_thread(self._threads, self._reader.has_expired, now):
            await self._reclaim(now)
            self.tell(None)

    async def _reclaim(self, now: float) -> None:
        """Free what was claimed and forgotten, by whomever."""
        taken_back = await self._changed(lambda writer: deliveries.reclaim(writer, now), is_durable=False)
        if taken_back:
            _LOG.warning("%d deliveries are taken over: nobody kept them, or a process is gone", taken_back)
        for each in [each for each, (_, until) in self._claimed.items() if until <= now]:
            del self._claimed[each]

    def _was_put_back(self, now: float) -> bool:
        """Tell whether the clock was set back since the last look: then what waits would wait longer by that.

        Nobody knows how long it should wait by the new one, so that it is tried at once.
        """
        before, self._ahead = self._ahead, now - self._loop.time()
        return before is not None and self._ahead < before - _PUT_BACK

    async def _look_at_others(self) -> None:
        """See what other processes have enqueued, paused or left behind."""
        now = self.clock()
        found = await in_thread(self._threads, self._reader.look, now)
        if found.has_expired:
            await self._reclaim(now)
        if found.next_due is not None:
            self._expect(found.next_due)
        if found.paused != self.paused or found.has_ready or found.has_expired:
            self.paused.clear()
            self.paused.update(found.paused)
            self.tell(None)


def _tell_failure(settlement: Settlement, claimed: Claimed | None) -> None:
    # What a peer says in its Error Comment may name a patient: it is kept in the row, and not logged.
    why = settlement.comment if settlement.status is None else f"status 0x{settlement.status:04X}"
    _LOG.error(
        "delivery %d of %s to %s is given up after %d attempt(s): %s; asyncdicom outbox retry tries it again",
        settlement.id,
        (claimed and claimed.sop_instance_uid) or "no instance",
        (claimed and claimed.destination) or "no destination",
        settlement.attempts,
        why or "no reason was given",
    )
