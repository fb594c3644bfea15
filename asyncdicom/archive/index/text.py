"""How values become text in the index, and patterns in a query: the same rules for both sides."""

from __future__ import annotations

import hashlib
import struct
import unicodedata

from asyncdicom.data.charset import decode_declared, decode_text
from asyncdicom.data.elements import Element

__all__ = ["fold_name", "normalise", "text_of", "told_apart", "uid_of", "values_of"]

_MAXIMUM_CHARACTERS = 1024
_NOT_SEPARATED = frozenset({"LT", "ST", "UT"})  # a backslash is a character like any other (PS3.5 6.2)
_LEADING_SPACE_COUNTS = frozenset({"LT", "ST", "UT", "UC"})


def text_of(element: Element, vr: str, character_set: str, *, little_endian: bool) -> str:
    """Give the value of ``element`` as text, without padding; a US as decimal numbers.

    ``vr`` is the one the index knows for the tag: the encoding may not have carried it (implicit VR, UN).
    """
    if vr == "US":
        return _unsigned_shorts(element.value, "<" if little_endian else ">")
    text = decode_text(element.value, character_set, vr)
    if "\0" in text:
        text = text.replace("\0", "")
    return text.rstrip(" ") if vr in _LEADING_SPACE_COUNTS else text.strip(" ")


def uid_of(element: Element | None) -> str:
    """Give a UID as it came, without its padding (PS3.5 6.2): what is no UID stays none."""
    return "" if element is None else element.value.rstrip(b"\0 ").decode("latin-1")


def told_apart(element: Element | None, character_set: str) -> str:
    """Give what tells an identifier apart from others that read the same; empty where its text does.

    Its text is enough if it is printable ASCII, or text in the declared set without control characters:
    then the same text in two sets is the same identifier. Else the bytes count, without padding.
    """
    value = b"" if element is None else element.value.strip(b" ")
    if len(value) <= _MAXIMUM_CHARACTERS:
        if value.isascii() and value.decode("ascii").isprintable():
            return ""
        text = decode_declared(value, character_set, "LO")
        if text is not None and text.isprintable() and text == text.strip():
            return ""
    return f"bytes {hashlib.sha256(value).hexdigest()[:32] if len(value) > 64 else value.hex()}"


def _unsigned_shorts(value: bytes, order: str) -> str:
    count = len(value) // 2
    return "\\".join(map(str, struct.unpack_from(f"{order}{count}H", value)))


def values_of(text: str, vr: str) -> list[str]:
    """Split at the backslash, where ``vr`` may have many values."""
    if vr in _NOT_SEPARATED or "\\" not in text:
        return [text]
    return [value.strip() for value in text.split("\\")]


def normalise(value: str, vr: str) -> str:
    """Give the one form in which a value is kept and looked for.

    Dates and times lose the punctuation of ACR-NEMA (1993.08.22, 10:30:15), numbers their leading zeros.
    Nothing is longer than 1,024 characters: the file keeps what was received, the index need not.
    """
    if vr == "DA":
        value = value.replace(".", "")
    elif vr == "TM":
        value = value.replace(":", "")
    elif vr == "IS":
        value = _integer(value)
    return value[:_MAXIMUM_CHARACTERS]


def _integer(value: str) -> str:
    digits = value.removeprefix("+").removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        return value
    return str(int(value))


def fold_name(name: str) -> tuple[str, str, str]:
    """Give the alphabetic, ideographic and phonetic group of a person name, as they are compared.

    Case and width do not count (``ﾔﾏﾀﾞ`` is ``ヤマダ``), nor empty components at the end (``DOE^JOHN^^``).
    """
    groups = [_fold_group(group) for group in name.split("=")[:3]]
    groups += [""] * (3 - len(groups))
    return groups[0], groups[1], groups[2]


def _fold_group(group: str) -> str:
    if group.isascii():
        group = group.lower()
    else:  # first, because some compatibility forms begin with a space (U+FC5E)
        group = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", group).casefold())
    return "^".join(component.strip() for component in group.split("^")).rstrip("^")
