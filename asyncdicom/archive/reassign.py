"""What an operator does with a study that is under the wrong patient: put it under the right one, and back.

The files stay as they came. What was decided is in the index and in ``reassigned.json`` beside the files, so
that neither an index that is built anew nor one put back from a copy forgets it: at start, each gets what
only the other knows. Nothing is ever removed from them; what is undone is noted as that.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeVar

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.index import reassign
from asyncdicom.archive.index.reassign import Copy
from asyncdicom.archive.index.reassigned import SENT, Reassignment, all_of_them
from asyncdicom.archive.index.text import normalise
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.journal import Journal
from asyncdicom.telemetry.log import Log

__all__ = ["Moved", "Reassigning", "Wanted"]

_LOG = Log("asyncdicom.archive")

_NAME = re.compile(r"[0-9a-f]{8,32}")
_LONGEST = {"patient_name": 324, "patient_id": 64, "issuer_of_patient_id": 64, "patient_birth_date": 8}
_T = TypeVar("_T")


class Wanted(NamedTuple):
    """A study, whose it is now (None: there is one patient only), and who it is to be put under, by column.

    What is None of the new patient is as the archive knows that one.
    """

    study_instance_uid: str
    patient_id: str | None
    issuer_of_patient_id: str | None
    becomes: Mapping[str, str | None]


class Moved(NamedTuple):
    """What is or would be changed: the study, the two patients by column, and how much it is."""

    study_instance_uid: str
    was: Mapping[str, str]
    becomes: Mapping[str, str]
    series: int
    instances: int
    names: tuple[str, ...] = ()
    """Those of the reassignments that were made."""


class Reassigning:
    """The reassignments of an open archive. Every method blocks; all are for the thread of the sweep."""

    def __init__(self, journal: Journal, ingest: Ingest, *, is_shared: bool = False) -> None:
        self._journal = journal
        self._ingest = ingest
        self.is_used = is_shared
        """Whether any was ever made, or may be made by another process (`is_shared`)."""

    # what is known

    def known(self) -> list[Reassignment]:
        """Give all that were ever made. Raises `IndexFailed`."""
        return self._ingest.change(lambda writer: all_of_them(writer.execute))

    def reconcile(self) -> None:
        """Let index and file know the same, before anything is stored.

        Raises `ArchiveError` for a file that is damaged, ``OSError``, and what the index raises.
        """
        kept = self._journal.read()
        told = self._ingest.change(lambda writer: self._reconcile(writer, kept))
        if told:
            _LOG.warning("%s and the index did not know the same: %s", self._journal.path, told)

    def _reconcile(self, writer: Writer, kept: Sequence[Reassignment] | None) -> str:
        known = {each.name: each for each in all_of_them(writer.execute)}
        done = moved = 0
        for each in sorted(kept or (), key=lambda each: not each.undone):  # who takes their place comes after
            mine = known.get(each.name)
            if mine is None:
                done += 1
                made = replace(each, id=reassign.note(writer, each))
                moved += 0 if each.undone else reassign.apply(writer, made)
            elif each.undone and not mine.undone:
                done += 1
                moved += reassign.undo(writer, mine, each.undone)
        if not (known or kept):
            return ""
        self.is_used = True
        now = all_of_them(writer.execute)
        if kept is None or {_plain(each) for each in kept} != {_plain(each) for each in now}:
            self._journal.write(now)
            if not done:
                return "the file was written anew"
        return f"{done} reassignments, {moved} instances" if done else ""

    # what is changed

    def study(self, wanted: Wanted, *, dry: bool) -> Moved:
        """Put a study of a patient under another one; `dry`: only say what that would be.

        Raises `ArchiveError` where it is not clear which study, or which patient, is meant, and what disk and
        index raise: then nothing has changed.
        """
        moved = self._change(lambda writer: self._reassign(writer, wanted, dry=dry), dry=dry)
        if not dry:
            _LOG.warning(
                "%s was put under another patient, as asked: %d instances (%s)",
                moved.study_instance_uid,
                moved.instances,
                ", ".join(moved.names) or "as they came",
            )
        return moved

    def undo(self, name: str, *, dry: bool) -> Moved:
        """Put a study back to the patient of its files. ``name``: that of a reassignment, or 8 of its digits.

        Raises as `study`.
        """
        moved = self._change(lambda writer: self._undo(writer, name, dry=dry), dry=dry)
        if not dry:
            _LOG.warning(
                "%s was put back to the patient of its files, as asked: %d instances",
                moved.study_instance_uid,
                moved.instances,
            )
        return moved

    def _reassign(self, writer: Writer, wanted: Wanted, *, dry: bool) -> Moved:
        copies = _meant(reassign.copies_of(writer, wanted.study_instance_uid), wanted)
        becomes = _patient(writer, wanted.becomes)
        whose, was = copies[0].patient, copies[0].texts
        target = (becomes["patient_id"], becomes.get("issuer_of_patient_id", ""), "")
        if whose == target:
            raise ArchiveError("the study is under that patient already")
        moved = Moved(
            wanted.study_instance_uid,
            _shown(was),
            _shown(becomes),
            max(copy.series for copy in copies),
            sum(copy.instances for copy in copies),
        )
        if dry:
            return moved
        known = {each.id: each for each in all_of_them(writer.execute)}
        names = []
        for copy in copies:
            before = known.get(copy.reassigned)
            if before is not None:
                reassign.undo(writer, before, writer.now)
            of_files = (whose, was) if before is None else (before.patient, before.was)
            if of_files[0] == target:
                continue  # back where it came from
            self.is_used = True
            made = Reassignment(uuid.uuid4().hex, wanted.study_instance_uid, *of_files, becomes, writer.now)
            reassign.apply(writer, replace(made, id=reassign.note(writer, made)))
            names.append(made.name)
        return moved._replace(names=tuple(names))

    def _undo(self, writer: Writer, name: str, *, dry: bool) -> Moved:
        if not _NAME.fullmatch(name):
            raise ArchiveError(
                f"{name[:40]!r} names nothing: give 8 or more digits of a name that `list` shows"
            )
        found = [each for each in all_of_them(writer.execute) if each.name.startswith(name)]
        if len(found) != 1:
            what = "two reassignments" if found else "no reassignment"
            raise ArchiveError(f"{what} begin with {name}; see `reassign list`")
        [each] = found
        if each.undone:
            raise ArchiveError(f"{name} was undone at {each.undone}")
        copies = [
            copy for copy in reassign.copies_of(writer, each.study_instance_uid) if copy.reassigned == each.id
        ]
        if not dry:
            reassign.undo(writer, each, writer.now)
        return Moved(
            each.study_instance_uid,
            _shown(each.becomes),
            _shown(each.was),
            sum(copy.series for copy in copies),
            sum(copy.instances for copy in copies),
            (each.name,),
        )

    def _change(self, change: Callable[[Writer], _T], *, dry: bool) -> _T:
        """Change the index, and the file before that is committed; both or none of them."""
        if dry:
            return self._ingest.change(change)
        before = self._journal.read()

        def changed(writer: Writer) -> _T:
            writer.keep_others_out()
            writer.keep_file()
            result = change(writer)
            self._journal.write(all_of_them(writer.execute))
            return result

        try:
            return self._ingest.change(changed)
        except BaseException:
            self._restore(before)
            raise

    def _restore(self, before: Sequence[Reassignment] | None) -> None:
        """Let the file be what it was: another process may have written it since, so the index says what."""

        def restored(writer: Writer) -> None:
            writer.keep_file()
            known = all_of_them(writer.execute)
            self._journal.write(known if known or before is not None else None)

        try:
            self._ingest.change(restored)
        except BaseException:
            with suppress(OSError):  # then the next start finds it there, and does it
                self._journal.write(before)


def _plain(reassignment: Reassignment) -> tuple[str, str]:
    return reassignment.name, reassignment.undone


def _shown(texts: Mapping[str, str]) -> dict[str, str]:
    return {column: texts.get(column, "") for column in SENT}


def _meant(copies: Sequence[Copy], wanted: Wanted) -> list[Copy]:
    """Choose the study of one patient."""
    if not copies:
        raise ArchiveError(f"no study {wanted.study_instance_uid} is here")
    chosen = [
        copy
        for copy in copies
        if wanted.patient_id in (None, copy.patient[0])
        and wanted.issuer_of_patient_id in (None, copy.patient[1])
    ]
    whose = {copy.patient for copy in chosen}
    if not whose:
        raise ArchiveError(
            "the study is not under that patient: leave the patient away to be told whose it is"
        )
    if len(whose) > 1:
        listed = "; ".join(f"{patient_id!r} of {issuer!r}" for patient_id, issuer, _ in sorted(whose))
        raise ArchiveError(f"{len(whose)} patients have this study, say which one is meant: {listed}")
    return chosen


def _patient(writer: Writer, given: Mapping[str, str | None]) -> dict[str, str]:
    """Give the patient that is meant: one that the archive knows, or a new one that is described."""
    texts = {column: _checked(column, value) for column, value in given.items() if value is not None}
    patient_id, issuer = texts["patient_id"], texts.get("issuer_of_patient_id")
    if not patient_id:
        raise ArchiveError("the Patient ID of the right patient is missing")
    known = [
        (key, row)
        for key, row in reassign.patients_named(writer, patient_id)
        if issuer in (None, key[1]) and not key[2]
    ]
    if len(known) > 1:
        raise ArchiveError(f"{len(known)} patients have this Patient ID: say the issuer of the one meant")
    if not known:
        if "patient_name" not in texts:
            raise ArchiveError(
                "the archive knows no such patient: say the name, too, and date of birth and sex"
            )
        return {column: text for column, text in texts.items() if text}
    [(_, row)] = known
    if any(text != row.get(column, "") for column, text in texts.items()):
        raise ArchiveError(
            "the archive knows this patient by another name, date of birth or sex: leave those away, or "
            "check the Patient ID"
        )
    return {column: row[column] for column in SENT if column in row}


def _checked(column: str, value: str) -> str:
    """Check what is to be sent. Raises `ArchiveError`."""
    text = normalise(value.strip(), "PN" if column == "patient_name" else "LO")
    if "\\" in text or not text.isprintable() or len(text) > _LONGEST.get(column, 16):
        raise ArchiveError(f"{column}: too long, or with a character that cannot be in it")
    if column == "patient_birth_date" and text and not (text.isascii() and text.isdigit() and len(text) == 8):
        raise ArchiveError("patient_birth_date: eight digits, YYYYMMDD")
    if column == "patient_sex" and text not in ("", "M", "F", "O"):
        raise ArchiveError("patient_sex: M, F or O")
    return text
