"""A capture file that Wireshark opens, of connections whose packets nobody has seen (libpcap format).

What passed is wrapped in frames made for it: Ethernet, IPv4 or IPv6, TCP, with a handshake, sequence numbers,
acknowledgements and checksums. So "Follow TCP Stream" and the DICOM dissector work; retransmissions and
window sizes are not those of the wire.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct

__all__ = ["HEADER", "Flow"]

HEADER = Struct("<IHHiIII").pack(0xA1B23C4D, 2, 4, 0, 0, 0x40000, 1)
"""The beginning of the file: times in nanoseconds, link type Ethernet."""

_RECORD = Struct("<IIII")
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_TCP = Struct(">HHIIBBHHH")
_LONGEST = 32768  # bytes of a segment; IP has room for 65,535 with its headers
_FIN, _SYN, _RST, _ACK, _PSH_ACK = 0x01, 0x02, 0x04, 0x10, 0x18
_TCP_PROTOCOL = 6

_Any = IPv4Address | IPv6Address


class Flow:
    """The packets of one connection: each method gives the bytes to append to the file, after `HEADER`.

    `requestor` and `acceptor`: host (an address) and port of both; one that is no address is shown as
    0.0.0.0. Times are in seconds since 1970.
    """

    def __init__(self, requestor: tuple[str, int], acceptor: tuple[str, int]) -> None:
        addresses = [_address(requestor[0]), _address(acceptor[0])]
        if len({address.version for address in addresses}) > 1:
            addresses = [_mapped(address) for address in addresses]
        self._is_4 = addresses[0].version == 4
        self._hosts = {True: addresses[0].packed, False: addresses[1].packed}
        self._ports = {True: requestor[1] & 0xFFFF, False: acceptor[1] & 0xFFFF}
        self._next = {True: 1000, False: 2000}  # sequence numbers

    def opened(self, time: float) -> bytes:
        """Give the handshake."""
        syn = self._packet(True, _SYN, b"", time)
        self._next[True] += 1
        syn_ack = self._packet(False, _SYN | _ACK, b"", time)
        self._next[False] += 1
        return syn + syn_ack + self._packet(True, _ACK, b"", time)

    def data(self, requestor: bool, data: bytes | memoryview, time: float) -> bytes:
        """Give the segments of what one side has sent."""
        packets = []
        for start in range(0, len(data), _LONGEST):
            part = bytes(data[start : start + _LONGEST])
            packets.append(self._packet(requestor, _PSH_ACK, part, time))
            self._next[requestor] = (self._next[requestor] + len(part)) & 0xFFFFFFFF
        return b"".join(packets)

    def closed(self, requestor: bool, time: float, *, reset: bool = False) -> bytes:
        """Give the end of one side: it closes its half, or breaks off."""
        if reset:
            return self._packet(requestor, _RST | _ACK, b"", time)
        fin = self._packet(requestor, _FIN | _ACK, b"", time)
        self._next[requestor] = (self._next[requestor] + 1) & 0xFFFFFFFF
        return fin + self._packet(not requestor, _ACK, b"", time)

    def _packet(self, requestor: bool, flags: int, data: bytes, time: float) -> bytes:
        source, target = self._hosts[requestor], self._hosts[not requestor]
        ports = self._ports[requestor], self._ports[not requestor]
        acknowledged = 0 if flags == _SYN else self._next[not requestor]
        fields = (*ports, self._next[requestor], acknowledged, 0x50, flags, 0xFFFF)
        length = _TCP.size + len(data)
        pseudo = source + target + length.to_bytes(4) + _TCP_PROTOCOL.to_bytes(4)
        checksum = _checksum(pseudo + _TCP.pack(*fields, 0, 0) + data)
        segment = _TCP.pack(*fields, checksum, 0) + data
        frame = _ethernet(requestor, self._is_4) + self._ip(source, target, length) + segment
        seconds, rest = divmod(round(time * 1e9), 1_000_000_000)
        return _RECORD.pack(seconds & 0xFFFFFFFF, rest, len(frame), len(frame)) + frame

    def _ip(self, source: bytes, target: bytes, length: int) -> bytes:
        if not self._is_4:
            return _IPV6.pack(0x60000000, length, _TCP_PROTOCOL, 64, source, target)
        fields = (0x45, 0, _IPV4.size + length, 0, 0x4000, 64, _TCP_PROTOCOL)
        checksum = _checksum(_IPV4.pack(*fields, 0, source, target))
        return _IPV4.pack(*fields, checksum, source, target)


def _address(host: str) -> _Any:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return IPv4Address(0)


def _mapped(address: _Any) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")


def _ethernet(requestor: bool, is_4: bool) -> bytes:
    one, other = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"  # locally administered
    pair = other + one if requestor else one + other
    return pair + (b"\x08\0" if is_4 else b"\x86\xdd")


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): the complement of the sum, with its carries, of 16-bit words."""
    padded = data + b"\0" if len(data) & 1 else data
    remainder = int.from_bytes(padded) % 0xFFFF
    return 0xFFFF - (remainder or 0xFFFF)  # a sum of words that are not all 0 is never 0
