"""Attribute matching of PS3.4 C.2.2.2: the values of a key become tests that an index can carry out.

Nothing here knows about levels, identifiers or databases: a VR and text come in, `Alternatives` come out.
What they may cost is known before anything runs: values and patterns are bounded here, and `cost_of` says how
many steps a pattern takes for each character of a stored text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from asyncdicom.archive.index.text import fold_name, normalise
from asyncdicom.exceptions import DicomNetworkError

__all__ = [
    "ANYTHING",
    "Alternatives",
    "Comparison",
    "IdentifierError",
    "Kind",
    "Problem",
    "cost_of",
    "is_universal",
    "match",
    "match_folded",
    "match_integer",
    "match_name",
]

MAXIMUM_CHARACTERS = 1024
"""No value of a key may be longer, with wildcards or without; no text of the index is."""
MAXIMUM_VALUES = 64
"""No key may have more values, except a list of UIDs."""
MAXIMUM_UIDS = 10_000
MAXIMUM_GROUPED_NAMES = 8
"""No person name may have more values that tell component groups apart: each is a condition of its own."""

_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_AFTER_EVERY_DIGIT = "~"
_STARS = re.compile(r"\*{2,}")


class Kind(Enum):
    """How a stored text is compared."""

    EQUAL = "is one of the values"
    LIKE = "matches one of the patterns: `*` is any text, `?` any character"
    LIKE_COMPONENTS = "as LIKE, for a person name: as many empty components follow it as there may be"
    RANGE = "lies between the two values of one of the pairs, both included, and is not empty"


class Comparison(NamedTuple):
    """One comparison: it holds if it holds for any of ``values``."""

    kind: Kind
    values: tuple[Any, ...]
    group: int = 0
    """Of a person name: which of its component groups is compared."""


Alternatives = tuple[tuple[Comparison, ...], ...]
"""A key matches if all tests of one of the alternatives hold."""

ANYTHING: Alternatives = ((),)


class Problem(Enum):
    """What is wrong with a query."""

    WRONG = "it does not say what such a query has to say"
    UNREADABLE = "it cannot be read"
    TOO_MUCH = "to answer it would take too much"
    TOO_MANY = "too many instances match"
    BUSY = "too many others are being answered"


class IdentifierError(DicomNetworkError):
    """A query, or the identifier of one, that cannot be answered.

    ``problem`` says in what way; ``comment`` says what is wrong (at most 64 characters, nothing of what was
    received).
    """

    def __init__(self, comment: str, problem: Problem = Problem.WRONG) -> None:
        super().__init__(comment)
        self.comment = comment
        self.problem = problem


def is_universal(text: str) -> bool:
    """Tell whether a key matches everything: zero length (C.2.2.2.3), or nothing but ``*`` (C.2.2.2.4)."""
    return not text.strip("* ")


def match(vr: str, values: Sequence[str]) -> Alternatives:
    """Give what a text has to fulfil to match one of ``values``.

    Single value and wildcard matching, list of UID, range of DA and TM, by VR. Raises `IdentifierError`.
    """
    if vr == "UI":
        if len(values) > MAXIMUM_UIDS:
            raise IdentifierError(f"a list has more than {MAXIMUM_UIDS} UIDs")
        return ((Comparison(Kind.EQUAL, tuple(values)),),)
    return _any_of(_match_one(vr, normalise(value, vr)) for value in _checked(values))


def _checked(values: Sequence[str]) -> Sequence[str]:
    if len(values) > MAXIMUM_VALUES:
        raise IdentifierError(f"a key has more than {MAXIMUM_VALUES} values")
    if any(len(value) > MAXIMUM_CHARACTERS for value in values):
        raise IdentifierError(f"a key is longer than {MAXIMUM_CHARACTERS} characters")
    return values


def _any_of(tests: Iterable[Comparison | None], groups: Sequence[int] = (0,)) -> Alternatives:
    """Give one alternative for each kind and group, however many values there are (None: all match)."""
    values: dict[Kind, list[Any]] = {}
    for test in tests:
        if test is None:
            return ANYTHING
        values.setdefault(test.kind, []).extend(test.values)
    return tuple((Comparison(kind, tuple(each), group),) for kind, each in values.items() for group in groups)


def _match_one(vr: str, value: str) -> Comparison | None:
    if is_universal(value):
        return None
    if vr in ("DA", "TM"):
        return _match_moment(vr, value)
    if vr not in _WILDCARD_VRS or not ("*" in value or "?" in value):
        return Comparison(Kind.EQUAL, (value,))
    pattern = _STARS.sub("*", value)
    # DOE is also DOE^ and DOE^^^^ (PS3.5 6.2.1.1): only a pattern that ends in * can tell these apart.
    in_components = vr == "PN" and "^" in pattern and pattern.endswith("*")
    return Comparison(Kind.LIKE_COMPONENTS if in_components else Kind.LIKE, (pattern,))


def _match_moment(vr: str, value: str) -> Comparison:
    first, hyphen, last = (part.strip() for part in value.partition("-"))
    if not hyphen:
        last = first
    if not first and not last:
        raise IdentifierError(f"a range of {vr} has neither beginning nor end")
    for moment in (first, last):
        if moment and not _IS_MOMENT[vr](moment):
            raise IdentifierError(f"a key of VR {vr} is neither a value nor a range of values")
    if vr == "DA" and not hyphen:
        return Comparison(Kind.EQUAL, (first,))
    # A value may stop after the hour or the minute (PS3.5 6.2). Text order is time order if the beginning has
    # no zeros at its end ("1000" is "10") and the end includes all that begins with it ("10": to 10:59:59.9).
    return Comparison(Kind.RANGE, ((_without_zeros(first), (last or ":") + _AFTER_EVERY_DIGIT),))


def _without_zeros(moment: str) -> str:
    if "." in moment:
        moment = moment.rstrip("0").rstrip(".")
    while len(moment) in (4, 6) and moment.endswith("00"):
        moment = moment[:-2]
    return moment


def _is_date(text: str) -> bool:
    return len(text) == 8 and text.isascii() and text.isdigit()


def _is_time(text: str) -> bool:
    whole, point, fraction = text.partition(".")
    if point and not (len(whole) == 6 and len(fraction) <= 6 and fraction.isascii() and fraction.isdigit()):
        return False
    return len(whole) in (2, 4, 6) and whole.isascii() and whole.isdigit()


_IS_MOMENT = {"DA": _is_date, "TM": _is_time}


def match_name(values: Sequence[str]) -> Alternatives:
    """Give what the folded component groups of a person name have to fulfil to match one of ``values``.

    A value with ``=`` is compared group by group; one without may be found in any of the groups. Raises
    `IdentifierError`.
    """
    _checked(values)
    grouped = [value for value in values if "=" in value]
    if len(grouped) > MAXIMUM_GROUPED_NAMES:
        raise IdentifierError(f"a name has more than {MAXIMUM_GROUPED_NAMES} values with =")
    alternatives = [_match_groups(value) for value in grouped]
    if () in alternatives:
        return ANYTHING
    folded = [fold_name(value)[0] for value in values if "=" not in value]
    in_any_group = _any_of((_match_one("PN", name) for name in folded), groups=(0, 1, 2))
    return ANYTHING if in_any_group == ANYTHING else (*alternatives, *in_any_group)


def _match_groups(value: str) -> tuple[Comparison, ...]:
    tests = (_match_one("PN", group) for group in fold_name(value))
    return tuple(test._replace(group=number) for number, test in enumerate(tests) if test is not None)


def match_folded(values: Sequence[str]) -> Alternatives:
    """Give what one folded component group has to fulfil where nobody knows which one it is."""
    return _any_of(_match_one("PN", fold_name(value)[0]) for value in _checked(values))


def match_integer(values: Sequence[str]) -> Alternatives:
    """Give what a computed number has to fulfil to be one of ``values``. Raises `IdentifierError`."""
    numbers = [normalise(value, "IS") for value in _checked(values)]
    if not all(number.isdigit() and len(number) <= 12 for number in numbers):  # PS3.5 6.2: IS
        raise IdentifierError("a number of related entities is not a number")
    return ((Comparison(Kind.EQUAL, tuple(int(number) for number in numbers)),),)


def cost_of(alternatives: Alternatives) -> int:
    """Give how often each character of a stored text may be looked at because of patterns.

    Behind a star every place of the text is tried with every character of the pattern, unless nothing but the
    end of the text is wanted there.
    """
    patterns = (
        pattern
        for tests in alternatives
        for test in tests
        if test.kind in (Kind.LIKE, Kind.LIKE_COMPONENTS)
        for pattern in test.values
    )
    return sum(max(len(pattern) - pattern.find("*") - 1, 0) if "*" in pattern else 0 for pattern in patterns)
