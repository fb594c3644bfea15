"""From an identifier to a query: levels, unique keys, which attributes are known (PS3.4 C.4.1.2, C.4.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, FromClause, func, select

from asyncdicom.archive import schema
from asyncdicom.archive.matching import (
    IdentifierError,
    is_universal,
    match,
    match_any_of,
    match_integer,
    match_name,
)
from asyncdicom.archive.record import SPECIFIC_CHARACTER_SET, character_set_of
from asyncdicom.archive.schema import LEVELS, NAME_GROUPS, UNIQUE_KEYS, instance, patient, series, study
from asyncdicom.archive.text import text_of, values_of
from asyncdicom.data.elements import Element
from asyncdicom.uid import InformationModel

__all__ = [
    "QUERY_RETRIEVE_LEVEL",
    "RETRIEVE_AE_TITLE",
    "Key",
    "Query",
    "find_query",
    "key_at",
    "retrieve_query",
]

QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054

Condition = ColumnElement[bool]


class Key(NamedTuple):
    """A supported key: what is returned for it, and how it is matched."""

    vr: str
    value: ColumnElement[Any]
    match: Callable[[Sequence[str]], Condition]
    is_list: bool = False  # the value is a JSON list


class Query(NamedTuple):
    """What an identifier asks for."""

    level: str
    conditions: tuple[Condition, ...]
    requested: tuple[tuple[int, str], ...]
    """Tag and VR of every key to be answered, ascending."""


TABLES = {"PATIENT": patient, "STUDY": study, "SERIES": series, "IMAGE": instance}
_LEVEL_NAMES = tuple(LEVELS)


def _stored(level: str, attribute: schema.Attribute) -> Key:
    columns, vr = TABLES[level].c, attribute.vr
    value = columns[attribute.column]
    if attribute.many:
        values = columns[attribute.column + "_values"]
        return Key(vr, value, lambda wanted: match_any_of(values, vr, wanted))
    if vr == "PN":
        groups = [columns[f"{attribute.column}_{group}"] for group in NAME_GROUPS]
        return Key(vr, value, lambda wanted: match_name(groups, wanted))
    return Key(vr, value, lambda wanted: match(value, vr, wanted))


def _below(level: str, lower: str) -> tuple[FromClause, Condition]:
    """Join the tables under ``level`` down to ``lower``, with the condition that ties them to ``level``."""
    chain = _LEVEL_NAMES[_LEVEL_NAMES.index(level) + 1 : _LEVEL_NAMES.index(lower) + 1]
    joined: FromClause = TABLES[chain[0]]
    for above, name in pairwise(chain):
        joined = joined.join(TABLES[name], TABLES[name].c.parent == TABLES[above].c.id)
    return joined, TABLES[chain[0]].c.parent == TABLES[level].c.id


def _count(level: str, lower: str) -> Key:
    joined, tie = _below(level, lower)
    number = select(func.count()).select_from(joined).where(tie).correlate(TABLES[level]).scalar_subquery()
    return Key("IS", number, lambda wanted: match_integer(number, wanted))


def _collected(level: str, lower: str, column: ColumnElement[Any], vr: str) -> Key:
    joined, tie = _below(level, lower)
    values = select(func.json_group_array(column.distinct())).select_from(joined).where(tie)
    some = select(1).select_from(joined).where(tie).correlate(TABLES[level])
    return Key(
        vr,
        values.correlate(TABLES[level]).scalar_subquery(),
        lambda wanted: some.where(match(column, vr, wanted)).exists(),
        is_list=True,
    )


def _transfer_syntax() -> Key:
    column = instance.c.transfer_syntax_uid
    return Key("UI", column, lambda wanted: match(column, "UI", wanted))


# PS3.4 C.3.4 (additional attributes), and C.6.1.1.5.2 for Available Transfer Syntax UID.
KEYS: dict[str, dict[int, Key]] = {
    level: {attribute.tag: _stored(level, attribute) for attribute in LEVELS[level]} for level in LEVELS
}
KEYS["PATIENT"] |= {
    0x00201200: _count("PATIENT", "STUDY"),
    0x00201202: _count("PATIENT", "SERIES"),
    0x00201204: _count("PATIENT", "IMAGE"),
}
KEYS["STUDY"] |= {
    0x00201206: _count("STUDY", "SERIES"),
    0x00201208: _count("STUDY", "IMAGE"),
    0x00080061: _collected("STUDY", "SERIES", series.c.modality, "CS"),
    0x00080062: _collected("STUDY", "IMAGE", instance.c.sop_class_uid, "UI"),
}
KEYS["SERIES"] |= {0x00201209: _count("SERIES", "IMAGE")}
KEYS["IMAGE"] |= {0x00083002: _transfer_syntax()}


def key_at(level: str, tag: int) -> Key | None:
    """Give the key that ``tag`` is at ``level``: one of its own or of a level above, else None."""
    for name in _LEVEL_NAMES[: _LEVEL_NAMES.index(level) + 1]:
        if tag in KEYS[name]:
            return KEYS[name][tag]
    return None


def find_query(
    identifier: Sequence[Element], model: InformationModel, *, little_endian: bool, relational: bool = False
) -> Query:
    """Read the identifier of a C-FIND request.

    Keys of the level and of those above it are matched and answered; other keys are answered empty.
    Without ``relational`` every level above needs a single value of its unique key (C.4.1.2.2.1).
    Raises `IdentifierError`.
    """
    elements = {element.tag: element for element in identifier}
    level = _level(elements, model)
    text = _Text(elements, little_endian)
    if not relational:
        _check_upper_keys(text, _above(level, model))
    conditions = []
    for tag in elements:
        key = key_at(level, tag)
        if key is None or is_universal(wanted := text(tag, key.vr)):
            continue
        if values := [value for value in values_of(wanted, key.vr) if value]:
            conditions.append(key.match(values))
    return Query(level, tuple(conditions), _requested(elements, level))


def retrieve_query(
    identifier: Sequence[Element], model: InformationModel, *, little_endian: bool, relational: bool = False
) -> Query:
    """Read the identifier of a C-GET or C-MOVE request: unique keys only, others are ignored.

    The key of the level may be a list of UIDs, those above have a single value (C.4.2.1.4).
    Raises `IdentifierError`.
    """
    elements = {element.tag: element for element in identifier}
    level = _level(elements, model)
    text = _Text(elements, little_endian)
    above = _above(level, model)
    if not relational:
        _check_upper_keys(text, above)
    conditions = []
    for name in (*above, level):
        tag = UNIQUE_KEYS[name]
        key = KEYS[name][tag]
        wanted = [value for value in values_of(text(tag, key.vr), key.vr) if value]
        if wanted:
            conditions.append(match(key.value, "UI", wanted))
        elif name == level:
            raise IdentifierError(f"a {level} level retrieval needs {_keyword(tag)}")
    return Query(level, tuple(conditions), ())


class _Text:
    """The values of an identifier as text."""

    def __init__(self, elements: Mapping[int, Element], little_endian: bool) -> None:
        self._elements = elements
        self._little_endian = little_endian
        self._character_set = character_set_of(elements)

    def __call__(self, tag: int, vr: str) -> str:
        element = self._elements.get(tag)
        if element is None:
            return ""
        return text_of(element, vr, self._character_set, little_endian=self._little_endian)


def _level(elements: Mapping[int, Element], model: InformationModel) -> str:
    element = elements.get(QUERY_RETRIEVE_LEVEL)
    if element is None:
        raise IdentifierError("Query/Retrieve Level (0008,0052) is missing")
    level = element.value.decode("ascii", "replace").strip(" \0").upper()
    if level not in model.levels:
        raise IdentifierError(f"Query/Retrieve Level is not one of {', '.join(model.levels)}")
    return level


def _above(level: str, model: InformationModel) -> tuple[str, ...]:
    return tuple(model.levels[: model.levels.index(level)])


def _check_upper_keys(text: _Text, above: Sequence[str]) -> None:
    for name in above:
        tag = UNIQUE_KEYS[name]
        value = text(tag, KEYS[name][tag].vr)
        if not value or any(c in value for c in "\\*?"):
            raise IdentifierError(f"{_keyword(tag)} needs a single value at this level")


def _keyword(tag: int) -> str:
    return schema.BY_TAG[tag][1].keyword


def _requested(elements: Mapping[int, Element], level: str) -> tuple[tuple[int, str], ...]:
    vrs = {tag: element.vr for tag, element in elements.items() if tag & 0xFFFF}  # no group lengths
    vrs.pop(SPECIFIC_CHARACTER_SET, None)
    vrs.setdefault(UNIQUE_KEYS[level], "")
    vrs.setdefault(RETRIEVE_AE_TITLE, "AE")  # C.4.1.1.3.2: in every response
    for tag in vrs:
        key = key_at(level, tag)
        if key is not None:
            vrs[tag] = key.vr
    return tuple(sorted(vrs.items()))
