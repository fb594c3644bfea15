"""The index in PostgreSQL is written to: by one thread of each process, and by several processes at once.

What differs from `Writer`: keys are sorted, so that no two writers wait for each other in a circle; rows that
another writer made first are taken; a commit whose answer was lost is asked for by the number of its
transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Engine, Table, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from asyncdicom.archive.index.base import (
    Changes,
    Existing,
    FileEntry,
    IndexFailed,
    Overtaken,
    RowFailed,
    Uncertain,
)
from asyncdicom.archive.index.postgres_driver import Cursor
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.schema import instance, patient, series, study
from asyncdicom.archive.index.sql import values_of
from asyncdicom.archive.index.writer import FIND, Writer

__all__ = ["PostgresWriter"]

_T = TypeVar("_T")
_Answer = TypeVar("_Answer")

_TRIES = 3  # of a change that another writer came before
_LOOKS = 40  # at a transaction whose end is not known
_PAUSE = 0.05  # seconds between them
_ONE_AT_A_TIME = "SET lock_timeout = '2s'; SELECT pg_advisory_lock(1145652045, hashtext(current_schema()))"

_INSERT_OR_LEAVE = {
    table: Prepared(
        insert(table)
        .values({column.name: bindparam(column.name) for column in table.c if column.name != "id"})
        .on_conflict_do_nothing()
    )
    for table in (patient, study, series)
}
_FOUND = ("id", "parent", "sop_class_uid", "sop_instance_uid", "received", *FileEntry._fields)
_FIND_ALL = Prepared(
    select(*(instance.c[name] for name in _FOUND)).where(
        instance.c.sop_instance_uid.in_(select(values_of(bindparam("uids"))))
    )
)


class PostgresWriter(Writer):
    """As `Writer`. ``is_alone``: no other process may write, which the server sees to."""

    def __init__(self, engine: Engine, *, is_alone: bool = True) -> None:
        self._is_alone = is_alone
        self._transaction = ""
        self._doubt = ""  # a transaction whose end is not known
        self._ahead: dict[str, Existing | None] | None = None  # of the group that is decided on
        super().__init__(engine)

    def commit(
        self, group: Sequence[_T], decide: Callable[[Sequence[_T]], tuple[list[_Answer], Changes]]
    ) -> list[_Answer]:
        """As `Writer.commit`. Raises `Overtaken` where the same group may succeed when it comes again."""

        def look_first(group: Sequence[_T]) -> tuple[list[_Answer], Changes]:
            self._look_up([each.record.sop_instance_uid for each in group])  # type: ignore[attr-defined]
            try:
                return decide(group)
            finally:
                self._ahead = None

        return super().commit(group, look_first)

    def change(self, apply: Callable[[Writer], _T], *, is_durable: bool = True) -> _T:
        """As `Writer.change`; `apply` is called again when another writer came first."""
        for _ in range(_TRIES - 1):
            try:
                return super().change(apply, is_durable=is_durable)
            except Overtaken:
                continue
        return super().change(apply, is_durable=is_durable)

    def _look_up(self, uids: Sequence[str]) -> None:
        """Look up all that a group may ask for: one way to the server and back, not one for each."""
        found = self.execute(_FIND_ALL, {"uids": json.dumps(sorted(uids))})
        self._ahead = dict.fromkeys(uids)
        for row in found:
            self._ahead[row[3]] = Existing._make((*row, False))

    def find(self, sop_instance_uid: str) -> Existing | None:
        """Look an instance up."""
        if self._ahead is not None and sop_instance_uid in self._ahead:
            return self._ahead[sop_instance_uid]
        return super().find(sop_instance_uid)

    def find_all(self, sop_instance_uids: Sequence[str]) -> dict[str, Existing]:
        """Look instances up."""
        ahead = self._ahead
        if ahead is None or not ahead.keys() >= set(sop_instance_uids):
            return super().find_all(sop_instance_uids)
        return {uid: found for uid in sop_instance_uids if (found := ahead[uid]) is not None}

    def apply(self, changes: Changes) -> None:
        """Make changes, in the order of their keys."""
        changes.instances.sort(key=lambda each: each.record.identity)
        changes.healed.sort(key=lambda each: (each.existing.is_quarantined, each.existing.id))
        super().apply(changes)

    def never_again(self, highest: int) -> None:
        """Give no instance a number up to this one: the sequence of the server goes on behind it."""
        self._cursor.execute(
            f"SELECT setval('instance_id_seq', {int(highest)}) FROM instance_id_seq "
            f"WHERE last_value < {int(highest)}"
        )

    def _insert_all(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        # their series are made in the order of identities; then they are inserted in the order of their UIDs
        super()._insert_all(table, sorted(rows, key=itemgetter("sop_instance_uid")))

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
        if self._is_alone:
            try:
                cursor.execute(_ONE_AT_A_TIME)
            except BaseException:
                self._fairy.invalidate()
                raise
        self._cursor = cursor

    def _begin(self, *, is_durable: bool = True) -> None:
        if self._cursor is None:
            self._reopen()
        if self._doubt:
            self._has_committed(self._doubt)
            self._doubt = ""
        syncs = "" if is_durable else "SET LOCAL synchronous_commit = off; "
        self._cursor.execute(
            f"BEGIN ISOLATION LEVEL READ COMMITTED; {syncs}SELECT CAST(pg_current_xact_id() AS TEXT)"
        )
        for _ in range(1 if is_durable else 2):
            self._cursor.next_result()
        (self._transaction,) = self._cursor.fetchone()
        self._reassigned = None  # another process may have changed them
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
                has_committed = self._has_committed(self._transaction)
            except BaseException:
                self._doubt = self._transaction
                raise Uncertain from error
            if not has_committed:
                raise

    def _has_committed(self, transaction: str) -> bool:
        """Tell how a transaction has ended whose answer did not come. Raises `IndexFailed`: not known."""
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
        self._ahead = None
        try:
            if self._cursor is not None:
                self._cursor.execute("ROLLBACK")
        except BaseException:
            self.renew()

    def close(self) -> None:
        """Give the connection up, and with it what the server keeps others out by."""
        if self._cursor is not None:
            self.renew()
