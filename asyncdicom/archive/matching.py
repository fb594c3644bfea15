"""Attribute matching of PS3.4 C.2.2.2: the values of a key become one SQL condition.

Nothing here knows about levels, identifiers or connections: a column, a VR and text come in. Wildcards go to
GLOB, which SQLite compares without backtracking into earlier stars, so the time is bounded by the product of
the two lengths whatever the pattern is; and patterns are short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, true

from asyncdicom.archive.text import fold_name, normalise
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.status import Status

__all__ = ["IdentifierError", "is_universal", "match", "match_any_of", "match_integer", "match_name"]

MAXIMUM_CHARACTERS = 1024
"""No key may be longer."""
MAXIMUM_PATTERN = 256
"""Nor may one with wildcards: three times 64 characters is what a person name may have (PS3.5 6.2)."""
MAXIMUM_VALUES = 64
"""No key may have more values, except a list of UIDs."""
MAXIMUM_UIDS = 10_000

_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
_LAST = "\U0010ffff"
_AFTER_EVERY_DIGIT = "~"


class IdentifierError(DicomNetworkError):
    """An identifier that cannot be answered.

    ``status`` is the Status of the C-FIND, C-GET or C-MOVE response; ``comment`` says what is wrong (at most
    64 characters, nothing of what was received).
    """

    def __init__(self, comment: str, status: Status = Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS) -> None:
        super().__init__(comment)
        self.comment = comment
        self.status = status


def is_universal(text: str) -> bool:
    """Tell whether a key matches everything: zero length (C.2.2.2.3), or nothing but ``*`` (C.2.2.2.4)."""
    return not text.strip("* ")


def match(column: ColumnElement[Any], vr: str, values: Sequence[str]) -> ColumnElement[bool]:
    """Give the condition that ``column`` matches one of ``values``.

    Single value and wildcard matching, list of UID, range of DA and TM, by VR. The column of a PN is one of
    its casefolded groups, and the values are folded already.
    """
    if vr == "UI":
        return _match_uids(column, values)
    return or_(*(_match_one(column, vr, normalise(value, vr)) for value in _checked(values)))


def _checked(values: Sequence[str]) -> Sequence[str]:
    if len(values) > MAXIMUM_VALUES:
        raise IdentifierError(f"a key has more than {MAXIMUM_VALUES} values")
    if any(len(value) > MAXIMUM_CHARACTERS for value in values):
        raise IdentifierError(f"a key is longer than {MAXIMUM_CHARACTERS} characters")
    return values


def _match_uids(column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    if len(values) > MAXIMUM_UIDS:
        raise IdentifierError(f"a list has more than {MAXIMUM_UIDS} UIDs")
    return column == values[0] if len(values) == 1 else column.in_(values)


def _match_one(column: ColumnElement[Any], vr: str, value: str) -> ColumnElement[bool]:
    if is_universal(value):
        return true()
    if vr in ("DA", "TM"):
        return _match_moment(column, vr, value)
    if vr in _WILDCARD_VRS and ("*" in value or "?" in value):
        return _match_wildcard(column, value)
    return column == value


def _match_wildcard(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    if len(value) > MAXIMUM_PATTERN:
        raise IdentifierError(f"a key with wildcards is longer than {MAXIMUM_PATTERN} characters")
    pattern = value.replace("[", "[[]")  # the only other special character of GLOB
    condition = column.op("GLOB", is_comparison=True)(pattern)
    prefix = value[: min(value.find(c) for c in "*?" if c in value)]
    if not prefix:
        return condition
    return and_(column >= prefix, column < prefix + _LAST, condition)  # an index can serve this


def _match_moment(column: ColumnElement[Any], vr: str, value: str) -> ColumnElement[bool]:
    first, hyphen, last = (part.strip() for part in value.partition("-"))
    if not hyphen:
        last = first
    if not first and not last:
        raise IdentifierError(f"a range of {vr} has neither beginning nor end")
    for moment in (first, last):
        if moment and not _IS_MOMENT[vr](moment):
            raise IdentifierError(f"a key of VR {vr} is neither a value nor a range of values")
    if vr == "DA" and not hyphen:
        return column == first
    # A value may stop after the hour or the minute (PS3.5 6.2). Text order is time order if the beginning has
    # no zeros at its end ("1000" is "10") and the end includes all that begins with it ("10": to 10:59:59.9).
    return and_(column > "", column >= _without_zeros(first), column <= (last or ":") + _AFTER_EVERY_DIGIT)


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


def match_name(groups: Sequence[ColumnElement[Any]], values: Sequence[str]) -> ColumnElement[bool]:
    """Give the condition that a person name of three folded columns matches one of ``values``.

    A value with ``=`` is compared group by group; one without may be found in any of the groups.
    """
    return or_(*(_match_one_name(groups, value) for value in _checked(values)))


def _match_one_name(groups: Sequence[ColumnElement[Any]], value: str) -> ColumnElement[bool]:
    folded = fold_name(value)
    if is_universal(value):
        return true()
    if "=" in value:
        pairs = zip(groups, folded, strict=True)
        return and_(true(), *(_match_one(column, "PN", text) for column, text in pairs if text))
    return or_(*(_match_one(column, "PN", folded[0]) for column in groups))


def match_any_of(column: ColumnElement[Any], vr: str, values: Sequence[str]) -> ColumnElement[bool]:
    """Give the condition that one element of a JSON list matches one of ``values``."""
    if any(is_universal(value) for value in values):
        return true()
    if vr == "PN":
        values = [fold_name(value)[0] for value in _checked(values)]
    each = func.json_each(column).table_valued("value")
    return select(1).select_from(each).where(match(each.c.value, vr, values)).exists()


def match_integer(column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """Give the condition that a computed number is one of ``values``."""
    numbers = [normalise(value, "IS") for value in _checked(values)]
    if not all(number.isdigit() and len(number) <= 12 for number in numbers):  # PS3.5 6.2: IS
        raise IdentifierError("a number of related entities is not a number")
    return column.in_([int(number) for number in numbers])
