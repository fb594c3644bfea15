from __future__ import annotations

import itertools

import pytest
from helpers.peer import encode_elements
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.dimse.assembler import (
    MAXIMUM_EMPTY_FRAGMENTS,
    Assembler,
    DataReceived,
    MessageStarted,
    joined,
)
from asyncdicom.dimse.command import decode_elements
from asyncdicom.dimse.messages import FIELDS, Command, CommandField, Priority, encode
from asyncdicom.exceptions import RemoteProtocolError

ECHO = Command(CommandField.C_ECHO_RQ, message_id=1, affected_sop_class_uid="1.2.840.10008.1.1")
STORE = Command(
    CommandField.C_STORE_RQ,
    message_id=2,
    affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    affected_sop_instance_uid="1.2.3",
    priority=Priority.MEDIUM,
    has_data_set=True,
)
ENCODED_ECHO = memoryview(encode(ECHO))
ENCODED_STORE = memoryview(encode(STORE))


def find_response(status: int) -> Command:
    return Command(CommandField.C_FIND_RSP, message_id_being_responded_to=1, status=status, has_data_set=True)


def announcing_data(command: Command) -> memoryview:
    """The encoded command, made to claim that a Data Set follows."""
    elements = decode_elements(encode(command))
    elements[FIELDS["has_data_set"][0]] = b"\0\0"
    return memoryview(encode_elements(sorted(elements.items())))


def view(data: bytes) -> list[memoryview]:
    return [memoryview(data)]


def started(assembler: Assembler, encoded: memoryview = ENCODED_STORE) -> Assembler:
    assembler.feed(1, True, [encoded], True)
    return assembler


def test_a_command_without_data() -> None:
    assembler = Assembler()
    assert assembler.feed(3, True, [ENCODED_ECHO], True) == [MessageStarted(3, ECHO)]
    assert not assembler.expecting_data


def test_a_command_with_data_that_comes_as_it_came() -> None:
    assembler = Assembler()
    assert assembler.feed(1, True, [ENCODED_STORE], True) == [MessageStarted(1, STORE)]
    assert assembler.expecting_data
    first, second = memoryview(b"abcd"), memoryview(b"ef")
    assert assembler.feed(1, False, [first, second], False) == [DataReceived([first, second], 6, False)]
    (received,) = assembler.feed(1, False, [first], True)
    assert isinstance(received, DataReceived)
    assert received.views[0] is first  # not a copy
    assert received.is_last
    assert not assembler.expecting_data
    assert assembler.feed(5, True, [ENCODED_ECHO], True) == [MessageStarted(5, ECHO)]


@given(st.lists(st.integers(0, len(ENCODED_STORE)), max_size=12), st.booleans())
def test_a_command_in_any_pieces(cuts: list[int], in_one_feed: bool) -> None:
    ends = [0, *sorted(cuts), len(ENCODED_STORE)]
    pieces = [ENCODED_STORE[a:b] for a, b in itertools.pairwise(ends)]
    assembler = Assembler()
    if in_one_feed:
        events = assembler.feed(1, True, pieces, True)
    else:
        events = [e for p in pieces[:-1] for e in assembler.feed(1, True, [p], False)]
        assert events == []
        events = assembler.feed(1, True, pieces[-1:], True)
    assert events == [MessageStarted(1, STORE)]


def test_a_command_byte_by_byte_twice() -> None:
    assembler = Assembler()
    for _ in range(2):
        for at in range(len(ENCODED_ECHO)):
            assert assembler.feed(1, True, [ENCODED_ECHO[at : at + 1]], False) == []
        assert assembler.feed(1, True, [], True) == [MessageStarted(1, ECHO)]


def test_a_command_is_copied_out_of_the_receive_buffer() -> None:
    buffer = bytearray(ENCODED_ECHO)
    (event,) = Assembler().feed(1, True, [memoryview(buffer)], True)
    buffer[:] = bytes(len(buffer))
    assert event == MessageStarted(1, ECHO)


def test_the_last_fragment_may_be_empty() -> None:
    assembler = started(Assembler())
    assert len(assembler.feed(1, False, view(b"ab"), False)) == 1
    assert assembler.feed(1, False, view(b""), True) == [DataReceived([], 0, True)]
    assert not assembler.expecting_data


def test_an_odd_fragment_is_taken() -> None:
    assert started(Assembler()).feed(1, False, view(b"abc"), False)[0][1] == 3


# --- violations of PS3.8 E.1 ----------------------------------------------------------------------------


def test_data_before_any_command() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Assembler().feed(1, False, view(b"ab"), True)
    assert caught.value.reason == 5


def test_data_that_the_command_did_not_announce() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        started(Assembler(), ENCODED_ECHO).feed(1, False, view(b"ab"), True)
    assert caught.value.reason == 5


def test_data_after_the_last_fragment() -> None:
    assembler = started(Assembler())
    assembler.feed(1, False, view(b"ab"), True)
    with pytest.raises(RemoteProtocolError) as caught:
        assembler.feed(1, False, view(b"ab"), True)
    assert caught.value.reason == 5


@pytest.mark.parametrize("begun", [False, True])
def test_a_command_where_data_is_due(begun: bool) -> None:
    assembler = started(Assembler())
    if begun:
        assembler.feed(1, False, view(b"ab"), False)
    with pytest.raises(RemoteProtocolError) as caught:
        assembler.feed(1, True, [ENCODED_ECHO], True)
    assert caught.value.reason == 5


def test_data_inside_a_command() -> None:
    assembler = Assembler()
    assembler.feed(1, True, [ENCODED_STORE[:20]], False)
    with pytest.raises(RemoteProtocolError) as caught:
        assembler.feed(1, False, view(b"ab"), False)
    assert caught.value.reason == 5


