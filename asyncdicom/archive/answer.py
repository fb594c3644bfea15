"""Rows of the index become the identifiers of C-FIND responses."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from asyncdicom.archive.query import Query, key_at
from asyncdicom.archive.record import SPECIFIC_CHARACTER_SET
from asyncdicom.data.elements import encode
from asyncdicom.uid import transfer_syntax

__all__ = ["Answers"]


class Answers:
    """Encodes the matches of one query; all in the transfer syntax of the request.

    ``constants`` are keys with the same value in every answer, by tag.
    """

    def __init__(
        self,
        query: Query,
        transfer_syntax_uid: str,
        constants: Mapping[int, tuple[str, str]],
        *,
        with_set: bool,
    ) -> None:
        self._transfer_syntax_uid = transfer_syntax_uid
        self._order = "<" if transfer_syntax(transfer_syntax_uid).little_endian else ">"
        self._with_set = with_set
        self._fixed: list[tuple[int, str, bytes]] = []
        self._varying: list[tuple[int, str, bool]] = []
        for tag, vr in query.requested:
            key = key_at(query.level, tag)
            if tag in constants:
                vr, text = constants[tag]
                self._fixed.append((tag, vr, text.encode("ascii", "replace")))
            elif key is None:
                self._fixed.append((tag, vr, b""))
            else:
                self._varying.append((tag, vr, key.is_list))

    def encode(self, row: Sequence[Any]) -> bytes:
        """Encode one row: the values of the supported keys, in the order of the query.

        The character set is ISO_IR 192 where ASCII does not suffice; then Specific Character Set says so.
        """
        elements = list(self._fixed)
        is_ascii = True
        for (tag, vr, is_list), value in zip(self._varying, row, strict=True):
            text = "\\".join(sorted(json.loads(value))) if is_list else str(value)
            is_ascii = is_ascii and text.isascii()
            elements.append((tag, vr, self._value(text, vr)))
        if self._with_set or not is_ascii:
            elements.append((SPECIFIC_CHARACTER_SET, "CS", b"" if is_ascii else b"ISO_IR 192"))
        elements.sort()
        return encode(elements, self._transfer_syntax_uid)

    def _value(self, text: str, vr: str) -> bytes:
        if vr != "US":
            return text.encode("utf-8", "replace")
        numbers = [int(number) for number in text.split("\\") if number]
        return struct.pack(f"{self._order}{len(numbers)}H", *numbers)
