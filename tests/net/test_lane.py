"""Long Python work in steps, in one thread, in turns."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncdicom.data.steps import Steps
from asyncdicom.net.lane import Lane


class Ticking:
    """A clock that each look advances by a millisecond."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def count(number: int, log: list[str], name: str) -> Steps[int]:
    for _ in range(number):
        log.append(name)
        yield
    return threading.get_ident()


async def test_work_of_several_takes_turns_in_one_thread() -> None:
    lane, log = Lane(Ticking()), list[str]()
    threads = await asyncio.gather(*(lane.run(name, count(20, log, name)) for name in "abc"))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    # Nobody is served twice while others wait: after each has begun, at most two steps come in a row.
    begun = max(log.index(name) for name in "abc")
    rows = "".join(log[begun : begun + 18])
    assert not any(name * 5 in rows for name in "abc")
    assert lane.slices >= 30


async def test_one_peer_with_much_work_does_not_hold_up_another() -> None:
    lane, log = Lane(Ticking()), list[str]()
    many = [asyncio.create_task(lane.run("attacker", count(500, log, "x"))) for _ in range(16)]
    await asyncio.sleep(0)
    await lane.run("neighbour", count(4, log, "n"))
    assert log.count("x") < 16 * 500
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)


async def test_what_the_work_raises_is_raised() -> None:
    def fail() -> Steps[int]:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await Lane().run(None, fail())


async def test_cancelled_work_ends_after_its_step() -> None:
    lane = Lane()
    begun, ended = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> Steps[None]:
        try:
            while True:
                begun.set()
                yield
        finally:
            loop.call_soon_threadsafe(ended.set)

    task = asyncio.create_task(lane.run(None, work()))
    while not begun.is_set():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
