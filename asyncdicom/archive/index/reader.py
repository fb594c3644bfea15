"""Queries in SQL, and the pages of their rows.

A query has few shapes: its values are parameters, however many there are, and what is compiled for a shape is
kept for the next one of it, up to so many bytes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, func, literal_column, select

from asyncdicom.archive.index.keys import (
    TABLES,
    condition_of,
    joined,
    named,
    parameters_of,
    prefix_of,
    value_of,
)
from asyncdicom.archive.index.matching import Comparison, IdentifierError, Kind, Problem, cost_of
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.query import Condition, Form, Key, Query
from asyncdicom.archive.index.reassigned import Reassignment, of_ids
from asyncdicom.archive.index.record import Identity
from asyncdicom.archive.index.schema import SPARSE_INDEXES, instance, patient, series, study
from asyncdicom.archive.index.sql import equal, has_backslash, numbers_of, values_of

__all__ = [
    "Execute",
    "InstanceRow",
    "Row",
    "Statement",
    "Statements",
    "instance_ids",
    "instance_kinds",
    "instances_of",
    "matches",
    "of_other_patients",
    "told_apart_by",
]

FREE_COST = 64
"""What patterns may cost whatever text is stored: that of one as long as an SH, an LO or a name."""
MAXIMUM_STEPS = 65_536
"""What comparing one row with the patterns of a query may take: their cost, times the longest stored text."""

Row = Sequence[Any]
"""The id of a row, then the values that were asked for: text, a number where rows are counted, or a list."""
Execute = Callable[[str, Sequence[Any]], Iterator[Row]]
"""Runs a statement with its parameters, and gives its rows one by one."""


class InstanceRow(NamedTuple):
    """What the index knows of a stored instance: its UIDs, and where it lies."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    file: str
    data_set_offset: int
    data_set_length: int
    reassigned: int
    """The row that has put it under another patient than that of its file; 0: none."""

    reassignment: Reassignment | None = None
    """That one."""


_SPARSE: dict[tuple[str, str], list[ColumnElement[Any]]] = {}
for _index in SPARSE_INDEXES:
    _column = _index.columns[0]
    _level = next(level for level, table in TABLES.items() if table is _column.table)
    _name = "patient_name" if _column.name.startswith("patient_name_") else _column.name
    _SPARSE.setdefault((_level, _name), []).append(_column)


# statements


class Statements:
    """What was compiled, by shape: at most so many bytes, of what was used last."""

    def __init__(self, maximum_bytes: int = 1 << 20) -> None:
        self.size = 0
        self._maximum = maximum_bytes
        self._compiled: OrderedDict[object, Prepared] = OrderedDict()

    def __len__(self) -> int:
        return len(self._compiled)

    def get(self, shape: object, build: Callable[[], Select[Any]]) -> Prepared:
        """Give the statement of a shape, built and compiled unless it is here."""
        found = self._compiled.get(shape)
        if found is None:
            found = self._compiled[shape] = Prepared(build())
            self.size += len(found.sql)
            while self.size > self._maximum and len(self._compiled) > 1:
                _, dropped = self._compiled.popitem(last=False)
                self.size -= len(dropped.sql)
        else:
            self._compiled.move_to_end(shape)
        return found


def _values(conditions: Iterable[Condition]) -> dict[str, Any]:
    """Give the parameters of conditions, by the names that `Statement` gives them."""
    return {
        parameter: value
        for number, (_, alternatives) in enumerate(conditions)
        for tests in named(alternatives, f"c{number}")
        for name, test in tests
        for parameter, value in parameters_of(test, name)
    }


def _shape(conditions: Iterable[Condition]) -> tuple[object, ...]:
    return tuple(
        (key, tuple(tuple(map(_shape_of_test, tests)) for tests in alternatives))
        for key, alternatives in conditions
    )


