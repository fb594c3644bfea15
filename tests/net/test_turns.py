"""Slices of long work: one a turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from helpers.peer import CT

from asyncdicom import (
    STUDY_ROOT,
    AccessPolicy,
    Association,
    Request,
    Retrieval,
    associate,
    retrieval_contexts,
    serve,
)
from asyncdicom.net.turns import Turns, turns
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN


class Beats:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        self._next()

    def _next(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def test_one_slice_a_turn_and_the_keys_take_turns() -> None:
    shared, beats = Turns(), Beats()
    done: list[tuple[str, int]] = []

    async def work(key: str) -> None:
        for _ in range(3):
            await shared.take(key)
            done.append((key, beats.number))

    await asyncio.gather(*(work(key) for key in "aaaab"))
    beats.stop()
    assert max(Counter(number for _, number in done).values()) == 1
    keys = [key for key, _ in done]
    assert [number for number, key in enumerate(keys) if key == "b"] == [
        2,
        4,
        6,
    ]  # not behind all four others
    assert len(done) == 15


async def test_nobody_waits_who_is_alone() -> None:
    beats = Beats()
    before = beats.number
    await Turns().take("a")
    assert beats.number == before
    beats.stop()


async def test_who_is_cancelled_keeps_no_turn() -> None:
    shared, order = Turns(), []

    async def work(name: str) -> None:
        await shared.take("the same")
        order.append(name)

    waiting = [asyncio.ensure_future(work(name)) for name in "abcd"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["a"]
    waiting[1].cancel()  # it has just got its turn
    waiting[2].cancel()  # it waits
    for task in waiting:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert order == ["a", "d"]
    await shared.take("another one")


async def test_an_event_loop_has_one() -> None:
    assert turns() is turns()


async def test_responses_to_many_queries_are_no_more_in_a_turn_than_to_one() -> None:
    made, most, before = 0, 0, 0
    handle: asyncio.Handle

    async def on_find(request: Request) -> AsyncIterator[dict[str, str]]:
        nonlocal made
        for number in range(100):
            made += 1
            yield {"StudyInstanceUID": f"1.2.{number}"}

    def beat() -> None:
        nonlocal most, before, handle
        most, before = max(most, made - before), made
        handle = asyncio.get_running_loop().call_soon(beat)

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, contextlib.AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(associate(f"SCP@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]))
            for _ in range(4)
        ]
        handle = asyncio.get_running_loop().call_soon(beat)
        queries = [caller.c_find({"StudyInstanceUID": ""}, raw=True) for caller in callers for _ in range(8)]
        found = await asyncio.gather(*queries)
        handle.cancel()
    assert [len(matches) for matches in found] == [100] * 32
    assert most <= 16 + 32  # a slice, and the first match of each query


@pytest.mark.parametrize("command", ["find", "get", "move"])
async def test_of_many_queries_and_retrievals_one_begins_in_a_turn(command: str) -> None:
    """Some hundred microseconds each, on as many associations as anybody likes."""
    begun, beats = Counter[int](), Beats()

    async def on_find(request: Request) -> AsyncIterator[dict[str, str]]:
        begun[beats.number] += 1
        for _ in ():
            yield {}

    async def on_store(request: Request) -> int:
        return 0

    async def on_retrieve(request: Request) -> Retrieval:
        begun[beats.number] += 1
        return Retrieval([])

    peers = AccessPolicy(peers={"DESTINATION": "127.0.0.1:104", "*": ""})
    serving = serve("SCP@127.0.0.1:0", c_find=on_find, c_get=on_retrieve, c_move=on_retrieve, access=peers)
    async with (
        serving as server,
        contextlib.AsyncExitStack() as stack,
    ):
        address = f"SCP@127.0.0.1:{server.port}"
        contexts: list[Any] = [STUDY_ROOT, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
        opening = [associate(address, contexts=contexts) for _ in range(4)]
        callers = [await stack.enter_async_context(each) for each in opening]
        wanted = {"StudyInstanceUID": "1.2"}
        ask: dict[str, Callable[[Association], Awaitable[object]]] = {
            "find": lambda caller: caller.c_find(wanted, raw=True),
            "get": lambda caller: caller.c_get(wanted, c_store=on_store),
            "move": lambda caller: caller.c_move(wanted, move_destination="DESTINATION"),
        }
        await asyncio.gather(*(ask[command](caller) for caller in callers for _ in range(8)))
    beats.stop()
    assert begun.total() == 32
    assert max(begun.values()) <= 2  # the beat comes before or behind it
