"""The writer thread: finished instances of all associations are committed in groups.

While one commit runs, whatever is finished meanwhile queues; the next round takes it all: every touched
folder is synced once, one SQL transaction is committed, then everybody is answered. Nobody waits for company.
"""

from __future__ import annotations

import asyncio
import enum
import os
import queue
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from asyncdicom.archive.files import FileCalls, Folders, InstanceFile
from asyncdicom.archive.index import Existing, Writer
from asyncdicom.archive.record import Record
from asyncdicom.telemetry.log import Log

__all__ = ["Arrival", "Ingest", "OnConflict", "Outcome", "Uncertain"]

_LOG = Log("asyncdicom.archive")

BATCH = 256
"""At most so many instances a transaction."""


class OnConflict(enum.Enum):
    """What becomes of an instance whose SOP Instance UID is taken by other bytes."""

    QUARANTINE = "quarantine"
    KEEP = "keep"
    REPLACE = "replace"


class Outcome(enum.Enum):
    """What became of an arrival."""

    STORED = "stored"
    REPLACED = "stored in place of another"
    ALREADY_HERE = "the same bytes are here already"
    QUARANTINED = "in quarantine"
    ALREADY_IN_QUARANTINE = "the same bytes are in quarantine already"
    REFUSED = "the first stays, this one is not kept"
    WITHDRAWN = "withdrawn before its turn"
    UNTRUSTED = "a sync of its folder has failed"


KEPT = frozenset({Outcome.STORED, Outcome.REPLACED, Outcome.QUARANTINED})
"""The outcomes after which the file of the arrival belongs to the index."""


class Uncertain(Exception):
    """A commit failed, and so did making sure of it: the file must stay until the next commit."""


Answer = Outcome | BaseException


class _Answer(asyncio.Future[Outcome]):
    """Comes in any case. Who awaits it and is cancelled gets the CancelledError when it is there.

    Until then a thread may be using the file, or the row may be on its way to the disk.
    """

    withdrawn = False

    def cancel(self, msg: object = None) -> bool:
        self.withdrawn = True
        return False  # so the task goes on waiting


class Arrival:
    """One instance on its way into the index, and the answer to whoever waits for it.

    Its record is there when its file is closed, and durable as far as promised.
    """

    record: Record

    def __init__(self, file: InstanceFile, transfer_syntax_uid: str, calling_ae_title: str) -> None:
        self.file = file
        self.transfer_syntax_uid = transfer_syntax_uid
        self.calling_ae_title = calling_ae_title
        self.obsolete: str | None = None  # the file that this one has replaced
        self.answer = _Answer(loop=asyncio.get_running_loop())

    def tell(self, answer: Answer) -> None:
        """Answer, from any thread."""
        _deliver([(self, answer)])

    @property
    def is_kept(self) -> bool:
        """Tell whether the file belongs to the index now."""
        return self._is_answered and self.answer.exception() is None and self.answer.result() in KEPT

    @property
    def is_uncertain(self) -> bool:
        """Tell whether nobody knows if the file belongs to the index."""
        return self._is_answered and isinstance(self.answer.exception(), Uncertain)

    @property
    def _is_answered(self) -> bool:
        return self.answer.done() and not self.answer.cancelled()

    def file_row(self) -> dict[str, Any]:
        """Give the columns that instance and quarantine have in common."""
        return {
            "transfer_syntax_uid": self.transfer_syntax_uid,
            "file": self.file.name,
            "data_set_offset": self.file.offset,
            "data_set_length": self.file.length,
            "digest": self.file.digest,
            "calling_ae_title": self.calling_ae_title,
        }


