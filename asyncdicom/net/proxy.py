"""The header that a proxy puts before a connection: PROXY protocol version 2, which tells who really calls.

It is 12 bytes that no other protocol begins with, the version with a command, the family of the addresses,
and the length of the rest: the addresses, then what the proxy likes to add, which is not looked at. Nothing
of it comes from the caller, so it is believed only where the connection comes from a proxy that is trusted.
"""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["FIXED_LENGTH", "ProxyHeaderError", "caller", "length_of", "receive_caller"]

FIXED_LENGTH = 16
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version 2, and the command
_LONGEST = 4096  # bytes behind the fixed part; with a certificate's names it is some hundred

# Of the families those that a caller's connection can have: the format of the addresses and ports.
_FAMILIES = {
    0x11: (socket.AF_INET, struct.Struct(">4s4sHH")),
    0x21: (socket.AF_INET6, struct.Struct(">16s16sHH")),
}
_NO_ADDRESS = (0x00, 0x31, 0x32)  # not said, and Unix sockets


class ProxyHeaderError(OSError):
    """What came is not the header of a proxy; the message says what to change."""


def length_of(fixed: bytes) -> int:
    """How many bytes follow the fixed part; raises `ProxyHeaderError` for what is no such header."""
    signature, version_and_command, family, length = _FIXED.unpack(fixed)
    if signature != _SIGNATURE:
        if fixed.startswith(b"PROXY "):
            raise ProxyHeaderError("the proxy sends version 1 of its header; set it to version 2")
        raise ProxyHeaderError("the proxy sends no PROXY header; set it to send version 2, in its checks too")
    if version_and_command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(f"the proxy's header has version and command {version_and_command:#04x}")
    if length > _LONGEST:
        raise ProxyHeaderError(f"the proxy's header has {length} bytes; at most {_LONGEST} are taken")
    if version_and_command == _PROXY and family not in _NO_ADDRESS:
        if family not in _FAMILIES:
            raise ProxyHeaderError(
                f"the proxy's header tells of a connection that is not TCP ({family:#04x})"
            )
        if length < _FAMILIES[family][1].size:
            raise ProxyHeaderError("the proxy's header is too short for its addresses")
    return int(length)


def caller(fixed: bytes, rest: bytes) -> tuple[str, int] | None:
    """Who calls, host and port; None: the proxy itself (its check), or one that has no such address."""
    _, version_and_command, family, _ = _FIXED.unpack(fixed)
    if version_and_command == _LOCAL or family in _NO_ADDRESS:
        return None
    kind, addresses = _FAMILIES[family]
    source, _, port, _ = addresses.unpack_from(rest)
    return socket.inet_ntop(kind, source), port


async def receive_caller(connection: socket.socket) -> tuple[str, int] | None:
    """Read the header from a connection, and not a byte more: see `caller`.

    Raises `ProxyHeaderError`, and other OSErrors when the connection fails or ends before it has come.
    Cancelled: what was read is lost, so the connection is of no use any more.
    """
    fixed = await _receive(connection, FIXED_LENGTH)
    return caller(fixed, await _receive(connection, length_of(fixed)))


async def _receive(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    received = bytearray()
    while len(received) < size:
        data = await loop.sock_recv(connection, size - len(received))
        if not data:
            raise ConnectionResetError("it ended within the header of the proxy")
        received += data
    return bytes(received)
