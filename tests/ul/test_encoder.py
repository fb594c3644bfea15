from __future__ import annotations

import pytest

from asyncdicom.exceptions import LocalProtocolError
from asyncdicom.ul.encoder import p_data_header, pdu


def test_p_data_header_is_that_of_the_standard() -> None:
    # PS3.8 Tables 9-22 and 9-23: 04H, reserved, PDU length, item length, context ID, control header.
    assert p_data_header(1, True, True, 4) == bytes.fromhex("0400 0000000a 00000006 01 03")
    assert p_data_header(255, False, False, 0) == bytes.fromhex("0400 00000006 00000002 ff 00")
    assert p_data_header(3, True, False, 1) == bytes.fromhex("0400 00000007 00000003 03 01")
    assert p_data_header(3, False, True, 0xFFFFFFF9) == bytes.fromhex("0400 ffffffff fffffffb 03 02")


@pytest.mark.parametrize(("context_id", "length"), [(1, -1), (1, 0xFFFFFFFA), (0, 1), (256, 1)])
def test_p_data_header_refuses_what_does_not_fit(context_id: int, length: int) -> None:
    with pytest.raises(LocalProtocolError):
        p_data_header(context_id, False, False, length)


def test_pdu_frames_its_body() -> None:
    assert pdu(5, bytes(4)) == bytes.fromhex("0500 00000004 00000000")
