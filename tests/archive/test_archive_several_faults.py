"""Under load the database is killed, and disks are full: what was acknowledged is there, and it goes on.

Several processes serve, and senders try again what is refused. Nothing is started again but the database.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from helpers.postgres import Server, server
from helpers.programs import once
from helpers.serving import CT, PATIENCE, Running, ct, serving

from asyncdicom import VERIFICATION, PresentationContext, associate
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.exceptions import DicomNetworkError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

OUT_OF_RESOURCES = 0xA700
SENDERS = 4
SOME = 20  # instances


class Load:
    """Senders, each on an association of its own, that store as long as the block lasts."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._changed = asyncio.Condition()
        self._has_ended = False
        self.stored: set[str] = set()
        self.refused: Counter[int] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        senders = [asyncio.ensure_future(self._send(number)) for number in range(SENDERS)]
        try:
            yield self
        finally:
            self._has_ended = True
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*senders)

    async def _send(self, number: int) -> None:
        contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
        uids = (f"1.2.{number}.{n}" for n in itertools.count())
        uid = next(uids)
        while not self._has_ended:
            with suppress(DicomNetworkError):
                async with associate(self._address, calling_ae_title="CT", contexts=contexts) as association:
                    while not self._has_ended:
                        status = int((await association.c_store(ct(uid))).status)
                        async with self._changed:
                            if status:
                                self.refused[status] += 1
                            else:
                                self.stored.add(uid)
                            self._changed.notify_all()
                        if status:
                            await asyncio.sleep(0.02)  # as a modality waits before it tries again
                        else:
                            uid = next(uids)

    async def goes_on(self) -> None:
        """Wait until some more were stored."""
        before = len(self.stored)
        await self._wait_for(lambda: len(self.stored) >= before + SOME)

    async def is_refused(self) -> None:
        """Wait until some more were refused."""
        before = self.refused.total()
        await self._wait_for(lambda: self.refused.total() >= before + SENDERS)

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)


async def echo(running: Running) -> None:
    async with associate(running.address, contexts=[VERIFICATION]) as association:
        assert int((await association.c_echo()).status) == 0


async def breaks(
    what: str, running: Running, load: Load, fault: Callable[[], None], end: Callable[[], None]
) -> None:
    """Something breaks, and is mended."""
    await load.goes_on()
    await asyncio.to_thread(fault)
    await load.is_refused()
    await echo(running)
    await asyncio.to_thread(end)
    began = time.monotonic()
    await echo(running)
    answered = time.monotonic() - began
    await load.goes_on()
    print(f"{what}: C-ECHO {answered:.2f} s, {SOME} instances {time.monotonic() - began:.2f} s after its end")


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A disk of its own, that can be filled."""
    folder = Path(tempfile.mkdtemp(prefix="disk-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    try:
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no disk can be mounted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill(disk: Path) -> None:
    """Leave no byte of room."""
    with open(disk / "ballast", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with open(disk / "ballast", "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))


def make_room(disk: Path) -> None:
    (disk / "ballast").unlink()


def make_room_for(database: Server, disk: Path) -> None:
    """And start the database again, if it has ended: it does where its log has no room."""
    make_room(disk)
    if database.has_ended:
        database.start()


def rows(url: str) -> dict[str, str]:
    index = PostgresIndex(url, durability="none", readers=1)
    with index._engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT sop_instance_uid, file FROM instance").all()
    index.close()
    return dict(map(tuple, found))


def children_of(running: Running) -> list[str]:
    pid = running.process.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def check(folder: Path, url: str, *faults: tuple[str, Callable[[], None], Callable[[], None]]) -> None:
    """Serve from a folder while things break, and look for all that was acknowledged."""
    config = folder / "node.toml"
    values = ("port = 0", "processes = 2", 'durability = "process"', "minimum_free = 0")
    config.write_text("\n".join([*values, f'data = "{folder}/data"', f'index = "{url}"', ""]))
    async with serving(config) as running:
        workers = children_of(running)
        async with Load(running.address).running() as load:
            for what, fault, end in faults:
                await breaks(what, running, load, fault, end)
        assert children_of(running) == workers
        running.process.terminate()
        assert await running.ended() == 0
    assert set(load.refused) == {OUT_OF_RESOURCES}
    found = rows(url)
    assert load.stored - found.keys() == set()
    assert all(os.path.exists(folder / "data" / "objects" / file) for file in found.values())


@once
async def _killed(folder: Path, database: Server) -> None:
    database.run("ALTER SYSTEM SET wal_writer_delay = '10s'")  # what nobody waits for is written late
    database.run("SELECT pg_reload_conf()")
    await check(
        folder,
        database.url(),
        ("kill -9 of PostgreSQL", database.kill_9, database.start),
        ("a restart of PostgreSQL", database.stop, database.start),
    )


@pytest.mark.timeout(6 * PATIENCE)
def test_the_database_is_killed(own_server: Server, tmp_path: Path) -> None:
    _killed(tmp_path, own_server)


@once
async def _full(disk: Path, database: Server, disk_of_database: Path) -> None:
    await check(
        disk,
        database.url(),
        ("a full disk of the instances", partial(fill, disk), partial(make_room, disk)),
        (
            "a full disk of PostgreSQL",
            partial(fill, disk_of_database),
            partial(make_room_for, database, disk_of_database),
        ),
    )


@pytest.mark.timeout(6 * PATIENCE)
def test_a_disk_is_full(postgres: Server) -> None:
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(32))
        of_database = stack.enter_context(small_disk(128))
        database = stack.enter_context(server(where=of_database))
        _full(disk, database, of_database)
