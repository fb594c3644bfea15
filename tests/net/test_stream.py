"""Data sets on their way in."""

from __future__ import annotations

import asyncio

import pytest
from net.streams import received
from wire import CT

from asyncdicom import DataStream, LocalProtocolError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN


async def test_a_batch_is_all_that_came() -> None:
    data = received(b"abc", b"de", ended=False)
    assert [bytes(view) for view in await data.next_batch() or ()] == [b"abc", b"de"]
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    assert not waiting.done()
    data.feed([memoryview(b"f")], 1, True)
    assert [bytes(view) for view in await waiting or ()] == [b"f"]
    assert await data.next_batch() is None
    assert data.received == 6


async def test_a_cancellation_loses_nothing() -> None:
    data = received(ended=False)
    waiting = asyncio.create_task(data.next_batch())
    await asyncio.sleep(0)
    data.feed([memoryview(b"abc")], 3, True)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await data.read() == b"abc"


async def test_what_was_received_before_a_failure_comes_before_it() -> None:
    data = received(b"abc", ended=False)
    data.fail(ConnectionError("gone"))
    assert await data.next_batch() is not None
    for _ in range(2):
        with pytest.raises(ConnectionError, match="gone"):
            await data.next_batch()
    assert not data.is_complete


async def test_a_failure_after_the_end_does_not_matter() -> None:
    data = received(b"abc")
    data.fail(ConnectionError("gone"))
    assert await data.read() == b"abc"
    assert data.is_complete


async def test_two_tasks_cannot_read_one_data_set() -> None:
    data = received(ended=False)
    first = asyncio.create_task(data.read())
    await asyncio.sleep(0)
    with pytest.raises(LocalProtocolError, match="two tasks"):
        await data.read()
    data.feed([memoryview(b"abc")], 3, True)
    assert await first == b"abc"


async def test_what_was_discarded_is_neither_data_nor_an_end() -> None:
    counted: list[int] = []
    data = DataStream(EXPLICIT_VR_LITTLE_ENDIAN, CT, "1.2.3", taken=counted.append)
    data.feed([memoryview(b"abc")], 3, False)
    data.discard()
    data.feed([memoryview(b"de")], 2, True)
    assert data.discarded == 5
    assert sum(counted) == 5
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await data.read()


async def test_who_waits_when_it_is_discarded_is_told() -> None:
    data = received(ended=False)
    reading = asyncio.create_task(data.read())
    finishing = []
    await asyncio.sleep(0)
    data.discard()
    finishing.append(asyncio.create_task(data.finished()))
    with pytest.raises(LocalProtocolError, match="no longer wanted"):
        await reading
    assert not finishing[0].done()
    data.feed([memoryview(b"abc")], 3, True)
    await finishing[0]


async def test_an_instance_is_a_source_too() -> None:
    data = received(b"abc", b"de")
    assert (data.sop_class_uid, data.sop_instance_uid) == (CT, "1.2.3")
    assert b"".join([bytes(view) for batch in [b async for b in data.open()] for view in batch]) == b"abcde"
