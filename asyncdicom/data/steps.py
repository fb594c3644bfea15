"""Long work in steps: generators that yield where somebody else may have a turn, and return their result."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_Result = TypeVar("_Result")

Steps = Generator[None, None, _Result]
"""Work in steps of at most about a millisecond."""


def finish(steps: Generator[None, None, _Result]) -> _Result:
    """Do all steps at once, and give the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
