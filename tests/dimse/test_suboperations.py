from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.dimse.messages import Command, CommandField, decode, encode
from asyncdicom.dimse.suboperations import Attempt, Attempts, Route, SubOperations


def ended(completed: int = 0, failed: int = 0, warned: int = 0, remaining: int = 0) -> SubOperations:
    sub_operations = SubOperations(completed + failed + warned + remaining)
    for _ in range(completed):
        sub_operations.completed()
    for number in range(failed):
        sub_operations.failed(f"1.2.{number}")
    for _ in range(warned):
        sub_operations.warned()
    return sub_operations


@pytest.mark.parametrize(
    ("sub_operations", "status"),
    [
        (ended(), 0x0000),
        (ended(completed=3), 0x0000),
        (ended(completed=2, warned=1), 0xB000),
        (ended(completed=2, failed=1), 0xB000),
        (ended(warned=2), 0xB000),
        (ended(warned=2, failed=1), 0xB000),
        (ended(failed=3), 0xA702),
        (ended(remaining=3), 0xA702),
        (ended(completed=1, remaining=3), 0xB000),
    ],
)
def test_final_status(sub_operations: SubOperations, status: int) -> None:
    assert sub_operations.final_status() == status
    assert sub_operations.final_status(cancelled=True) == 0xFE00


@given(*[st.integers(0, 5)] * 4)
def test_counters_go_into_a_response(completed: int, failed: int, warned: int, remaining: int) -> None:
    sub_operations = ended(completed, failed, warned, remaining)
    response = Command(
        CommandField.C_GET_RSP,
        message_id_being_responded_to=1,
        status=0xFF00,
        **sub_operations.counters(),
    )
    decoded = decode(encode(response))
    assert decoded.number_of_completed_sub_operations == completed
    assert decoded.number_of_failed_sub_operations == failed
    assert decoded.number_of_warning_sub_operations == warned
    assert decoded.number_of_remaining_sub_operations == remaining
    assert len(sub_operations.failed_uids.split()) == min(failed, 1)
    assert sub_operations.failed_uids.count(b"\\") == max(failed - 1, 0)


def test_a_failure_without_a_uid_is_counted() -> None:
    sub_operations = SubOperations(2)
    sub_operations.failed("")
    sub_operations.failed("1.2")
    assert sub_operations.number_of_failed == 2
    assert sub_operations.failed_uids == b"1.2"


def test_a_final_response_has_no_number_of_remaining() -> None:
    assert "number_of_remaining_sub_operations" not in ended(completed=1).counters(remaining=False)


def test_more_than_a_us_can_hold_stays_encodable() -> None:
    assert SubOperations(100_000).counters()["number_of_remaining_sub_operations"] == 0xFFFF


def test_more_than_announced_leaves_none() -> None:
    sub_operations = SubOperations(1)
    sub_operations.completed()
    sub_operations.completed()
    assert sub_operations.number_of_remaining == 0
    assert sub_operations.final_status() == 0x0000


# which may be under way


def begun(route: Route[str], *items: str) -> list[Attempt[str]]:
    attempts = [Attempt(item) for item in items]
    for attempt in attempts:
        assert route.has_room(attempt)
        route.begin(attempt)
        route.sent(attempt)
    return attempts


def test_a_route_has_room_for_its_window_and_sends_one_at_a_time() -> None:
    route: Route[str] = Route(2)
    first = Attempt("a")
    route.begin(first)
    assert not route.has_room(Attempt("b")), "the first one is being sent"
    route.sent(first)
    [second] = begun(route, "b")
    route.sent(first)  # said twice: the window is full all the same
    assert not route.has_room(Attempt("c"))
    route.ended(second)
    assert route.has_room(Attempt("c"))
    route.is_lost = True
    assert not route.has_room(Attempt("c"))


def test_what_was_lost_is_begun_again_alone_and_before_anything_new() -> None:
    attempts: Attempts[str] = Attempts()
    first, second = begun(Route(2), "a", "b")
    assert attempts.lost(first)
    assert attempts.lost(second)
    assert attempts.take() is first
    attempts.put_back(first)
    assert attempts.take() is first
    route: Route[str] = Route(2)
    route.begin(first)
    route.sent(first)
    assert not route.has_room(second), "it is alone, too"
    assert not route.has_room(Attempt("c")), "nothing beside what is alone"
    assert not attempts.lost(first), "lost twice: it has failed"
    assert attempts
    attempts.take()
    assert not attempts