def _shape_of_test(test: Comparison) -> tuple[object, ...]:
    several = len(test.values) > 1
    is_pattern = test.kind in (Kind.LIKE, Kind.LIKE_COMPONENTS)
    return test.kind, test.group, several, is_pattern and not several and bool(prefix_of(test))


# pages


class Statement:
    """One statement over the rows of a level that a query matches, for pages of them."""

    def __init__(
        self, statements: Statements, query: Query, level: str, columns: Sequence[Key | str]
    ) -> None:
        self._statements = statements
        self._conditions = query.conditions
        self._level = level
        self._columns = tuple(columns)
        self._several: tuple[bool, ...] | None = None  # of each condition, when that was looked at
        self._lists = [
            position
            for position, column in enumerate(columns, 1)
            if isinstance(column, Key) and column.form is Form.COLLECTED
        ]

    def page(self, execute: Execute, after: int, limit: int) -> Iterator[Row]:
        """Give at most ``limit`` rows with an id greater than ``after``, by id: the id and the columns.

        Raises `IdentifierError` for patterns that are too expensive for the texts that are stored.
        """
        table = TABLES[self._level]

        def build() -> Select[Any]:
            columns = [
                (value_of(column) if isinstance(column, Key) else table.c[column]).label(f"key_{position}")
                for position, column in enumerate(self._columns)
            ]
            page = self._matching(table.c.id, *columns).where(table.c.id > bindparam("after"))
            return page.order_by(table.c.id).limit(bindparam("limit", type_=table.c.id.type))

        rows = self._run(execute, "page", build, after=after, limit=limit)
        return map(self._with_lists, rows) if self._lists else rows

    def _with_lists(self, row: Row) -> Row:
        values = list(row)
        for position in self._lists:
            values[position] = sorted(json.loads(values[position]))
        return values

    def distinct(self, execute: Execute) -> Iterator[Row]:
        """Give the columns alone, each combination once."""
        columns = [TABLES[self._level].c[column] for column in self._columns if isinstance(column, str)]
        return self._run(execute, "distinct", lambda: self._matching(*columns).distinct())

    def _matching(self, *columns: ColumnElement[Any]) -> Select[Any]:
        return select(*columns).select_from(joined(self._level)).where(*self._where())

    def _run(
        self, execute: Execute, what: str, build: Callable[[], Select[Any]], **values: Any
    ) -> Iterator[Row]:
        if self._several is None:
            self._check_patterns(execute)
            self._several = tuple(self._has_several(execute, key) for key, _ in self._conditions)
        shape = (what, self._level, self._columns, self._several, _shape(self._conditions))
        prepared = self._statements.get(shape, build)
        return execute(prepared.sql, prepared.bind({**_values(self._conditions), **values}))

    def _where(self) -> list[ColumnElement[bool]]:
        conditions = zip(self._conditions, self._several or (), strict=True)
        return [
            condition_of(key, alternatives, f"c{number}", several=several)
            for number, ((key, alternatives), several) in enumerate(conditions)
        ]

    def _has_several(self, execute: Execute, key: Key) -> bool:
        """Tell whether texts of several values have to be looked into: where indexes count, hardly ever."""
        columns = _SPARSE.get((key.level, key.column))
        if columns is None or key.form not in (Form.TEXT, Form.NAME):
            return True

        def build() -> Select[Any]:
            some: list[Any] = [select(1).where(has_backslash(column)).exists() for column in columns]
            return select(*some)

        [found] = execute(self._statements.get(("several", key), build).sql, ())
        return any(found)

    def _check_patterns(self, execute: Execute) -> None:
        """Refuse what would take too long: what it costs is known, and how long the stored texts are."""
        costs = [(key, cost) for key, alternatives in self._conditions if (cost := cost_of(alternatives))]
        if sum(cost for _, cost in costs) <= FREE_COST:
            return
        steps = sum(cost * self._longest(execute, key) for key, cost in costs)
        if steps > MAXIMUM_STEPS:
            raise IdentifierError("patterns too long for the stored texts", Problem.TOO_MUCH)

    def _longest(self, execute: Execute, key: Key) -> int:
        suffix = "_values" if key.form in (Form.TEXTS, Form.NAMES) else ""
        column = TABLES[key.lower or key.level].c[key.column + suffix]
        prepared = self._statements.get(("longest", key), lambda: select(func.max(func.length(column))))
        [(longest,)] = execute(prepared.sql, ())
        return int(longest or 0)


