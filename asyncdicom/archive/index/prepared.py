"""Statements that are compiled once."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement

__all__ = ["Prepared"]


class Prepared:
    """A statement compiled once, with the order of its parameters."""

    def __init__(self, statement: ClauseElement) -> None:
        compiled: Any = statement.compile(dialect=sqlite.dialect())
        self.sql = str(compiled)
        self._constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._names = compiled.positiontup
        self._pick = operator.itemgetter(*self._names) if self._names else lambda row: ()

    def bind(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Give the values of the parameters in their order."""
        values = self._pick({**self._constants, **row} if self._constants else row)
        return (values,) if len(self._names) == 1 else values
