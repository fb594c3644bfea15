"""The arrivals of one transaction: what is to be done with each; the files first, then the index its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from asyncdicom.archive.arrival import Answer, Arrival, Found, OnConflict, OnMismatch, Outcome, Rules
from asyncdicom.archive.blobs.base import Blobs, State
from asyncdicom.archive.index.base import (
    Changes,
    Existing,
    FileEntry,
    Healing,
    Insertion,
    Lookup,
    Quarantining,
    aside,
)
from asyncdicom.archive.index.record import Identity
from asyncdicom.archive.index.work import Work
from asyncdicom.data.likeness import Likeness

__all__ = ["Bounds", "LookFirst", "MoveFirst", "Round"]

_INCOMPLETE = "it ends within an element, and a complete copy has come"

_AMONG_OBJECTS = frozenset({Outcome.STORED, Outcome.REPLACED, Outcome.SUPERSEDED, Outcome.HEALED})

_LEADS_TO_WORK = frozenset(
    {
        Outcome.STORED,
        Outcome.REPLACED,
        Outcome.SUPERSEDED,
        Outcome.HEALED,
        Outcome.ALREADY_HERE,
        Outcome.SAME,
    }
)


class Bounds(NamedTuple):
    """How much peers may bring into quarantine."""

    files: int
    size: int
    """Bytes of their data sets together."""


class LookFirst(Exception):
    """The answer depends on what is in the file of a row: somebody looks, and the arrival comes again.

    `compares`: its elements are compared with those of the arrival; else only with what the row says.
    """

    def __init__(self, existing: Existing, *, compares: bool = False) -> None:
        super().__init__(existing.file)
        self.existing = existing
        self.compares = compares


class MoveFirst(Exception):
    """The file of the arrival has to lie elsewhere: somebody moves it, and the arrival comes again.

    Where that takes long, no transaction waits for it. `to_quarantine`: there, else back to its own place.
    """

    def __init__(self, *, to_quarantine: bool) -> None:
        super().__init__()
        self.to_quarantine = to_quarantine


class _Plan(NamedTuple):
    """The outcome of an arrival, if its folder can be synced, and the row that gives way to it."""

    outcome: Outcome
    existing: Existing | None = None


class Round:
    """One transaction. What fails for one arrival is its answer alone; what fails for all is raised.

    `index` tells what it has, as long as the transaction lasts.
    """

    def __init__(self, index: Lookup, blobs: Blobs, rules: Rules, bounds: Bounds) -> None:
        self._index = index
        self._blobs = blobs
        self._on_conflict = rules.on_conflict
        self._on_mismatch = rules.on_mismatch
        self._bounds = bounds
        self._usage: tuple[int, int] | None = None  # of the quarantine, asked for when it is needed
        self._existing: Mapping[str, Existing] = {}  # by SOP Instance UID
        self._planned: dict[str, list[Identity]] = {}  # of new instances of this round, by study
        self._moved: list[tuple[Arrival, str]] = []
        self.work: list[Work] = []
        """What the instances lead to."""

    def settle(self, batch: Sequence[Arrival]) -> tuple[list[Answer], Changes]:
        """Bring the files to what the commit is to make true; gives the answers after it, and the changes."""
        self._existing = self._index.find_all([arrival.record.sop_instance_uid for arrival in batch])
        planned = [(arrival, *self._try(arrival)) for arrival in batch]
        failed = self._sync({folder for _, _, folder in planned if folder})
        answers: list[Answer] = []
        changes = Changes()
        for arrival, plan, folder in planned:
            if isinstance(plan, BaseException):
                answers.append(plan)
            elif (error := failed.get(folder)) is not None:
                answers.append(error)
            else:
                self._note(arrival, plan, changes)
                answers.append(plan.outcome)
                if arrival.work:
                    changes.work += _work_of(arrival, plan)
        self.work = [work for _, _, work in changes.work]
        return answers, changes

    def _try(self, arrival: Arrival) -> tuple[_Plan | BaseException, str]:
        """Plan, and say which folder has to be synced for it, if any."""
        try:
            plan = self._plan(arrival)
            self._check_place(arrival, plan)
        except (OSError, LookFirst, MoveFirst) as error:
            return error, ""
        to_sync = plan.outcome.keeps and not arrival.file.is_durable
        return plan, os.path.dirname(arrival.file.path) if to_sync else ""

    def _check_place(self, arrival: Arrival, plan: _Plan) -> None:
        """Have a file moved back that is in quarantine by an earlier plan of its own."""
        if self._blobs.moves_slowly and plan.outcome in _AMONG_OBJECTS and self._is_aside(arrival):
            raise MoveFirst(to_quarantine=False)

    def _is_aside(self, arrival: Arrival) -> bool:
        return os.path.dirname(arrival.file.path) == self._blobs.quarantine

    def _sync(self, folders: set[str]) -> dict[str, OSError]:
        failed: dict[str, OSError] = {}
        for folder in folders:
            try:
                self._blobs.sync(folder)
            except OSError as error:
                failed[folder] = error
        return failed

    # what is to be done

    def _plan(self, arrival: Arrival) -> _Plan:
        arrival.is_conflict, arrival.mismatch, arrival.divides = False, "", ""  # it may come again
        arrival.has_row = False
        if arrival.is_withdrawn:
            return _Plan(Outcome.WITHDRAWN)
        if not self._blobs.is_trusted(arrival.file.name):
            return _Plan(Outcome.UNTRUSTED)
        existing = self._existing.get(arrival.record.sop_instance_uid)
        if isinstance(arrival, Found):
            return self._plan_found(arrival, existing)
        if existing is None:
            return self._plan_kept(arrival, _Plan(Outcome.STORED))
        if _is_same(existing, arrival):
            return self._again(arrival, existing)
        return self._plan_other(arrival, existing)

    def _plan_kept(self, arrival: Arrival, plan: _Plan) -> _Plan:
        """It is to have a row among the instances: is it clear whose it is?"""
        identity = self._index.identity_of(arrival.record)
        study = identity.study_instance_uid
        planned = self._planned.setdefault(study, [])
        is_planned = identity in planned  # then it contradicts nothing that the first one has not
        arrival.mismatch = arrival.record.contradiction
        others = [] if is_planned else self._others(identity, planned)
        if any(map(identity.contradicts, others)):
            arrival.mismatch = "another patient has this Study Instance UID"
        elif others:
            arrival.divides = study
        # One that was found is told only: it was kept once, and an operator has it indexed again.
        if arrival.mismatch and self._on_mismatch is OnMismatch.QUARANTINE and not arrival.was_found:
            return self._plan_quarantine(arrival)
        if not is_planned:
            planned.append(identity)
        return plan

    def _others(self, identity: Identity, planned: Sequence[Identity]) -> list[tuple[str, str, str]]:
        """Give whom the study belongs to, in the index or in this round, if that is nobody of this name."""
        known = self._index.patients_of(identity)
        known += [(other.patient_id, other.issuer_of_patient_id, other.told_apart) for other in planned]
        return [] if tuple(identity.of_patient().values()) in known else known

    def _plan_other(self, arrival: Arrival, existing: Existing) -> _Plan:
        """Other bytes under a SOP Instance UID that is taken: do they say the same?"""
        likeness = arrival.compared.get(existing.file)
        if likeness is None:
            raise LookFirst(existing, compares=True)
        if likeness is Likeness.EQUAL:
            return _Plan(Outcome.SAME, existing)
        if likeness is Likeness.TORSO and not arrival.is_incomplete:
            plan = self._plan_kept(arrival, _Plan(Outcome.SUPERSEDED, existing))
            if plan.outcome is Outcome.SUPERSEDED:
                self._count_aside(existing.data_set_length)
            return plan
        arrival.is_conflict = True
        if self._on_conflict is OnConflict.QUARANTINE:
            return self._plan_quarantine(arrival)
        if self._on_conflict is OnConflict.REPLACE:
            return self._plan_kept(arrival, _Plan(Outcome.REPLACED, existing))
        return _Plan(Outcome.REFUSED)

    def _plan_found(self, found: Found, existing: Existing | None) -> _Plan:
        """A file without a row: it is indexed again, and never takes the place of one that is there."""
        if found.in_quarantine:
            if existing is not None and _is_same(existing, found):
                return self._again(found, existing)
            return self._plan_quarantine(found)
        if existing is None:
            if found.was_deleted:
                return self._plan_quarantine(found)
            return self._plan_kept(found, _Plan(Outcome.STORED))
        if _is_same(existing, found):
            return self._again(found, existing)
        if self._look(found, existing) is State.MISSING:
            return self._plan_kept(found, _Plan(Outcome.REPLACED, existing))
        return self._plan_quarantine(found)

    def _again(self, arrival: Arrival, existing: Existing) -> _Plan:
        """The same bytes have a row: they are here if its file is, else this one takes its place."""
        arrival.has_row = self._path(existing) == arrival.file.path
        is_here = arrival.has_row or self._look(arrival, existing) is State.SOUND
        if existing.is_quarantined:
            if is_here:
                return _Plan(Outcome.ALREADY_IN_QUARANTINE)
            self._move(arrival)
            return _Plan(Outcome.HEALED_IN_QUARANTINE, existing)
        if is_here:
            return _Plan(Outcome.ALREADY_HERE)
        if isinstance(arrival, Found) and arrival.in_quarantine:
            return self._plan_quarantine(arrival)  # what the index calls an object lies below objects
        return _Plan(Outcome.HEALED, existing)

    @staticmethod
    def _look(arrival: Arrival, existing: Existing) -> State:
        state = arrival.looked.get(existing.file)
        if state is None:
            raise LookFirst(existing)
        return state

    def _plan_quarantine(self, arrival: Arrival) -> _Plan:
        existing = self._index.find_quarantined(arrival.record.sop_instance_uid, arrival.file.digest)
        if existing is not None:
            return self._again(arrival, existing)
        if not (arrival.was_found or self._has_room(arrival.file.length)):
            return _Plan(Outcome.QUARANTINE_FULL)
        self._count_aside(arrival.file.length)
        self._move(arrival)
        return _Plan(Outcome.QUARANTINED)

    def _has_room(self, length: int) -> bool:
        """Tell whether the quarantine takes one more of a length (bytes)."""
        files, size = self._usage or self._index.quarantine_usage()
        self._usage = files, size
        return files < self._bounds.files and size + length <= self._bounds.size

    def _count_aside(self, length: int) -> None:
        """Count one more in quarantine."""
        files, size = self._usage or self._index.quarantine_usage()
        self._usage = files + 1, size + length

    def _move(self, arrival: Arrival) -> None:
        path = arrival.file.path
        if self._is_aside(arrival):
            return
        if self._blobs.moves_slowly:
            raise MoveFirst(to_quarantine=True)
        arrival.file.is_durable = False  # its new name is not; nor is the old one if it is moved back
        arrival.file.path = self._blobs.move_to_quarantine(path)
        self._moved.append((arrival, path))

    # doing it

    def _note(self, arrival: Arrival, plan: _Plan, changes: Changes) -> None:
        """Add what is to be changed because of an arrival."""
        outcome, existing = plan
        if outcome.heals and existing is not None:
            changes.healed.append(Healing(existing, self._entry(arrival, outcome)))
            if self._path(existing) != arrival.file.path:  # it may have been on its way there
                arrival.obsolete = self._path(existing)
        elif outcome in (Outcome.STORED, Outcome.REPLACED, Outcome.SUPERSEDED):
            changes.instances.append(Insertion(arrival.record, self._entry(arrival, outcome), existing))
            if existing is not None:
                arrival.obsolete = self._path(existing)
            if existing is not None and outcome is Outcome.SUPERSEDED:
                # Its file is moved there after the commit; a start after a crash between them does that.
                changes.quarantined.append(aside(existing, os.path.basename(existing.file), _INCOMPLETE))
        elif outcome is Outcome.QUARANTINED:
            changes.quarantined.append(
                Quarantining(
                    arrival.record.sop_class_uid,
                    arrival.record.sop_instance_uid,
                    _reason(arrival),
                    self._entry(arrival, outcome),
                )
            )

    @staticmethod
    def _entry(arrival: Arrival, outcome: Outcome) -> FileEntry:
        file = arrival.file
        return arrival.entry(
            file.name
            if outcome not in (Outcome.QUARANTINED, Outcome.HEALED_IN_QUARANTINE)
            else os.path.basename(file.path)
        )

    def _path(self, existing: Existing) -> str:
        place = self._blobs.quarantine_path if existing.is_quarantined else self._blobs.path
        return place(existing.file)

    def undo(self) -> None:
        """Move back what was moved: the transaction has failed."""
        for arrival, path in self._moved:
            try:
                self._blobs.move(arrival.file.path, path)
            except OSError:
                continue  # it stays where it is, and whoever removes it knows where that is
            arrival.file.path = path


def _reason(arrival: Arrival) -> str:
    """Say why an arrival goes to quarantine."""
    if isinstance(arrival, Found) and arrival.in_quarantine:
        return "it was in quarantine and had lost its row"
    if isinstance(arrival, Found) and arrival.was_deleted:
        return "its instance was deleted, and this is another copy of it, without a row"
    if arrival.mismatch and not arrival.is_conflict:
        return arrival.mismatch
    return "another instance has this SOP Instance UID"


def _work_of(arrival: Arrival, plan: _Plan) -> Iterator[tuple[str, str, Work]]:
    """Give the work that an instance leads to which is here now, with its UID and its digest.

    Also of one that was here before: it may have come without an answer, because of a crash. The outbox takes
    nothing twice.
    """
    if plan.outcome in _LEADS_TO_WORK:
        here = plan.existing if plan.outcome is Outcome.SAME else None
        digest = arrival.file.digest if here is None else here.digest
        for each in arrival.work:
            yield arrival.record.sop_instance_uid, digest, each


def _is_same(existing: Existing, arrival: Arrival) -> bool:
    return (existing.digest, existing.transfer_syntax_uid) == (
        arrival.file.digest,
        arrival.transfer_syntax_uid,
    )
