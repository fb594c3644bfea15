"""Two scanners, two destinations of which one is down, and kill -9 again and again: nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from helpers.archive_process import CT, LONG, Qrscp, data_set, qrscp

from asyncdicom import BytesSource, Request, serve
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

DEATHS = 40 if LONG else 4

CONFIG = """
[destinations.UP]
address = "UP@127.0.0.1:{up}"
operations_invoked = 4
first_pause = 0.05
longest_pause = 0.2

[destinations.DOWN]
address = "DOWN@127.0.0.1:{down}"
first_pause = 0.05
longest_pause = 0.2

[[routes]]
when = {{ calling = "CT*" }}
to = ["UP", "DOWN"]
"""


class Received:
    """What a destination has got."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.digests: dict[str, set[bytes]] = {}
        self._came = asyncio.Event()

    async def on_store(self, request: Request) -> int:
        data = bytes(await request.data.read())
        uid = request.affected_sop_instance_uid
        self.digests.setdefault(uid, set()).add(data)
        self.times[uid] += 1
        self._came.set()
        return 0

    async def all_of(self, uids: set[str]) -> None:
        async with asyncio.timeout(60):
            while not uids <= self.times.keys():
                self._came.clear()
                await self._came.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def scan(
    name: str, archive: Qrscp, numbers: Iterator[int], acknowledged: set[str], enough: int
) -> None:
    """Send until the archive has acknowledged enough, and then kill it while others are under way."""
    with suppress(AssociationError, OSError):
        async with archive.associate(name) as association:
            while True:
                uid = f"1.2.3.{next(numbers)}"
                source = BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data_set(uid, 20_000))
                if (await association.c_store(source)).status == 0:
                    acknowledged.add(uid)
                if len(acknowledged) >= enough:
                    await archive.kill()


@asynccontextmanager
async def listening(name: str, port: int = 0) -> AsyncIterator[tuple[Received, int]]:
    received = Received()
    async with serve(f"{name}@127.0.0.1:{port}", c_store=received.on_store) as server:
        yield received, server.port


@pytest.mark.timeout(3600 if LONG else 120)
async def test_nothing_is_lost(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    numbers, chance = itertools.count(), random.Random(1)
    config, down_port = tmp_path / "gateway.toml", free_port()
    async with listening("UP") as (up, up_port):
        config.write_text(CONFIG.format(up=up_port, down=down_port))
        for _ in range(DEATHS):
            enough = len(acknowledged) + chance.randint(3, 30)
            async with qrscp(tmp_path / "archive", "--gateway", str(config)) as archive:
                scanners = (scan(name, archive, numbers, acknowledged, enough) for name in ("CT1", "CT2"))
                await asyncio.gather(*scanners)
            assert len(acknowledged) >= enough
        async with listening("DOWN", down_port) as (down, _):
            async with qrscp(tmp_path / "archive", "--gateway", str(config)):
                await asyncio.gather(up.all_of(acknowledged), down.all_of(acknowledged))
    for received in (up, down):
        assert max(received.times.values()) <= 1 + DEATHS
        assert (
            sum(received.times.values()) <= len(received.times) + DEATHS * 64
        )  # what was claimed at a death
        assert all(digests == {data_set(uid, 20_000)} for uid, digests in received.digests.items())
    assert max(down.times.values()) == 1  # nobody died while it was there
