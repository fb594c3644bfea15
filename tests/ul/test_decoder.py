from __future__ import annotations

import runpy
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.p_data import PDV, PDataTF
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdicom.ul.decoder import ControlPDU, Decoder, Item, PDataFragment, PDataStart
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.pdu import AAbort, AAssociateRJ, AReleaseRP, AReleaseRQ

MAXIMUM = 1024
SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "standard" / "pdu_samples.py"))


def feed(decoder: Decoder, *pieces: bytes) -> list[Item]:
    return [item for piece in pieces for item in decoder.feed(memoryview(piece).toreadonly())]


def feed_short(decoder: Decoder, *pieces: bytes) -> list[Item]:
    """The same by the short cut, wherever it can be taken."""
    items: list[Item] = []
    for piece in pieces:
        if decoder.continues(len(piece)):
            last = items[-1]
            assert isinstance(last, PDataFragment)
            items.append(PDataFragment(last.context_id, last.is_command, [memoryview(piece)]))
        else:
            items += feed(decoder, piece)
    return items


def meaning(items: list[Item]) -> list[object]:
    """What the items say, however the bytes were split: parts of messages joined, starts left out."""
    said: list[object] = []
    part: list[object] | None = None
    for item in items:
        if isinstance(item, ControlPDU):
            said.append((item.pdu_type, item.body))
        elif isinstance(item, PDataFragment):
            data = b"".join(item.views)
            key = (item.context_id, item.is_command)
            if part is not None and part[0] == key:
                part[1] += data  # type: ignore[operator]
            else:
                part = [key, data, False]
                said.append(part)
            if item.is_last:
                part[2] = True
                part = None
    return said


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:stop] for start, stop in pairwise(edges)]


pdvs = st.builds(
    PDV,
    st.sampled_from((1, 3)),
    st.booleans(),
    st.booleans(),
    st.binary(max_size=8) | st.integers(60, 100).map(bytes),
)
pdus: st.SearchStrategy[Any] = st.one_of(
    st.lists(pdvs, min_size=1, max_size=3).map(lambda some: PDataTF(tuple(some))),
    pdvs.map(lambda pdv: PDataTF((pdv,))),
    st.sampled_from((AReleaseRQ(), AReleaseRP(), AAssociateRJ(1, 2, 3))),
)
streams = st.lists(pdus, max_size=12).map(lambda some: b"".join(pdu.encode() for pdu in some))
tails = st.sampled_from(
    (
        b"",
        AAbort(0, 0).encode(),
        b"GET / HTTP/1.1",
        b"\x05\0\0\0\0\x05",
        b"\4\0\0\0\0\7\0\0\0\1\1\0\0",
        b"\4\0",
    )
)


@given(streams, tails, st.lists(st.integers(0, 5000), max_size=8))
def test_any_split_says_the_same(stream: bytes, tail: bytes, cuts: list[int]) -> None:
    whole, split, short, bytewise = (Decoder(MAXIMUM) for _ in range(4))
    stream += tail + AReleaseRQ().encode()
    expected = meaning(feed(whole, stream))
    assert meaning(feed(split, *pieces(stream, cuts))) == expected
    assert meaning(feed_short(short, *pieces(stream, cuts))) == expected
    assert meaning(feed_short(bytewise, *(bytes((byte,)) for byte in stream))) == expected
    assert str(whole.error) == str(split.error) == str(short.error) == str(bytewise.error)
    assert whole.in_message == split.in_message == short.in_message == bytewise.in_message
    assert whole.in_pdu == split.in_pdu == short.in_pdu == bytewise.in_pdu


def test_only_the_middle_of_a_fragment_of_a_data_set_continues() -> None:
    decoder = Decoder(MAXIMUM)
    feed(decoder, p_data_header(1, False, True, 100))
    assert not decoder.continues(1), "the first bytes of a fragment say which one it is"
    feed(decoder, b"a")
    assert decoder.continues(98)
    assert not decoder.continues(1), "the last byte ends it"
    feed(decoder, b"z", p_data_header(1, True, True, 100), b"c")
    assert not decoder.continues(1), "commands are taken whole"


def test_nothing_continues_after_a_fault() -> None:
    decoder = Decoder(MAXIMUM)
    feed(decoder, p_data_header(1, False, False, 100), b"a")
    assert decoder.continues(1)
    feed(decoder, bytes(98), b"\x09")
    assert decoder.error is not None
    assert not decoder.continues(1)