@pytest.mark.parametrize("is_command", [False, True])
def test_another_context_inside_a_message(is_command: bool) -> None:
    assembler = Assembler()
    if is_command:
        assembler.feed(1, True, [ENCODED_STORE[:20]], False)
    else:
        started(assembler)
    with pytest.raises(RemoteProtocolError) as caught:
        assembler.feed(3, is_command, [ENCODED_STORE[20:]], True)
    assert caught.value.reason == 6


def test_an_undecodable_command() -> None:
    with pytest.raises(RemoteProtocolError):
        Assembler().feed(1, True, [ENCODED_ECHO[:-1]], True)


# --- limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_last", [False, True])
def test_a_command_set_is_bounded(is_last: bool) -> None:
    assembler = Assembler(maximum_command=100)
    assembler.feed(1, True, view(bytes(60)), False)
    with pytest.raises(RemoteProtocolError, match="more than 100 bytes") as caught:
        assembler.feed(1, True, view(bytes(41)), is_last)
    assert caught.value.reason == 6


def test_a_command_set_of_just_the_maximum() -> None:
    assert Assembler(maximum_command=len(ENCODED_ECHO)).feed(1, True, [ENCODED_ECHO], True)
    with pytest.raises(RemoteProtocolError, match="more than"):
        Assembler(maximum_command=len(ENCODED_ECHO) - 1).feed(1, True, [ENCODED_ECHO], True)


@pytest.mark.parametrize("empty", [[], [memoryview(b"")]])
@pytest.mark.parametrize("is_command", [False, True])
def test_empty_fragments_are_tolerated_for_a_while(is_command: bool, empty: list[memoryview]) -> None:
    assembler = Assembler() if is_command else started(Assembler())
    for _ in range(MAXIMUM_EMPTY_FRAGMENTS):
        assert assembler.feed(1, is_command, empty, False) == []
    with pytest.raises(RemoteProtocolError, match="empty fragments") as caught:
        assembler.feed(1, is_command, empty, False)
    assert caught.value.reason == 6


def test_empty_fragments_in_one_feed_are_counted_each() -> None:
    assembler = started(Assembler())
    with pytest.raises(RemoteProtocolError, match="empty fragments"):
        assembler.feed(1, False, [memoryview(b"")] * (MAXIMUM_EMPTY_FRAGMENTS + 1), False)


def test_empty_last_fragments_are_not_counted() -> None:
    assembler = Assembler()
    for _ in range(MAXIMUM_EMPTY_FRAGMENTS + 1):
        started(assembler)
        assembler.feed(1, False, view(b"ab"), False)
        assembler.feed(1, False, view(b""), True)


# --- data that should not be there, but was announced ---------------------------------------------------

UNDUE = {
    "final C-FIND-RSP": memoryview(encode(find_response(0x0000))),
    "C-ECHO-RQ": announcing_data(ECHO),
    "C-STORE-RSP": announcing_data(
        Command(CommandField.C_STORE_RSP, message_id_being_responded_to=1, status=0)
    ),
}


@pytest.mark.parametrize("encoded", UNDUE.values(), ids=UNDUE)
def test_undue_data_is_not_waited_for(encoded: memoryview) -> None:
    assembler = Assembler()
    (event,) = assembler.feed(1, True, [encoded], True)
    assert isinstance(event, MessageStarted)
    assert not event.command.has_data_set
    assert not assembler.expecting_data
    assert assembler.feed(3, True, [ENCODED_ECHO], True) == [MessageStarted(3, ECHO)]


@pytest.mark.parametrize("encoded", UNDUE.values(), ids=UNDUE)
def test_undue_data_is_dropped_if_it_comes(encoded: memoryview) -> None:
    assembler = started(Assembler(), encoded)
    assert assembler.feed(1, False, view(b"ab"), False) == []
    assert assembler.feed(1, False, view(b"cd"), True) == []
    assert assembler.feed(1, True, [ENCODED_ECHO], True) == [MessageStarted(1, ECHO)]


def test_undue_data_has_to_come_to_its_end() -> None:
    assembler = started(Assembler(), UNDUE["C-ECHO-RQ"])
    assembler.feed(1, False, view(b"ab"), False)
    with pytest.raises(RemoteProtocolError) as caught:
        assembler.feed(1, True, [ENCODED_ECHO], True)
    assert caught.value.reason == 5


@pytest.mark.parametrize("status", [0xFF00, 0xFF01])
def test_a_pending_find_response_has_an_identifier(status: int) -> None:
    assembler = started(Assembler(), memoryview(encode(find_response(status))))
    assert assembler.expecting_data


def test_a_final_move_response_may_have_an_identifier() -> None:
    command = Command(
        CommandField.C_MOVE_RSP, message_id_being_responded_to=1, status=0xB000, has_data_set=True
    )
    assert started(Assembler(), memoryview(encode(command))).expecting_data


# what is kept


@pytest.mark.parametrize("size", [1, 3, 100, 1023, 1024, 5000])
def test_kept_views_are_few_for_their_bytes(size: int) -> None:
    kept: list[memoryview] = []
    data = bytes(range(256)) * 20
    for number in range(1, 2000):
        kept = joined([*kept, memoryview(data)[:size]], number * size)
        assert len(kept) <= 16 + (number * size >> 10)
    assert b"".join(kept) == data[:size] * 1999


def test_large_views_are_not_copied() -> None:
    views = [memoryview(bytes(4000)) for _ in range(100)]
    assert joined(views, 400_000) is views
