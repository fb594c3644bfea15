"""What a peer with Nagle's algorithm waits for is acknowledged at once, whenever it has more to send."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest
from helpers.peer import (
    CT,
    IDENTIFIER,
    STUDY_CONTEXTS,
    Peer,
    eventually,
    fragments,
    listening,
    message,
    store_rq,
)

from asyncdicom import Association, Request, associate, retrieval_contexts, serve
from asyncdicom.dimse.messages import encode, response_to
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="a socket option of Linux")

GET, STORE = 5, 7  # contexts: behind those of C-FIND and C-MOVE


def is_quick(association: Association) -> bool:
    """Whether the kernel acknowledges at once: it forgets that with each answer of ours."""
    found = association.get_extra_info("socket")
    return bool(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))


async def test_during_a_retrieval_all_is_acknowledged_at_once() -> None:
    """Also between a Pending response and the next C-STORE, which is the peer's turn."""

    async def on_store(request: Request) -> int:
        begun.append(is_quick(request.association))
        await request.data.read()
        return 0

    begun: list[bool] = []
    contexts = [*STUDY_CONTEXTS, *retrieval_contexts([(CT, IMPLICIT_VR_LITTLE_ENDIAN)])]
    async with listening() as listener:
        task = asyncio.ensure_future(associate(f"SCP@127.0.0.1:{listener.port}", contexts=contexts))
        peer = await listener.peer()
        await peer.accept()
        association = await task
        async with association.c_get(IDENTIFIER, c_store=on_store) as get:
            request = (await peer.message()).command
            for number in range(1, 4):
                peer.write(fragments(STORE, True, encode(store_rq(number))))
                await eventually(partial(_has, begun, number))
                peer.write(fragments(STORE, False, b"data"))
                assert (await peer.message()).command.status == 0
                assert not is_quick(association), "it has answered, and the kernel has forgotten"
                peer.write(message(GET, response_to(request, 0xFF00)))
                await anext(aiter(get))
                assert is_quick(association), "the next C-STORE is the peer's turn"
            peer.write(message(GET, response_to(request, 0)))
            assert [progress async for progress in get] == []
        assert begun == [True] * 3, "the data set is the peer's turn"
        peer.reset()
        await association.wait_closed()


async def test_what_an_scp_receives_is_acknowledged_at_once() -> None:
    async def on_store(request: Request) -> int:
        begun.append(is_quick(request.association))
        await request.data.read()
        return 0

    begun: list[bool] = []
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        await Peer.connect(server.port) as peer,
    ):
        await peer.associate()
        for number in range(1, 4):
            peer.write(fragments(3, True, encode(store_rq(number))))
            await eventually(partial(_has, begun, number))
            peer.write(fragments(3, False, b"data"))
            assert (await peer.message()).command.status == 0
    assert begun == [True] * 3


def _has(found: list[bool], count: int) -> bool:
    return len(found) == count
