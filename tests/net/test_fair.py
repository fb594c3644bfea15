"""Those who ask take turns."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.net.fair import FairQueue


def test_keys_take_turns_and_items_of_a_key_keep_their_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    taken = [queue.take() for _ in range(6)]
    assert [each[1] for each in taken if each is not None] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert queue.take() is None


def test_who_may_not_have_a_turn_is_passed_over() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    queue.put("b", 2)
    assert queue.take(lambda key: key != "a") == ("b", 2)
    assert queue.take(lambda key: key != "a") is None
    assert queue.take() == ("a", 1)


def test_what_is_put_back_is_the_next_of_its_key_but_others_come_before() -> None:
    queue: FairQueue[int] = FairQueue()
    for key, item in (("a", 1), ("a", 2), ("b", 3)):
        queue.put(key, item)
    taken = queue.take()
    assert taken is not None
    queue.put_back(*taken)
    assert [queue.take() for _ in range(3)] == [("b", 3), ("a", 1), ("a", 2)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=30), st.integers(0, 30))
def test_nothing_is_lost_and_nobody_waits_for_more_than_one_turn_of_each(
    items: list[tuple[int, int]], removed: int
) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for item in items:
        queue.put(item[0], item)
    if removed < len(items):
        gone = items[removed]
        assert queue.remove(gone[0], gone)
        left = list(items)
        left.remove(gone)
        items = left
    assert len(queue) == len(items)
    taken: list[tuple[int, int]] = []
    while (each := queue.take()) is not None:
        taken.append(each[1])
    assert Counter(taken) == Counter(items)
    recent: deque[int] = deque()
    for position, (key, _) in enumerate(taken):
        waiting = {later for later, _ in taken[position:]}
        if recent and key == recent[-1]:
            assert waiting == {key}  # a second turn only when nobody else waits
        recent.append(key)
