"""Connections that are handed to another process, both ends in this one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from asyncdicom.net.handing import HandedListener, Handing, Packet, can_hand, handing_pair

pytestmark = pytest.mark.skipif(not can_hand(), reason="the system cannot hand connections over")


@pytest.fixture
def ends() -> Iterator[tuple[Handing, HandedListener]]:
    ours, theirs = handing_pair()
    handing, listener = Handing(ours), HandedListener(theirs.detach(), ("127.0.0.1", 104))
    yield handing, listener
    handing.close()
    listener.close()
    listener._telling.close()


def test_a_connection_is_handed_over(ends: tuple[Handing, HandedListener]) -> None:
    handing, listener = ends
    listener.listen(5)
    assert listener.getsockname() == ("127.0.0.1", 104)
    near, far = socket.socketpair()
    handing.hand(far, 7)
    far.close()
    connection, _ = listener.accept()
    assert handing.hear() == {"taken": 7}
    near.sendall(b"hello")
    assert connection.recv(5) == b"hello"
    connection.close()
    connection.close()
    assert handing.hear() == {"closed": 7}
    near.close()
    with pytest.raises(BlockingIOError):
        handing.hear()
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.close()
    assert handing.hear() == {"leaving": True}


def test_one_that_is_on_its_way_when_they_leave_is_not_taken(ends: tuple[Handing, HandedListener]) -> None:
    """Who accepts has it still, and hands it to others; shares are heard of all the same."""
    handing, listener = ends
    near, far = socket.socketpair()
    handing.hand(far, 7)
    listener.leave()
    listener.leave()
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert handing.hear() == {"leaving": True}
    with pytest.raises(BlockingIOError):
        handing.hear()
    far.sendall(b"hello")
    assert near.recv(5) == b"hello"
    near.close()
    far.close()
    ended: list[bool] = []
    listener.on_end = lambda: ended.append(True)
    handing.close()
    with pytest.raises(ConnectionAbortedError):
        listener.accept()
    assert listener.is_over
    assert not ended  # it is about to end


@pytest.mark.parametrize("is_read", [True, False])
def test_the_end_of_who_accepts_is_told(ends: tuple[Handing, HandedListener], is_read: bool) -> None:
    """Also where it had not read all."""
    handing, listener = ends
    ended: list[bool] = []
    listener.on_end = lambda: ended.append(True)
    listener.tell({"closed": 1})
    if is_read:
        handing.hear()
    handing.close()
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError):
            listener.accept()
    assert ended == [True]
    listener.tell({"closed": 2})


async def test_a_share_is_asked_for(ends: tuple[Handing, HandedListener]) -> None:
    handing, listener = ends
    for exceeded in (None, "associations"):
        asking = asyncio.ensure_future(listener.take_share([("associations", 1)]))
        await asyncio.sleep(0)
        asked = handing.hear()
        assert asked is not None
        assert asked["keys"] == [["associations", 1]]
        handing.tell({"share": asked["share"], "exceeded": exceeded})
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert await asking == (asked["share"], exceeded)
    asking = asyncio.ensure_future(listener.take_share([]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait((asking,))
    assert handing.hear() == {"share": 3, "keys": []}
    assert handing.hear() == {"back": 3}
    handing.tell({"share": 3, "exceeded": None})
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_what_cannot_be_told_now_is_told_with_the_next(ends: tuple[Handing, HandedListener]) -> None:
    """Shares that are given back while who accepts does not read are not lost, nor out of order."""
    handing, listener = ends
    listener._telling.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    number = 0
    while len(listener._untold) < 3:
        listener.give_share_back(number)
        number += 1
    heard: list[Packet | None] = []
    while len(heard) < number - 3:
        heard.append(handing.hear())
    listener.give_share_back(number)
    assert not listener._untold
    heard += [handing.hear() for _ in range(4)]
    assert heard == [{"back": each} for each in range(number + 1)]
