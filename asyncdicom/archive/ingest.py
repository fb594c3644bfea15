"""The writer thread: finished instances of all associations are committed in groups.

While one commit runs, whatever is finished meanwhile queues; the next round takes it all: every touched
folder is synced once, one SQL transaction is committed, then everybody is answered. Nobody waits for company.

Whatever happens in it, the thread goes on and nobody who waits is forgotten: an answer that nobody can give
any more is `Uncertain`, so that no file is removed which may have a row.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from asyncdicom.archive.arrival import Answer, Arrival, Rules, deliver
from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.blobs.compare import compare_blobs
from asyncdicom.archive.blobs.files import StoredFile
from asyncdicom.archive.errors import reason
from asyncdicom.archive.index.base import IndexFailed, Overtaken, RowFailed, Uncertain
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.round import Bounds, LookFirst, MoveFirst, Round
from asyncdicom.archive.standing import Standing, Taken
from asyncdicom.telemetry.log import Log

__all__ = ["Change", "Ingest"]

_T = TypeVar("_T")

_Later = LookFirst | MoveFirst  # the arrival comes again

_LOG = Log("asyncdicom.archive")

BATCH = 256
"""At most so many instances a transaction."""

_LOUD = (3, 10, 100, 1000)  # failures in a row at which it is said that nothing is stored
_AGAIN = 2  # times that a group is tried again which another writer came before
_RENEW = 10  # failures in a row after which another connection is tried


class Change(Generic[_T]):
    """Something else that is written into the index: alone in its transaction.

    ``tell`` is called with what `apply` gave when it is committed, or with what failed. ``is_durable``: see
    `Writer.change`.
    """

    def __init__(
        self,
        apply: Callable[[Writer], _T],
        tell: Callable[[_T | None, BaseException | None], None],
        *,
        is_durable: bool = True,
    ) -> None:
        self.apply = apply
        self.is_durable = is_durable
        self.tell = tell


class Ingest:
    """Owns the thread that writes into the index; ``writer`` is for it alone.

    ``elsewhere`` has another thread make a call, `one_by_one` one that computes and takes long; both may
    raise `RuntimeError` when there is none any more. `standing`: claims of what is enqueued. `on_work` is
    told, by the writer's thread, when new work is committed: which destinations may have some that nobody has
    claimed, and what was claimed.
    """

    def __init__(
        self,
        writer: Writer,
        blobs: Blobs,
        *,
        rules: Rules,
        bounds: Bounds,
        elsewhere: Callable[[Callable[[], None]], object],
        one_by_one: Callable[[Callable[[], None]], object],
        standing: Standing,
        on_work: Callable[[Mapping[str, int], Taken], None],
    ) -> None:
        self._writer = writer
        self._blobs = blobs
        self._rules = rules
        self._bounds = bounds
        self._elsewhere = elsewhere
        self._one_by_one = one_by_one
        self._standing = standing
        self._on_work = on_work
        self._waiting: list[Arrival] = []  # taken from the queue, for the next round
        self._in_hand: list[Arrival] = []  # in this round
        self._doubtful: list[Arrival] = []
        self._changes: list[Change[Any]] = []
        self._failures = 0  # rounds in a row that nothing was committed in
        self._ended = False
        self._is_closed = False
        self._queue: queue.SimpleQueue[Arrival | Sequence[Arrival] | Change[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="asyncdicom-index", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is at work."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Commit what is queued, then end the thread; what comes later is refused. Blocks."""
        self._queue.put(None)
        self._thread.join()
        self._is_closed = True
        self._refuse_rest()
        self._writer.close()

    def _refuse_rest(self) -> None:
        """Answer those who came when there was nobody any more who writes."""
        ended = RuntimeError("the index's writer has ended")
        with suppress(queue.Empty):
            while True:
                late = self._queue.get(False)
                if isinstance(late, Change):
                    late.tell(None, ended)
                elif late is not None:
                    deliver([(each, ended) for each in (late if isinstance(late, Sequence) else [late])])

    def submit(self, arrival: Arrival) -> None:
        """Queue ``arrival``, from any thread; its answer is the outcome, or what kept it out of the index."""
        self._queue.put(arrival)
        if self._is_closed:
            self._refuse_rest()

    def submit_all(self, arrivals: Sequence[Arrival]) -> None:
        """As `submit`, for some of them: they are not told apart from those that come one by one."""
        if arrivals:
            self._queue.put(arrivals)
            if self._is_closed:
                self._refuse_rest()

    def change(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:
        """Have the writer's thread make a change, alone in its transaction, and give what it gives. Blocks.

        ``is_durable``: see `Writer.change`. Raises what `apply` or the commit raises: then nothing has
        changed. After `close` it raises RuntimeError.
        """
        answers: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()
        self.begin_change(apply, lambda *answer: answers.put(answer), is_durable=is_durable)
        result, error = answers.get(True)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def begin_change(
        self,
        apply: Callable[[Writer], _T],
        tell: Callable[[_T | None, BaseException | None], None],
        *,
        is_durable: bool = True,
    ) -> None:
        """As `change`, but does not block: the writer's thread tells the result, or the error.

        After `close` it is told before this returns.
        """
        self._queue.put(Change(apply, tell, is_durable=is_durable))
        if self._is_closed:
            self._refuse_rest()

    def _run(self) -> None:
        while self._waiting or self._changes or not self._ended:
            try:
                if self._changes:
                    self._make_changes()
                self._round()
            except BaseException as error:
                self._rescue(error)

    def _make_changes(self) -> None:
        while self._changes:
            change = self._changes.pop()
            try:
                result = self._writer.change(change.apply, is_durable=change.is_durable)
            except BaseException as error:
                change.tell(None, error)
            else:
                change.tell(result, None)

    def _round(self) -> None:
        self._take(block=not self._waiting)
        self._in_hand, self._waiting = _one_of_each(self._waiting)
        if not self._in_hand:
            return
        answers = self._settle(self._in_hand)
        deliver([(arrival, answer) for arrival, answer in answers if not isinstance(answer, _Later)])
        self._in_hand = []
        for arrival, answer in answers:
            if isinstance(answer, _Later):
                self._come_again(arrival, answer)
        self._tell_failures([answer for _, answer in answers if isinstance(answer, BaseException)])

    def _rescue(self, error: BaseException) -> None:
        """Answer everybody of a round that broke off: whether their rows are committed is unknown."""
        in_hand, self._in_hand = self._in_hand, []
        self._doubtful += in_hand
        for arrival in in_hand:
            arrival.tell(Uncertain(type(error).__name__))
        self._writer.renew()
        _LOG.error("the index writer broke off and goes on: %s", type(error).__name__)

    def _take(self, *, block: bool) -> None:
        try:
            while not self._ended and len(self._waiting) < BATCH:
                arrival = self._queue.get(block and not self._waiting and not self._changes)
                if arrival is None:
                    self._ended = True
                elif isinstance(arrival, Change):
                    self._changes.append(arrival)
                elif isinstance(arrival, Sequence):
                    self._waiting += arrival
                else:
                    self._waiting.append(arrival)
        except queue.Empty:
            pass

    def _come_again(self, arrival: Arrival, wanted: LookFirst | MoveFirst) -> None:
        """Have another thread look at the file of a row, or move that of the arrival, which takes long."""
        if isinstance(wanted, LookFirst):
            do, takes_turns = partial(self._look, arrival, wanted), wanted.compares
        else:  # who sends conflicts waits behind himself
            do, takes_turns = partial(self._move, arrival, wanted), True

        def then_again() -> None:
            try:
                do()
                self.submit(arrival)
            except BaseException as error:
                arrival.tell(error)

        try:
            (self._one_by_one if takes_turns else self._elsewhere)(then_again)
        except RuntimeError:  # closing: nobody else is waiting
            try:
                do()
                self._waiting.append(arrival)
            except BaseException as error:
                arrival.tell(error)

    def _move(self, arrival: Arrival, wanted: MoveFirst) -> None:
        blobs, file = self._blobs, arrival.file
        if wanted.to_quarantine:
            file.path = blobs.move_to_quarantine(file.path)
        else:
            place = blobs.path(file.name)
            blobs.move(file.path, place)
            file.path = place

    def _look(self, arrival: Arrival, wanted: LookFirst) -> None:
        blobs, existing = self._blobs, wanted.existing
        name = existing.file
        path = blobs.quarantine_path(name) if existing.is_quarantined else blobs.path(name)
        if wanted.compares:
            arrival.compared[name] = compare_blobs(blobs, path, existing, arrival)
        else:
            arrival.looked[name] = blobs.look_at(path, existing)

    def _settle(self, batch: list[Arrival], again: int = _AGAIN) -> list[tuple[Arrival, Answer]]:
        try:
            outcomes: Sequence[Answer] = self._commit(batch)
        except BaseException as error:
            if again and (isinstance(error, Overtaken) or self._standing.has_failed):
                return self._settle(batch, again - 1)
            # One bad row must not cost the others their place; a sick disk would fail them one by one too.
            if len(batch) > 1 and not _is_about_storage(error):
                return [answer for arrival in batch for answer in self._settle([arrival])]
            outcomes = [error] * len(batch)
            if isinstance(error, Uncertain):
                self._doubtful += batch
            self._failures += 1
        else:
            self._failures = 0
        return list(zip(batch, outcomes, strict=True))

    def _tell_failures(self, errors: Sequence[BaseException]) -> None:
        errors = [error for error in errors if not isinstance(error, _Later)]
        if errors:
            names = ", ".join(sorted({reason(error) for error in errors}))
            _LOG.error("%d instance(s) could not be indexed: %s", len(errors), names)
        if self._failures in _LOUD:
            _LOG.error(
                "the index could not be written %d times in a row: NOTHING IS STORED; look at its disk, its "
                "room and its permissions",
                self._failures,
            )
            if self._failures >= _RENEW:
                self._writer.renew()

    def _commit(self, batch: list[Arrival]) -> list[Answer]:
        round_ = Round(self._writer, self._blobs, self._rules, self._bounds)
        try:
            outcomes = self._writer.commit(
                batch, round_.settle, lambda writer: self._standing.claim(writer, round_.work)
            )
        except Uncertain:
            raise  # the files stay where those rows would have them
        except BaseException:
            round_.undo()
            raise
        if self._doubtful:
            self._remove_doubtful()
        self._tell_of_work()
        return outcomes

    def _tell_of_work(self) -> None:
        left, taken = self._standing.committed()
        try:
            if left or taken:
                self._on_work(left, taken)
        except BaseException as error:  # this round is committed: nothing may make it look failed
            _LOG.error("nobody could be told of new work: %s", type(error).__name__)

    def _remove_doubtful(self) -> None:
        # A commit has overwritten those that nobody knew the end of: what has no row now will never have one.
        doubtful, self._doubtful = self._doubtful, []
        for arrival in doubtful:
            file = arrival.file
            try:
                if isinstance(file, StoredFile):
                    continue
                if self._has_row(arrival):
                    file.keep()
                else:
                    file.discard()
            except BaseException as error:  # this round is committed: nothing may make it look failed
                _LOG.error("a file could not be removed: %s", type(error).__name__)

    def _has_row(self, arrival: Arrival) -> bool:
        uid, file = arrival.record.sop_instance_uid, arrival.file
        rows = (self._writer.find(uid), self._writer.find_quarantined(uid, file.digest))
        return any(row is not None and row.file in (file.name, os.path.basename(file.path)) for row in rows)


def _one_of_each(batch: list[Arrival]) -> tuple[list[Arrival], list[Arrival]]:
    """Keep the first arrival of each SOP Instance UID; the others are for the next round."""
    seen: set[str] = set()
    now: list[Arrival] = []
    later: list[Arrival] = []
    for arrival in batch:
        uid = arrival.record.sop_instance_uid
        (later if uid in seen else now).append(arrival)
        seen.add(uid)
    return now, later


def _is_about_storage(error: BaseException) -> bool:
    """Tell whether what failed for one would fail for all."""
    if not isinstance(error, Exception):
        return True
    if isinstance(error, RowFailed):
        return False
    return isinstance(error, OSError | IndexFailed | MemoryError | Uncertain)
