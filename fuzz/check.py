"""What a target says when a promise is broken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Finding(Exception):
    """A promise of the library does not hold for this input."""


def check(condition: object, message: str) -> None:
    """Raise `Finding` unless `condition` holds; unlike `assert` also under `python -O`."""
    if not condition:
        raise Finding(message)


def check_equal(one: object, other: object, message: str) -> None:
    """Raise `Finding` unless both are equal; it shows where they begin to differ."""
    if one == other:
        return
    left, right = repr(one), repr(other)
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
    start = max(at - 60, 0)
    raise Finding(f"{message}: ...{left[start : at + 140]} != ...{right[start : at + 140]}")


def words(error: object) -> str:
    """An error message without its numbers and names: what kind of error it is."""
    return " ".join(word for word in str(error).replace(",", "").split() if word.isalpha())


class Head:
    """The first bytes of an input choose the set-up; those that are missing are 0."""

    def __init__(self, data: bytes, length: int) -> None:
        self._bytes = iter(data[:length].ljust(length, b"\0"))
        self.body = data[length:]

    def byte(self) -> int:
        """The next byte of the head."""
        return next(self._bytes)

    def choose(self, options: Sequence[T]) -> T:
        """One of `options`, by the next byte."""
        return options[self.byte() % len(options)]


def pieces(data: bytes, seed: int) -> Iterator[memoryview]:
    """`data` cut at random, by `seed`: 0 gives single bytes (of a short input), 1 the whole."""
    view = memoryview(data)
    length, random = len(view), Random(seed)
    if seed == 0 and length <= 400:
        cuts = list(range(1, length))
    elif seed == 1 or not length:
        cuts = []
    else:
        cuts = [random.randrange(length) for _ in range(random.choice((1, 2, 4, 12)))]
        cuts += [cut + random.randrange(1, 8) for cut in cuts]  # within a header, now and then
        cuts = sorted({cut for cut in cuts if 0 < cut < length})
    for start, stop in pairwise([0, *cuts, length]):
        yield view[start:stop]
