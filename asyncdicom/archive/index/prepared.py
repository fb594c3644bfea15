"""Statements that are compiled once, for each engine."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import Insert
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

__all__ = ["TOGETHER", "Named", "Prepared", "Sql"]

TOGETHER = (16, 4)
"""So many rows are inserted by one statement: for each the driver lets go of the lock of the interpreter."""


class Sql(str):
    """The text of a statement, as SQLite takes it, which knows what it is the text of.

    So an engine that says it in other words is asked in the same way: a text, and values in their order.
    """

    __slots__ = ("prepared",)

    prepared: Prepared


class _Compiled(NamedTuple):
    sql: Sql
    constants: dict[str, Any]
    names: tuple[str, ...]
    pick: Callable[[Mapping[str, Any]], tuple[Any, ...]]


class Prepared:
    """A statement compiled once, with the order of its parameters.

    It is compiled when it is first used: a server that starts has a hundred of them, and uses few.
    """

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement

    @cached_property
    def _compiled(self) -> _Compiled:
        compiled: Any = self._statement.compile(dialect=sqlite.dialect())
        sql = Sql(compiled)
        sql.prepared = self
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        names = tuple(compiled.positiontup)
        return _Compiled(sql, constants, names, operator.itemgetter(*names) if names else lambda row: ())

    @cached_property
    def sql(self) -> Sql:
        """Its text."""
        return self._compiled.sql

    @cached_property
    def is_plain(self) -> bool:
        """Whether it inserts one row, all of whose values are parameters, and says nothing behind them."""
        values = f" VALUES ({', '.join('?' * len(self._compiled.names))})"
        return isinstance(self._statement, Insert) and self.sql.endswith(values)

    @cached_property
    def together(self) -> dict[int, str]:
        """The same for so many rows, whose values follow one another; nothing if it is not `is_plain`."""
        head, found, values = self.sql.partition(" VALUES ")
        return {rows: f"{head}{found}{', '.join([values] * rows)}" for rows in TOGETHER if self.is_plain}

    def bind(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Give the values of the parameters in their order."""
        _, constants, names, pick = self._compiled
        values = pick({**constants, **row} if constants else row)
        return (values,) if len(names) == 1 else values

    @cached_property
    def named(self) -> Named:
        """The same in the words of PostgreSQL."""
        return Named(self._statement, self._compiled.names, is_plain=self.is_plain)


class Named:
    """A statement for PostgreSQL, whose parameters have names; ``order``: that of the values it is given.

    `is_plain`: see `Prepared`.
    """

    def __init__(self, statement: ClauseElement, order: Sequence[str], *, is_plain: bool) -> None:
        from sqlalchemy.dialects.postgresql import psycopg  # who has no PostgreSQL does not load it

        self._dialect: Any = psycopg.dialect()  # type: ignore[no-untyped-call]
        table = statement.table if isinstance(statement, Insert) else None
        self._plain = table if is_plain else None
        self.gives_id = table is not None and "id" in table.c
        """Whether it gives the id of the row that it inserts."""
        if self.gives_id and isinstance(statement, Insert):
            statement = statement.returning(statement.table.c.id)
        compiled: Any = statement.compile(dialect=self._dialect)
        self.sql = str(compiled)
        self._order = tuple(order)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._converted: dict[str, Callable[[Any], Any]] = {
            name: convert
            for name, parameter in compiled.binds.items()
            if (convert := parameter.type.dialect_impl(self._dialect).bind_processor(self._dialect))
            is not None
        }

    def bind(self, values: Sequence[Any]) -> dict[str, Any]:
        """Give the values of the parameters by their names. PostgreSQL has no text with a NUL in it."""
        return {
            name: value.replace("\0", "\N{SYMBOL FOR NULL}") if type(value) is str else value
            for name, value in self._named(values).items()
        }

    def _named(self, values: Sequence[Any]) -> dict[str, Any]:
        named = self._constants | dict(zip(self._order, values, strict=True))
        for name, convert in self._converted.items():
            named[name] = convert(named[name])
        return named

    @cached_property
    def together(self) -> str:
        """The same for rows that are one parameter, see `bind_all`; empty if it inserts other than values."""
        table = self._plain
        if table is None:
            return ""
        name = self._dialect.identifier_preparer.quote
        of = self._dialect.type_compiler_instance.process
        columns = ", ".join(map(name, self._order))
        typed = ", ".join(f"{name(each)} {of(table.c[each].type)}" for each in self._order)
        return (
            f"INSERT INTO {name(table.name)} ({columns}) SELECT {columns} "
            f"FROM json_to_recordset(CAST(%(rows)s AS JSON)) AS given ({typed})"
        )

    def bind_all(self, rows: Sequence[Sequence[Any]]) -> dict[str, str]:
        """Give the one parameter of `together`: the driver looks at each one that there is for long."""
        whole = json.dumps(list(map(self._named, rows)), ensure_ascii=False)
        if r"\u0000" in whole:  # which is seldom, and costs each text a look
            whole = json.dumps(list(map(self.bind, rows)), ensure_ascii=False)
        return {"rows": whole}
