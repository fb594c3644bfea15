"""Instances are deleted: rows and deliveries go, tombstones come, in one transaction; the files go after it.

Nothing goes that a delivery or a storage commitment is open for. What was deleted is in the index and in
``deleted.jsonl`` beside the files, so that neither an index that is built anew nor one put back from a copy
undoes it: at start each gets what only the other knows. Whoever is killed on the way leaves files with a
tombstone, which the sweep removes: that names the file, its length and its digest. The same instance may come
again: it gets a file of another name, and its tombstones are lifted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, NamedTuple

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.deleted_journal import DeletedJournal, Entry
from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.holds import Holds
from asyncdicom.archive.index import deleting
from asyncdicom.archive.index.deleting import DeletionReader, Doomed, Hold, Log, Look, Scope, Tombstone
from asyncdicom.archive.index.enqueue import enqueue_for_instances
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.reports import REPORT, promised_by
from asyncdicom.telemetry.log import Log as Logger

__all__ = ["Deleted", "Deleting", "Refused", "Scope", "Step", "delete"]

_LOG = Logger("asyncdicom.archive")

_NAMED = 100  # refusals that are named
_TOGETHER = 100  # entries of the file that are done in one transaction
_COMMITMENT = "a storage commitment for it is under way"
_LEVELS = {"STUDY": "study", "SERIES": "series", "IMAGE": "instance"}


class Refused(NamedTuple):
    """An instance that was not deleted, and why."""

    sop_instance_uid: str
    why: str


class Deleted(NamedTuple):
    """What was deleted, or would be."""

    level: str
    """STUDY, SERIES or IMAGE."""

    uid: str
    instances: int
    size: int
    """Bytes of their data sets."""

    refused: tuple[Refused, ...] = ()
    """Instances that were not, at most 100: of a study, series or instance with one of them nothing goes."""

    came_meanwhile: int = 0
    """Instances that came while it was being deleted: they stay."""

    is_done: bool = False
    """Whether it was done; else it was only looked at, or refused."""


class Step(NamedTuple):
    """What one transaction has deleted: how many, bytes, up to which id; and what it has refused."""

    instances: int
    size: int
    after: int
    refused: tuple[Refused, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether there is no more."""
        return not (self.instances or self.refused)


