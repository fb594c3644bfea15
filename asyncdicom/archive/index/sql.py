"""What SQLite and PostgreSQL say differently: every expression that is written in two ways is here.

All other statements are SQLAlchemy's and the same for both. A list of values is one parameter, of JSON: a
statement is compiled once for however many there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    Insert,
    Table,
    Text,
    TypeDecorator,
    literal,
    literal_column,
    tuple_,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

__all__ = [
    "HEAD",
    "PATTERN",
    "PATTERNS",
    "Integer",
    "at_least",
    "at_most",
    "before",
    "begin_snapshot",
    "behind",
    "collected",
    "equal",
    "going_by_indexes",
    "has_backslash",
    "is_long",
    "like",
    "like_components",
    "member",
    "numbers_of",
    "parts_of",
    "upserting",
    "values_of",
]


class _Each(FunctionElement[str]):
    """The values of a JSON list, as rows."""

    name = "json_each"
    inherit_cache = True


class _Parts(FunctionElement[str]):
    """The values of a text with backslashes between them, as rows."""

    name = "parts"
    inherit_cache = True


class _Number(FunctionElement[int]):
    """A value of a list of numbers."""

    name = "number"
    type = sqlalchemy.Integer()
    inherit_cache = True


class _Member(FunctionElement[str]):
    """A value of a list within a list."""

    name = "json_extract"
    type = Text()
    inherit_cache = True


class _Collected(FunctionElement[str]):
    """All different values, as a JSON list."""

    name = "json_group_array"
    type = Text()
    inherit_cache = True


class _Position(FunctionElement[int]):
    """Where a text is in another one: from 1, or 0."""

    name = "instr"
    type = sqlalchemy.Integer()
    inherit_cache = True


class _Like(FunctionElement[bool]):
    """Whether a text matches a pattern: `*` is any text, `?` any character."""

    name = "like_pattern"
    inherit_cache = True


class _LikeComponents(FunctionElement[bool]):
    """The same, where `?` is any character but a caret."""

    name = "like_components"
    inherit_cache = True


class _Equal(FunctionElement[bool]):
    """Whether a text that may be long is another one."""

    name = "equal"
    inherit_cache = True


class _AtLeast(FunctionElement[bool]):
    """Whether it is another one or comes after it."""

    name = "at_least"
    inherit_cache = True


class _AtMost(FunctionElement[bool]):
    """Whether it is another one or comes before it."""

    name = "at_most"
    inherit_cache = True


class _Before(FunctionElement[bool]):
    """Whether it comes before another one."""

    name = "before"
    inherit_cache = True


def _arguments(element: Any, compiler: Any, **options: Any) -> list[str]:
    return [compiler.process(clause, **options) for clause in element.clauses]


def _written(kind: type[Any], sqlite: str, postgres: str) -> None:
    """Say how an expression is written by each of the two."""

    def in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
        return sqlite.format(*_arguments(element, compiler, **options))

    def in_postgres(element: Any, compiler: Any, **options: Any) -> str:
        return postgres.format(*_arguments(element, compiler, **options))

    compiles(kind)(in_sqlite)
    compiles(kind, "postgresql")(in_postgres)


_written(_Each, "json_each({0})", "json_array_elements_text(CAST({0} AS JSON))")
# JSON has two backslashes for each one of a text, and no other pair of them.
_written(
    _Parts,
    """json_each('[' || replace(json_quote({0}), '\\\\', '","') || ']')""",
    "json_array_elements_text(to_json(string_to_array({0}, '\\')))",
)
_written(_Number, "{0}", "CAST({0} AS BIGINT)")
_written(_Member, "json_extract({0}, '$[' || {1} || ']')", "(CAST({0} AS JSON) ->> {1})")
_written(_Collected, "json_group_array(DISTINCT {0})", "coalesce(CAST(json_agg(DISTINCT {0}) AS TEXT), '[]')")
_written(_Position, "instr({0}, {1})", "strpos({0}, {1})")
_written(_Like, "({0} GLOB {1})", "({0} LIKE {1})")
_written(_LikeComponents, "({0} GLOB {1})", "({0} ~ {1})")


HEAD = 256
"""Characters that an index of PostgreSQL holds of a text of `LONG`: an entry has at most 2,700 bytes."""
LONG = {
    "patient": {"patient_id", "issuer_of_patient_id", "told_apart", "patient_birth_date"}
    | {f"patient_name_{group}" for group in ("alphabetic", "ideographic", "phonetic")},
    "study": {"study_date", "accession_number"},
}
"""The columns with an index that peers can bring long texts into, by table."""


def is_long(column: Any) -> bool:
    """Tell whether the indexes of a column hold the beginnings of its texts alone."""
    return getattr(column, "name", None) in LONG.get(getattr(getattr(column, "table", None), "name", ""), ())


# What is true of the texts is true of their beginnings: so an index of these serves the comparison.
for _kind, _operator, _of_heads in (
    (_Equal, "=", "="),
    (_AtLeast, ">=", ">="),
    (_AtMost, "<=", "<="),
    (_Before, "<", "<="),
):
    _heads = f"left({{0}}, {HEAD}) {_of_heads} left({{1}}, {HEAD})"
    _written(_kind, f"{{0}} {_operator} {{1}}", f"({_heads} AND {{0}} {_operator} {{1}})")


def equal(value: ColumnElement[Any], other: Any) -> Any:
    """Give the condition that a value is another one; an index can serve it, however long texts may be."""
    return _Equal(value, other) if is_long(value) else value == other


def at_least(value: ColumnElement[Any], other: Any) -> Any:
    """Give the condition that a value is another one or comes after it; as `equal`."""
    return _AtLeast(value, other) if is_long(value) else value >= other


def at_most(value: ColumnElement[Any], other: Any) -> Any:
    """Give the condition that a value is another one or comes before it; as `equal`."""
    return _AtMost(value, other) if is_long(value) else value <= other


def before(value: ColumnElement[Any], other: Any) -> Any:
    """Give the condition that a value comes before another one; as `equal`."""
    return _Before(value, other) if is_long(value) else value < other


_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class _List(TypeDecorator[str]):
    """A parameter that is a JSON list: PostgreSQL has no text with a NUL in it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Write it as the engine wants it."""
        if value is None or dialect.name == "sqlite":
            return value
        return _NUL.sub("\\1\N{SYMBOL FOR NULL}", value)


def values_of(parameter: Any) -> ColumnElement[Any]:
    """Give the column of the values of a JSON list of texts: what is selected from it is its rows."""
    if isinstance(parameter, BindParameter) and isinstance(parameter.type, NullType):
        parameter.type = _List()
    return _Each(parameter).table_valued("value").c.value


def numbers_of(parameter: Any) -> ColumnElement[Any]:
    """Give the column of the values of a JSON list of numbers."""
    return _Number(values_of(parameter))


def parts_of(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Give the column of the values of a text that has backslashes between them."""
    return _Parts(column).table_valued("value").c.value


