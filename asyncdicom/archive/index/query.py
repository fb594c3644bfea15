"""From an identifier to a query: levels, unique keys, which attributes are known (PS3.4 C.4.1.2, C.4.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from asyncdicom.archive.index import schema
from asyncdicom.archive.index.matching import (
    ANYTHING,
    Alternatives,
    IdentifierError,
    Problem,
    is_universal,
    match,
    match_folded,
    match_integer,
    match_name,
)
from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET, character_set_of
from asyncdicom.archive.index.schema import LEVELS, UNIQUE_KEYS
from asyncdicom.archive.index.text import normalise, text_of, told_apart, values_of
from asyncdicom.data.elements import Element, decoding
from asyncdicom.data.steps import Steps
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import InformationModel

__all__ = [
    "MAXIMUM_IDENTIFIER",
    "QUERY_RETRIEVE_LEVEL",
    "RETRIEVE_AE_TITLE",
    "Condition",
    "Form",
    "Key",
    "Query",
    "condition_of",
    "conditions_in_order",
    "find_query",
    "key_at",
    "reading",
    "retrieve_query",
]

QUERY_RETRIEVE_LEVEL = 0x00080052
RETRIEVE_AE_TITLE = 0x00080054

MAXIMUM_IDENTIFIER = 1 << 20
"""Bytes of an encoded identifier, inflated or not: a list of 10,000 UIDs has 650,000."""
MAXIMUM_KEYS = 1024
"""Keys of an identifier, known or not; the data dictionary has no more at any level."""
_MAXIMUM_ELEMENTS = 16_384  # of an identifier, those in sequences included
_MAXIMUM_TEXT = 65_536  # bytes of all keys that are matched together, lists of UIDs apart


class Form(Enum):
    """What is stored for a key."""

    TEXT = "one text, or several with backslashes between them"
    UID = "one text that is compared whole"
    TEXTS = "a text, and its values one by one"
    NAME = "a person name, and its folded component groups"
    NAMES = "person names, and their folded component groups one by one"
    COUNT = "nothing: the rows below are counted"
    COLLECTED = "nothing: the distinct values of a column below are collected"


class Key(NamedTuple):
    """A supported key: where its values are stored, and in which form."""

    level: str
    vr: str
    column: str
    form: Form
    lower: str = ""
    """The level below whose rows are counted, or that has the column which is collected."""

    def match(self, values: Sequence[str]) -> Alternatives:
        """Give what has to be fulfilled to match one of ``values``. Raises `IdentifierError`."""
        if self.form is Form.COUNT:
            return match_integer(values)
        if self.form is Form.NAME:
            return match_name(values)
        if self.form is Form.NAMES:
            return match_folded(values)
        return match(self.vr, values)


TOLD_APART = Key("PATIENT", "UI", "told_apart", Form.UID)
"""What tells Patient IDs with the same text apart."""


class Condition(NamedTuple):
    """What one key has to fulfil."""

    key: Key
    alternatives: Alternatives


class Query(NamedTuple):
    """What an identifier asks for."""

    level: str
    conditions: tuple[Condition, ...]
    requested: tuple[tuple[int, str, Key | None], ...]
    """Tag and VR of every key to be answered, ascending, with the supported key that it is."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The supported keys to be answered, in the order of ``requested``."""
        return tuple(key for _, _, key in self.requested if key is not None)


_LEVEL_NAMES = tuple(LEVELS)


def _stored(level: str, attribute: schema.Attribute) -> Key:
    is_name = attribute.vr == "PN"
    if attribute.many:
        form = Form.NAMES if is_name else Form.TEXTS
    elif is_name:
        form = Form.NAME
    else:
        form = Form.UID if attribute.vr == "UI" else Form.TEXT
    return Key(level, attribute.vr, attribute.column, form)


def _count(level: str, lower: str) -> Key:
    return Key(level, "IS", "", Form.COUNT, lower)


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
    0x00080061: Key("STUDY", "CS", "modality", Form.COLLECTED, "SERIES"),
    0x00080062: Key("STUDY", "UI", "sop_class_uid", Form.COLLECTED, "IMAGE"),
}
KEYS["SERIES"] |= {0x00201209: _count("SERIES", "IMAGE")}
KEYS["IMAGE"] |= {0x00083002: Key("IMAGE", "UI", "transfer_syntax_uid", Form.UID)}