@given(st.lists(pdvs, min_size=1, max_size=20))
def test_the_bytes_come_out_as_they_went_in(some: list[PDV]) -> None:
    items = feed(Decoder(MAXIMUM), b"".join(PDataTF((pdv,)).encode() for pdv in some))
    expected: list[object] = []
    open_part = False
    for pdv in some:
        if open_part and (last := expected[-1])[0] == (pdv.context_id, pdv.is_command):  # type: ignore[index]
            last[1] += pdv.data  # type: ignore[index]
            last[2] = pdv.is_last  # type: ignore[index]
        else:
            expected.append([(pdv.context_id, pdv.is_command), pdv.data, pdv.is_last])
        open_part = not pdv.is_last
    assert meaning(items) == expected


@settings(max_examples=300)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_in_any_split(data: bytes, cuts: list[int]) -> None:
    whole, split = Decoder(MAXIMUM), Decoder(MAXIMUM)
    assert meaning(feed(whole, data)) == meaning(feed(split, *pieces(data, cuts)))
    assert str(whole.error) == str(split.error)


def test_one_message_part_is_one_fragment() -> None:
    full = p_data_header(1, False, False, 100) + bytes(100)
    stream = full * 50 + p_data_header(1, False, True, 7) + b"the end"
    start, fragment = feed(Decoder(MAXIMUM), stream)
    assert isinstance(start, PDataStart)
    assert isinstance(fragment, PDataFragment)
    assert [len(view) for view in fragment.views] == [100] * 50 + [7]
    assert fragment.is_last


def test_payload_is_never_copied() -> None:
    stream = memoryview(p_data_header(1, False, False, 100) + bytes(range(100))).toreadonly()
    _, fragment = Decoder(MAXIMUM).feed(stream)
    assert isinstance(fragment, PDataFragment)
    assert fragment.views[0].obj is stream.obj
    assert fragment.views[0].readonly


@pytest.mark.parametrize(
    "other",
    [
        p_data_header(3, False, False, 4) + b"abcd",
        p_data_header(1, True, False, 4) + b"abcd",
        p_data_header(1, False, True, 4) + b"abcd" + p_data_header(1, False, False, 1) + b"x",
    ],
    ids=["context", "kind", "last"],
)
def test_fragments_of_different_parts_stay_apart(other: bytes) -> None:
    same = p_data_header(1, False, False, 4) + b"0123"
    items = feed(Decoder(MAXIMUM), same * 3 + other)
    assert len([item for item in items if isinstance(item, PDataFragment)]) == 2


def test_a_start_for_each_run_and_each_feed() -> None:
    decoder = Decoder(MAXIMUM)
    p_data = p_data_header(1, False, False, 4) + b"0123"
    kinds = [type(item) for item in feed(decoder, p_data * 2 + AReleaseRQ().encode() + p_data, p_data)]
    assert kinds == [
        PDataStart,
        PDataFragment,
        ControlPDU,
        PDataStart,
        PDataFragment,
        PDataStart,
        PDataFragment,
    ]
    # What continues a PDU begun before is not another one.
    assert [type(item) for item in feed(decoder, p_data[:14], p_data[14:])] == [
        PDataStart,
        PDataFragment,
        PDataFragment,
    ]
    kinds = [
        type(item) for item in feed(decoder, p_data[:14], p_data[14:] + p_data_header(1, False, True, 0))
    ]
    assert kinds == [PDataStart, PDataFragment, PDataFragment]


@pytest.mark.parametrize(("pdu_type", "reason"), [(0x01, None), (0x05, 6), (0x47, 1)])
def test_the_hot_path_is_for_p_data_only(pdu_type: int, reason: int | None) -> None:
    p_data = p_data_header(1, False, False, 94) + bytes(94)
    decoder = Decoder(MAXIMUM)
    items = feed(decoder, p_data * 2 + bytes((pdu_type,)) + p_data[1:])
    assert len(meaning(items)) == (2 if reason is None else 1)
    assert (decoder.error and decoder.error.reason) == reason


def test_where_it_is() -> None:
    decoder = Decoder(MAXIMUM)
    seen = []
    for byte in p_data_header(1, False, False, 2) + b"ab" + p_data_header(1, False, True, 0):
        feed(decoder, bytes((byte,)))
        seen.append((decoder.in_pdu, decoder.in_message))
    header, payload = [(True, False)] * 11, [(True, True)]
    boundary = [(False, True)]
    assert seen == header + payload * 2 + boundary + [(True, True)] * 11 + [(False, False)]


