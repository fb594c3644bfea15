from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.ul import items
from asyncdicom.ul.items import (
    CommonExtendedNegotiation,
    ContextResult,
    Cursor,
    ExtendedNegotiation,
    ProposedContext,
    RoleSelection,
    UserIdentity,
    UserInformation,
)

uids = st.text("0123456789.", min_size=1, max_size=64)
u16 = st.integers(0, 0xFFFF)
octets = st.binary(max_size=40)
identities = st.builds(UserIdentity, st.integers(0, 255), octets, octets, st.booleans())
user_informations = st.builds(
    UserInformation,
    st.integers(0, 0xFFFFFFFF),
    st.none() | uids,
    st.none() | st.text("ABC_0123456789", min_size=1, max_size=16),
    st.none() | st.tuples(u16, u16),
    st.lists(st.builds(RoleSelection, uids, st.booleans(), st.booleans()), max_size=3).map(tuple),
    st.lists(st.builds(ExtendedNegotiation, uids, octets), max_size=3).map(tuple),
    st.lists(
        st.builds(CommonExtendedNegotiation, uids, uids, st.lists(uids, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    st.none() | identities,
    st.none() | octets,
)


def value(encoded: bytes, item_type: int) -> Cursor:
    """The value of the one item in these bytes."""
    [(found, cursor)] = Cursor(encoded).items()
    assert found == item_type
    return cursor


@given(user_informations)
def test_user_information_round_trip(information: UserInformation) -> None:
    assert items.decode_user_information(value(information.encode(), 0x50)) == information


@given(st.integers(0, 255), uids, st.lists(uids, max_size=64).map(tuple))
def test_proposed_context_round_trip(context_id: int, abstract: str, transfer: tuple[str, ...]) -> None:
    context = ProposedContext(context_id, abstract, transfer)
    assert items.decode_proposed_context(value(context.encode(), 0x20)) == context


@given(st.integers(0, 255), st.integers(0, 255), uids)
def test_context_result_round_trip(context_id: int, result: int, transfer: str) -> None:
    decoded = items.decode_context_result(value(ContextResult(context_id, result, transfer).encode(), 0x21))
    assert decoded == ContextResult(context_id, result, transfer if result == 0 else None)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (
        items.decode_user_information,
        items.decode_proposed_context,
        items.decode_context_result,
    ):
        try:
            decode(Cursor(data))
        except RemoteProtocolError:
            pass


def test_cursor_reads_in_order() -> None:
    cursor = Cursor(bytes(range(10)))
    assert (cursor.u8(), cursor.u16(), cursor.u32()) == (0, 0x0102, 0x03040506)
    assert (cursor.remaining, cursor.take(1), cursor.rest(), cursor.rest()) == (3, b"\x07", b"\x08\x09", b"")


@pytest.mark.parametrize("read", ["u8", "u16", "u32"])
def test_cursor_stops_at_the_end_of_its_parent(read: str) -> None:
    child = Cursor(bytes(16)).sub(0)
    with pytest.raises(RemoteProtocolError):
        getattr(child, read)()


def test_a_child_cannot_be_longer_than_its_parent() -> None:
    parent = Cursor(bytes(16)).sub(4)
    with pytest.raises(RemoteProtocolError):
        parent.sub(5)
    assert parent.sub(4).remaining == 4


def test_items_skip_by_length_and_forgive_zero_padding() -> None:
    assert [t for t, _ in Cursor(bytes.fromhex("7f000002abcd 10000000 000000")).items()] == [0x7F, 0x10]
    with pytest.raises(RemoteProtocolError, match="stray"):
        list(Cursor(bytes.fromhex("10000000 000001")).items())


def test_uids_lose_the_padding_of_others_and_get_none() -> None:
    for padded in (b"1.2.3\0", b"1.2.3 ", b" 1.2.3\0\0", b"1.2.3"):
        assert items.text(padded) == "1.2.3"
    assert items.uid_bytes("1.2.3") == b"1.2.3"
    assert items.uid_bytes(items.text(b"\xff\x01")) == b"\xff\x01"


@pytest.mark.parametrize(
    "too_much",
    [
        ProposedContext(1, "1.2.3", ("1" * 40000, "2" * 40000)),
        ExtendedNegotiation("1.2", bytes(70000)),
        UserIdentity(1, bytes(70000)),
        CommonExtendedNegotiation("1.2", "1.2", ("1" * 40000, "2" * 40000)),
        RoleSelection("1.2.\u2026", True, True),
    ],
    ids=lambda case: type(case).__name__,
)
def test_what_cannot_be_represented_is_refused(too_much: ProposedContext) -> None:
    with pytest.raises(LocalProtocolError):
        too_much.encode()


def test_credentials_are_not_in_the_repr() -> None:
    assert "secret" not in repr(UserInformation(user_identity=UserIdentity(2, b"name", b"secret")))


def test_a_version_name_is_cut_to_sixteen() -> None:
    name = "ABCDEFGHIJKLMNOPQRS"
    decoded = items.decode_user_information(Cursor(items.item(0x55, name.encode())))
    assert decoded.implementation_version_name == name[:16]
    encoded = UserInformation(implementation_version_name=name).encode()
    assert encoded.endswith(name[:16].encode())


def test_a_version_name_is_cut_before_its_padding_is() -> None:
    padded = items.item(items.IMPLEMENTATION_VERSION_NAME, b"OFFIS_DCMTK_.27\0Y")
    decoded = items.decode_user_information(Cursor(padded))
    assert decoded.implementation_version_name == "OFFIS_DCMTK_.27"


def test_received_text_is_never_interned() -> None:
    """Python 3.12 would keep it for good, also that of a peer who is rejected."""
    received = items.text(b"1.2.3.4.5.6.7.8.9.received.once")
    again = "".join(list(received))
    assert sys.intern(again) is again


def test_what_is_remembered_of_received_text_is_short() -> None:
    assert items.text(b"1.2.840.10008.1.1") is items.text(b"1.2.840.10008.1.1")
    assert items.text(b"1" * 65) is not items.text(b"1" * 65)


def test_items_are_counted_before_anything_is_made_of_them() -> None:
    """Sub-items of contexts and of the User Information count as items do."""
    few = items.item(items.PROPOSED_CONTEXT, bytes(4) + bytes(4) * 10)
    count = items.MAXIMUM_ITEMS // 11
    items.check_number(few * count, 0)
    for many in (few * (count + 1), bytes(4) * (items.MAXIMUM_ITEMS + 1)):
        with pytest.raises(RemoteProtocolError, match=f"more than {items.MAXIMUM_ITEMS} items"):
            items.check_number(many, 0)
