from __future__ import annotations

import itertools
import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.dimse.assembler import Assembler, DataReceived, MessageStarted
from asyncdicom.dimse.fragmenter import MAXIMUM_PDU, MOST_FRAGMENTS, Fragmenter
from asyncdicom.dimse.messages import Command, CommandField, Priority, encode
from asyncdicom.exceptions import LocalProtocolError

STORE = Command(
    CommandField.C_STORE_RQ,
    message_id=2,
    affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    affected_sop_instance_uid="1.2.3",
    priority=Priority.MEDIUM,
    has_data_set=True,
)


class Fragment(NamedTuple):
    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


def fragments(stream: bytes, maximum_length: int) -> list[Fragment]:
    """Take P-DATA-TF PDUs apart as PS3.8 9.3.5 says; one PDV in each."""
    found = []
    at = 0
    while at < len(stream):
        pdu_type, reserved, length = struct.unpack_from(">BBL", stream, at)
        assert (pdu_type, reserved) == (0x04, 0x00)
        assert length <= maximum_length
        pdv_length, context_id, control = struct.unpack_from(">LBB", stream, at + 6)
        assert pdv_length == length - 4
        body = memoryview(stream)[at + 12 : at + 6 + length]
        assert len(body) == length - 6
        found.append(Fragment(context_id, bool(control & 1), bool(control & 2), body))
        assert control < 4
        at += 6 + length
    assert at == len(stream)
    return found


def flat(parts: list[bytes | memoryview]) -> bytes:
    return b"".join(parts)


def cut(data: bytes, cuts: list[int]) -> list[memoryview]:
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [memoryview(data)[a:b] for a, b in itertools.pairwise(ends)]


maximum_lengths = st.one_of(st.integers(8, 64), st.integers(8, 5000), st.just(0))
chunkings = st.lists(st.integers(0, 5000), max_size=12)


@given(maximum_lengths, st.binary(max_size=3000), chunkings, st.sampled_from([1, 2, 100]))
def test_a_message_arrives_as_it_was_sent(
    maximum_length: int, data: bytes, chunking: list[int], views_a_call: int
) -> None:
    fragmenter, assembler = Fragmenter(7, maximum_length), Assembler()
    views = cut(data, chunking)
    for _ in range(2):  # the second message begins where the first one left
        stream = b"".join(fragmenter.command(encode(STORE)))
        for at in range(0, len(views), views_a_call):
            batch = views[at : at + views_a_call]
            stream += flat(fragmenter.data(batch, final=at + views_a_call >= len(views)))
        arrived = fragments(stream, maximum_length or MAXIMUM_PDU)

        for fragment in arrived:
            if not fragment.is_last:
                assert len(fragment.data) == fragmenter.fragment_length
            assert fragment.data or not data
        assert [f.is_last for f in arrived if f.is_command].count(True) == 1
        assert [f.is_last for f in arrived if not f.is_command].count(True) == 1

        events = [e for f in arrived for e in assembler.feed(f.context_id, f.is_command, [f.data], f.is_last)]
        assert events[0] == MessageStarted(7, STORE)
        received = [event for event in events if isinstance(event, DataReceived)]
        assert b"".join(view for event in received for view in event.views) == data
        assert received[-1].is_last
        assert not assembler.expecting_data


@given(st.integers(8, 300), st.binary(max_size=2000), chunkings)
def test_chunking_makes_no_difference(maximum_length: int, data: bytes, chunking: list[int]) -> None:
    whole = flat(Fragmenter(1, maximum_length).data([data], final=True))
    fragmenter = Fragmenter(1, maximum_length)
    pieces = [flat(fragmenter.data([view], final=False)) for view in cut(data, chunking)]
    assert b"".join(pieces) + flat(fragmenter.data([], final=True)) == whole


@given(st.integers(8, 300), chunkings)
def test_no_more_than_one_fragment_is_kept_back(maximum_length: int, chunking: list[int]) -> None:
    data = bytes(2000)
    fragmenter = Fragmenter(1, maximum_length)
    given_, sent = 0, 0
    for view in cut(data, chunking):
        given_ += len(view)
        sent += sum(
            len(f.data) for f in fragments(flat(fragmenter.data([view], final=False)), maximum_length)
        )
        assert 0 <= given_ - sent <= fragmenter.fragment_length


