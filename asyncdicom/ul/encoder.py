"""The headers of PDUs and presentation data values (PS3.8 9.3.1 and 9.3.5)."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from asyncdicom.exceptions import LocalProtocolError

_PDU = Struct(">BxI")
_P_DATA = Struct(">BxIIBB")

MAXIMUM_FRAGMENT = 0xFFFFFFFF - 6


def pdu(pdu_type: int, body: bytes) -> bytes:
    """A whole PDU: its type, a reserved byte, the length of the body and the body."""
    return _PDU.pack(pdu_type, len(body)) + body


def message_control_header(is_command: bool, is_last: bool) -> int:
    """Bit 0 says command, bit 1 says last fragment (PS3.8 Annex E.2)."""
    return is_command | is_last << 1


@lru_cache(1024)
def p_data_header(context_id: int, is_command: bool, is_last: bool, length: int) -> bytes:
    """The 12 bytes before a fragment of `length` bytes that is the one PDV of its P-DATA-TF PDU.

    Raises `LocalProtocolError` for a length or a context ID that does not fit.
    """
    if not (0 <= length <= MAXIMUM_FRAGMENT and 1 <= context_id <= 255):
        raise LocalProtocolError(f"a fragment of {length} bytes in context {context_id} cannot be encoded")
    control = message_control_header(is_command, is_last)
    return _P_DATA.pack(0x04, length + 6, length + 2, context_id, control)
