"""Statements that are compiled once."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

__all__ = ["TOGETHER", "Prepared"]

TOGETHER = 16
"""So many rows are inserted by one statement: for each the driver lets go of the lock of the interpreter."""


class Prepared:
    """A statement compiled once, with the order of its parameters."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled: Any = statement.compile(dialect=sqlite.dialect())
        self.sql = str(compiled)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._names = compiled.positiontup
        self._pick = operator.itemgetter(*self._names) if self._names else lambda row: ()

    @cached_property
    def together(self) -> str:
        """The same for `TOGETHER` rows, whose values follow one another; empty if it inserts no values."""
        head, found, values = self.sql.partition(" VALUES ")
        return f"{head}{found}{', '.join([values] * TOGETHER)}" if found else ""

    def bind(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Give the values of the parameters in their order."""
        values = self._pick({**self._constants, **row} if self._constants else row)
        return (values,) if len(self._names) == 1 else values