def key_at(level: str, tag: int) -> Key | None:
    """Give the key that ``tag`` is at ``level``: one of its own or of a level above, else None."""
    for name in _LEVEL_NAMES[: _LEVEL_NAMES.index(level) + 1]:
        if tag in KEYS[name]:
            return KEYS[name][tag]
    return None


def reading(identifier: bytes, transfer_syntax_uid: str) -> Steps[list[Element]]:
    """Decode an identifier in steps, each of about a thousand elements.

    Raises `IdentifierError` for one that cannot be read or asks for too much at once.
    """
    if len(identifier) > MAXIMUM_IDENTIFIER:
        raise IdentifierError(f"the identifier has more than {MAXIMUM_IDENTIFIER} bytes", Problem.TOO_MUCH)
    try:
        elements = yield from decoding(
            identifier,
            transfer_syntax_uid,
            maximum_inflated=MAXIMUM_IDENTIFIER,
            maximum_elements=_MAXIMUM_ELEMENTS,
        )
    except DataSetError as error:
        raise IdentifierError(f"unreadable identifier: {error}"[:64], Problem.UNREADABLE) from None
    if len(elements) > MAXIMUM_KEYS:
        raise IdentifierError(f"the identifier has more than {MAXIMUM_KEYS} keys", Problem.TOO_MUCH)
    return elements


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
    conditions = (
        condition_of(key, text(tag, key.vr)) for tag in elements if (key := key_at(level, tag)) is not None
    )
    return Query(level, conditions_in_order(conditions), _requested(elements, level))


def condition_of(key: Key, wanted: str) -> Condition | None:
    """Give what a key has to fulfil to be what is wanted; None: anything. Raises `IdentifierError`."""
    if is_universal(wanted):
        return None
    values = [value for value in values_of(wanted, key.vr) if value]
    alternatives = key.match(values) if values else ANYTHING
    return None if alternatives == ANYTHING else Condition(key, alternatives)


def conditions_in_order(conditions: Iterable[Condition | None]) -> tuple[Condition, ...]:
    """Give the conditions that there are, in the order of a query."""
    return tuple(sorted((each for each in conditions if each is not None), key=_order))


def _order(condition: Condition) -> tuple[str, str, str]:
    key = condition.key  # one statement, in whatever order the keys came
    return key.level, key.column, key.lower


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
        whole = text(tag, key.vr)
        wanted = [normalise(value, key.vr) for value in values_of(whole, key.vr) if value]
        if wanted:
            if key.form is not Form.UID and len(wanted) > 1:
                wanted.append(
                    normalise(whole, key.vr)
                )  # what a query has answered for a Patient ID with a backslash in it
            conditions.append(Condition(key._replace(form=Form.UID), match("UI", wanted)))
            if name == "PATIENT":
                conditions.append(Condition(TOLD_APART, match("UI", [text.told_apart(tag)])))
        elif name == level:
            raise IdentifierError(f"a {level} level retrieval needs {_keyword(tag)}")
    return Query(level, tuple(conditions), ())


class _Text:
    """The values of an identifier as text."""

    def __init__(self, elements: Mapping[int, Element], little_endian: bool) -> None:
        self._elements = elements
        self._little_endian = little_endian
        self._character_set = character_set_of(elements)
        self._left = _MAXIMUM_TEXT

    def told_apart(self, tag: int) -> str:
        """Give what tells an identifier apart from others with the same text."""
        return told_apart(self._elements.get(tag), self._character_set)

    def __call__(self, tag: int, vr: str) -> str:
        element = self._elements.get(tag)
        if element is None:
            return ""
        if vr != "UI":
            self._left -= len(element.value)
            if self._left < 0:
                raise IdentifierError(f"the keys have more than {_MAXIMUM_TEXT} bytes of text")
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


def _requested(elements: Mapping[int, Element], level: str) -> tuple[tuple[int, str, Key | None], ...]:
    vrs = {tag: element.vr for tag, element in elements.items() if tag & 0xFFFF}  # no group lengths
    vrs.pop(SPECIFIC_CHARACTER_SET, None)
    vrs.setdefault(UNIQUE_KEYS[level], "")
    vrs.setdefault(RETRIEVE_AE_TITLE, "AE")  # C.4.1.1.3.2: in every response
    requested = []
    for tag, vr in sorted(vrs.items()):
        key = key_at(level, tag)
        requested.append((tag, vr if key is None else key.vr, key))
    return tuple(requested)
