from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.net.blocks import MAXIMUM_HELD, BlockPool, Blocks, block_pool


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


def test_the_block_used_last_is_used_next() -> None:
    blocks = Blocks(1000)
    many = [blocks.acquire() for _ in range(3)]
    for block in many:
        blocks.give_back(block)
    assert blocks.acquire() is many[2]


def test_blocks_that_are_seen_are_counted() -> None:
    blocks = Blocks(10)
    many = [blocks.acquire() for _ in range(100)]
    views = [memoryview(block) for block in many[:70]]
    for block in many:
        blocks.give_back(block)
    assert blocks.held == 70
    del views[20:]
    assert blocks.held == 20


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


def receive(pool: BlockPool, count: int, content: bytes = b"x") -> memoryview:
    pool.tail()[:count] = content * count
    return pool.take(count)


def test_a_block_that_nobody_sees_is_begun_again() -> None:
    pool = BlockPool()
    block = receive(pool, 200_000).obj
    assert receive(pool, 10).obj is block
    assert len(pool.tail()) == (1 << 20) - 10


def test_a_block_that_was_lent_is_not_begun_again() -> None:
    pool = BlockPool()
    receive(pool, 200_000)
    lent = pool.tail()  # and the connection ends before anything is received
    lent[:5] = b"hello"
    assert len(pool.tail()) == len(lent) == (1 << 20)
    receive(pool, 200_000)
    kept = receive(pool, 5)
    assert len(pool.tail()) < (1 << 20) - 200_000
    assert kept == b"xxxxx"


@pytest.mark.parametrize("held", [MAXIMUM_HELD - 1, MAXIMUM_HELD, MAXIMUM_HELD + 1])
def test_a_peer_that_keeps_small_pieces_of_many_blocks_gets_copies_in_the_end(held: int) -> None:
    size = 50_000
    pool = BlockPool(size)
    kept = []
    while pool._blocks.held < held and not pool._copying:
        kept.append(receive(pool, 10, b"k"))
        receive(pool, len(pool.tail()) - 10)  # others, who keep nothing
    assert pool._copying == (held >= MAXIMUM_HELD)
    assert pool._blocks.held == min(held, MAXIMUM_HELD)
    copies = [receive(pool, 10, b"c") for _ in range(10)]
    assert all(isinstance(view.obj, bytes) for view in copies[held < MAXIMUM_HELD :])
    assert all(view == b"c" * 10 for view in copies)
    assert all(view == b"k" * 10 for view in kept)
    kept.clear()
    for _ in range(size // 1000 + 1):
        receive(pool, 1000)
    assert isinstance(receive(pool, 10).obj, bytearray), "no copies any more"


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
