"""The index in PostgreSQL is written to: by one thread of each process, and by several processes at once.

What differs from `Writer`: keys are sorted, so that no two writers wait for each other in a circle; rows that
another writer made first are taken; what was decided of rows that another one has changed since is decided
again; a commit whose answer was lost is asked for, by the number of its transaction and a row of it: a server
that crashed before it had written the transaction gives the number to another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Engine, Table, bindparam, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert

from asyncdicom.archive.index.base import (
    Changes,
    Existing,
    Healing,
    IndexFailed,
    Overtaken,
    RowFailed,
    Uncertain,
)
from asyncdicom.archive.index.postgres_driver import Cursor
from asyncdicom.archive.index.postgres_locks import Lock, locking
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.record import Identity, Record
from asyncdicom.archive.index.schema import instance, patient, series, study
from asyncdicom.archive.index.sql import going_by_indexes, values_of
from asyncdicom.archive.index.writer import FIND, Writer

__all__ = ["PostgresWriter"]

_T = TypeVar("_T")

_TRIES = 3  # of a change that another writer came before
_LOOKS = 40  # at a transaction whose end is not known
_PAUSE = 0.05  # seconds between them
# A process that hangs within a transaction does not hold up the others for longer: the server cuts it off.
_HANGING = "SET idle_in_transaction_session_timeout = '60s'"
_ONE_OF_US = (
    f"{_HANGING}; SET lock_timeout = '5s'; SELECT "
    f"{locking(Lock.MEMBERS, is_shared=True, for_transaction=False)}; SET lock_timeout = 0"
)
_IDENTITY = "SELECT archive_id, generation FROM archive"
_WAITED = "SET LOCAL lock_timeout = '30s'"  # for others, by who changes what is there
_BEGUN = "SELECT CAST(pg_current_xact_id() AS TEXT), EXISTS (SELECT 1 FROM reassignment)"
_BESIDE = f"SELECT {locking(Lock.ROWS, is_shared=True)}"
_KEEP_STUDIES = Prepared(
    text(
        f"SELECT {locking(Lock.STUDY, 'number')} FROM (SELECT DISTINCT hashtext(value) AS number FROM "
        "json_array_elements_text(CAST(:uids AS JSON)) AS each (value) ORDER BY number OFFSET 0) AS sorted"
    )
)
_PATIENTS_OF_STUDIES = Prepared(
    select(
        study.c.study_instance_uid,
        patient.c.patient_id,
        patient.c.issuer_of_patient_id,
        patient.c.told_apart,
    )
    .join(study, study.c.parent == patient.c.id)
    .where(study.c.study_instance_uid.in_(select(values_of(bindparam("uids")))))
)

_MADE_BY = Prepared(
    select(literal_column("CAST(CAST(instance.xmin AS TEXT) AS BIGINT)")).where(
        instance.c.sop_instance_uid == bindparam("sop_instance_uid")
    )
)
_OF_ROWS = 1 << 32  # rows have so much of the number of a transaction
_KEEP_LINE = Prepared(text(f"SELECT {locking(Lock.LINE, 'hashtext(:name)')}"))
_INSERT_OR_LEAVE = {
    table: Prepared(
        insert(table)
        .values({column.name: bindparam(column.name) for column in table.c if column.name != "id"})
        .on_conflict_do_nothing()
    )
    for table in (patient, study, series)
}


class PostgresWriter(Writer):
    """As `Writer`; `commit` and `change` raise `Overtaken` where the same may succeed when it comes again.

    Its connection tells the server that this process has the index open. A database that another archive has
    taken over meanwhile, or that was put back from a copy, is written to no more.
    """

    is_shared = True

    def __init__(self, engine: Engine) -> None:
        self._transaction = ""
        self._doubt = ""  # a transaction whose end is not known
        self._witness = ""  # the UID of an instance that the transaction has inserted
        self._identity: tuple[str, int] | None = None  # of the archive, as it was first
        self._seen: dict[str, set[tuple[str, str, str]]] = {}  # by study: the patients that have it
        self._asked_for: dict[str, set[tuple[str, str, str]]] = {}  # and those that are to have it
        super().__init__(engine)

    def change(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:
        """As `Writer.change`; `apply` is called again when another writer came first."""
        for _ in range(_TRIES - 1):
            try:
                return super().change(apply, is_durable=is_durable)
            except Overtaken:
                continue
        return super().change(apply, is_durable=is_durable)

    def keep_others_out(self, *, is_shared: bool = False) -> None:
        """See `Writer`; raises `IndexFailed` if that takes long."""
        self._cursor.execute(f"{_WAITED}; SELECT {locking(Lock.ROWS, is_shared=is_shared)}")

    def keep_file(self) -> None:
        """See `Writer`."""
        self._cursor.execute(f"SELECT {locking(Lock.JOURNAL)}")

    def keep_line(self, name: str) -> None:
        """See `Writer`."""
        self.execute(_KEEP_LINE, {"name": name})

    def patients_of(self, identity: Identity) -> list[tuple[str, str, str]]:
        """See `Writer`; what it tells is looked at again before a study is made."""
        found = super().patients_of(identity)
        uid = identity.study_instance_uid
        self._seen.setdefault(uid, set()).update(found)
        self._asked_for.setdefault(uid, set()).add(_whose(identity))
        return found

    def _make_sure_of_patients(self) -> None:
        """Let nobody make the studies that are to be made here, and see that nobody just has for others."""
        new = [uid for uid, whose in self._asked_for.items() if not whose <= self._seen[uid]]
        if not new:
            return
        uids = {"uids": json.dumps([uid.replace("\0", "\N{SYMBOL FOR NULL}") for uid in sorted(new)])}
        self.execute(_KEEP_STUDIES, uids)
        for uid, *key in self.execute(_PATIENTS_OF_STUDIES, uids).fetchall():
            if tuple(key) not in self._seen.get(uid, set()) | self._asked_for.get(uid, set()):
                raise Overtaken("another writer has just made the study, for another patient")

    def apply(self, changes: Changes) -> None:
        """Make changes, in the order of their keys."""
        if changes.instances:
            self._make_sure_of_patients()
        changes.instances.sort(key=lambda each: each.record.identity)
        changes.healed.sort(key=lambda each: (each.existing.is_quarantined, each.existing.id))
        super().apply(changes)

    def _remove(self, existing: Existing) -> None:
        self._cursor.execute(f"SELECT {locking(Lock.REMOVING)}")
        if self.find(existing.sop_instance_uid) != existing:
            raise Overtaken("another writer has replaced the instance, or deleted it")
        super()._remove(existing)

    def _heal(self, healing: Healing) -> None:
        super()._heal(healing)
        if not self._cursor.rowcount:
            raise Overtaken("another writer has replaced the instance, or deleted it")

    def never_again(self, highest: int) -> None:
        """Give no instance a number up to this one: the sequence of the server goes on behind it."""
        self._cursor.execute(
            f"SELECT setval('instance_id_seq', {int(highest)}) FROM instance_id_seq "
            f"WHERE last_value < {int(highest)}"
        )

    def _insert_all(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        # their series are made in the order of identities; then they are inserted in the order of their UIDs
        in_order = sorted(rows, key=itemgetter("sop_instance_uid"))
        if table is instance and in_order:
            self._witness = in_order[0]["sop_instance_uid"]
        super()._insert_all(table, in_order)

    def _row_id(self, table: Table, own: Mapping[str, Any], record: Record, level: str) -> int:
        key = {**record.identity._asdict(), **own}
        row = self.execute(FIND[table], key).fetchone()
        if row is None:
            number = self.execute(_INSERT_OR_LEAVE[table], {**record.row(level), **own}).lastrowid
            if number is not None:
                return int(number)
            row = self.execute(FIND[table], key).fetchone()  # another writer's, which is committed by now
        if row is None:
            raise Overtaken(f"a row of {table.name} came and went")
        return int(row[0])

    # transactions

    def _reopen(self) -> None:
        self._fairy = self._engine.raw_connection()
        cursor = Cursor(self._fairy.driver_connection)
        try:
            cursor.execute(going_by_indexes(is_local=False))
            cursor.execute(_ONE_OF_US)
            found = cursor.execute(_IDENTITY).fetchone()
            identity = None if found is None else (str(found[0]), int(found[1]))
            if self._identity is None:
                self._identity = identity
            elif identity != self._identity:
                raise IndexFailed("the database was taken over by another archive, or put back: start again")
        except BaseException:
            self._fairy.invalidate()
            raise
        self._cursor = cursor

    def _begin(self, *, is_durable: bool = True, is_group: bool = False) -> None:
        if self._cursor is None:
            self._reopen()
        if self._doubt:
            self._ended_committed(self._doubt)
            self._doubt = ""
        self._witness = ""
        words = ["BEGIN ISOLATION LEVEL READ COMMITTED"]
        words += [] if is_durable else ["SET LOCAL synchronous_commit = off"]
        words += [_BESIDE] if is_group else []
        self._cursor.execute("; ".join([*words, _BEGUN]))
        for _ in words:
            self._cursor.next_result()
        self._transaction, has_reassigned = self._cursor.fetchone()
        self._reassigned = None if has_reassigned else {}  # another process may have changed them
        self._seen.clear()
        self._asked_for.clear()
        self._began = datetime.now(UTC)
        self._now = self._began.isoformat(timespec="milliseconds")

    def _commit(self) -> None:
        super()._commit()
        if self._cursor.status != "COMMIT":
            self.forget()
            raise IndexFailed("the server has rolled the transaction back")

    def _end(self) -> None:
        try:
            self._commit()
        except BaseException as error:
            self._roll_back()
            try:
                has_committed = self._ended_committed(self._transaction)
                is_ours = has_committed and self._has_inserted(self._transaction)
            except BaseException:
                self._doubt = self._transaction
                raise Uncertain from error
            if not has_committed:
                raise
            if not is_ours:
                raise Uncertain from error

    def _has_inserted(self, transaction: str) -> bool:
        """Tell whether a row is there that the transaction has inserted.

        Its number alone says nothing: where a crash has taken it away, another one may have got the number.
        """
        row = self.execute(_MADE_BY, {"sop_instance_uid": self._witness}).fetchone()
        return row is not None and int(row[0]) == int(transaction) % _OF_ROWS

    def _ended_committed(self, transaction: str) -> bool:
        """Tell how the transaction of a number has ended. Raises `IndexFailed`: not known."""
        if self._cursor is None:
            self._reopen()
        for _ in range(_LOOKS):
            try:
                self._cursor.execute(f"SELECT pg_xact_status(CAST('{int(transaction)}' AS xid8))")
            except Overtaken:
                raise
            except RowFailed:
                return False  # another server has taken over, which has never seen it
            (status,) = self._cursor.fetchone()
            if status != "in progress":
                return bool(status == "committed")
            time.sleep(_PAUSE)
        raise IndexFailed("the end of an earlier transaction is not known yet")

    def _roll_back(self) -> None:  # never raises
        self.forget()
        try:
            if self._cursor is not None:
                self._cursor.execute("ROLLBACK")
        except BaseException:
            self.renew()

    def close(self) -> None:
        """Give the connection up, and with it what it has told the server."""
        if self._cursor is not None:
            self.renew()


def _whose(identity: Identity) -> tuple[str, str, str]:
    return identity.patient_id, identity.issuer_of_patient_id, identity.told_apart
