"""Keys of an identifier that the index cannot match: it is answered all the same (PS3.4 C.4.1.1.4)."""

from __future__ import annotations

from collections.abc import Iterable

from asyncdicom.archive.index.matching import is_universal
from asyncdicom.archive.index.query import QUERY_RETRIEVE_LEVEL, Query
from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET
from asyncdicom.data.elements import UNDEFINED_LENGTH, Element, ReadHeader, read_header_of
from asyncdicom.data.steps import Steps
from asyncdicom.exceptions import DataSetError

__all__ = ["has_unsupported", "private_creators"]

_TIMEZONE = 0x00080201
_NO_KEYS = frozenset({QUERY_RETRIEVE_LEVEL, SPECIFIC_CHARACTER_SET, _TIMEZONE})  # they say how to read others
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # how the value of a sequence begins
_DELIMITERS = 0xFFFE0000


def has_unsupported(identifier: Iterable[Element], query: Query, transfer_syntax_uid: str) -> Steps[bool]:
    """Tell whether a key with a value is not matched: then more may be answered than was asked for.

    A key without one, or with `*`, asks for nothing but an answer. A sequence has a value if a key in it has.
    In steps of about a thousand elements.
    """
    read = read_header_of(transfer_syntax_uid)
    matched = {tag for tag, _, key in query.requested if key is not None}
    for element in identifier:
        if element.tag in matched or element.tag in _NO_KEYS:
            continue
        if element.value[:4] in _ITEMS:
            try:
                has_value = yield from _has_value_within(element.value, read)
            except DataSetError:
                has_value = True  # what cannot be read is no empty key
        else:
            has_value = _has_value(element.tag, element.value)
        if has_value:
            return True
    return False


def private_creators(identifier: Iterable[Element]) -> dict[int, tuple[str, str]]:
    """Give the Private Creators of an identifier, by tag: without them nobody knows its private keys."""
    return {
        element.tag: ("LO", element.value.decode("ascii").strip(" \0"))
        for element in identifier
        if _is_creator(element.tag) and element.value.isascii()
    }


def _is_creator(tag: int) -> bool:
    return bool(tag >> 16 & 1) and 0x10 <= tag & 0xFFFF <= 0xFF


def _has_value(tag: int, value: bytes) -> bool:
    if not tag & 0xFFFF or _is_creator(tag):
        return False
    return not is_universal(value.rstrip(b"\0").decode("latin-1"))


def _has_value_within(items: bytes, read: ReadHeader) -> Steps[bool]:
    """Look at the elements in the items of a sequence, and of those in them: one behind the other, as they
    are encoded."""
    position, end, count = 0, len(items), 0
    while end - position >= 8:
        count += 1
        if count % 1000 == 0:
            yield
        header = read(items, position, end - position)
        if header is None:
            return True
        tag, _, size, length = header
        position += size
        if tag >= _DELIMITERS or length == UNDEFINED_LENGTH or items[position : position + 4] in _ITEMS:
            continue  # what comes next is within it
        if length > end - position or _has_value(tag, items[position : position + length]):
            return True
        position += length
    return False
