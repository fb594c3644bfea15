"""`Facts`: what routing rules see of an instance: who sent it, what it is, and elements of its data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET, character_set_of
from asyncdicom.archive.index.text import text_of, values_of
from asyncdicom.data.elements import Element
from asyncdicom.uid import name_of, transfer_syntax

__all__ = ["NAMES", "UIDS", "Facts", "Wanted", "needed_for", "wanted_of"]

NAMES = ("calling", "called", "address", "certificate", "sop_class", "transfer_syntax", "size")
"""What a rule can ask for besides elements."""

UIDS = frozenset({"sop_class", "transfer_syntax"})
"""Those that have a UID and, by PS3.6, a name."""

_TEXTS = {
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
}
_COMPARED = frozenset(_TEXTS | {"US"})
_PIXEL_DATA = 0x7FE00008  # Float Pixel Data is the first of them
_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),?([0-9A-Fa-f]{4})\)?").fullmatch
_MOST_VALUES = 16
_LONGEST_VALUE = 64


class Wanted(NamedTuple):
    """Something that a rule asks for: one of `NAMES`, or an element by its tag and VR."""

    name: str
    tag: int = 0
    vr: str = ""


def wanted_of(name: str) -> Wanted:
    """Understand the key of a condition. Raises ValueError for what no rule can ask for.

    That is one of `NAMES`, the keyword of an element (PS3.6), or its tag: "0018,0015".
    """
    if name in NAMES:
        return Wanted(name)
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag_as_text = _TAG(name)
    tag = int(tag_as_text[1] + tag_as_text[2], 16) if tag_as_text else tag_for_keyword(name)
    if tag is None:
        raise ValueError(
            f"{name!r} is no keyword of an element, and none of {', '.join(NAMES)}; a tag is written as "
            "0018,0015"
        )
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        vr = "LO"  # private, or new: taken for text
    if vr not in _COMPARED:
        raise ValueError(f"{name} has the VR {vr}: only text, UIDs, numbers as text and US are compared")
    if not 0x00080000 <= tag < _PIXEL_DATA:
        raise ValueError(f"{name} is not between the command and Pixel Data, which is all that rules look at")
    return Wanted(name, tag, vr)


def needed_for(tags: Iterable[int]) -> frozenset[int]:
    """Give the elements to pick so that some are known as text: it takes the character set to read them."""
    some = frozenset(tags)
    return some | {SPECIFIC_CHARACTER_SET} if some else some


@dataclass(frozen=True)
class Facts:
    """An instance that was received.

    `calling` and `called` are the AE titles of the association that it came on, `address` the peer's host,
    `certificate` the names of its TLS certificate ("sha256:..." and Subject Alternative Names, as in
    `access.Peer`). `size`: bytes of its data set. `elements`: those that were picked out of it.
    """

    calling: str = ""
    called: str = ""
    address: str = ""
    certificate: tuple[str, ...] = ()
    sop_class: str = ""
    transfer_syntax: str = ""
    size: int = 0
    elements: Mapping[int, Element] = field(default_factory=dict)

    def values(self, wanted: Wanted) -> list[str]:
        """Give the values to compare, at least one: of what is not there, the empty text.

        Of many values the first 16, of long ones the first 64 characters.
        """
        if wanted.tag:
            return self._values_of_element(wanted)
        value = getattr(self, wanted.name)
        if wanted.name in UIDS:
            return [value, name_of(value)]
        return list(value[:_MOST_VALUES]) or [""] if isinstance(value, tuple) else [str(value)]

    def text(self, tag: int, vr: str) -> str:
        """Give an element as text; empty where it is not there."""
        element = self.elements.get(tag)
        if element is None or not element.value:
            return ""
        little_endian = transfer_syntax(self.transfer_syntax).little_endian
        return text_of(element, vr, character_set_of(self.elements), little_endian=little_endian)

    def _values_of_element(self, wanted: Wanted) -> list[str]:
        values = values_of(self.text(wanted.tag, wanted.vr), wanted.vr)
        return [value[:_LONGEST_VALUE] for value in values[:_MOST_VALUES]]
