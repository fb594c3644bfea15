"""What the index knows of studies that something has come for, and who was told that they are stable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Engine, bindparam, delete, func, literal_column, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.schema import instance, patient, series, stability, study
from asyncdicom.archive.index.sql import upserting
from asyncdicom.archive.index.writer import Writer

__all__ = ["Arrived", "Mark", "StabilityReader", "StudyState", "write_told"]

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
            return [Arrived(*row) for row in connection.execute(_ARRIVED.where(number > last))]

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
