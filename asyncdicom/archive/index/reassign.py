"""The rows of a study move to another patient, and back: in one transaction, instance by instance.

A study is the one of a patient: under the other one it gets a row of its own, unless there is one; so do its
series. What is empty then goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Table, bindparam, func, insert, select, update

from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.reassigned import Reassignment
from asyncdicom.archive.index.record import patient_row
from asyncdicom.archive.index.schema import LEVELS, instance, patient, reassignment, series, study
from asyncdicom.archive.index.sql import equal
from asyncdicom.archive.index.writer import Writer

__all__ = ["Copy", "apply", "copies_of", "note", "patients_named", "undo"]

_PATIENT = ("patient_id", "issuer_of_patient_id", "told_apart")
_TEXTS = tuple(attribute.column for attribute in LEVELS["PATIENT"])
_IS_PATIENT = [equal(patient.c[name], bindparam(name)) for name in _PATIENT]


class Copy(NamedTuple):
    """A study as it is under one patient: those of its instances that one and the same row has put there."""

    patient: tuple[str, str, str]
    texts: dict[str, str]
    """That patient, by column."""

    reassigned: int
    series: int
    instances: int


_COPIES = Prepared(
    select(
        *(patient.c[name] for name in _PATIENT),
        *(patient.c[name] for name in _TEXTS),
        instance.c.reassigned,
        func.count(series.c.id.distinct()),
        func.count(),
    )
    .select_from(patient)
    .join(study, study.c.parent == patient.c.id)
    .join(series, series.c.parent == study.c.id)
    .join(instance, instance.c.parent == series.c.id)
    .where(study.c.study_instance_uid == bindparam("study_instance_uid"))
    .group_by(patient.c.id, instance.c.reassigned)
    .order_by(patient.c.id)
)
_PATIENTS = Prepared(
    select(*(patient.c[name] for name in _PATIENT), *(patient.c[name] for name in _TEXTS)).where(
        equal(patient.c.patient_id, bindparam("patient_id"))
    )
)
_SERIES = Prepared(
    select(series.c.id, study.c.id)
    .select_from(patient)
    .join(study, study.c.parent == patient.c.id)
    .join(series, series.c.parent == study.c.id)
    .where(study.c.study_instance_uid == bindparam("study_instance_uid"), *_IS_PATIENT)
)
_HAS_ANY = Prepared(
    select(instance.c.id)
    .where(instance.c.parent == bindparam("old"), instance.c.reassigned == bindparam("was"))
    .limit(1)
)
_MOVE = Prepared(
    update(instance)
    .where(instance.c.parent == bindparam("old"), instance.c.reassigned == bindparam("was"))
    .values(parent=bindparam("new"), reassigned=bindparam("now"))
)
_FIND_PATIENT = Prepared(select(patient.c.id).where(*_IS_PATIENT))


def _names(table: Table) -> list[str]:
    return [column.name for column in table.c if column.name != "id"]


_INSERT = {
    table: Prepared(insert(table).values({name: bindparam(name) for name in _names(table)}))
    for table in (patient, reassignment)
}
_COPY = {
    table: Prepared(
        insert(table).from_select(
            ["parent", *(name for name in _names(table) if name != "parent")],
            select(bindparam("into"), *(table.c[name] for name in _names(table) if name != "parent")).where(
                table.c.id == bindparam("row")
            ),
        )
    )
    for table in (study, series)
}


def _same_below(table: Table, uid: str) -> Prepared:
    """Look for the row of the same UID below another parent."""
    other = table.alias()
    return Prepared(
        select(table.c.id).where(
            table.c.parent == bindparam("into"),
            table.c[uid] == select(other.c[uid]).where(other.c.id == bindparam("row")).scalar_subquery(),
        )
    )


_SAME = {
    study: _same_below(study, "study_instance_uid"),
    series: _same_below(series, "series_instance_uid"),
}
_UNDO = Prepared(
    update(reassignment).where(reassignment.c.id == bindparam("row")).values(undone=bindparam("now"))
)


def copies_of(writer: Writer, study_instance_uid: str) -> list[Copy]:
    """Give whose a study is, as queries find it."""
    found = []
    for row in writer.execute(_COPIES, {"study_instance_uid": study_instance_uid}):
        whose, texts, (reassigned, of_series, instances) = (*_parts(row[:-3]), row[-3:])
        found.append(Copy(whose, texts, reassigned, of_series, instances))
    return found


def patients_named(writer: Writer, patient_id: str) -> list[tuple[tuple[str, str, str], dict[str, str]]]:
    """Give the patients with a Patient ID: what tells each apart, and its texts by column."""
    return [_parts(row) for row in writer.execute(_PATIENTS, {"patient_id": patient_id})]


def _parts(row: Any) -> tuple[tuple[str, str, str], dict[str, str]]:
    texts = dict(zip(_TEXTS, row[len(_PATIENT) :], strict=True))
    return (row[0], row[1], row[2]), {column: text for column, text in texts.items() if text}


def note(writer: Writer, made: Reassignment) -> int:
    """Give it a row, and give its number."""
    number = int(writer.execute(_INSERT[reassignment], made.values()).lastrowid)
    writer.forget()
    return number


def apply(writer: Writer, made: Reassignment) -> int:
    """Put under the other patient what the files say is that of the first; gives how many instances."""
    return _move(writer, made, made.patient, made.target, made.row, was=0, now=made.id)


def undo(writer: Writer, made: Reassignment, when: str) -> int:
    """Put back what it has moved, and note that; gives how many instances."""
    writer.execute(_UNDO, {"row": made.id, "now": when})
    return _move(writer, made, made.target, made.patient, patient_row(made.was), was=made.id, now=0)


def _move(
    writer: Writer,
    made: Reassignment,
    source: tuple[str, str, str],
    target: tuple[str, str, str],
    row: Mapping[str, str],
    *,
    was: int,
    now: int,
) -> int:
    writer.forget()
    moved = 0
    whose = dict(zip(_PATIENT, source, strict=True))
    found = writer.execute(_SERIES, {"study_instance_uid": made.study_instance_uid, **whose}).fetchall()
    for old_series, old_study in found:
        if writer.execute(_HAS_ANY, {"old": old_series, "was": was}).fetchone() is None:
            continue
        into = _copy(writer, study, old_study, _patient(writer, target, row))
        new = _copy(writer, series, old_series, into)
        moved += writer.execute(_MOVE, {"old": old_series, "was": was, "new": new, "now": now}).rowcount
        writer.remove_if_empty(old_series)
    return moved


def _patient(writer: Writer, key: tuple[str, str, str], row: Mapping[str, str]) -> int:
    whose = dict(zip(_PATIENT, key, strict=True))
    found = writer.execute(_FIND_PATIENT, whose).fetchone()
    if found is not None:
        return int(found[0])
    return int(writer.execute(_INSERT[patient], {**row, **whose}).lastrowid)


def _copy(writer: Writer, table: Table, row: int, parent: int) -> int:
    """Give the row of the same study or series below another parent; it is made where there is none."""
    found = writer.execute(_SAME[table], {"into": parent, "row": row}).fetchone()
    if found is not None:
        return int(found[0])
    return int(writer.execute(_COPY[table], {"into": parent, "row": row}).lastrowid)