def test_where_it_is_in_a_control_pdu() -> None:
    decoder = Decoder(MAXIMUM)
    assert not decoder.in_pdu
    for byte in AReleaseRQ().encode()[:-1]:
        feed(decoder, bytes((byte,)))
        assert decoder.in_pdu
    feed(decoder, b"\0")
    assert not decoder.in_pdu


@pytest.mark.parametrize(
    ("length", "good"), [(5, False), (6, True), (MAXIMUM, True), (MAXIMUM + 1, False), (0xFFFFFFFF, False)]
)
def test_p_data_is_bounded_by_what_we_announced(length: int, good: bool) -> None:
    decoder = Decoder(MAXIMUM)
    feed(decoder, b"\4\0" + length.to_bytes(4, "big"))
    assert (decoder.error is None) == good


def test_no_limit_announced_is_no_limit() -> None:
    decoder = Decoder(0)
    feed(decoder, b"\4\0\xff\xff\xff\xff")
    assert decoder.error is None


@pytest.mark.parametrize("over", [0, 1])
def test_the_hot_path_keeps_to_the_limit(over: int) -> None:
    size = MAXIMUM - 6 + over
    stream = (
        p_data_header(1, False, False, 10) + bytes(10) + p_data_header(1, False, False, size) + bytes(size)
    )
    decoder = Decoder(MAXIMUM)
    feed(decoder, stream)
    assert (decoder.error is None) == (not over)


@pytest.mark.parametrize("pdu_type", [1, 2])
@pytest.mark.parametrize(("length", "good"), [(67, False), (68, True), (500, True), (501, False)])
def test_associate_lengths_are_judged_at_the_header(pdu_type: int, length: int, good: bool) -> None:
    decoder = Decoder(MAXIMUM, maximum_associate_length=500)
    feed(decoder, bytes((pdu_type, 0)) + length.to_bytes(4, "big"))
    assert (decoder.error is None) == good


def test_nothing_counts_after_a_fault() -> None:
    decoder = Decoder(MAXIMUM)
    items = feed(decoder, AReleaseRQ().encode() + b"G", AReleaseRQ().encode())
    assert meaning(items) == [(5, bytes(4))]
    assert decoder.error is not None
    assert decoder.error.reason == 1


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 4000, 0xFFFFFFFF])
def test_an_abort_of_any_length_is_one_and_the_last(length: int) -> None:
    decoder = Decoder(MAXIMUM)
    body = b"\0\0\2\6"[:length]
    items = feed(decoder, b"\7\0" + length.to_bytes(4, "big") + body, AReleaseRQ().encode())
    assert meaning(items) == [(7, body)]
    assert decoder.error is None


def test_fragments_without_a_byte() -> None:
    decoder = Decoder(MAXIMUM)
    empty = p_data_header(1, False, False, 0)
    [_, fragment] = feed(decoder, empty * 1000)
    assert isinstance(fragment, PDataFragment)
    assert fragment.views == []
    feed(decoder, p_data_header(1, False, True, 0) * 2000)
    assert decoder.error is None, "the last fragment of a message may be empty"
    feed(decoder, empty)
    assert decoder.error is not None


def test_a_control_pdu_in_a_thousand_pieces() -> None:
    body = bytes(index % 251 for index in range(3000))
    stream = b"\1\0" + len(body).to_bytes(4, "big") + body
    cuts = list(accumulate([3] * 1000))
    assert meaning(feed(Decoder(MAXIMUM), *pieces(stream, cuts))) == [(1, body)]


def test_a_sample_of_the_standard() -> None:
    written = PDataTF((PDV(1, True, True, b"\xc0\xff\xee"), PDV(1, False, False, bytes(range(4)))))
    assert written.encode() == SAMPLES["P_DATA_TF"]
    _, command, data = feed(Decoder(MAXIMUM), SAMPLES["P_DATA_TF"])
    assert isinstance(command, PDataFragment)
    assert isinstance(data, PDataFragment)
    assert (command.context_id, command.is_command, command.is_last) == (1, True, True)
    assert (data.context_id, data.is_command, data.is_last) == (1, False, False)
    assert [bytes(view) for view in (*command.views, *data.views)] == [b"\xc0\xff\xee", bytes(range(4))]


def test_repr_says_what_came_and_nothing_of_its_content() -> None:
    stream = AReleaseRQ().encode() + PDataTF((PDV(3, False, True, b"secret"),)).encode()
    control, _, fragment = feed(Decoder(MAXIMUM), stream)
    assert repr(control) == "ControlPDU(A-RELEASE-RQ, 4 bytes)"
    assert repr(fragment) == "PDataFragment(3, data set, 6 bytes, last)"
