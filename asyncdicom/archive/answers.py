"""What matches a query, encoded as the answers to it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from asyncdicom.archive.index.query import Form, Query
from asyncdicom.archive.index.record import SPECIFIC_CHARACTER_SET
from asyncdicom.data.elements import Encoder

__all__ = ["Answers"]


class Answers:
    """Encodes the matches of one query; all in the transfer syntax of the request.

    ``constants`` are keys with the same value in every answer, by tag. They, and the keys that are not
    supported, are encoded once.
    """

    def __init__(
        self,
        query: Query,
        transfer_syntax_uid: str,
        constants: Mapping[int, tuple[str, str]],
        *,
        with_set: bool,
    ) -> None:
        self._encoder = Encoder(transfer_syntax_uid)
        self._with_set = with_set
        before: list[bytes] = []  # Specific Character Set
        after: list[bytes] = []
        self._parts: list[tuple[bytes, int, str, bool]] = []  # encoded, then a varying element
        for tag, vr, key in query.requested:
            fixed = before if tag < SPECIFIC_CHARACTER_SET else after
            if tag in constants:
                vr, text = constants[tag]
                fixed.append(self._encoder.element(tag, vr, text.encode("ascii", "replace")))
            elif key is None:
                fixed.append(self._encoder.element(tag, vr, b""))
            else:
                self._parts.append((b"".join(after), tag, vr, key.form is Form.COLLECTED))
                after.clear()
        self._first = b"".join(before)
        self._last = b"".join(after)

    def encode(self, row: Sequence[Any]) -> bytes:
        """Encode one row: the values of the supported keys, in the order of the query.

        The character set is ISO_IR 192 where ASCII does not suffice; then Specific Character Set says so.
        """
        encoded: list[bytes] = []
        is_ascii = True
        for (fixed, tag, vr, is_list), value in zip(self._parts, row, strict=True):
            text = "\\".join(value) if is_list else str(value)
            is_ascii = is_ascii and text.isascii()
            encoded.append(fixed)
            encoded.append(self._encoder.element(tag, vr, self._value(text, vr)))
        character_set = b""
        if self._with_set or not is_ascii:
            value = b"" if is_ascii else b"ISO_IR 192"
            character_set = self._encoder.element(SPECIFIC_CHARACTER_SET, "CS", value)
        return self._encoder.finish([self._first, character_set, *encoded, self._last])

    def _value(self, text: str, vr: str) -> bytes:
        if vr != "US":
            return text.encode("utf-8", "replace")
        numbers = [int(number) for number in text.split("\\") if number]
        return struct.pack(f"{self._encoder.byte_order}{len(numbers)}H", *numbers)
