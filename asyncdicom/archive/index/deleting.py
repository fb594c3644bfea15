"""The statements that delete instances: their rows go and a tombstone comes, in one transaction.

Every function is given the one `Writer` and runs within its transaction; `DeletionReader` only reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, Select, Text, bindparam, delete, func, literal_column, or_, select, update
from sqlalchemy.dialects.postgresql import insert  # both engines have its clauses, in the same words

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import (
    deletion,
    deletion_log,
    delivery,
    instance,
    patient,
    series,
    study,
)
from asyncdicom.archive.index.sql import equal, numbers_of, upserting, values_of
from asyncdicom.archive.index.work import State
from asyncdicom.archive.index.writer import Writer

__all__ = [
    "DeletionReader",
    "Doomed",
    "Hold",
    "Log",
    "Look",
    "Scope",
    "Tombstone",
    "bury",
    "bury_files",
    "chosen",
    "doomed",
    "holds_of",
    "in_force",
    "lift",
    "read_log",
    "write_log",
]

PAGE = 500
_NAMED = 100


class Tombstone(NamedTuple):
    """What stays known of an instance that was deleted; offset and length in bytes, `received` in UTC."""

    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    file: str
    data_set_offset: int
    data_set_length: int
    digest: str
    received: str
    calling_ae_title: str


class Doomed(NamedTuple):
    """An instance that is to be deleted: its row, that of its series, and what stays known."""

    id: int
    series: int
    tombstone: Tombstone


class Scope(NamedTuple):
    """What is to be deleted: a study, a series or an instance, by its UID.

    `patient_id`: of the patient who has it; None: there is one only.
    """

    level: str
    uid: str
    patient_id: str | None = None


class Look(NamedTuple):
    """How much something is: `size` in bytes of data sets, `last` the highest id of its instances."""

    studies: int
    series: int
    instances: int
    size: int
    last: int


class Hold(NamedTuple):
    """A delivery that keeps an instance from being deleted."""

    instance: int
    sop_instance_uid: str
    kind: str
    destination: str
    state: State


class Log(NamedTuple):
    """How far ``deleted.jsonl`` was written (bytes, and the name of the last entry), and the highest id."""

    size: int = 0
    last: str = ""
    highest: int = 0


# what is meant

_UIDS = {
    "STUDY": study.c.study_instance_uid,
    "SERIES": series.c.series_instance_uid,
    "IMAGE": instance.c.sop_instance_uid,
}
_TABLES = (
    instance.join(series, series.c.id == instance.c.parent)
    .join(study, study.c.id == series.c.parent)
    .join(patient, patient.c.id == study.c.parent)
)
_COLUMNS = [
    {"study_instance_uid": study, "series_instance_uid": series}.get(name, instance).c[name]
    for name in Tombstone._fields
]
_IDS = select(numbers_of(bindparam("ids", type_=Text)))
_WHOSE = or_(
    bindparam("patient_id", type_=Text).is_(None),
    equal(patient.c.patient_id, bindparam("patient_id", type_=Text)),
)


def _meant(level: str, *columns: Any) -> Select[Any]:
    return select(*columns).select_from(_TABLES).where(_UIDS[level] == bindparam("uid"), _WHOSE)


_DOOMED = {
    level: Prepared(
        _meant(level, instance.c.id, instance.c.parent, *_COLUMNS)
        .where(instance.c.id > bindparam("after"), instance.c.id <= bindparam("last"))
        .order_by(instance.c.id)
        .limit(literal_column(str(PAGE)))
    )
    for level in _UIDS
}
_CHOSEN = Prepared(
    select(instance.c.id, instance.c.parent, *_COLUMNS)
    .select_from(_TABLES)
    .where(instance.c.id.in_(_IDS), instance.c.received <= bindparam("until"))
)
_LOOK = {
    level: _meant(
        level,
        func.count(study.c.id.distinct()),
        func.count(series.c.id.distinct()),
        func.count(),
        func.coalesce(func.sum(instance.c.data_set_length), 0),
        func.coalesce(func.max(instance.c.id), 0),
    )
    for level in _UIDS
}
_PATIENTS = {
    level: _meant(level, patient.c.patient_id, patient.c.issuer_of_patient_id).distinct().limit(_NAMED)
    for level in _UIDS
}

# what keeps it

_OPEN = (State.READY, State.WAITING, State.LEASED, State.FAILED)
_OF_DELIVERY = [delivery.c[name] for name in ("kind", "destination", "state")]
_HOLDING = (
    select(instance.c.id, instance.c.sop_instance_uid, *_OF_DELIVERY)
    .select_from(_TABLES.join(delivery, delivery.c.instance == instance.c.id))
    .where(delivery.c.state.in_([literal_column(str(int(state))) for state in _OPEN]))
)
_HOLDS_OF = Prepared(_HOLDING.where(instance.c.id.in_(_IDS)))
_HOLDS = {
    level: _HOLDING.where(_UIDS[level] == bindparam("uid"), _WHOSE).order_by(instance.c.id).limit(_NAMED)
    for level in _UIDS
}


def doomed(writer: Writer, scope: Scope, after: int, last: int) -> list[Doomed]:
    """Give the next instances of what is to be deleted, by id: those after one, up to another."""
    row = {"uid": scope.uid, "patient_id": scope.patient_id, "after": after, "last": last}
    return [_doomed(found) for found in writer.execute(_DOOMED[scope.level], row)]


def chosen(writer: Writer, ids: Iterable[int], until: str) -> list[Doomed]:
    """Give instances by their ids, those that were received up to a time."""
    row = {"ids": json.dumps(list(ids)), "until": until}
    return [_doomed(found) for found in writer.execute(_CHOSEN, row)]


def _doomed(row: Sequence[Any]) -> Doomed:
    return Doomed(row[0], row[1], Tombstone(*row[2:]))


def holds_of(writer: Writer, ids: Iterable[int]) -> list[Hold]:
    """Give the deliveries of some instances that are open or have failed."""
    found = writer.execute(_HOLDS_OF, {"ids": json.dumps(list(ids))})
    return [_hold(row) for row in found]


def _hold(row: Sequence[Any]) -> Hold:
    number, uid, kind, destination, state = row
    return Hold(number, uid, kind, destination, State(state))


# how it is deleted

# What was delivered is forgotten with the instance: a row's number must not lead to another one.
_DELETE = [
    Prepared(delete(table).where(column.in_(_IDS)))
    for table, column in ((instance, instance.c.id), (delivery, delivery.c.instance))
]
_BURY = Prepared(
    insert(deletion)
    .values({c.name: bindparam(c.name) for c in deletion.c if c.name != "id"})
    .on_conflict_do_nothing()
)
_OF_FILES = Prepared(
    select(instance.c.id, instance.c.parent).where(
        instance.c.file.in_(select(values_of(bindparam("files", type_=Text))))
    )
)
_HERE = Prepared(
    select(instance.c.sop_instance_uid).where(
        instance.c.sop_instance_uid.in_(select(values_of(bindparam("uids", type_=Text))))
    )
)


def bury(writer: Writer, some: Sequence[Doomed], when: str, why: str) -> None:
    """Remove the rows of instances, with what is empty then and their deliveries; tombstones come instead."""
    _remove(writer, [(each.id, each.series) for each in some])
    _note(writer, [each.tombstone for each in some], when, why, set())


def bury_files(writer: Writer, tombstones: Sequence[Tombstone], when: str, why: str) -> list[int]:
    """Delete again what was deleted, by its file; gives the ids of those that had a row."""
    files = json.dumps([each.file for each in tombstones])
    rows = [(row[0], row[1]) for row in writer.execute(_OF_FILES, {"files": files})]
    _remove(writer, rows)
    uids = json.dumps([each.sop_instance_uid for each in tombstones])
    _note(writer, tombstones, when, why, {row[0] for row in writer.execute(_HERE, {"uids": uids})})
    return [number for number, _ in rows]


def _remove(writer: Writer, rows: Sequence[tuple[int, int]]) -> None:
    if not rows:
        return
    ids = json.dumps([number for number, _ in rows])
    for statement in _DELETE:
        writer.execute(statement, {"ids": ids})
    for number in {series_id for _, series_id in rows}:
        writer.remove_if_empty(number)


def _note(writer: Writer, tombstones: Iterable[Tombstone], when: str, why: str, here: set[str]) -> None:
    writer.execute_all(
        _BURY,
        [
            {
                **each._asdict(),
                "deleted": when,
                "why": why,
                "lifted": writer.now if each.sop_instance_uid in here else "",
            }
            for each in tombstones
        ],
    )


# what has come again

_IN_FORCE = Prepared(
    select(deletion.c.sop_instance_uid)
    .where(
        deletion.c.sop_instance_uid.in_(select(values_of(bindparam("uids", type_=Text)))),
        deletion.c.lifted == literal_column("''"),
    )
    .distinct()
)
_LIFT = Prepared(
    update(deletion)
    .where(
        deletion.c.sop_instance_uid.in_(select(values_of(bindparam("uids", type_=Text)))),
        deletion.c.lifted == literal_column("''"),
    )
    .values(lifted=bindparam("now"))
)


def in_force(writer: Writer, uids: Sequence[str]) -> list[str]:
    """Give those of some SOP Instance UIDs that were deleted, and have not come again since."""
    return [row[0] for row in writer.execute(_IN_FORCE, {"uids": json.dumps(list(uids))})]


def lift(writer: Writer, uids: Sequence[str], when: str) -> None:
    """Note that instances that were deleted are stored again."""
    writer.execute(_LIFT, {"uids": json.dumps(list(uids)), "now": when})


# how far the file was written

_READ_LOG = Prepared(select(*(deletion_log.c[name] for name in Log._fields)))
_WRITE_LOG = Prepared(
    upserting(deletion_log, id=literal_column("1"), **{name: bindparam(name) for name in Log._fields})
)


def read_log(writer: Writer) -> Log:
    """Give how far the file was written."""
    row = writer.execute(_READ_LOG, {}).fetchone()
    return Log() if row is None else Log(*row)


def write_log(writer: Writer, log: Log) -> None:
    """Note how far the file was written."""
    writer.execute(_WRITE_LOG, log._asdict())


class DeletionReader:
    """Looks at what is to be deleted, and at what was. Every method is a short transaction, for a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def log(self) -> Log:
        """Give how far the file was written."""
        statement = select(*(deletion_log.c[name] for name in Log._fields))
        with TRANSLATED, self._engine.connect() as connection:
            row = connection.execute(statement).first()
        return Log() if row is None else Log(*row)

    def look(self, scope: Scope) -> Look:
        """Give how much something is."""
        return Look(*map(int, self._rows(_LOOK[scope.level], scope)[0]))

    def patients(self, scope: Scope) -> list[tuple[str, str]]:
        """Give Patient ID and issuer of those who have it."""
        return [(row[0], row[1]) for row in self._rows(_PATIENTS[scope.level], scope)]

    def holds(self, scope: Scope) -> list[Hold]:
        """Give the first deliveries of it that are open or have failed."""
        return [_hold(row) for row in self._rows(_HOLDS[scope.level], scope)]

    def owed(self, kind: str, *, even_failed: bool) -> Iterator[str]:
        """Give the payloads of all work of a kind that is open, or has failed unless `even_failed`."""
        states = [state for state in _OPEN if not (even_failed and state is State.FAILED)]
        after = 0
        while True:
            statement = select(delivery.c.id, delivery.c.payload).where(
                delivery.c.kind == kind,
                delivery.c.state.in_([int(state) for state in states]),
                delivery.c.id > after,
            )
            with TRANSLATED, self._engine.connect() as connection:
                page = connection.execute(statement.order_by(delivery.c.id).limit(_NAMED)).all()
            if not page:
                return
            after = page[-1][0]
            yield from (payload or "" for _, payload in page)

    def uids(self, scope: Scope, after: str) -> list[str]:
        """Give the next SOP Instance UIDs of it, in their order."""
        number = instance.c.sop_instance_uid
        statement = _meant(scope.level, number).where(number > after).order_by(number).limit(PAGE)
        return [row[0] for row in self._rows(statement, scope)]

    def _rows(self, statement: Select[Any], scope: Scope) -> Sequence[Any]:
        with TRANSLATED, self._engine.connect() as connection:
            return connection.execute(statement, {"uid": scope.uid, "patient_id": scope.patient_id}).all()

    def of_files(self, files: Sequence[str]) -> Mapping[str, Tombstone]:
        """Give the tombstones of some files, by their names."""
        columns = [deletion.c[name] for name in Tombstone._fields]
        with TRANSLATED, self._engine.connect() as connection:
            found = connection.execute(select(*columns).where(deletion.c.file.in_(files)))
            return {row[4]: Tombstone(*row) for row in found}

    def is_deleted(self, sop_instance_uid: str, digest: str) -> bool:
        """Tell whether these bytes were deleted, and have not come again since."""
        statement = select(deletion.c.id).where(
            deletion.c.sop_instance_uid == sop_instance_uid,
            deletion.c.digest == digest,
            deletion.c.lifted == "",
        )
        with TRANSLATED, self._engine.connect() as connection:
            return connection.execute(statement.limit(1)).first() is not None

    def count(self) -> int:
        """Count the tombstones."""
        with TRANSLATED, self._engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(deletion)).scalar_one()

    def has_any(self) -> bool:
        """Tell whether there are tombstones."""
        with TRANSLATED, self._engine.connect() as connection:
            return connection.execute(select(deletion.c.id).limit(1)).first() is not None

    def page(self, after: int = 0, uid: str = "") -> list[tuple[int, str, str, str, Tombstone]]:
        """Give the next tombstones after an id: id, when and why it was deleted, and until when.

        `uid`: only those of a study, series or instance.
        """
        columns = [deletion.c[name] for name in ("id", "deleted", "why", "lifted", *Tombstone._fields)]
        statement = select(*columns).where(deletion.c.id > after).order_by(deletion.c.id).limit(PAGE)
        if uid:
            whose = [deletion.c[f"{what}_instance_uid"] for what in ("study", "series", "sop")]
            statement = statement.where(or_(*(column == uid for column in whose)))
        with TRANSLATED, self._engine.connect() as connection:
            return [(*row[:4], Tombstone(*row[4:])) for row in connection.execute(statement)]
