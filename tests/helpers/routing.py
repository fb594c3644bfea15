"""An archive whose instances lead to work for others, and what becomes of that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from helpers.index_asking import ask

from asyncdicom.archive import Archive
from asyncdicom.archive.index.deliveries import Claimed, Settlement
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.origin import Received


class To:
    """A router that sends everything to the same destinations, and notes what it was asked."""

    def __init__(self, *destinations: str, tags: Sequence[int] = (), **options: Any) -> None:
        self.tags = frozenset(tags)
        self.asked: list[Received] = []
        self._work = [Work("store", name, **options) for name in destinations]

    def work_for(self, received: Received) -> list[Work]:
        self.asked.append(received)
        return self._work


@asynccontextmanager
async def routing(path: Path, router: To, **options: Any) -> AsyncIterator[Archive]:
    given: dict[str, Any] = {"durability": "none", "scrub": 0} | options
    async with Archive(path, **given) as archive:
        archive.route(router)
        yield archive


def done(claimed: Sequence[Claimed], state: State = State.DONE, due: float = 0.0) -> list[Settlement]:
    return [Settlement(each.id, state, due, each.attempts + 1) for each in claimed]


def rows(path: Path, what: str = "count(*)", where: str = "1 = 1") -> list[Any]:
    return ask(path, f"SELECT {what} FROM (SELECT * FROM delivery WHERE {where} ORDER BY id) AS each")