class Ingest:
    """Owns the writer thread and the only connection that writes."""

    def __init__(
        self, engine: Engine, folders: Folders, calls: FileCalls, *, on_conflict: OnConflict
    ) -> None:
        self._engine = engine
        self._folders = folders
        self._calls = calls
        self._on_conflict = on_conflict
        self._doubtful: list[Arrival] = []
        self._queue: queue.SimpleQueue[Arrival | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="asyncdicom-index", daemon=True)

    def start(self) -> None:
        """Open the connection (this raises what is wrong with it) and start the thread."""
        self._writer = Writer(self._engine)
        self._thread.start()

    def close(self) -> None:
        """Commit what is queued, then end the thread. Blocks."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def submit(self, arrival: Arrival) -> None:
        """Queue ``arrival``, from any thread; its answer is the outcome, or what kept it out of the index."""
        self._queue.put(arrival)

    def _run(self) -> None:
        waiting: list[Arrival] = []  # second arrivals of a UID that was in the batch already
        ended = False
        while waiting or not ended:
            batch, waiting = waiting, []
            if not batch:
                batch, ended = self._take(block=True)
            elif not ended:
                more, ended = self._take(block=False)
                batch += more
            batch, waiting = _one_of_each(batch)
            if batch:
                _deliver(self._settle(batch))

    def _take(self, *, block: bool) -> tuple[list[Arrival], bool]:
        taken: list[Arrival] = []
        try:
            while len(taken) < BATCH:
                arrival = self._queue.get(block and not taken)
                if arrival is None:
                    return taken, True
                taken.append(arrival)
        except queue.Empty:
            pass
        return taken, False

    def _settle(self, batch: list[Arrival]) -> list[tuple[Arrival, Answer]]:
        try:
            outcomes: Sequence[Answer] = self._commit(batch)
        except Exception as error:
            # One bad row must not cost the others their place; a sick disk would fail them one by one too.
            if len(batch) > 1 and not _is_about_storage(error):
                return [answer for arrival in batch for answer in self._settle([arrival])]
            _LOG.error("%d instance(s) could not be indexed: %s", len(batch), type(error).__name__)
            outcomes = [error] * len(batch)
            if isinstance(error, Uncertain):
                self._doubtful += batch
        return list(zip(batch, outcomes, strict=True))

    def _commit(self, batch: list[Arrival]) -> list[Outcome]:
        round_ = _Round(self._writer, self._folders, self._calls, self._on_conflict)
        try:
            self._writer.begin()
            outcomes = [round_.place(arrival) for arrival in batch]
            for folder in round_.folders:
                self._folders.sync(folder)
            round_.write()
        except BaseException:
            self._writer.roll_back()
            round_.undo()
            raise
        try:
            self._writer.commit()
        except BaseException as error:
            self._writer.roll_back()
            self._make_sure(error)
            round_.undo()
            raise
        if self._doubtful:
            self._remove_doubtful()
        return outcomes

    def _make_sure(self, cause: BaseException) -> None:
        # Frames of a commit that failed in its sync may still be in the WAL, and a crash now would bring
        # their rows to life: so they are overwritten before the files of those rows may go.
        try:
            self._writer.overwrite_tail()
        except Exception:
            raise Uncertain from cause

    def _remove_doubtful(self) -> None:
        # A commit has overwritten those that nobody knew the end of: what has no row now will never have one.
        doubtful, self._doubtful = self._doubtful, []
        for arrival in doubtful:
            try:
                if not self._has_row(arrival):
                    arrival.file.discard()
            except (OSError, sqlite3.Error) as error:
                _LOG.error("a file could not be removed: %s", type(error).__name__)

    def _has_row(self, arrival: Arrival) -> bool:
        uid, file = arrival.record.sop_instance_uid, arrival.file
        existing = self._writer.find(uid)
        return (existing is not None and existing.file == file.name) or self._writer.is_quarantined(
            uid, file.digest
        )


class _Round:
    """The arrivals of one transaction, sorted into what is to be done with them."""

    def __init__(self, writer: Writer, folders: Folders, calls: FileCalls, on_conflict: OnConflict) -> None:
        self._writer = writer
        self._where = folders
        self._calls = calls
        self._on_conflict = on_conflict
        self._instances: list[Mapping[str, Any]] = []
        self._quarantined: list[Mapping[str, Any]] = []
        self._moved: list[tuple[InstanceFile, str]] = []
        self.folders: set[str] = set()

    def place(self, arrival: Arrival) -> Outcome:
        if arrival.answer.withdrawn:
            return Outcome.WITHDRAWN
        if not self._where.is_trusted(arrival.file.name):
            return Outcome.UNTRUSTED
        existing = self._writer.find(arrival.record.sop_instance_uid)
        if existing is None:
            self._add(arrival)
            return Outcome.STORED
        if _is_same(existing, arrival):
            return Outcome.ALREADY_HERE
        if self._on_conflict is OnConflict.QUARANTINE:
            if self._writer.is_quarantined(arrival.record.sop_instance_uid, arrival.file.digest):
                return Outcome.ALREADY_IN_QUARANTINE
            self._set_aside(arrival)
            return Outcome.QUARANTINED
        if self._on_conflict is OnConflict.REPLACE:
            self._writer.remove(existing)
            self._add(arrival)
            arrival.obsolete = self._where.path(existing.file)
            return Outcome.REPLACED
        return Outcome.REFUSED

    def _add(self, arrival: Arrival) -> None:
        parent = self._writer.series_of(arrival.record)
        self._instances.append({**arrival.record.row("IMAGE"), "parent": parent, **arrival.file_row()})
        self.folders.add(os.path.dirname(arrival.file.path))

    def _set_aside(self, arrival: Arrival) -> None:
        file = arrival.file
        name = os.path.basename(file.path)
        target = self._where.quarantine_path(name)
        self._calls.move(file.path, target)
        self._moved.append((file, file.path))
        file.path = target
        record = arrival.record
        self._quarantined.append(
            {
                "sop_class_uid": record.sop_class_uid,
                "sop_instance_uid": record.sop_instance_uid,
                "reason": "another instance has this SOP Instance UID",
                **arrival.file_row(),
                "file": name,
            }
        )
        self.folders.add(self._where.quarantine)

    def write(self) -> None:
        self._writer.insert_instances(self._instances)
        self._writer.insert_quarantined(self._quarantined)

    def undo(self) -> None:
        for file, path in self._moved:
            try:
                self._calls.move(file.path, path)
            except OSError:
                continue  # it stays where it is, and `discard` knows where that is
            file.path = path


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


def _is_same(existing: Existing, arrival: Arrival) -> bool:
    return (existing.digest, existing.transfer_syntax_uid) == (
        arrival.file.digest,
        arrival.transfer_syntax_uid,
    )


def _is_about_storage(error: BaseException) -> bool:
    return isinstance(error, OSError | sqlite3.OperationalError | Uncertain)


def _deliver(answers: Iterable[tuple[Arrival, Answer]]) -> None:
    """Answer in the loops that wait: normally all in one, which is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Arrival, Answer]]] = {}
    for arrival, answer in answers:
        by_loop.setdefault(arrival.answer.get_loop(), []).append((arrival, answer))
    for loop, group in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, group)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _set(answers: Iterable[tuple[Arrival, Answer]]) -> None:
    for arrival, answer in answers:
        future = arrival.answer
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
