from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.net.blocks import BlockPool, Blocks, block_pool


def test_a_block_is_used_again_when_nobody_sees_it() -> None:
    blocks = Blocks(1000)
    first = blocks.acquire()
    blocks.give_back(first)
    assert blocks.acquire() is first


def test_a_block_that_somebody_sees_is_not_used_again() -> None:
    blocks = Blocks(1000)
    first = blocks.acquire()
    view = memoryview(first)[10:20].toreadonly()
    blocks.give_back(first)
    second = blocks.acquire()
    assert second is not first
    view.release()
    assert blocks.acquire() is first


def test_a_view_of_a_view_counts() -> None:
    blocks = Blocks(1000)
    first = blocks.acquire()
    view = memoryview(memoryview(first)[10:20])[2:3]
    blocks.give_back(first)
    assert blocks.acquire() is not first
    assert len(view) == 1


def test_only_so_many_are_kept() -> None:
    blocks = Blocks(10)
    many = [blocks.acquire() for _ in range(100)]
    for block in many:
        blocks.give_back(block)
    assert len(blocks._returned) < 50


def test_the_tail_is_the_same_until_something_was_received() -> None:
    pool = BlockPool(100_000)
    tail = pool.tail()
    tail[:5] = b"hello"
    assert bytes(pool.tail()[:5]) == b"hello"
    assert bytes(pool.take(5)) == b"hello"
    assert len(pool.tail()) == 99_995


def test_the_tail_is_never_empty() -> None:
    pool = BlockPool(100_000)
    for _ in range(100):
        tail = pool.tail()
        assert len(tail) > 0
        pool.take(len(tail))


def test_what_was_received_cannot_be_changed() -> None:
    pool = BlockPool(100_000)
    pool.tail()
    assert pool.take(10).readonly


@given(st.lists(st.tuples(st.integers(1, 40_000), st.booleans()), max_size=60))
def test_what_is_kept_never_changes(pieces: list[tuple[int, bool]]) -> None:
    pool = BlockPool(50_000)
    kept: list[tuple[memoryview, bytes]] = []
    for number, (size, keep) in enumerate(pieces):
        tail = pool.tail()
        size = min(size, len(tail))
        content = bytes([number]) * size
        tail[:size] = content
        view = pool.take(size)
        if keep:
            kept.append((view, content))
    for view, content in kept:
        assert view == content


async def test_each_event_loop_has_its_own_pool() -> None:
    loop = asyncio.get_running_loop()
    assert block_pool(loop) is block_pool(loop)
    other = asyncio.new_event_loop()
    assert block_pool(other) is not block_pool(loop)
    other.close()