@pytest.mark.parametrize(
    ("length", "sizes"), [(0, [0]), (1, [1]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (21, [10, 10, 1])]
)
def test_sizes_at_the_boundaries(length: int, sizes: list[int]) -> None:
    fragmenter = Fragmenter(1, 16)
    found = fragments(flat(fragmenter.data([bytes(length)], final=True)), 16)
    assert [len(fragment.data) for fragment in found] == sizes
    assert [fragment.is_last for fragment in found] == [False] * (len(sizes) - 1) + [True]


def test_the_last_full_fragment_waits_for_its_flag() -> None:
    fragmenter = Fragmenter(1, 16)
    assert fragmenter.data([bytes(10)], final=False) == []
    (fragment,) = fragments(flat(fragmenter.data([], final=True)), 16)
    assert (len(fragment.data), fragment.is_last) == (10, True)


def test_views_are_not_copied_and_full_headers_are_one_object() -> None:
    block = bytearray(64)
    parts = Fragmenter(1, 16).data([memoryview(block)], final=True)
    headers, views = parts[0::2], parts[1::2]
    assert all(header is headers[0] for header in headers[:-1])
    block[:] = b"x" * 64
    assert b"".join(views) == b"x" * 64


@pytest.mark.parametrize(
    ("maximum_length", "fragment_length"),
    [
        (8, 2),
        (9, 2),
        (10, 4),
        (4095, 4088),
        (16384, 16378),
        (0, MAXIMUM_PDU - 6),
        (MAXIMUM_PDU + 1, MAXIMUM_PDU - 6),
        (0xFFFFFFFF, MAXIMUM_PDU - 6),
    ],
)
def test_fragments_are_even_and_fit(maximum_length: int, fragment_length: int) -> None:
    assert Fragmenter(1, maximum_length).fragment_length == fragment_length


@pytest.mark.parametrize("maximum_length", range(1, 8))
def test_nothing_fits_into_less_than_8_bytes(maximum_length: int) -> None:
    with pytest.raises(LocalProtocolError, match=str(maximum_length)):
        Fragmenter(1, maximum_length)


def test_a_small_command_is_one_pdu() -> None:
    encoded = encode(STORE)
    (pdu,) = Fragmenter(5, 16384).command(encoded)
    (fragment,) = fragments(bytes(pdu), 16384)
    assert fragment == Fragment(5, True, True, memoryview(encoded))


def test_a_command_that_needs_several_pdus() -> None:
    encoded = encode(STORE)
    found = fragments(b"".join(Fragmenter(5, 8).command(encoded)), 8)
    assert b"".join(fragment.data for fragment in found) == encoded
    assert {len(fragment.data) for fragment in found} == {2}


def test_what_is_left_of_a_message_that_was_given_up_is_not_in_the_next() -> None:
    fragmenter = Fragmenter(5, 16384)
    fragmenter.command(encode(STORE))
    assert fragmenter.data([bytes(100)], final=False) == [], "kept back, because it may be the last"
    begun = fragmenter.command(encode(STORE))
    found = fragments(b"".join([*begun, *fragmenter.data([b"next"], final=True)]), 16384)
    assert [bytes(fragment.data) for fragment in found] == [encode(STORE), b"next"]


# in pieces


@pytest.mark.parametrize("maximum_length", [8, 64, 1022, 1030, 16384])
@pytest.mark.parametrize("final", [True, False])
def test_pieces_are_what_data_gives(maximum_length: int, final: bool) -> None:
    size = Fragmenter(1, maximum_length).fragment_length
    data = bytes(range(256)) * (size * 5 * MOST_FRAGMENTS // 2 // 256 + 1)
    views = [data[:1000], data[1000:-1], data[-1:]]
    whole = Fragmenter(1, maximum_length).data(views, final=final)
    pieces = list(Fragmenter(1, maximum_length).pieces(views, final=final))
    assert b"".join(b"".join(piece) for piece in pieces) == b"".join(whole)
    assert len(pieces) > 2


@pytest.mark.parametrize("maximum_length", [8, 1022])
def test_pieces_of_tiny_fragments_are_bytes_and_few_at_a_time(maximum_length: int) -> None:
    fragmenter = Fragmenter(1, maximum_length)
    size = fragmenter.fragment_length
    for piece in fragmenter.pieces([bytes(size * 3000)], final=True):
        assert len(piece) <= 2
        assert len(b"".join(piece)) <= (MOST_FRAGMENTS + 1) * (size + 12)


def test_pieces_of_large_fragments_are_views() -> None:
    fragmenter = Fragmenter(1, 16384)
    data = memoryview(bytes(2 * fragmenter.most))
    views = [v for piece in fragmenter.pieces([data], final=True) for v in piece if len(v) > 12]
    assert all(isinstance(view, memoryview) and view.obj is data.obj for view in views)
