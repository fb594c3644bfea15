from __future__ import annotations

import asyncio

import pytest

from asyncdicom.net.flow import ReadBudget, Undelivered, WriteGate


def test_reading_pauses_above_the_budget_and_resumes_at_half_of_it() -> None:
    budget = ReadBudget(1000, patience=5.0)
    assert not budget.added(1000, now=0.0)
    assert budget.added(1, now=0.0)
    assert budget.paused
    assert not budget.added(5000, now=0.0)  # once is enough
    assert not budget.taken(5500, now=1.0)
    assert budget.taken(1, now=1.0)
    assert not budget.paused
    assert budget.undelivered == 500
    assert not budget.taken(500, now=2.0)


def test_the_patience_is_for_lack_of_progress() -> None:
    budget = ReadBudget(10, patience=5.0)
    assert budget.deadline() is None
    budget.added(100, now=1.0)
    assert budget.deadline() == 6.0
    budget.taken(1, now=4.0)
    assert budget.deadline() == 9.0
    budget.added(1, now=8.0)  # what comes in is no progress
    assert budget.deadline() == 9.0
    budget.taken(101, now=8.0)
    assert budget.deadline() is None


def test_without_patience_there_is_no_deadline() -> None:
    budget = ReadBudget(10, patience=None)
    budget.added(100, now=1.0)
    assert budget.paused
    assert budget.deadline() is None


def test_when_too_much_waits_everywhere_nobody_gets_more_than_a_little() -> None:
    everybody = Undelivered(limit=1_000_000)
    full, other = (ReadBudget(1_000_000, None, everybody) for _ in range(2))
    assert not full.added(1_000_000, now=0.0)  # exactly the limit
    assert not other.added(0, now=0.0)
    assert full.added(1, now=0.0)
    assert not other.added(65536, now=0.0), "control traffic goes on"
    assert other.added(1, now=0.0)
    assert not other.taken(32768, now=0.0)
    assert other.taken(1, now=0.0), "half of what it is allowed now"
    assert everybody.total > everybody.limit
    assert not full.taken(500_000, now=0.0)
    assert full.taken(1, now=0.0), "all are allowed their own budget again"


def test_what_waits_on_a_dead_association_is_no_concern_of_the_others() -> None:
    everybody = Undelivered()
    budget = ReadBudget(1000, None, everybody)
    budget.added(5000, now=0.0)
    budget.close()
    assert everybody.total == 0
    budget.taken(5000, now=0.0)  # its handler reads what had come
    budget.close()
    assert everybody.total == 0


async def test_the_gate_is_handed_on_in_order_small_messages_first() -> None:
    gate = WriteGate()
    order: list[str] = []

    async def pass_through(name: str, small: bool) -> None:
        await gate.acquire(small=small)
        order.append(name)
        gate.release()

    assert gate.try_acquire()
    tasks = []
    for name, small in (("a", False), ("b", False), ("c", True), ("d", True)):
        tasks.append(asyncio.create_task(pass_through(name, small)))
        await asyncio.sleep(0)
    assert not gate.try_acquire()
    assert order == []
    gate.release()
    await asyncio.gather(*tasks)
    assert order == ["c", "d", "a", "b"]
    assert gate.try_acquire()


async def test_who_is_cancelled_while_waiting_takes_nothing() -> None:
    gate = WriteGate()
    assert gate.try_acquire()
    waiting = asyncio.create_task(gate.acquire(small=False))
    after = asyncio.create_task(gate.acquire(small=False))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.release()
    await after
    assert not gate.try_acquire()
    gate.release()
    assert gate.try_acquire()


async def test_who_is_cancelled_when_it_is_his_turn_hands_it_on() -> None:
    gate = WriteGate()
    assert gate.try_acquire()
    waiting = asyncio.create_task(gate.acquire(small=False))
    after = asyncio.create_task(gate.acquire(small=False))
    await asyncio.sleep(0)
    gate.release()  # it is his turn now
    waiting.cancel()  # but he does not know it yet
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await after
