"""Attacks on time and memory: what a peer can make long, and who else pays for it.

Counted are, of the process that is attacked: the calls of the event loop between two beats of a clock of 1 ms
(what one peer may take of it before others are served), the messages in a turn of the loop, the objects
in memory, tasks and log lines; and the requests of a neighbour that were not served within 5 s. How long the
neighbour waited and what memory was used is printed, and compared with the goals in the long form.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from endurance.attack import Attack, Counts
from endurance.attacks_kept import SIXTEEN, image, served, source
from endurance.siege import Siege
from helpers.archive_process import LONG, SERIES, data_set
from helpers.peer import ABORT

from asyncdicom import Association

SLICE = {"calls from beat to beat": 100_000}
"""About 10 ms of Python: work of more than 2 ms goes in slices, or elsewhere."""
TURN = {"messages in a turn": 256}
WEIGHT = {"objects": 60_000}
EACH_WEIGHT = {"objects": 600 * (620 if LONG else 100)}
"""Of an association with a query."""
SERVED = {"neighbour not served": 0}

Filled = dict[str, bytes]


def prepared(name: str, images: Callable[[], Filled]) -> Callable[[Path], Awaitable[None]]:
    """Fill a folder with these images; it is done once for all tests of a run, and copied."""

    async def prepare(folder: Path) -> None:
        cache = folder.parent.parent / name
        if not cache.exists():
            async with served(cache) as node, node.associate(limits=SIXTEEN) as association:
                each = iter(images().items())
                await asyncio.gather(*(store(association, each) for _ in range(16)))
        shutil.copytree(cache, folder)

    return prepare


async def store(association: Association, images: Any) -> None:
    for uid, data in images:
        assert (await association.c_store(source(uid, data))).status == 0


def one_series(count: int, size: int = 200) -> Callable[[], Filled]:
    uids = [f"{SERIES}.{number}" for number in range(count)]
    return lambda: {uid: data_set(uid, size) for uid in uids}


def studies(count: int, description: bytes) -> Callable[[], Filled]:
    def make() -> Filled:
        changes = ((f"1.2.5.{number}".encode(), number) for number in range(count))
        return dict(
            image(number, x0020000D=uid, x0020000E=uid + b".1", x00081030=description)
            for uid, number in changes
        )

    return make


SOME = prepared("some images", one_series(10))
PAGE = prepared("a page of images", one_series(1000))
LARGE = prepared("large images", one_series(1, 200_000))
LONG_TEXTS = prepared("long texts", studies(300, b"a" * 1024))
MANY = prepared("many images", one_series(150_000))
MANY_STUDIES = prepared("many studies", studies(100_000, b"CHEST"))


class Destination(asyncio.Protocol):
    """Takes connections and answers nothing, or an A-ABORT; counts them."""

    def __init__(self, counts: Counts, answer: bytes) -> None:
        self._counts = counts
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        counts = self._counts
        counts["outgoing associations"] += 1
        counts["now"] += 1
        counts["outgoing at once"] = max(counts["outgoing at once"], counts["now"])
        if self._answer:
            transport.write(self._answer)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts["now"] -= 1


def moves_to(answer: bytes, count: tuple[int, int]) -> Callable[[Path], Coroutine[Any, Any, Counts]]:
    async def make(folder: Path) -> Counts:
        counts: Counts = dict.fromkeys(("outgoing associations", "outgoing at once", "now"), 0)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Destination(counts, answer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            peers = {"*": "", "DESTINATION": f"127.0.0.1:{port}"}
            siege = Siege("moves", count, prepare=SOME, settings={"peers": peers})
            found = await siege(folder)
        return counts | found

    return make


READ = {"handlers": "read"}
COUNTED = {"counted": True}

ATTACKS = (
    Attack("pipelined C-ECHO", "5,000 C-ECHO-RQs in one go, on uvloop",
           Siege("echoes", (5000, 500_000), counted=True), SERVED | TURN | SLICE),
    Attack("pipelined C-ECHO, asyncio", "the same, on asyncio's own loop",
           Siege("echoes", (5000, 500_000), settings={"loop": "asyncio"}, counted=True),
           SERVED | TURN | SLICE),
    Attack("C-STORE of one-byte fragments", "100,000 fragments of one byte, to a handler that reads nothing",
           Siege("one_byte_store", (100_000, 3_000_000), counted=True), SERVED | SLICE | WEIGHT),
    Attack("identifier of one-byte fragments", "an identifier of 100,000 fragments of one byte",
           Siege("one_byte_find", (100_000, 4_000_000), settings=READ, counted=True),
           SERVED | SLICE | WEIGHT),
    Attack("unknown keys", "a C-FIND with 3,000 unknown keys, answered with a page of 1,000 matches",
           Siege("unknown_keys", (3000, 30_000), prepare=PAGE), SERVED | {"MiB": 16}),
    Attack("Message ID in use", "2,000 C-FINDs under one Message ID",
           Siege("same_message_id", (2000, 200_000)), SERVED | {"tasks": 64, "log lines": 10}),
    Attack("shapes of queries", "8 C-FINDs with other numbers of patterns in their keys",
           Siege("shapes", (8, 800), prepare=SOME), SERVED | {"objects kept": 60_000}),
    Attack("worst patterns", "8 C-FINDs of 64 patterns of 243 characters over texts of 1,024",
           Siege("patterns", (8, 16), ("C-FIND",), LONG_TEXTS), SERVED),
    Attack("unread queries", "64 queries of 1,000 matches each that nobody reads",
           Siege("unread_queries", (64, 620), ("C-FIND",), PAGE), SERVED | EACH_WEIGHT),
    Attack("queries of many studies", "16 C-FINDs of 100,000 studies by a peer that reads nothing",
           Siege("unread_queries", (16, 256), ("C-FIND",), MANY_STUDIES), SERVED,
           only_long=True),
    Attack("deflated identifier", "an identifier of 131,072 empty elements in 10 KiB",
           Siege("deflated_identifier", (1 << 17, 30 << 17), prepare=SOME, counted=True),
           SERVED | SLICE | WEIGHT),
    Attack("deflated identifier, handler", "the same, of 32,768 elements, for `request.identifier()`",
           Siege("deflated_identifier", (1 << 15, 90 << 17), settings=READ, counted=True), SERVED | SLICE),
    Attack("deflated C-STOREs", "16 C-STOREs at once of 30 MiB of empty elements, deflated",
           Siege("deflated_stores", (1 << 20, 60 << 20), ("C-STORE",), SOME), SERVED,
           only_long=True),
    Attack("C-GET without contexts", "4 C-GETs of 1,000 instances, for which no context was accepted",
           Siege("gets_without_contexts", (4, 16), prepare=PAGE, counted=True), SERVED | SLICE),
    Attack("C-GET of many", "16 C-GETs of 150,000 instances",
           Siege("gets_without_contexts", (16, 16), prepare=MANY), SERVED,
           only_long=True),
    Attack("Maximum Length of 8", "a C-GET by a peer of Maximum Length 8 that reads nothing",
           Siege("maximum_length_of_8", (1, 16), prepare=LARGE, counted=True), SERVED | SLICE | WEIGHT),
    Attack("C-MOVE, nobody answers", "64 C-MOVEs to a destination that does not answer",
           moves_to(b"", (4, 60)), SERVED | {"outgoing at once": 16}),
    Attack("C-MOVE, each aborted", "64 C-MOVEs to a destination that aborts",
           moves_to(ABORT, (4, 60)), SERVED | {"outgoing associations": 32}),
    Attack("empty items", "5 A-ASSOCIATE-RQs of 200 KiB of empty items, by a stranger",
           Siege("empty_items", (5, 1000), counted=True), SERVED | SLICE),
    Attack("new texts", "5 rejected A-ASSOCIATE-RQs of 127 UIDs that nobody has seen before",
           Siege("new_texts", (5, 1000), settings=COUNTED), SERVED | {"strings interned": 100}),
    Attack("files read in the loop", "a C-GET of an image, of which a slow disk would hold up everybody",
           Siege("gets", (1, 16), prepare=LARGE, settings=COUNTED), SERVED | {"file calls of the loop": 0}),
)  # fmt: skip
