"""Queries in SQL, and the pages of their rows.

A query has few shapes: its values are parameters, however many there are, and what is compiled for a shape is
kept for the next one of it, up to so many bytes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
)

from asyncdicom.archive.index.matching import (
    Alternatives,
    Comparison,
    IdentifierError,
    Kind,
    Problem,
    cost_of,
)
from asyncdicom.archive.index.prepared import Prepared
from asyncdicom.archive.index.query import Condition, Form, Key, Query
from asyncdicom.archive.index.reassigned import Reassignment, of_ids
from asyncdicom.archive.index.record import Identity
from asyncdicom.archive.index.schema import (
    LEVELS,
    NAME_GROUPS,
    SPARSE_INDEXES,
    instance,
    patient,
    series,
    study,
)
from asyncdicom.archive.index.sql import (
    PATTERN,
    PATTERNS,
    at_least,
    at_most,
    before,
    collected,
    equal,
    has_backslash,
    like,
    like_components,
    member,
    numbers_of,
    parts_of,
    values_of,
)

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

TABLES = {"PATIENT": patient, "STUDY": study, "SERIES": series, "IMAGE": instance}
_LEVEL_NAMES = tuple(LEVELS)

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


# what a key is in SQL


def _below(level: str, lower: str) -> tuple[FromClause, ColumnElement[bool]]:
    """Join the tables under ``level`` down to ``lower``, with the condition that ties them to ``level``."""
    chain = _LEVEL_NAMES[_LEVEL_NAMES.index(level) + 1 : _LEVEL_NAMES.index(lower) + 1]
    joined: FromClause = TABLES[chain[0]]
    for above, name in pairwise(chain):
        joined = joined.join(TABLES[name], TABLES[name].c.parent == TABLES[above].c.id)
    return joined, TABLES[chain[0]].c.parent == TABLES[level].c.id


def _joined(level: str) -> FromClause:
    levels = list(TABLES)
    joined: FromClause = TABLES[level]
    for name in reversed(levels[: levels.index(level)]):
        below = TABLES[levels[levels.index(name) + 1]]
        joined = joined.join(TABLES[name], TABLES[name].c.id == below.c.parent)
    return joined


def value_of(key: Key) -> ColumnElement[Any]:
    """Give the expression for what is answered for a key."""
    if key.form not in (Form.COUNT, Form.COLLECTED):
        return TABLES[key.level].c[key.column]
    joined, tie = _below(key.level, key.lower)
    what: ColumnElement[Any] = func.count()
    if key.form is Form.COLLECTED:
        what = collected(TABLES[key.lower].c[key.column])
    return select(what).select_from(joined).where(tie).correlate(TABLES[key.level]).scalar_subquery()


def condition_of(
    key: Key, alternatives: Alternatives, name: str, *, several: bool = True
) -> ColumnElement[bool]:
    """Give the SQL condition that ``key`` matches; its parameters are those of `parameters_of`.

    ``several``: whether a stored text may have several values where there should be one.
    """
    columns = TABLES[key.level].c
    if key.form is Form.NAME:
        groups = [columns[f"{key.column}_{group}"] for group in NAME_GROUPS]
        of_group = _of_text if several else _compare
        return _any(alternatives, name, lambda test, name: of_group(groups[test.group], test, name))
    if key.form in (Form.TEXTS, Form.NAMES):
        values = columns[f"{key.column}_values"]
        return _any(alternatives, name, lambda test, name: _of_one(values_of(values), test, name))
    compare = _of_text if several and _may_be_several(key) else _compare
    if key.form is Form.COLLECTED:
        joined, tie = _below(key.level, key.lower)
        column = TABLES[key.lower].c[key.column]
        some = select(1).select_from(joined).where(tie).correlate(TABLES[key.level])
        return some.where(_any(alternatives, name, partial(compare, column))).exists()
    return _any(alternatives, name, partial(compare, value_of(key)))


def _may_be_several(key: Key) -> bool:
    # A backslash is a character like any other in LT, ST and UT (PS3.5 6.2), and in no UID.
    return key.form in (Form.TEXT, Form.COLLECTED) and key.vr not in ("LT", "ST", "UT", "UI")


def _any(
    alternatives: Alternatives, name: str, condition: Callable[[Comparison, str], ColumnElement[bool]]
) -> ColumnElement[bool]:
    return or_(
        *(
            and_(true(), *(condition(test, each) for each, test in named))
            for named in _named(alternatives, name)
        )
    )


def _named(alternatives: Alternatives, name: str) -> list[list[tuple[str, Comparison]]]:
    """Give each test a name, which its parameters begin with."""
    return [
        [(f"{name}_{i}_{j}", test) for j, test in enumerate(tests)] for i, tests in enumerate(alternatives)
    ]


def _of_text(column: ColumnElement[Any], test: Comparison, name: str) -> ColumnElement[bool]:
    """Compare a text, and where it holds several values with backslashes between them, each of these."""
    one = _of_one(parts_of(column), test, name)
    return or_(_compare(column, test, name), and_(has_backslash(column), one))


def _of_one(value: ColumnElement[Any], test: Comparison, name: str) -> ColumnElement[bool]:
    """Compare each of some values, alone."""
    return select(1).where(_compare(func.trim(value), test, name)).exists()


_LAST = "\U0010ffff"


def _compare(value: ColumnElement[Any], test: Comparison, name: str) -> ColumnElement[bool]:
    several = len(test.values) > 1
    first: Any
    last: Any
    first, last = (bindparam(f"{name}_{part}") for part in ("first", "last"))
    if test.kind is Kind.EQUAL:
        wanted: Any = bindparam(f"{name}_wanted")
        if not several:
            return equal(value, wanted)  # type: ignore[no-any-return]
        of = numbers_of if type(test.values[0]) is int else values_of
        return value.in_(select(of(wanted)))
    if test.kind is Kind.RANGE:
        if not several:
            return and_(value > _constant(""), at_least(value, first), at_most(value, last))
        each = values_of(bindparam(f"{name}_wanted"))
        return (
            select(1).where(value > _constant(""), value.between(member(each, 0), member(each, 1))).exists()
        )
    return _matches_pattern(value, test, name, first, last)


def _matches_pattern(
    value: ColumnElement[Any], test: Comparison, name: str, first: Any, last: Any
) -> ColumnElement[bool]:
    in_components = test.kind is Kind.LIKE_COMPONENTS
    padded = value + _constant("^^^^") if in_components else value
    matches = like_components if in_components else like
    if len(test.values) > 1:
        patterns = values_of(bindparam(f"{name}_wanted", type_=PATTERNS[in_components]))
        return select(1).where(matches(padded, patterns)).exists()
    matched: ColumnElement[bool] = matches(padded, bindparam(f"{name}_wanted", type_=PATTERN[in_components]))
    if not _prefix(test):
        return matched
    return and_(at_least(value, first), before(value, last), matched)  # an index can serve this


def _constant(text: str) -> ColumnElement[Any]:
    return literal_column(f"'{text}'", Text)  # no parameter: it belongs to the shape


def _prefix(test: Comparison) -> str:
    """Give what every text begins with that matches the one pattern; carets at its end may be missing."""
    [pattern] = test.values
    prefix: str = pattern[: min(pattern.find(c) for c in "*?" if c in pattern)]
    return prefix.rstrip("^") if test.kind is Kind.LIKE_COMPONENTS else prefix


def parameters_of(test: Comparison, name: str) -> Iterator[tuple[str, Any]]:
    """Give the parameters of one comparison, by the names that `condition_of` gives them."""
    values: Sequence[Any] = test.values
    if test.kind in (Kind.LIKE, Kind.LIKE_COMPONENTS):
        values = [_pattern(value, test.kind) for value in values]
    if len(values) > 1:
        yield f"{name}_wanted", json.dumps(values, ensure_ascii=False)
    elif test.kind is Kind.RANGE:
        yield f"{name}_first", values[0][0]
        yield f"{name}_last", values[0][1]
    else:
        yield f"{name}_wanted", values[0]
        if test.kind is not Kind.EQUAL:
            prefix = _prefix(test)
            yield f"{name}_first", prefix
            yield f"{name}_last", prefix + _LAST


def _pattern(value: str, kind: Kind) -> str:
    value = value.replace("[", "[[]")  # the only other special character of GLOB
    # A component that is not there has no characters: ? is none of the carets that were put behind the name.
    return value.replace("?", "[^^]") if kind is Kind.LIKE_COMPONENTS else value


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
        for tests in _named(alternatives, f"c{number}")
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
    return test.kind, test.group, several, is_pattern and not several and bool(_prefix(test))


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
        return select(*columns).select_from(_joined(self._level)).where(*self._where())

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
