"""Numbers on the command line, and in configuration files: what is wrong with one is told in words."""

from __future__ import annotations

from math import inf

import click

__all__ = ["Number"]


class Number(click.ParamType[float]):
    """A whole number, or any one, from `least` to `most`; with `above`, `least` itself is too small."""

    name = "n"

    def __init__(
        self, least: float = 0, most: float | None = None, *, whole: bool = True, above: bool = False
    ) -> None:
        self._least = least
        self._most = most
        self._above = above
        self._kind: type[int] | type[float] = int if whole else float

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give the number; raises ``click.BadParameter``."""
        try:
            number = self._kind(str(value))
        except ValueError:
            self.fail(f"it has to be {self._what}, not {value!r}", param, ctx)
        # (nan is not at most anything; `isnan` takes no large int.)
        is_small = number <= self._least if self._above else number < self._least
        if is_small or not number <= inf or (self._most is not None and number > self._most):
            self.fail(f"it has to be {self._what}, not {value}", param, ctx)
        return number

    @property
    def _what(self) -> str:
        what = "a whole number" if self._kind is int else "a number"
        if self._most is not None:
            return f"{what} from {self._least} to {self._most}"
        return f"{what} above {self._least}" if self._above else f"{what} of at least {self._least}"
