"""Processes of an archive let one another know of new work: what one enqueues, another begins at once.

Nobody looks for work by himself here: what is begun was begun by a hint, or when a connection is new.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import resource
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import config, instance, pacs, send
from helpers.postgres import Server
from helpers.programs import once
from helpers.serving import PATIENCE

from asyncdicom.archive import Archive, outbox
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.index import hints
from asyncdicom.archive.index.hints import Hints, SharedHints
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.archive.index.work import Work
from asyncdicom.gateway.gateway import Gateway

FAR = 1e6  # seconds
_HIGH = 1100  # a descriptor that `select` does not take


@pytest.fixture(autouse=True)
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_LOOK_AT_OTHERS", FAR)
    monkeypatch.setattr(outbox, "_LOOK", FAR)


class Heard:
    """What the listeners of an archive were told."""

    def __init__(self, archive: Archive) -> None:
        self.told: list[Any] = []
        self._changed = asyncio.Event()
        archive.outbox.subscribe(self._hear)

    def _hear(self, destinations: Any) -> None:
        self.told.append(destinations)
        self._changed.set()

    async def has(self, what: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while what not in self.told:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def two(server: Server, folder: Path) -> AsyncIterator[tuple[Archive, Archive]]:
    options: dict[str, Any] = {"durability": "none", "index": server.url(), "scrub": 0, "sweep": False}
    async with Archive(folder, **options) as one, Archive(folder, **options) as other:
        for each in (one, other):
            await listens(each)
        yield one, other


async def listens(archive: Archive) -> None:
    """Wait until an archive has a connection on which hints come."""
    shared = archive._index.hints
    assert isinstance(shared, SharedHints)
    assert await asyncio.to_thread(shared.is_listening.wait, PATIENCE)


@once
async def _heard(server: Server, folder: Path) -> None:
    async with two(server, folder) as (one, other):
        heard, own = Heard(other), Heard(one)
        await one.outbox.enqueue([Work("store", "A", 5), Work("store", "B", 2), Work("store", "B", 1)])
        await heard.has({"A": 5, "B": 1})
        await one.outbox.pause("A", paused=True)
        await heard.has(None)
        assert other.outbox.paused == {"A"}
        assert own.told == [{"A": 5, "B": 1}, None]  # nobody is told of his own by the server
        assert [each.destination for each in await other.outbox.claim("store", "B", 9)] == ["B", "B"]


def test_others_are_told_of_what_is_enqueued_and_paused(postgres: Server, tmp_path: Path) -> None:
    _heard(postgres, tmp_path)


class _Router:
    tags: frozenset[int] = frozenset()

    def work_for(self, received: Any) -> list[Work]:
        return [Work("store", "PACS")]


@once
async def _sent(server: Server, folder: Path) -> None:
    """What one has received another one sends; and after a restart of the database, too."""
    async with pacs() as node, two(server, folder) as (one, other):
        settings = config("", PACS=node.server.port)
        async with Gateway(other, settings, ae_title="GATE"), serve_archive(one, "ONE@127.0.0.1:0") as front:
            one.route(_Router())
            address = f"ONE@127.0.0.1:{front.port}"
            await send(address, instance("1.2.1"))
            await node.has("1.2.1")
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            for each in (one, other):
                await listens(each)
            await send(address, instance("1.2.2"))
            await node.has("1.2.2")


def test_what_one_has_received_another_sends_at_once(own_server: Server, tmp_path: Path) -> None:
    _sent(own_server, tmp_path)


class Tape:
    """What is heard, in a thread."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, urgency: Any) -> None:
        with self._changed:
            self.heard.append(urgency)
            self._changed.notify_all()

    def wait_for(self, what: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: what in self.heard, PATIENCE), self.heard


@contextmanager
def listening(url: str) -> Iterator[tuple[SharedHints, Tape]]:
    index = PostgresIndex(url, durability="none", readers=1)
    tape = Tape()
    index.hints.start(tape)
    try:
        assert isinstance(index.hints, SharedHints)
        assert index.hints.is_listening.wait(PATIENCE)
        yield index.hints, tape
    finally:
        index.close()


def test_what_comes_in_a_moment_is_one_hint(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_BETWEEN", 1.0)
    url = postgres.url()
    with listening(url) as (one, own), listening(url) as (_, tape):
        one.send({"A": 1})
        tape.wait_for({"A": 1})
        for urgency in ({"A": 3}, {"B": 2}, {"A": 2}, {}):
            one.send(urgency)
        tape.wait_for({"A": 2, "B": 2})
        one.send({"A": 1})
        one.send(None)
        one.send({"B": 1})
        tape.wait_for(None)
        assert tape.heard == [{"A": 1}, {"A": 2, "B": 2}, None]
        assert own.heard == []


def test_a_hint_that_is_long_or_strange_may_mean_anything(postgres: Server) -> None:
    url = postgres.url()
    with listening(url) as (one, _), listening(url) as (_, tape):
        one.send({f"DESTINATION {n}": n for n in range(1000)})
        tape.wait_for(None)
        for text in ("no JSON", "[1]", '{"A": "x"}', "7"):
            tape.heard.clear()
            schema = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'index%' ORDER BY oid DESC LIMIT 1"
            name = hashlib.sha256(postgres.run(schema).encode()).hexdigest()[:16]
            postgres.run(f"SELECT pg_notify('asyncdicom_{name}', '{text}')")
            tape.wait_for(None)


def test_other_archives_of_a_database_hear_nothing(postgres: Server) -> None:
    url = postgres.url()
    with listening(url) as (one, _), listening(postgres.url()) as (_, stranger), listening(url) as (_, tape):
        one.send({"A": 1})
        tape.wait_for({"A": 1})
        assert stranger.heard == []


def test_a_connection_that_is_lost_is_made_again(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perhaps something was told meanwhile: who hears looks for himself then."""
    monkeypatch.setattr(hints, "_FIRST_PAUSE", 0.05)
    url = own_server.url()
    with listening(url) as (one, _), listening(url) as (other, tape):
        own_server.kill()
        own_server.start()
        tape.wait_for(None)
        for each in (one, other):
            assert each.is_listening.wait(PATIENCE)
        one.send({"A": 1})
        tape.wait_for({"A": 1})
        own_server.kill()  # and is not here at the end


def test_who_is_alone_has_none_to_tell() -> None:
    alone = Hints()
    alone.start(lambda urgency: None)
    alone.send({"A": 1})
    alone.close()


def test_what_has_a_high_descriptor_is_waited_for_too() -> None:
    """As a server with very many associations has them; and without a descriptor to wait by."""
    ours, theirs = socket.socketpair()
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit <= _HIGH:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_HIGH + 1, most), most))
    high = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD, min(_HIGH, most - 1))
    try:
        assert high > 1023
        assert hints._readable(0.0, high) == set()
        theirs.send(b"1")
        assert hints._readable(None, high) == {high}
    finally:
        os.close(high)
        ours.close()
        theirs.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
