"""The encoding of a Command Set: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from asyncdicom.exceptions import RemoteProtocolError

__all__ = ["MAXIMUM_ELEMENTS", "decode_elements", "encode_elements"]

MAXIMUM_ELEMENTS = 128
"""A Command Set with more elements than this is not one (the longest of PS3.7 has 17)."""

_HEADER = struct.Struct("<HHL")  # group, element, value length
_GROUP_LENGTH = struct.Struct("<HHLL")  # (0000,0000), 4 bytes, the length of all that follows


def encode_elements(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """Encode ``(tag, value)`` pairs, in ascending order of tag, behind their Command Group Length.

    The values are encoded already and of even length; the tags are those of group 0000.
    """
    pack = _HEADER.pack
    body = b"".join([pack(0, tag, len(value)) + value for tag, value in elements])
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def decode_elements(data: bytes) -> dict[int, bytes]:
    """Split a Command Set into ``{tag: value}``, without its Command Group Length.

    Many peers get the group length wrong and the PDVs delimit a Command Set anyway: it is not looked at.
    The order of the elements is not looked at either. Raises RemoteProtocolError.
    """
    elements: dict[int, bytes] = {}
    unpack = _HEADER.unpack_from
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 8:
            raise RemoteProtocolError(f"Command Set ends inside the header of an element, at byte {offset}")
        group, tag, length = unpack(data, offset)
        if group:
            raise RemoteProtocolError(f"element ({group:04X},{tag:04X}) in a Command Set")
        offset += 8
        if length > end - offset:  # also an undefined length, 0xFFFFFFFF
            left = end - offset
            raise RemoteProtocolError(f"element (0000,{tag:04X}) claims {length} bytes where {left} are left")
        if tag in elements:
            raise RemoteProtocolError(f"element (0000,{tag:04X}) twice in a Command Set")
        if len(elements) == MAXIMUM_ELEMENTS:
            raise RemoteProtocolError(f"Command Set of more than {MAXIMUM_ELEMENTS} elements")
        elements[tag] = data[offset : offset + length]
        offset += length
    elements.pop(0, None)
    return elements