class Deleting:
    """Deletes in an open archive. Every method blocks; all but `look` and `returned` are for one thread.

    That thread is the one of the sweep: a file that has lost its row is not taken for a leftover.
    """

    def __init__(
        self,
        journal: DeletedJournal,
        blobs: Blobs,
        reader: DeletionReader,
        ingest: Ingest,
        happened: Counter[str],
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._reader = reader
        self._ingest = ingest
        self._happened = happened
        self.holds = Holds()
        self.is_used = False
        """Whether anything was ever deleted."""

    # looking

    def look(self, scope: Scope, *, even_failed: bool = False) -> tuple[Look, list[Refused]]:
        """Give how much something is, and what of it may not be deleted: the first ones.

        Raises `ArchiveError` if there is no such thing, or several patients have it.
        """
        if scope.level not in _LEVELS:
            raise ArchiveError(f"level is one of {', '.join(_LEVELS)}")
        whose = self._reader.patients(scope)
        what = _LEVELS[scope.level]
        if not whose:
            raise ArchiveError(
                f"no {what} {scope.uid} is here" + (" of that patient" * bool(scope.patient_id))
            )
        if len(whose) > 1 and scope.patient_id is None:
            listed = "; ".join(f"{patient_id!r} of {issuer!r}" for patient_id, issuer in sorted(whose))
            raise ArchiveError(f"{len(whose)} patients have this {what}, say which one is meant: {listed}")
        refused = _refusals(self._reader.holds(scope), even_failed=even_failed)
        if promised := self._promised(even_failed=even_failed):
            refused += [Refused(uid, _COMMITMENT) for uid in self._uids(scope) if uid in promised]
        return self._reader.look(scope), refused[:_NAMED]

    def left(self, scope: Scope) -> int:
        """Count what is there of something."""
        return self._reader.look(scope).instances

    def known(self, uid: str = "") -> Iterator[list[tuple[int, str, str, str, Tombstone]]]:
        """Give all tombstones, or those of a study, series or instance, some at a time."""
        after = 0
        while page := self._reader.page(after, uid):
            yield page
            after = page[-1][0]

    def _uids(self, scope: Scope) -> Iterator[str]:
        after = ""
        while uids := self._reader.uids(scope, after):
            yield from uids
            after = uids[-1]

    def _promised(self, *, even_failed: bool) -> set[str]:
        """Give the instances that somebody is being told, or has yet to be told, that they are kept."""
        promised = self.holds.all()  # first: what is not held any more is owed by now
        for payload in self._reader.owed(REPORT, even_failed=even_failed):
            promised.update(promised_by(payload))
        return promised

    # deleting

    def some(self, scope: Scope, after: int, last: int, why: str, *, even_failed: bool = False) -> Step:
        """Delete the next instances of something: those whose ids are above one, up to another.

        Raises what disk and index raise: then nothing was deleted.
        """
        return self._delete(
            lambda writer: deleting.doomed(writer, scope, after, last), after, why, even_failed=even_failed
        )

    def chosen(self, ids: Sequence[int], until: str, why: str, *, even_failed: bool = False) -> Step:
        """Delete instances by their ids, if they were received up to a time (UTC, ISO 8601). As `some`."""
        return self._delete(
            lambda writer: deleting.chosen(writer, ids, until), 0, why, even_failed=even_failed
        )

    def _delete(
        self, choose: Callable[[Writer], list[Doomed]], after: int, why: str, *, even_failed: bool
    ) -> Step:
        going: list[Doomed] = []
        refused: list[Refused] = []
        seen = after

        def change(writer: Writer) -> None:  # again, if another process came first
            nonlocal seen
            going.clear()
            refused.clear()
            writer.keep_others_out()
            found = choose(writer)
            if writer.is_shared:  # what others have promised meanwhile is owed by now
                promised.update(self._promised(even_failed=even_failed))
            kept = _kept(writer, found, promised, even_failed=even_failed)
            seen = max((each.id for each in found), default=after)
            refused.extend(kept.values())
            going.extend(each for each in found if each.id not in kept)
            if going:
                self._bury(writer, going, why)

        with self.holds.lock:
            promised = self._promised(even_failed=even_failed)
            try:
                self._ingest.change(change)
            except BaseException:
                with suppress(BaseException):  # then the next start finds it there, and does it
                    self._ingest.change(self._cut)
                raise
        for each in going:
            self._remove(each.tombstone.file)
        self._happened["deleted"] += len(going)
        size = sum(each.tombstone.data_set_length for each in going)
        return Step(len(going), size, seen, tuple(refused[:_NAMED]))

    def _cut(self, writer: Writer) -> None:
        """Remove from the file what was written for a transaction that has failed."""
        writer.keep_file()
        self._journal.cut(deleting.read_log(writer))

    def _bury(self, writer: Writer, going: Sequence[Doomed], why: str) -> None:
        writer.keep_file()
        log = deleting.read_log(writer)
        highest = max(log.highest, *(each.id for each in going))
        entry = Entry(writer.now, why, [each.tombstone for each in going])
        deleting.bury(writer, going, entry.when, why)
        self._begin(writer, highest)
        # The file comes last: what it says and no commit follows is done at the next start.
        deleting.write_log(writer, self._journal.append(log._replace(highest=highest), entry))

    def _remove(self, file: str) -> None:
        try:
            self._blobs.remove(self._blobs.path(file))
        except OSError as error:
            _LOG.error(
                "%s was deleted, and its file is left: %s; the next start removes it", file, reason(error)
            )

    def note(self, sop_instance_uids: Sequence[str], work: Work) -> None:
        """Note work about instances; what is not here is passed over. Raises what disk and index raise."""

        def change(writer: Writer) -> None:
            found = [(uid, writer.find(uid)) for uid in some]
            rows = [(uid, each.digest, work) for uid, each in found if each is not None]
            enqueue_for_instances(writer.execute_all, rows, writer.began)

        for start in range(0, len(sop_instance_uids), deleting.PAGE):
            some = sop_instance_uids[start : start + deleting.PAGE]
            self._ingest.change(change)

    # what comes again

    def _begin(self, writer: Writer, highest: int) -> None:
        self.is_used = True
        writer.never_again(highest)
        writer.returned = self._returned

    def _returned(self, writer: Writer, uids: Sequence[str]) -> None:
        """Instances get a row: the tombstones of those that were deleted are lifted."""
        again = deleting.in_force(writer, uids)
        if not again:
            return
        writer.keep_file()
        deleting.lift(writer, again, writer.now)
        self._happened["returned"] += len(again)
        for uid in again:
            _LOG.warning("%s was deleted and has come again: it is stored again", uid)
        try:
            log = self._journal.append(deleting.read_log(writer), Entry(writer.now, lifted=again))
        except (OSError, ArchiveError) as error:  # no reason to refuse it: the index knows
            _LOG.error("%s could not be written: %s", self._journal.path, reason(error))
        else:
            deleting.write_log(writer, log)

    # what is known

    def join(self) -> None:
        """Take part where other processes delete, too."""
        log = self._ingest.change(deleting.read_log)
        self._ingest.change(partial(self._begin, highest=log.highest))

    def reconcile(self) -> None:
        """Let index and file know the same, before anything is stored.

        Raises `ArchiveError` for a file that is damaged, ``OSError``, and what the index raises.
        """
        log = self._ingest.change(deleting.read_log)
        size = self._journal.size
        told = ""
        if size is None and (log.size or self._reader.has_any()):
            log, told = self._write_anew(log), "it was missing and is written anew"
        elif size is not None and not self._journal.is_continued(log):
            aside = self._journal.set_aside()
            log = self._write_anew(log)
            told = f"it does not go on from what the index knows; it is kept, nothing in it is done: {aside}"
        elif size is not None and size > log.size:
            log, told = self._catch_up(log)
        if told:
            _LOG.warning("%s: %s", self._journal.path, told)
        if log.size:
            self._ingest.change(partial(self._begin, highest=log.highest))

    def _catch_up(self, log: Log) -> tuple[Log, str]:
        """Do what the file says and the index does not know."""
        known, gone = log, 0
        with closing(self._journal.read(log)) as entries:
            while some := list(itertools.islice(entries, _TOGETHER)):
                log, number = self._ingest.change(partial(_done_again, some, log.highest))
                gone += number
        told = f"{gone} instances that it says were deleted had a row, and have none any more" if gone else ""
        return log, told or ("the index did not know all that was deleted" if log != known else "")

    def _write_anew(self, log: Log) -> Log:
        written = log._replace(size=0, last="")
        if self._reader.has_any():
            written = self._journal.write(log, self._entries())
        self._ingest.change(lambda writer: deleting.write_log(writer, written))
        return written

    def _entries(self) -> Iterator[Entry]:
        """Give all that the index knows."""
        for page in self.known():
            for (when, why), some in itertools.groupby(page, lambda row: (row[1], row[2])):
                yield Entry(when, why, [row[4] for row in some])
            lifted: dict[str, list[str]] = {}
            for row in page:
                if row[3]:
                    lifted.setdefault(row[3], []).append(row[4].sop_instance_uid)
            for when, uids in lifted.items():
                yield Entry(when, lifted=uids)


Caller = Callable[..., Awaitable[Any]]


def _done_again(some: Sequence[tuple[Entry, Log]], highest: int, writer: Writer) -> tuple[Log, int]:
    gone: list[int] = []
    for entry, _ in some:
        if entry.deleted:
            gone += deleting.bury_files(writer, entry.deleted, entry.when, entry.why)
        if entry.lifted:
            deleting.lift(writer, entry.lifted, entry.when)
    log = some[-1][1]._replace(highest=max(highest, *gone, 0))
    deleting.write_log(writer, log)
    return log, len(gone)


def _kept(
    writer: Writer, found: Sequence[Doomed], promised: Container[str], *, even_failed: bool
) -> dict[int, Refused]:
    held = deleting.holds_of(writer, [each.id for each in found])
    kept = {
        each.instance: Refused(each.sop_instance_uid, _why(each))
        for each in held
        if not (even_failed and each.state is State.FAILED)
    }
    for each in found:
        if each.id not in kept and each.tombstone.sop_instance_uid in promised:
            kept[each.id] = Refused(each.tombstone.sop_instance_uid, _COMMITMENT)
    return kept


def _refusals(held: Sequence[Hold], *, even_failed: bool) -> list[Refused]:
    kept = [each for each in held if not (even_failed and each.state is State.FAILED)]
    return [Refused(each.sop_instance_uid, _why(each)) for each in kept]


def _why(hold: Hold) -> str:
    what = f"its {hold.kind!r} work" + (f" for {hold.destination}" if hold.destination else "")
    if hold.state is State.FAILED:
        return f"{what} has failed"
    return f"{what} is open ({hold.state.name.lower()})"


async def delete(
    deleting: Deleting,
    scope: Scope,
    *,
    read: Caller,
    upkeep: Caller,
    why: str,
    even_failed: bool,
    dry_run: bool,
) -> AsyncGenerator[Deleted, None]:
    """Delete something, and give how much of it is done, again and again; the last one says all.

    `read` and `upkeep` call in the threads of the archive.
    """
    look, refused = await read(partial(deleting.look, scope, even_failed=even_failed))
    done = Deleted(scope.level, scope.uid, look.instances, look.size, tuple(refused))
    if refused or dry_run:
        yield done
        return
    done = done._replace(instances=0, size=0)
    after = 0
    while True:
        step = await upkeep(partial(deleting.some, scope, after, look.last, why, even_failed=even_failed))
        if step.is_last:
            break
        after = step.after
        done = done._replace(
            instances=done.instances + step.instances,
            size=done.size + step.size,
            refused=(*done.refused, *step.refused)[:_NAMED],
        )
        yield done
    left = await read(deleting.left, scope)
    _LOG.warning("%s %s: %d instances were deleted: %s", _LEVELS[scope.level], scope.uid, done.instances, why)
    yield done._replace(came_meanwhile=max(left - len(done.refused), 0), is_done=True)
