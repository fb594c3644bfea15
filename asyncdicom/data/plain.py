"""Identifiers of nothing but levels and UIDs, which are encoded as they stand.

Most retrievals are of this kind. A library of data sets takes longer to import than a small study takes to
come, so whoever asks for one has no need of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncdicom.data.elements import encode
from asyncdicom.data.vr import IMPLICIT_VRS

__all__ = ["encode_plain", "is_plain", "plain_value"]

_TAGS = {
    "QueryRetrieveLevel": 0x00080052,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "AvailableTransferSyntaxUID": 0x00083002,
    "PatientID": 0x00100020,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
}
_AS_IT_STANDS = re.compile(r"[!-~]*")  # no blanks: some of them count, and some do not


def encode_plain(mapping: Mapping[str, Any], transfer_syntax_uid: str) -> bytes | None:
    """Encode a mapping of keywords; None if it is not a plain one.

    Raises `DataSetError` for a value that is too long.
    """
    if not is_plain(mapping):
        return None
    elements = sorted((_TAGS[keyword], _text(value).encode("ascii")) for keyword, value in mapping.items())
    return encode([(tag, IMPLICIT_VRS[tag], value) for tag, value in elements], transfer_syntax_uid)


def is_plain(mapping: Mapping[str, Any]) -> bool:
    """Whether all keys are known here, and all values (or their lists) are ASCII text without blanks."""
    return all(keyword in _TAGS and _is_plain(value) for keyword, value in mapping.items())


def plain_value(text: str) -> str | list[str]:
    """The value that is written so: several of them are a list."""
    values = text.split("\\")
    return text if len(values) == 1 else values


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else ["" if value is None else value]
    return all(isinstance(each, str) and _AS_IT_STANDS.fullmatch(each) for each in values)


def _text(value: Any) -> str:
    return "\\".join(value) if isinstance(value, list) else value or ""
