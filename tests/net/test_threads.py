"""Calls in threads, which are waited for in any case."""

from __future__ import annotations

import asyncio
import threading

import pytest
from helpers.peer import eventually

from asyncdicom.net.threads import Ending, file_threads, in_thread


async def test_a_call_in_a_thread_is_waited_for_also_when_cancelled() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        begun.set()
        go_on.wait()
        done.append(True)

    task = asyncio.create_task(in_thread(file_threads(), work))
    await eventually(begun.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.005)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_what_a_thread_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_thread(file_threads(), lambda: 1 // 0)
    assert await in_thread(file_threads(), pow, 2, 10) == 1024


async def test_an_ending_knows_that_nobody_waits_for_it_any_more() -> None:
    ending: Ending[int] = Ending()

    async def wait() -> int:
        return await ending

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not ending.is_withdrawn
    task.cancel()
    await asyncio.sleep(0)
    assert ending.is_withdrawn
    assert not task.done()
    ending.set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await task
