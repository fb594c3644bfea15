"""The frames of a capture file hold what passed, with the numbers and checksums that TCP asks for."""

from __future__ import annotations

from ipaddress import ip_address
from struct import unpack_from
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.tracing.pcap import HEADER, Flow


class Packet(NamedTuple):
    version: int
    source: str
    ports: tuple[int, int]
    sequence: int
    acknowledged: int
    flags: int
    data: bytes
    nanoseconds: int


def words(data: bytes) -> int:
    """The sum that RFC 1071 asks for, word by word."""
    total = 0
    for start in range(0, len(data), 2):
        total += int.from_bytes(data[start : start + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packets(records: bytes) -> list[Packet]:
    found = []
    while records:
        seconds, nanoseconds, length, original = unpack_from("<IIII", records)
        assert length == original
        frame, records = records[16 : 16 + length], records[16 + length :]
        if frame[12:14] == b"\x08\0":
            version, ip, size = 4, frame[14:34], 20
            assert words(ip) == 0xFFFF
            hosts, rest = ip[12:20], unpack_from(">H", ip, 2)[0] - 20
        else:
            assert frame[12:14] == b"\x86\xdd"
            version, ip, size = 6, frame[14:54], 40
            hosts, rest = ip[8:40], unpack_from(">H", ip, 4)[0]
        tcp = frame[14 + size :]
        assert len(tcp) == rest
        assert words(hosts + rest.to_bytes(4, "big") + b"\0\0\0\x06" + tcp) == 0xFFFF
        source, target, sequence, acknowledged, _, flags = unpack_from(">HHIIBB", tcp)
        host = str(ip_address(hosts[: len(hosts) // 2]))
        found.append(
            Packet(
                version,
                host,
                (source, target),
                sequence,
                acknowledged,
                flags,
                tcp[20:],
                seconds * 10**9 + nanoseconds,
            )
        )
    return found


def test_the_file_says_what_it_is() -> None:
    assert unpack_from("<IHH", HEADER) == (0xA1B23C4D, 2, 4)
    assert unpack_from("<I", HEADER, 20) == (1,)


def test_a_connection_from_its_handshake_to_its_end() -> None:
    flow = Flow(("10.0.0.1", 40000), ("10.0.0.2", 104))
    seen = packets(
        flow.opened(5.5)
        + flow.data(True, b"hello", 6.0)
        + flow.data(False, b"hi", 6.1)
        + flow.closed(True, 7.0)
    )
    assert [packet.flags for packet in seen] == [0x02, 0x12, 0x10, 0x18, 0x18, 0x11, 0x10]
    assert {packet.source for packet in seen} == {"10.0.0.1", "10.0.0.2"}
    assert seen[0].ports == (40000, 104)
    assert seen[1].acknowledged == seen[0].sequence + 1
    assert seen[3].sequence == seen[2].sequence
    assert seen[4].acknowledged == seen[3].sequence + 5
    assert seen[5].sequence == seen[3].sequence + 5
    assert seen[6].acknowledged == seen[5].sequence + 1
    assert (seen[3].data, seen[4].data) == (b"hello", b"hi")
    assert seen[0].nanoseconds == 5_500_000_000


def test_long_data_is_cut_and_numbers_begin_again() -> None:
    flow = Flow(("::1", 1), ("::1", 2))
    flow._next[True] = 0xFFFFFFF0
    data = bytes(range(256)) * 1000
    seen = packets(flow.data(True, data, 1.0))
    assert b"".join(packet.data for packet in seen) == data
    assert len(seen) == 8
    assert seen[1].sequence == (0xFFFFFFF0 + len(seen[0].data)) & 0xFFFFFFFF
    assert {packet.version for packet in seen} == {6}


@pytest.mark.parametrize(
    ("hosts", "source"),
    [
        (("10.0.0.1", "::1"), "::ffff:a00:1"),
        (("fe80::1%eth0", "::1"), "fe80::1"),
        (("?", "10.0.0.1"), "0.0.0.0"),
    ],
)
def test_addresses_of_any_kind(hosts: tuple[str, str], source: str) -> None:
    seen = packets(Flow((hosts[0], 1), (hosts[1], 2)).opened(0.0))
    assert seen[0].source == source


def test_what_was_broken_off_is_a_reset() -> None:
    (packet,) = packets(Flow(("10.0.0.1", 1), ("10.0.0.2", 2)).closed(False, 1.0, reset=True))
    assert packet.flags == 0x14


@given(st.binary(max_size=300))
def test_checksums(data: bytes) -> None:
    packets(Flow(("1.2.3.4", 5), ("6.7.8.9", 10)).data(True, data, 0.0))