def member(value: ColumnElement[Any], number: int) -> ColumnElement[Any]:
    """Give a value, from 0, of one of `values_of` that is a list itself."""
    return _Member(value, literal_column(str(number)))


def collected(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Give all different values of the rows of a column: a JSON list."""
    return _Collected(column)


def has_backslash(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Give the condition that a text holds several values: those of an attribute that should have one."""
    return _Position(column, literal_column("'\\'")) > literal_column("0")


def like(value: ColumnElement[Any], pattern: ColumnElement[Any]) -> ColumnElement[bool]:
    """Give the condition that a text matches a pattern of `PATTERN`, or a value of `PATTERNS`."""
    return _Like(value, pattern)


def like_components(value: ColumnElement[Any], pattern: ColumnElement[Any]) -> ColumnElement[bool]:
    """Give the same for a pattern with `[^^]` for what is no caret."""
    return _LikeComponents(value, pattern)


# Patterns are parameters in the form of SQLite's GLOB, with `[[]` for the one other special character. In
# PostgreSQL, LIKE takes those without `[^^]`, and a regular expression the others.

_TOKEN = re.compile(r"\[\[\]|\[\^\^\]|.", re.DOTALL)
_IN_LIKE = {"*": "%", "?": "_", "%": r"\%", "_": r"\_", "\\": "\\\\", "[[]": "["}
_IN_REGULAR_EXPRESSION = {"*": ".*", "?": ".", "[[]": r"\[", "[^^]": "[^^]"}


def _to_like(pattern: str) -> str:
    return _TOKEN.sub(lambda token: _IN_LIKE.get(token[0], token[0]), pattern)


def _to_regular_expression(pattern: str) -> str:
    def one(token: re.Match[str]) -> str:
        known = _IN_REGULAR_EXPRESSION.get(token[0])
        return known if known is not None else token[0] if token[0].isalnum() else _escaped(token[0])

    return f"^{_TOKEN.sub(one, pattern)}$"


def _escaped(character: str) -> str:
    return f"\\{character}" if character.isascii() else character


class _Pattern(TypeDecorator[str]):
    """A parameter that is a pattern; ``many``: a JSON list of them."""

    impl = Text
    cache_ok = True

    def __init__(self, *, in_components: bool = False, many: bool = False) -> None:
        super().__init__()
        self.in_components = in_components
        self.many = many

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        """Write it as the engine wants it."""
        if value is None or dialect.name == "sqlite":
            return value
        convert = _to_regular_expression if self.in_components else _to_like
        if self.many:
            return json.dumps([convert(each) for each in json.loads(value)], ensure_ascii=False)
        return convert(value)


PATTERN = {False: _Pattern(), True: _Pattern(in_components=True)}
"""The type of a parameter that is one pattern, without and with `[^^]` in it."""
PATTERNS = {False: _Pattern(many=True), True: _Pattern(in_components=True, many=True)}
"""The type of one that is a JSON list of them."""

Integer = BigInteger().with_variant(sqlalchemy.Integer(), "sqlite")
"""The type of every whole number of the index: of 64 bits."""


def upserting(table: Table, **values: Any) -> Insert:
    """Insert a row, or put its values in the place of those of the one with its primary key."""
    insertion = postgresql.insert(table).values(**values)  # both engines have this clause, in the same words
    keys = [column.name for column in table.primary_key]
    return insertion.on_conflict_do_update(
        index_elements=keys,
        set_={name: insertion.excluded[name] for name in values if name not in keys},
    )


def going_by_indexes(*, is_local: bool) -> str:
    """Give what has PostgreSQL's planner go by indexes, in their order: of a transaction, or of a connection.

    It guesses how many rows there are, from what it has last counted. Where a million may have come since
    then, a plan that reads all of them looks cheaper to it than one that reads the few that are wanted.
    """
    ways = ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")
    return "SELECT " + ", ".join(
        f"set_config('enable_{way}', 'off', {str(is_local).lower()})" for way in ways
    )


def begin_snapshot(connection: Connection, *, by_indexes: bool = False) -> None:
    """Begin a transaction that sees one state of the index. It ends when the connection is given back.

    `by_indexes`: see `going_by_indexes`; SQLite goes by them anyway.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    connection.exec_driver_sql("BEGIN" if is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if by_indexes and not is_sqlite:
        connection.exec_driver_sql(going_by_indexes(is_local=True))


def behind(connection: Connection, alike: Mapping[Any, Any], number: Any, after: int) -> list[Any]:
    """Give the conditions for rows whose columns have these values, behind a number of a row.

    They are for an index of all of these, whose order is the one wanted. Told that columns are equal to
    something, PostgreSQL may go by the number alone, through all rows there are: so it compares the whole.
    """
    if connection.dialect.name == "sqlite":
        return [*(column == value for column, value in alike.items()), number > after]
    values = [literal(value, column.type) for column, value in alike.items()]
    return [
        tuple_(*alike, number) > tuple_(*values, literal(after, number.type)),
        tuple_(*alike) <= tuple_(*values),
    ]
