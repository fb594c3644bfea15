from __future__ import annotations

import struct

import pytest
from helpers.peer import encode_elements
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.dimse.command import MAXIMUM_ELEMENTS, decode_elements
from asyncdicom.exceptions import RemoteProtocolError


def element(group: int, tag: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHL", group, tag, len(value) if length is None else length) + value


tags = st.integers(1, 0xFFFF)
values = st.binary(max_size=40).map(lambda value: value[: len(value) & ~1])


@given(st.dictionaries(tags, values, max_size=MAXIMUM_ELEMENTS))
def test_what_is_encoded_decodes(elements: dict[int, bytes]) -> None:
    encoded = encode_elements(sorted(elements.items()))
    assert decode_elements(encoded) == elements
    assert encoded[:8] == element(0, 0, b"", 4)
    assert struct.unpack_from("<L", encoded, 8) == (len(encoded) - 12,)


def test_bytes_of_a_c_echo_request() -> None:
    # PS3.7 9.3.5.1 by hand.
    assert encode_elements([(0x0002, b"1.2.840.10008.1.1\0"), (0x0100, b"\x30\0")]) == bytes.fromhex(
        "00000000 04000000 24000000"
        "00000200 12000000 312e322e3834302e31303030382e312e3100"
        "00000001 02000000 3000"
    )


@pytest.mark.parametrize("group_length", [0, 1, 0xFFFFFFFF])
def test_a_wrong_group_length_is_tolerated(group_length: int) -> None:
    data = element(0, 0, struct.pack("<L", group_length)) + element(0, 0x0110, b"\1\0")
    assert decode_elements(data) == {0x0110: b"\1\0"}


def test_a_missing_group_length_and_any_order_are_tolerated() -> None:
    assert decode_elements(element(0, 0x0800, b"\1\1") + element(0, 0x0110, b"\1\0")) == {
        0x0110: b"\1\0",
        0x0800: b"\1\1",
    }


def test_elements_of_other_groups_are_passed_over() -> None:
    strange = element(8, 0x58, b"1.2\0") * (MAXIMUM_ELEMENTS - 1)
    assert decode_elements(strange + element(0, 0x0110, b"\1\0") + element(2, 0x10, b"")) == {0x0110: b"\1\0"}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (element(0, 2, b"1.2\0")[:7], "inside the header"),
        (element(0, 2, b"1.2\0") + b"\0", "inside the header"),
        (element(0, 2, b"1.2\0", 5), "claims 5 bytes"),
        (element(0, 2, b"1.2\0", 0xFFFFFFFF), "claims 4294967295 bytes"),
        (element(0, 2, b"1.2\0", 0x80000000) + element(0, 0x100, b"\1\0"), "claims"),
        (element(2, 0x10, b"1.2\0", 5), r"\(0002,0010\) claims 5"),
        (element(8, 0x58, b"1.2\0") * (MAXIMUM_ELEMENTS + 1), "strange"),
        (element(0, 2, b"1.2\0") * 2, "twice"),
        (b"".join(element(0, tag, b"") for tag in range(MAXIMUM_ELEMENTS + 1)), "more than"),
    ],
)
def test_malformed_command_sets(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint) as caught:
        decode_elements(data)
    assert caught.value.reason == 6


@given(st.binary(max_size=200))
def test_any_bytes_give_elements_inside_the_data_or_a_protocol_error(data: bytes) -> None:
    try:
        elements = decode_elements(data)
    except RemoteProtocolError:
        return
    assert sum(8 + len(value) for value in elements.values()) <= len(data)
