"""Searching with keywords: a mapping, or a Dataset, becomes a query, and rows become mappings."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from asyncdicom.archive.index.matching import IdentifierError
from asyncdicom.archive.index.query import KEYS, Form, Key, Query, condition_of, conditions_in_order
from asyncdicom.archive.index.reader import Row
from asyncdicom.archive.index.schema import BY_TAG, LEVELS, UNIQUE_KEYS

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Match", "match_of", "query_of"]

Match = dict[str, str | int | list[str]]
"""What was found, by keyword: text, a number for what is counted, a list where there may be several."""

_LEVELS = tuple(LEVELS)
_COMPUTED = {
    0x00080061: "ModalitiesInStudy",
    0x00080062: "SOPClassesInStudy",
    0x00083002: "AvailableTransferSyntaxUID",
    0x00201200: "NumberOfPatientRelatedStudies",
    0x00201202: "NumberOfPatientRelatedSeries",
    0x00201204: "NumberOfPatientRelatedInstances",
    0x00201206: "NumberOfStudyRelatedSeries",
    0x00201208: "NumberOfStudyRelatedInstances",
    0x00201209: "NumberOfSeriesRelatedInstances",
}
_KEYWORDS = {tag: attribute.keyword for tag, (_, attribute) in BY_TAG.items()} | _COMPUTED
_FOUND = {_KEYWORDS[tag]: (tag, key) for keys in KEYS.values() for tag, key in keys.items()}
_NO_KEYS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet"})  # of an identifier: they match nothing


def query_of(wanted: Mapping[str, Any] | Dataset, level: str = "") -> Query:
    """Give the query for keywords and what they are to be (PS3.4 C.2.2.2); empty: anything.

    Without a level it is that of the identifier, else the lowest one that a keyword belongs to. Raises
    `IdentifierError`.
    """
    texts = {keyword: _text(value) for keyword, value in _items(wanted)}
    level = level or texts.get("QueryRetrieveLevel", "").strip().upper()
    keys = {_key(keyword): text for keyword, text in texts.items() if keyword not in _NO_KEYS}
    if not level:
        level = max((key.level for _, key in keys), key=_LEVELS.index, default="STUDY")
    if level not in _LEVELS:
        raise IdentifierError(f"the level is one of {', '.join(_LEVELS)}")
    depth = _LEVELS.index(level)
    for tag, key in keys:
        if _LEVELS.index(key.level) > depth:
            raise IdentifierError(f"below the {level} level: {_KEYWORDS[tag]}"[:64])
    conditions = (condition_of(key, text) for (_, key), text in keys.items())
    unique = {(UNIQUE_KEYS[name], KEYS[name][UNIQUE_KEYS[name]]) for name in _LEVELS[: depth + 1]}
    requested = sorted((tag, key.vr, key) for tag, key in {*keys, *unique})
    return Query(level, conditions_in_order(conditions), tuple(requested))


def _items(wanted: Mapping[str, Any] | Dataset) -> Iterator[tuple[str, Any]]:
    if isinstance(wanted, Mapping):
        yield from wanted.items()
    elif not hasattr(wanted, "walk"):
        raise TypeError(f"a search takes a mapping or a Dataset, not {wanted!r:.100}")
    else:
        for element in wanted:
            yield element.keyword, element.value


def _key(keyword: str) -> tuple[int, Key]:
    found = _FOUND.get(keyword)
    if found is None:
        raise IdentifierError(f"not searched by {keyword!r}"[:64])
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        raise IdentifierError("a value is text, a number, a date or time, or a list of them")
    if isinstance(value, datetime.date):
        return value.strftime("%Y%m%d")
    if isinstance(value, datetime.time):
        return value.strftime("%H%M%S")
    if isinstance(value, Iterable) and not isinstance(value, str) and not hasattr(value, "components"):
        return "\\".join(map(_text, value))
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise IdentifierError("a value has half of a surrogate pair in it")
    return text


def match_of(query: Query, row: Row) -> Match:
    """Give what was found as a mapping."""
    values = iter(row[1:])
    return {_KEYWORDS[tag]: _value(key, next(values)) for tag, _, key in query.requested if key is not None}


def _value(key: Key, value: Any) -> str | int | list[str]:
    if key.form is Form.COUNT:
        return int(value)
    if key.form is Form.COLLECTED:
        return list(value)
    if key.form in (Form.TEXTS, Form.NAMES):
        return value.split("\\") if value else []
    return str(value)
