"""The index is written to, by one thread.

Statements are SQLAlchemy Core, compiled once; then they go straight to the driver: building them anew for
every instance would cost more than SQLite takes to run them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import (
    Engine,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)

from asyncdicom.archive.index.base import (
    Changes,
    Existing,
    FileEntry,
    Healing,
    Insertion,
    Quarantining,
    Uncertain,
)
from asyncdicom.archive.index.enqueue import enqueue_for_instances
from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import TOGETHER, Prepared
from asyncdicom.archive.index.reassigned import Reassignment, in_force
from asyncdicom.archive.index.record import Identity, Record
from asyncdicom.archive.index.schema import (
    SCHEMA_VERSION,
    delivery,
    instance,
    patient,
    quarantine,
    series,
    study,
)
from asyncdicom.archive.index.sql import equal, values_of

__all__ = ["FIND", "Prepared", "Writer"]

_FULL = 2  # of PRAGMA synchronous

_T = TypeVar("_T")
_Answer = TypeVar("_Answer")


def _insertion(table: Table) -> Prepared:
    return Prepared(insert(table).values({c.name: bindparam(c.name) for c in table.c if c.name != "id"}))


def _equal(table: Table, *names: str) -> list[Any]:
    return [equal(table.c[name], bindparam(name)) for name in names]


_FOUND = ("sop_class_uid", "sop_instance_uid", "received", *FileEntry._fields)
_INSTANCE = select(instance.c.id, instance.c.parent, *(instance.c[name] for name in _FOUND))
_FIND_INSTANCE = Prepared(_INSTANCE.where(*_equal(instance, "sop_instance_uid")))
_FIND_INSTANCES = Prepared(
    _INSTANCE.where(instance.c.sop_instance_uid.in_(select(values_of(bindparam("uids")))))
)
_FIND_QUARANTINED = Prepared(
    select(quarantine.c.id, literal_column("0"), *(quarantine.c[name] for name in _FOUND)).where(
        *_equal(quarantine, "sop_instance_uid", "digest")
    )
)
_USAGE = Prepared(select(func.count(), func.coalesce(func.sum(quarantine.c.data_set_length), 0)))
_SET_FILE = {
    table: Prepared(
        update(table)
        .where(table.c.id == bindparam("row"))
        .values({name: bindparam(name) for name in ("file", "data_set_offset", "data_set_length")})
    )
    for table in (instance, quarantine)
}
FIND = {
    patient: Prepared(
        select(patient.c.id).where(*_equal(patient, "patient_id", "issuer_of_patient_id", "told_apart"))
    ),
    study: Prepared(select(study.c.id).where(*_equal(study, "parent", "study_instance_uid"))),
    series: Prepared(select(series.c.id).where(*_equal(series, "parent", "series_instance_uid"))),
}
_PATIENTS_OF_STUDY = Prepared(
    select(patient.c.patient_id, patient.c.issuer_of_patient_id, patient.c.told_apart)
    .join(study, study.c.parent == patient.c.id)
    .where(*_equal(study, "study_instance_uid"))
    .limit(literal_column("1000"))
)
_INSERT = {table: _insertion(table) for table in (patient, study, series, instance, quarantine)}
_INSERT_AT = Prepared(insert(instance).values({c.name: bindparam(c.name) for c in instance.c}))
_NEWEST = Prepared(select(func.max(instance.c.id)))
_PARENT = {table: Prepared(select(table.c.parent).where(*_equal(table, "id"))) for table in (series, study)}
_DELETE_INSTANCE = Prepared(delete(instance).where(*_equal(instance, "id")))
_DELETE_WORK = Prepared(delete(delivery).where(*_equal(delivery, "instance")))
_DELETE_IF_EMPTY = {
    table: Prepared(
        delete(table).where(*_equal(table, "id"), ~exists(select(1).where(below.c.parent == table.c.id)))
    )
    for table, below in ((series, instance), (study, series), (patient, study))
}


class Writer:
    """The one writer, for one thread: `commit` and `change` are a transaction each.

    The other methods are for what is called within one.
    """

    is_shared = False
    """Whether other processes may write, too."""

    _REMEMBERED = 20_000
    _syncs = _promises_sync = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._fairy: Any = None
        self._cursor: Any = None
        with TRANSLATED:
            self._reopen()
        self._series: dict[Identity, int] = {}  # those that are committed
        self._new_series: dict[Identity, int] = {}
        self._reassigned: dict[Identity, Reassignment] | None = None  # by patient and study; None: not read
        self._began = datetime.now(UTC)
        self._now = ""
        self._given = 0
        self.returned: Callable[[Writer, Sequence[str]], None] | None = None
        """Called with the SOP Instance UIDs of the instances that get a row, within the transaction."""

    @property
    def now(self) -> str:
        """When the transaction began: UTC, ISO 8601."""
        return self._now

    @property
    def began(self) -> float:
        """The same in seconds since 1970."""
        return self._began.timestamp()

    def commit(
        self,
        group: Sequence[_T],
        decide: Callable[[Sequence[_T]], tuple[list[_Answer], Changes]],
        then: Callable[[Writer], None] | None = None,
    ) -> list[_Answer]:
        """Commit a group: one transaction, as durable as promised. Gives what `decide` answers to each.

        `decide` may look up (see `Lookup`) what it needs to say what is to be changed; `then` is called after
        the changes are made, before the commit. Raises what they raise, and `IndexFailed`: then nothing has
        changed. Raises `Uncertain` when that is not sure: the next commit makes it so.
        """
        answers: list[_Answer]
        with TRANSLATED:
            try:
                self._begin(is_group=True)
                answers, changes = decide(group)
                self.apply(changes)
                if then is not None:
                    then(self)
            except BaseException:
                self._roll_back()
                raise
            self._end()
        return answers

    def change(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:
        """Have `apply` change something, alone in its transaction, and give what it gives.

        Not `is_durable`: a power cut may undo it, as long as nothing durable was committed after it; the
        death of this process does not. Raises as `commit`; `Uncertain` never, as a change that may have been
        made can be made again.
        """
        with TRANSLATED:
            try:
                self._begin(is_durable=is_durable)
                result = apply(self)
            except BaseException:
                self._roll_back()
                raise
            try:
                self._end()
            except Uncertain as doubt:
                raise (doubt.__cause__ or doubt) from None
        return result

    def _end(self) -> None:
        try:
            self._commit()
        except BaseException as error:
            self._roll_back()
            # Frames of a commit that failed in its sync may still be in the WAL, and a crash now would bring
            # their rows to life: so they are overwritten before the files of those rows may go.
            try:
                self._overwrite_tail()
            except BaseException:
                raise Uncertain from error
            raise

    def _begin(self, *, is_durable: bool = True, is_group: bool = False) -> None:
        if self._cursor is None:
            self._reopen()
        self._set_sync(is_durable and self._promises_sync)
        self._cursor.execute("BEGIN IMMEDIATE")
        self._began = datetime.now(UTC)
        self._now = self._began.isoformat(timespec="milliseconds")

    def _set_sync(self, syncs: bool) -> None:
        """Let commits be synced, or not: in the WAL, what is not is synced with the next one that is."""
        if self._syncs != syncs:
            self._cursor.execute(f"PRAGMA synchronous = {'FULL' if syncs else 'NORMAL'}")
            self._syncs = syncs

    def _commit(self) -> None:
        self._cursor.execute("COMMIT")
        if len(self._series) > self._REMEMBERED:
            self._series.clear()
        self._series.update(self._new_series)
        self._new_series.clear()

    def _roll_back(self) -> None:  # never raises
        self._new_series.clear()
        self._reassigned = None
        try:
            if self._cursor is not None and self._fairy.driver_connection.in_transaction:
                self._cursor.execute("ROLLBACK")
        except BaseException:
            self.renew()

    def renew(self) -> None:
        """Give the connection up with what it was doing; the next transaction opens another. Never raises."""
        self.forget()
        self._cursor = None
        try:
            self._fairy.invalidate()
        except BaseException:
            return  # it was no good

    def _reopen(self) -> None:
        self._fairy = self._engine.raw_connection()
        self._cursor = self._fairy.cursor()
        (synchronous,) = self._cursor.execute("PRAGMA synchronous").fetchone()
        self._syncs = self._promises_sync = synchronous == _FULL

    def _overwrite_tail(self) -> None:
        # A transaction without content is committed over whatever a failed COMMIT may have left in the WAL.
        if self._cursor is None:
            self._reopen()
        self._set_sync(self._promises_sync)
        self._cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Give the connection back."""
        if self._cursor is not None:
            self._set_sync(self._promises_sync)
            self._fairy.close()

    def execute(self, statement: Prepared, row: Mapping[str, Any]) -> Any:
        """Execute another statement of this transaction, and give the driver's cursor."""
        return self._cursor.execute(statement.sql, statement.bind(row))

    def execute_all(self, statement: Prepared, rows: Iterable[Mapping[str, Any]]) -> None:
        """Execute another statement of this transaction once for each row."""
        bound = list(map(statement.bind, rows))
        first = 0
        if len(bound) >= min(TOGETHER) and isinstance(self._cursor, sqlite3.Cursor):
            for count, sql in statement.together.items():
                while len(bound) - first >= count:
                    self._cursor.execute(sql, tuple(chain.from_iterable(bound[first : first + count])))
                    first += count
        if first < len(bound):
            self._cursor.executemany(statement.sql, bound[first:])

    def keep_others_out(self, *, is_shared: bool = False) -> None:
        """Let no other process commit instances until this transaction ends.

        For what moves or deletes what is there, as the first thing of its transaction. ``is_shared``: only
        let nobody move or delete.
        """

    def keep_file(self) -> None:
        """Let no other process write a file beside the objects until this transaction ends."""

    def keep_line(self, name: str) -> None:
        """Let no other process claim work for a destination until this transaction ends."""

    def find(self, sop_instance_uid: str) -> Existing | None:
        """Look an instance up."""
        row = self._cursor.execute(_FIND_INSTANCE.sql, (sop_instance_uid,)).fetchone()
        return None if row is None else Existing._make((*row, False))

    def find_all(self, sop_instance_uids: Sequence[str]) -> dict[str, Existing]:
        """Look instances up; gives those that are there."""
        found = self.execute(_FIND_INSTANCES, {"uids": json.dumps(sop_instance_uids)})
        existing = (Existing._make((*row, False)) for row in found)
        return {each.sop_instance_uid: each for each in existing}

    def find_quarantined(self, sop_instance_uid: str, digest: str) -> Existing | None:
        """Look for the same bytes in quarantine under the same UID."""
        row = self._cursor.execute(
            _FIND_QUARANTINED.sql,
            _FIND_QUARANTINED.bind({"sop_instance_uid": sop_instance_uid, "digest": digest}),
        ).fetchone()
        return None if row is None else Existing._make((*row, True))

    def forget(self) -> None:
        """Forget what was remembered of patients, studies and series: it has changed."""
        self._series.clear()
        self._new_series.clear()
        self._reassigned = None

    def identity_of(self, record: Record) -> Identity:
        """Give whose an instance is: an operator may have put its study under another patient."""
        reassignment = self._reassignment_of(record.identity)
        return record.identity if reassignment is None else reassignment.identity_of(record.identity)

    def _reassignment_of(self, identity: Identity) -> Reassignment | None:
        known = self._reassigned
        if known is None:
            known = self._reassigned = in_force(self.execute)
        return known.get(identity._replace(series_instance_uid="")) if known else None

    def patients_of(self, identity: Identity) -> list[tuple[str, str, str]]:
        """Give whom the study belongs to: Patient ID, issuer and what tells them apart.

        Empty where that was asked before: the series is known.
        """
        if identity in self._series or identity in self._new_series:
            return []
        values = _PATIENTS_OF_STUDY.bind({"study_instance_uid": identity.study_instance_uid})
        return list(self._cursor.execute(_PATIENTS_OF_STUDY.sql, values))

    def quarantine_usage(self) -> tuple[int, int]:
        """Count the files in quarantine and the bytes of their data sets, as this transaction sees them."""
        count, size = self.execute(_USAGE, {}).fetchone()
        return count, int(size)

    def apply(self, changes: Changes) -> None:
        """Make changes: what goes goes first, so that no new row has a parent that goes."""
        for insertion in changes.instances:
            if insertion.instead_of is not None:
                self._remove(insertion.instead_of)
        for healing in changes.healed:
            self._heal(healing)
        rows = map(self._instance_row, changes.instances)
        self._insert_all(instance, self._beyond_given(rows) if self._given else rows)
        if self.returned is not None and changes.instances:
            self.returned(self, [each.record.sop_instance_uid for each in changes.instances])
        self._insert_all(quarantine, map(self._quarantine_row, changes.quarantined))
        enqueue_for_instances(self.execute_all, changes.work, self.began)

    def never_again(self, highest: int) -> None:
        """Give no instance a number up to this one: somebody may still look for the one that had it."""
        self._given = max(self._given, highest)

    def _beyond_given(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Insert the first one with a number of its own, if its number was given before; gives the others."""
        (newest,) = self.execute(_NEWEST, {}).fetchone()
        if (newest or 0) >= self._given:
            self._given = 0  # the numbers grow by themselves from now on
        elif (first := next(rows, None)) is not None:
            self.execute(_INSERT_AT, {**first, "id": self._given + 1})
        return rows

    def _instance_row(self, insertion: Insertion) -> dict[str, Any]:
        record = insertion.record
        reassignment = self._reassignment_of(record.identity)
        row: dict[str, Any] = record.row("IMAGE")
        row.update(zip(FileEntry._fields, insertion.entry, strict=True))
        row["parent"] = self._series_of(record, reassignment)
        row["reassigned"] = 0 if reassignment is None else reassignment.id
        row["received"] = insertion.received or self._now
        return row

    def _quarantine_row(self, aside: Quarantining) -> dict[str, Any]:
        return {
            "sop_class_uid": aside.sop_class_uid,
            "sop_instance_uid": aside.sop_instance_uid,
            "reason": aside.reason,
            "received": aside.received or self._now,
            **aside.entry._asdict(),
        }

    def _heal(self, healing: Healing) -> None:
        existing = healing.existing
        statement = _SET_FILE[quarantine if existing.is_quarantined else instance]
        values = statement.bind({**healing.entry._asdict(), "row": existing.id})
        self._cursor.execute(statement.sql, values)

    def _series_of(self, record: Record, reassignment: Reassignment | None) -> int:
        """Give the id of the series of ``record``; rows that are not there yet are inserted."""
        identity = record.identity
        if reassignment is not None:
            identity = reassignment.identity_of(identity)
        known = self._series.get(identity) or self._new_series.get(identity)
        if known is None:
            own = identity.of_patient()
            if reassignment is not None:
                own = reassignment.row | own
            parent = self._row_id(patient, own, record, "PATIENT")
            parent = self._row_id(study, {"parent": parent}, record, "STUDY")
            known = self._row_id(series, {"parent": parent}, record, "SERIES")
            self._new_series[identity] = known
        return known

    def _row_id(self, table: Table, own: Mapping[str, Any], record: Record, level: str) -> int:
        key = FIND[table].bind({**record.identity._asdict(), **own})
        row = self._cursor.execute(FIND[table].sql, key).fetchone()
        if row is None:  # the first received values stay
            values = {**record.row(level), **own}
            self._cursor.execute(_INSERT[table].sql, _INSERT[table].bind(values))
            return int(self._cursor.lastrowid)
        return int(row[0])

    def _insert_all(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        self.execute_all(_INSERT[table], rows)

    def _remove(self, existing: Existing) -> None:
        """Remove an instance, and series, study and patient if they are empty then.

        Its deliveries go, too: what takes its place has its own, and its number may become another one's.
        """
        self._cursor.execute(_DELETE_INSTANCE.sql, (existing.id,))
        self._cursor.execute(_DELETE_WORK.sql, (existing.id,))
        self.remove_if_empty(existing.parent)

    def remove_if_empty(self, series_id: int) -> None:
        """Remove a series that has no instances, and study and patient if they are empty then."""
        row_id: int | None = series_id
        for table in (series, study, patient):
            parent = None
            if table is not patient:
                parent = self._cursor.execute(_PARENT[table].sql, (row_id,)).fetchone()[0]
            self._cursor.execute(_DELETE_IF_EMPTY[table].sql, (row_id,))
            if not self._cursor.rowcount:
                break
            row_id = parent
        self.forget()