def matches(statements: Statements, query: Query) -> Statement:
    """Give the statement of a C-FIND: the values of ``query.keys``."""
    return Statement(statements, query, query.level, query.keys)


def instance_ids(statements: Statements, query: Query) -> Statement:
    """Give the statement of a C-GET or C-MOVE: nothing but the ids of the instances."""
    return Statement(statements, query, "IMAGE", ())


def instance_kinds(statements: Statements, query: Query) -> Statement:
    """Give the statement for what the instances of a C-GET or C-MOVE need contexts for."""
    return Statement(statements, query, "IMAGE", ("sop_class_uid", "transfer_syntax_uid"))


_FILES = Prepared(
    select(*(instance.c[name] for name in InstanceRow._fields[:-1])).where(
        instance.c.id.in_(select(numbers_of(bindparam("ids"))))
    )
)


_SHARED_STUDIES = Prepared(
    select(
        study.c.study_instance_uid,
        study.c.id,
        *(patient.c[name] for name in ("patient_id", "issuer_of_patient_id", "told_apart")),
    )
    .join(patient, patient.c.id == study.c.parent)
    .where(
        study.c.study_instance_uid.in_(
            select(study.c.study_instance_uid)
            .where(study.c.study_instance_uid.in_(select(values_of(bindparam("uids")))))
            .group_by(study.c.study_instance_uid)
            .having(func.count() > literal_column("1"))
        )
    )
    .order_by(study.c.id)
    .limit(literal_column("10000"))
)
_INSTANCES_OF_STUDIES = Prepared(
    select(instance.c.id)
    .join(series, series.c.id == instance.c.parent)
    .where(series.c.parent.in_(select(numbers_of(bindparam("ids")))))
)
_TOLD_APART = Prepared(
    select(patient.c.told_apart)
    .where(equal(patient.c.patient_id, bindparam("patient_id")))
    .distinct()
    .limit(literal_column("2"))
)


def of_other_patients(execute: Execute, study_instance_uids: Sequence[str]) -> set[int]:
    """Give the ids of instances that share their study's UID with another patient, who came first."""
    first: dict[str, Identity] = {}
    others: list[int] = []
    values = _SHARED_STUDIES.bind({"uids": json.dumps(list(study_instance_uids))})
    for uid, number, *whose in execute(_SHARED_STUDIES.sql, values):
        if first.setdefault(uid, Identity(whose[0], whose[1], whose[2], uid, "")).contradicts(whose):
            others.append(number)
    if not others:
        return set()
    return {row[0] for row in execute(_INSTANCES_OF_STUDIES.sql, (json.dumps(others),))}


def told_apart_by(execute: Execute, patient_id: str) -> list[str]:
    """Give what tells the patients apart whose Patient ID reads so: at most two of them."""
    return [row[0] for row in execute(_TOLD_APART.sql, _TOLD_APART.bind({"patient_id": patient_id}))]


def instances_of(execute: Execute, ids: Sequence[int]) -> dict[int, InstanceRow]:
    """Give what the index has for these ids; what is gone meanwhile is not there."""
    rows = {row[0]: InstanceRow(*row) for row in execute(_FILES.sql, (json.dumps(list(ids)),))}
    if reassigned := {row.reassigned for row in rows.values()} - {0}:
        found = of_ids(execute, reassigned)
        return {number: row._replace(reassignment=found.get(row.reassigned)) for number, row in rows.items()}
    return rows
