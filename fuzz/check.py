"""What a target says when a promise is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Finding(Exception):
    """A promise of the library does not hold for this input."""


def check(condition: object, message: str) -> None:
    """Raise ``Finding`` unless ``condition`` holds; unlike ``assert`` also under ``python -O``."""
    if not condition:
        raise Finding(message)


def check_equal(one: object, other: object, message: str) -> None:
    """Raise ``Finding`` unless both are equal; it shows where they begin to differ."""
    if one == other:
        return
    left, right = repr(one), repr(other)
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
    start = max(at - 60, 0)
    raise Finding(f"{message}: ...{left[start : at + 140]} != ...{right[start : at + 140]}")


class Head:
    """The first bytes of an input choose the set-up; those that are missing are 0."""

    def __init__(self, data: bytes, length: int) -> None:
        self._bytes = iter(data[:length].ljust(length, b"\0"))
        self.body = data[length:]

    def byte(self) -> int:
        """The next byte of the head."""
        return next(self._bytes)

    def choose(self, options: Sequence[T]) -> T:
        """One of ``options``, by the next byte."""
        return options[self.byte() % len(options)]


def pieces(data: bytes, seed: int) -> Iterator[memoryview]:
    """``data`` cut at random: seed 0 gives single bytes, 1 the whole; the same seed always cuts the same."""
    view = memoryview(data)
    random = Random(seed)
    longest = 1 if seed == 0 else len(data) if seed == 1 else random.choice((2, 7, 13, 64, 1000))
    start = 0
    while start < len(view):
        stop = start + random.randint(1, max(longest, 1)) if seed > 1 else start + max(longest, 1)
        yield view[start:stop]
        start = stop
