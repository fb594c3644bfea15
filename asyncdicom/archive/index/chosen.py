"""Instances that are chosen to be sent: of studies, series, by themselves, or by when they came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Engine, Select, func, select

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.schema import instance, series, study

__all__ = ["Choice", "ChosenInstance", "ChosenReader", "Total"]

PAGE = 1000


class Choice(NamedTuple):
    """All that fit each of these that is said; times are UTC, ISO 8601, as the index has them."""

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    since: str = ""
    until: str = ""


class ChosenInstance(NamedTuple):
    """An instance, as far as it has to be known in order to send it."""

    id: int
    sop_instance_uid: str
    digest: str
    sop_class_uid: str
    transfer_syntax_uid: str
    file: str
    data_set_offset: int
    data_set_length: int
    calling_ae_title: str | None


class Total(NamedTuple):
    """How much was chosen; `size` in bytes of data sets."""

    instances: int
    studies: int
    size: int


class ChosenReader:
    """Looks at instances that are chosen. Every method is one short transaction, for a thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def total(self, choice: Choice) -> Total:
        """Count what is chosen. Raises `IndexFailed`."""
        size = func.sum(instance.c.data_set_length)
        columns: tuple[Any, ...] = (func.count(), func.count(series.c.parent.distinct()), size)
        with TRANSLATED, self._engine.connect() as connection:
            found = connection.execute(_chosen(select(*columns), choice)).one()
        return Total(found[0], found[1], int(found[2] or 0))

    def page(self, choice: Choice, after: int = 0) -> list[ChosenInstance]:
        """Give the next ones that are chosen, by their rows. Raises `IndexFailed`."""
        columns = select(*(instance.c[name] for name in ChosenInstance._fields))
        wanted = _chosen(columns, choice).where(instance.c.id > after).order_by(instance.c.id).limit(PAGE)
        with TRANSLATED, self._engine.connect() as connection:
            return [ChosenInstance(*row) for row in connection.execute(wanted)]


def _chosen(statement: Select[Any], choice: Choice) -> Select[Any]:
    joined = statement.select_from(
        instance.join(series, series.c.id == instance.c.parent).join(study, study.c.id == series.c.parent)
    )
    return joined.where(*_conditions(choice))


def _conditions(choice: Choice) -> Iterator[ColumnElement[bool]]:
    if choice.study_instance_uid:
        yield study.c.study_instance_uid == choice.study_instance_uid
    if choice.series_instance_uid:
        yield series.c.series_instance_uid == choice.series_instance_uid
    if choice.sop_instance_uid:
        yield instance.c.sop_instance_uid == choice.sop_instance_uid
    if choice.since:
        yield instance.c.received >= choice.since
    if choice.until:
        yield instance.c.received < choice.until
