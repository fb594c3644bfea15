"""What a key is in SQL: the expression for its value, and the condition that it matches.

The values of a condition are parameters, so a key has the same SQL whatever it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
)

from asyncdicom.archive.index.matching import Alternatives, Comparison, Kind
from asyncdicom.archive.index.query import Form, Key
from asyncdicom.archive.index.schema import LEVELS, NAME_GROUPS, instance, patient, series, study
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

__all__ = ["TABLES", "condition_of", "joined", "named", "parameters_of", "prefix_of", "value_of"]

TABLES = {"PATIENT": patient, "STUDY": study, "SERIES": series, "IMAGE": instance}
_LEVEL_NAMES = tuple(LEVELS)


def _below(level: str, lower: str) -> tuple[FromClause, ColumnElement[bool]]:
    """Join the tables under ``level`` down to ``lower``, with the condition that ties them to ``level``."""
    chain = _LEVEL_NAMES[_LEVEL_NAMES.index(level) + 1 : _LEVEL_NAMES.index(lower) + 1]
    joined: FromClause = TABLES[chain[0]]
    for above, name in pairwise(chain):
        joined = joined.join(TABLES[name], TABLES[name].c.parent == TABLES[above].c.id)
    return joined, TABLES[chain[0]].c.parent == TABLES[level].c.id


def joined(level: str) -> FromClause:
    """Join the table of a level with those above it."""
    levels = list(TABLES)
    found: FromClause = TABLES[level]
    for name in reversed(levels[: levels.index(level)]):
        below = TABLES[levels[levels.index(name) + 1]]
        found = found.join(TABLES[name], TABLES[name].c.id == below.c.parent)
    return found


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
            for named in named(alternatives, name)
        )
    )


def named(alternatives: Alternatives, name: str) -> list[list[tuple[str, Comparison]]]:
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
    if not prefix_of(test):
        return matched
    return and_(at_least(value, first), before(value, last), matched)  # an index can serve this


def _constant(text: str) -> ColumnElement[Any]:
    return literal_column(f"'{text}'", Text)  # no parameter: it belongs to the shape


def prefix_of(test: Comparison) -> str:
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
            prefix = prefix_of(test)
            yield f"{name}_first", prefix
            yield f"{name}_last", prefix + _LAST


def _pattern(value: str, kind: Kind) -> str:
    value = value.replace("[", "[[]")  # the only other special character of GLOB
    # A component that is not there has no characters: ? is none of the carets that were put behind the name.
    return value.replace("?", "[^^]") if kind is Kind.LIKE_COMPONENTS else value
