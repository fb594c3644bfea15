"""What was learned of the peers that an archive calls is known after its next start, until it expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import ask

from asyncdicom import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.peers import MINDS_WINDOW, Learned
from asyncdicom.archive.peers import PeerMemory
from asyncdicom.windows import MINDS, WINDOWS, WindowMemory

OLD, V6 = Address("OLD", "192.0.2.1", 104), Address("V6", "2001:db8::1", 11112)
CLOCK = 1_800_000_000.0


def now() -> float:
    return asyncio.get_running_loop().time()


def rows(root: Path) -> list[tuple[Any, ...]]:
    return ask(root, "SELECT what, ae_title, host, port FROM peer ORDER BY host")


async def test_a_peer_that_minds_the_window_is_known_after_a_restart(tmp_path: Path) -> None:
    async with Archive(tmp_path):
        WINDOWS.minds(OLD, now())
        WINDOWS.lost(V6, now(), is_certain=False)
        assert WINDOWS.lost(V6, now(), is_certain=False)
        WINDOWS.lost(Address("ONCE", "192.0.2.3", 104), now(), is_certain=False)
    assert rows(tmp_path) == [(MINDS_WINDOW, *OLD), (MINDS_WINDOW, *V6)]
    WINDOWS.clear()
    async with Archive(tmp_path):
        for peer in (OLD, V6):
            assert not WINDOWS.may_propose(peer, now() + MINDS - 60)
            assert WINDOWS.may_propose(peer, now() + MINDS)


async def test_what_an_archive_does_not_hear_it_does_not_keep(tmp_path: Path) -> None:
    async with Archive(tmp_path):
        pass
    WINDOWS.minds(OLD, now())
    assert rows(tmp_path) == []
    assert WINDOWS.on_minds == []


async def test_what_has_expired_is_not_known_and_goes_with_the_next_that_is_kept(tmp_path: Path) -> None:
    async with Archive(tmp_path):
        WINDOWS.minds(OLD, now())
    ask(tmp_path, "UPDATE peer SET until = 1000")
    WINDOWS.clear()
    async with Archive(tmp_path):
        assert WINDOWS.may_propose(OLD, now())
        WINDOWS.minds(V6, now())
    assert rows(tmp_path) == [(MINDS_WINDOW, *V6)]


async def test_an_index_without_the_table_gets_it(tmp_path: Path) -> None:
    """No step of the migrations is needed: an earlier version leaves the table alone."""
    async with Archive(tmp_path):
        pass
    ask(tmp_path, "DROP TABLE peer")
    async with Archive(tmp_path):
        WINDOWS.minds(OLD, now())
    assert rows(tmp_path) == [(MINDS_WINDOW, *OLD)]


def call(change: Callable[[], None]) -> None:
    change()


@pytest.mark.parametrize(
    ("left", "holds"), [(10.0, 10.0), (10 * MINDS, MINDS)], ids=["soon", "clock set back"]
)
async def test_it_holds_as_long_as_before_but_for_an_hour_at_most(left: float, holds: float) -> None:
    known = [Learned(MINDS_WINDOW, OLD, CLOCK + left), Learned("of a later version", V6, CLOCK + left)]
    memory = WindowMemory()
    peers = PeerMemory(known, lambda change: None, call, memory=memory, clock=lambda: CLOCK)
    began = now()
    peers.start()
    assert not memory.may_propose(OLD, began + holds - 1)
    assert memory.may_propose(OLD, now() + holds)
    assert memory.may_propose(V6, began)


async def test_a_row_that_cannot_be_kept_is_told_and_costs_nothing_else(caplog: Any) -> None:
    def fail(change: object) -> None:
        raise IndexFailed("database or disk is full")

    memory = WindowMemory()
    PeerMemory([], fail, call, memory=memory, clock=lambda: CLOCK).start()
    memory.minds(OLD, now())
    assert not memory.may_propose(OLD, now())
    assert "what was learned of OLD@192.0.2.1:104 is not kept: database or disk is full" in caplog.text
