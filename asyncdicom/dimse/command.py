"""The encoding of a Command Set: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1).

Elements on the one hand; on the other the values of the five VRs that occur in them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from asyncdicom.exceptions import RemoteProtocolError

__all__ = [
    "MAXIMUM_ELEMENTS",
    "READ_VR",
    "WRITE_VR",
    "Read",
    "Write",
    "decode_elements",
    "encode_element",
    "join_elements",
    "read_us",
]

MAXIMUM_ELEMENTS = 128
"""A Command Set with more elements than this is not one (the longest of PS3.7 has 17)."""

_HEADER = struct.Struct("<HHL")  # group, element, value length
_GROUP_LENGTH = struct.Struct("<HHLL")  # (0000,0000), 4 bytes, the length of all that follows


def encode_element(tag: int, value: bytes) -> bytes:
    """Encode one element of group 0000; its value is encoded already and of even length."""
    return _HEADER.pack(0, tag, len(value)) + value


def join_elements(elements: list[bytes]) -> bytes:
    """Put the Command Group Length before encoded elements, which are in ascending order of tag."""
    body = b"".join(elements)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def decode_elements(data: bytes) -> dict[int, bytes]:
    """Split a Command Set into `{tag: value}`, without its Command Group Length.

    Many peers get the group length wrong and the PDVs delimit a Command Set anyway: it is not looked at.
    The order of the elements is not looked at either, and elements of other groups are passed over: some
    peers put the Failed SOP Instance UID List here. Raises RemoteProtocolError.
    """
    elements: dict[int, bytes] = {}
    others = 0
    unpack = _HEADER.unpack_from
    offset, end = 0, len(data)
    last = end - 8
    while offset <= last:
        group, tag, length = unpack(data, offset)
        start = offset + 8
        offset = start + length
        if offset > end:  # also an undefined length, 0xFFFFFFFF
            where = f"({group:04X},{tag:04X})"
            raise RemoteProtocolError(f"element {where} claims {length} bytes where {end - start} are left")
        if group:
            others += 1
            continue
        if tag in elements:
            raise RemoteProtocolError(f"element (0000,{tag:04X}) twice in a Command Set")
        elements[tag] = data[start:offset]
    if offset != end:
        raise RemoteProtocolError(f"Command Set ends inside the header of an element, at byte {offset}")
    if others > MAXIMUM_ELEMENTS:
        raise RemoteProtocolError(f"Command Set of more than {MAXIMUM_ELEMENTS} strange elements")
    if len(elements) > MAXIMUM_ELEMENTS:
        raise RemoteProtocolError(f"Command Set of more than {MAXIMUM_ELEMENTS} elements")
    elements.pop(0, None)
    return elements


_US = struct.Struct("<H")
_AT = struct.Struct("<HH")
_MAXIMUM_COMMENT = 64  # PS3.5 6.2: LO
_MAXIMUM_AE = 16


def _write_ui(value: str) -> bytes:
    raw = value.encode("latin-1")
    return raw + b"\0" if len(raw) & 1 else raw


def _write_ae(value: str) -> bytes:
    raw = value.encode("latin-1")
    if len(raw) > _MAXIMUM_AE:
        raise ValueError("an AE title has at most 16 characters")
    return raw + b" " if len(raw) & 1 else raw


def _write_lo(value: str) -> bytes:
    """The one LO is Error Comment, which must never be why a response cannot be sent: it is made to fit."""
    text = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in value[:_MAXIMUM_COMMENT])
    return text.encode("ascii") + (b" " if len(text) & 1 else b"")


def _write_at(tags: tuple[int, ...]) -> bytes:
    return b"".join([_AT.pack(tag >> 16, tag & 0xFFFF) for tag in tags])


def read_us(raw: bytes) -> int:
    """Decode one unsigned short."""
    value: int = _US.unpack(raw)[0]
    return value


def _read_text(raw: bytes) -> str | None:
    """Latin-1 never fails; peers pad with NUL or space whatever the VR, and leave rubbish behind a NUL."""
    return raw.partition(b"\0")[0].decode("latin-1").strip(" ") or None


def _read_at(raw: bytes) -> tuple[int, ...] | None:
    return tuple([group << 16 | element for group, element in _AT.iter_unpack(raw)]) or None


Write = Callable[[Any], bytes]
Read = Callable[[bytes], Any]

WRITE_VR: dict[str, Write] = {
    "US": _US.pack,
    "UI": _write_ui,
    "AE": _write_ae,
    "LO": _write_lo,
    "AT": _write_at,
}
"""VR -> encoder of a value. They raise struct.error, ValueError or TypeError for what does not fit."""

READ_VR: dict[str, Read] = {
    "US": read_us,
    "UI": _read_text,
    "AE": _read_text,
    "LO": _read_text,
    "AT": _read_at,
}
"""VR -> decoder of a value, None if it is empty. They raise struct.error for a wrong length."""
