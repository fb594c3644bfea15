"""What leaves in one write, and what wakes the peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from helpers.peer import (
    CT,
    IDENTIFIER,
    STUDY_CONTEXTS,
    Peer,
    eventually,
    find_rq,
    instance,
    listening,
    message,
    store_rq,
)

from asyncdicom import PresentationContext, Request, associate, serve
from asyncdicom.net.transport import Transport


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each write has that reaches the event loop."""
    sizes: list[int] = []
    write = Transport.write

    def counting(self: Transport, buffers: Sequence[Any]) -> None:
        sizes.append(sum(map(len, self._soon)) + sum(map(len, buffers)))
        write(self, buffers)

    monkeypatch.setattr(Transport, "write", counting)
    return sizes


async def test_a_small_data_set_leaves_together_with_its_command(writes: list[int]) -> None:
    async with serve("SCP@127.0.0.1:0", c_store=read) as server:
        contexts = [PresentationContext(CT, ("1.2.840.10008.1.2.1",))]
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association:
            writes.clear()
            await association.c_store(instance(5000))
            assert len(writes) == 2, "the request and the response"
            assert max(writes) > 5000


async def read(request: Request) -> int:
    await request.data.read()
    return 0


async def test_pending_responses_leave_together(writes: list[int]) -> None:
    async def on_find(request: Request) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield IDENTIFIER

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, await Peer.connect(server.port) as peer:
        await peer.associate(contexts=STUDY_CONTEXTS)
        writes.clear()
        peer.write(message(1, find_rq(1), IDENTIFIER))
        statuses = [(await peer.message()).command.status for _ in range(101)]
        assert statuses == [0xFF00] * 100 + [0]
        assert len(writes) < 20


async def test_a_match_does_not_wait_for_the_next_one(writes: list[int]) -> None:
    more = asyncio.Event()

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield IDENTIFIER
        await more.wait()

    async with serve("SCP@127.0.0.1:0", c_find=on_find) as server, await Peer.connect(server.port) as peer:
        await peer.associate(contexts=STUDY_CONTEXTS)
        peer.write(message(1, find_rq(1), IDENTIFIER))
        assert (await peer.message()).command.status == 0xFF00
        more.set()
        assert (await peer.message()).command.status == 0


async def test_responses_of_several_operations_leave_together(writes: list[int]) -> None:
    go = asyncio.Event()

    async def on_store(request: Request) -> int:
        await request.data.read()
        await go.wait()
        return 0

    async with serve("SCP@127.0.0.1:0", c_store=on_store) as server, await Peer.connect(server.port) as peer:
        await peer.associate(window=8)
        peer.write(*(message(3, store_rq(n, f"1.2.{n}"), bytes(100)) for n in range(1, 9)))
        await eventually(lambda: server.associations)
        await asyncio.sleep(0.01)
        writes.clear()
        go.set()
        ids = {(await peer.message()).command.message_id_being_responded_to for _ in range(8)}
        assert ids == set(range(1, 9))
        assert len(writes) == 1


async def test_what_waits_to_leave_together_is_written_before_the_connection_closes() -> None:
    async with listening() as listener:
        loop = asyncio.get_running_loop()
        transport = Transport(_Nobody(), loop)
        await loop.create_connection(lambda: transport, "127.0.0.1", listener.port)
        peer = await listener.peer()
        transport.write_soon(b"abc")
        transport.write_soon(b"de")
        transport.close()
        assert await peer.reader.read() == b"abcde"
        await peer.close()


class _Nobody:
    def connection_made(self) -> None: ...
    def bytes_received(self, view: memoryview) -> None: ...
    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None: ...
    def writing_paused(self) -> None: ...
