"""What the index knows of studies that something has come for, and who was told that they are stable."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, bindparam, delete, func, literal_column, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import instance, patient, series, stability, study
from asyncdicom.archive.index.sql import upserting
from asyncdicom.archive.index.writer import Writer

__all__ = [
    "Arrived",
    "Mark",
    "SharedStabilityReader",
    "StabilityReader",
    "StudyState",
    "take_over",
    "write_told",
]

PAGE = 1000
_EVERYTHING = 0  # the "study" that stands for how far all was looked through


class Mark(NamedTuple):
    """An instance as a place in what has come: its row, and when it came (UTC, ISO 8601)."""

    id: int = 0
    received: str = ""


class Arrived(NamedTuple):
    """An instance: its row, that of its study, and when it came (UTC, ISO 8601)."""

    id: int
    study: int
    received: str


class StudyState(NamedTuple):
    """A study as it is now."""

    study_instance_uid: str
    patient_id: str
    instances: int
    last: int
    """The row of the instance that has come last."""

    received: str
    """When that was: UTC, ISO 8601."""


_ARRIVED = (
    select(instance.c.id, series.c.parent, instance.c.received)
    .join(series, series.c.id == instance.c.parent)
    .order_by(instance.c.id)
    .limit(PAGE)
)
_STATE = (
    select(
        func.max(study.c.study_instance_uid),  # all rows have the same
        func.max(patient.c.patient_id),
        func.count(),
        func.max(instance.c.id),
        func.max(instance.c.received),
    )
    .select_from(instance)
    .join(series, series.c.id == instance.c.parent)
    .join(study, study.c.id == series.c.parent)
    .join(patient, patient.c.id == study.c.parent)
)
_TELL = Prepared(
    upserting(
        stability,
        name=bindparam("name"),
        study=bindparam("study"),
        last=bindparam("last"),
        received=bindparam("received"),
    )
)
# Up to there everything was told: what one study was told is not needed any more.
_FORGET = Prepared(
    delete(stability).where(
        stability.c.name == bindparam("name"),
        stability.c.study != literal_column(str(_EVERYTHING)),
        stability.c.last <= bindparam("last"),
    )
)


_THROUGH = Prepared(
    select(stability.c.name, stability.c.last, stability.c.received).where(
        stability.c.study == literal_column(str(_EVERYTHING)), stability.c.name.like(bindparam("pattern"))
    )
)
_NEWEST_BEFORE = Prepared(
    select(instance.c.id, instance.c.received)
    .where(instance.c.received < bindparam("since"))
    .order_by(instance.c.id.desc())
    .limit(literal_column("1"))
)
_RETIRE = Prepared(delete(stability).where(stability.c.name == bindparam("name")))


class StabilityReader:
    """Looks at studies. Every method is one short transaction, for a thread; all raise `IndexFailed`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def arrived(self, after: Mark) -> list[Arrived]:
        """Give the next instances after one; if that was removed, those that are not older than it, too."""
        number = instance.c.id
        with TRANSLATED, self._engine.connect() as connection:
            last = after.id
            if connection.scalar(select(instance.c.received).where(number == last)) != (
                after.received or None
            ):
                older = select(func.max(number)).where(instance.c.received < after.received)
                last = min(last, connection.scalar(older) or 0)
            return [Arrived(*row) for row in connection.execute(self._arrived(connection, last))]

    def _arrived(self, connection: Connection, last: int) -> Select[Any]:
        return _ARRIVED.where(instance.c.id > last)

    def state(self, number: int) -> StudyState | None:
        """Give what a study is now, by its row; None if it is gone."""
        with TRANSLATED, self._engine.connect() as connection:
            row = connection.execute(_STATE.where(study.c.id == number)).one()
        return None if row[3] is None else StudyState(*row)

    def start(self, name: str) -> Mark:
        """Give up to where a name was told everything; if it was never told anything: where it ends now."""
        known = select(stability.c.last, stability.c.received).where(
            stability.c.name == name, stability.c.study == _EVERYTHING
        )
        newest = select(instance.c.id, instance.c.received).order_by(instance.c.id.desc()).limit(1)
        with TRANSLATED, self._engine.connect() as connection:
            row = connection.execute(known).first() or connection.execute(newest).first()
        return Mark() if row is None else Mark(*row)

    def told(self, name: str, studies: Sequence[int]) -> Mapping[int, Mark]:
        """Give the last instance that a name was told of, by study, for those of some studies."""
        statement = select(stability.c.study, stability.c.last, stability.c.received).where(
            stability.c.name == name, stability.c.study.in_(studies)
        )
        with TRANSLATED, self._engine.connect() as connection:
            return {row[0]: Mark(*row[1:]) for row in connection.execute(statement)}


_WRITTEN = (
    "SELECT coalesce(max(id), 0), CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT), "
    "CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS TEXT) AS BIGINT) FROM instance"
)


class SharedStabilityReader(StabilityReader):
    """The same where several processes write: numbers are given in an order, and committed in another one.

    A row that is there is given when all transactions have ended that were under way when it was seen first:
    none of them can bring a smaller number any more.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._settled = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, int]] = deque()  # the newest row then, the first transaction after

    def state(self, number: int) -> StudyState | None:
        """See `StabilityReader`; it is told up to where nothing more can come."""
        with TRANSLATED, self._engine.connect() as connection:
            settled = self._look(connection)
        found = super().state(number)
        return None if found is None else found._replace(last=min(found.last, settled))

    def _arrived(self, connection: Connection, last: int) -> Select[Any]:
        return super()._arrived(connection, last).where(instance.c.id <= self._look(connection))

    def _look(self, connection: Connection) -> int:
        newest, oldest_open, next_one = connection.exec_driver_sql(_WRITTEN).one()
        with self._lock:
            if newest > (self._waiting[-1][0] if self._waiting else self._settled):
                self._waiting.append((newest, next_one))
            while self._waiting and self._waiting[0][1] <= oldest_open:
                self._settled = max(self._settled, self._waiting.popleft()[0])
            return self._settled


def write_told(writer: Writer, name: str, through: Mark, told: Iterable[tuple[int, Mark]] = ()) -> None:
    """Note what a name was told: up to where everything, and the last instance of some studies."""
    rows = [(_EVERYTHING, through), *told]
    writer.execute_all(
        _TELL,
        [
            {"name": name, "study": number, "last": mark.id, "received": mark.received}
            for number, mark in rows
        ],
    )
    writer.execute(_FORGET, {"name": name, "last": through.id})


def take_over(writer: Writer, beginning: str, since: Mapping[str, str]) -> None:
    """Let these names be those with a beginning that are told; a new one begins where another one is.

    `since`: of each name, from when on (UTC, ISO 8601) it is told what has come, at least.
    """
    found = writer.execute(_THROUGH, {"pattern": f"{beginning}%"}).fetchall()
    known = {name: Mark(last, received) for name, last, received in found}
    for name in since.keys() - known.keys():
        newest = writer.execute(_NEWEST_BEFORE, {"since": since[name]}).fetchone()
        write_told(writer, name, min([Mark(*newest or ()), *known.values()]))
    for name in known.keys() - since.keys():
        writer.execute(_RETIRE, {"name": name})
