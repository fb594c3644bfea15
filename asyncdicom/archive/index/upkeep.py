"""The index is looked at as a whole: what it has of a folder, its counts, its damage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Engine,
    func,
    select,
)

from asyncdicom.archive.index.failing import TRANSLATED
from asyncdicom.archive.index.schema import (
    instance,
    patient,
    quarantine,
    series,
    study,
)

__all__ = ["FileRow", "Reader"]

PAGE = 1000
"""No read transaction of the upkeep sees more rows."""


class FileRow(NamedTuple):
    """What a row says of its file; offset and length in bytes."""

    id: int
    sop_instance_uid: str
    file: str
    data_set_offset: int
    data_set_length: int
    digest: str


class Reader:
    """Looks at the index as a whole. Every method is one short transaction, for a thread.

    All raise `IndexFailed`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def known(self, folder: str, names: Iterable[str]) -> set[str]:
        """Give those of ``names`` that are indexed in ``quarantine``, or in one folder ``objects/ab/cd``."""
        _, _, below = folder.partition("/")
        prefix = f"{below}/" if below else ""
        file = instance.c.file if below else quarantine.c.file
        with TRANSLATED, self._engine.connect() as connection:
            found = connection.scalars(select(file).where(file.in_([prefix + name for name in names])))
            return {name.removeprefix(prefix) for name in found}

    def files_in(self, folder: str, after: str = "") -> list[str]:
        """Give the next names of indexed files after one: in ``quarantine`` or ``objects/ab/cd``."""
        _, _, below = folder.partition("/")
        prefix = f"{below}/" if below else ""
        file = instance.c.file if below else quarantine.c.file
        names = select(file).where(file > prefix + after).order_by(file).limit(PAGE)
        if below:
            names = names.where(file < f"{below}0")  # "0" comes after "/"
        with TRANSLATED, self._engine.connect() as connection:
            return [name.removeprefix(prefix) for name in connection.scalars(names)]

    def folders(self) -> list[str]:
        """Give the folders ``objects/ab/cd`` that indexed files are in."""
        below = func.substr(instance.c.file, 1, 5)
        with TRANSLATED, self._engine.connect() as connection:
            return [f"objects/{name}" for name in connection.scalars(select(below).distinct())]

    def file_rows(self, name: str, after: int = 0) -> Sequence[Any]:
        """Give the next rows of ``instance`` or ``quarantine`` after an id: what `FileRow` has."""
        table = instance if name == "instance" else quarantine
        columns = [table.c[column] for column in FileRow._fields]
        statement = select(*columns).where(table.c.id > after).order_by(table.c.id).limit(PAGE)
        with TRANSLATED, self._engine.connect() as connection:
            return [FileRow(*row) for row in connection.execute(statement)]

    def complete(self, sop_instance_uids: Sequence[str]) -> Iterator[Any]:
        """Give UID, SOP Class UID, file and its size in bytes of those that are stored, and complete."""
        columns = [instance.c[name] for name in ("sop_instance_uid", "sop_class_uid", "file")]
        size = instance.c.data_set_offset + instance.c.data_set_length
        for start in range(0, len(sop_instance_uids), PAGE // 2):
            some = sop_instance_uids[start : start + PAGE // 2]
            statement = select(*columns, size).where(
                instance.c.sop_instance_uid.in_(some), instance.c.incomplete == 0
            )
            with TRANSLATED, self._engine.connect() as connection:
                found = connection.execute(statement).all()
            yield from found

    def counts(self) -> dict[str, int]:
        """Count the rows of every table."""
        with TRANSLATED, self._engine.connect() as connection:
            return {
                table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (patient, study, series, instance, quarantine)
            }

    def damage(self, is_enough: Callable[[], bool]) -> str:
        """Look through all pages of the index, and tell the first thing that is wrong; empty if it is sound.

        Takes seconds for a million instances. Raises `IndexFailed` when ``is_enough()``.
        """
        with TRANSLATED, self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(is_enough, 100_000)
            try:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            finally:
                driver.set_progress_handler(None, 0)
        return "" if found == "ok" else " ".join(found.split())
