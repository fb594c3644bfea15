"""Three workers of one archive behind HAProxy, under load: restarted in turn, killed, and HAProxy killed.

What is acknowledged is there, an association fails only where its process was killed, and as soon as
something answers again, a C-ECHO is answered. With ASYNCDICOM_LONG each is done to each, again and again.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from helpers.archive_process import CT, LONG, Journal, data_set, long_test, opened
from helpers.postgres import Server
from helpers.serving import PATIENCE, Running, serving
from interop import field
from interop.peers import free_port

from asyncdicom import VERIFICATION, AssociationError, PresentationContext, associate
from asyncdicom.archive.index.postgres import PostgresIndex
from asyncdicom.cli.config import read_config
from asyncdicom.cli.haproxy import configuration
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

ROUNDS = 5 if LONG else 1
NODES = 3
SENDERS = 6 if LONG else 3
SOME = 4  # instances of an association
CONTEXTS = [PresentationContext(uid, (EXPLICIT_VR_LITTLE_ENDIAN,)) for uid in (CT, VERIFICATION)]
CONFIG = """
ae_title = "ARCHIVE"
port = {port}
durability = "process"
data = "{folder}/data"
index = "{index}"
proxies = ["127.0.0.1"]
[timeouts]
drain_notice = {notice}
"""


class Senders:
    """Send some instances by each association, one association after another, and note what fails."""

    def __init__(self, address: str, journal: Journal) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._address = address
        self._journal = journal
        self._uids = map("1.2.3.4.{}".format, itertools.count())
        self._enough = asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._send()) for _ in range(SENDERS)]

    async def _send(self) -> None:
        while not self._enough.is_set():
            try:
                async with associate(self._address, contexts=CONTEXTS) as association:
                    for _ in range(SOME):
                        uid = next(self._uids)
                        assert await self._journal.store(association, uid, data_set(uid)) == 0
                        await asyncio.sleep(0.01)
                self.done += 1
            except (AssociationError, OSError) as error:
                self.failed.append(str(error))
                await asyncio.sleep(0.05)

    async def go_on(self) -> None:
        """Wait until some more associations are done."""
        wanted = self.done + 2 * SENDERS
        async with asyncio.timeout(PATIENCE):
            while self.done < wanted:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._enough.set()
        await asyncio.gather(*self._tasks)


class Cluster:
    """The workers and HAProxy."""

    def __init__(self, folder: Path, index: str) -> None:
        self.port = free_port()
        self.address = f"ARCHIVE@127.0.0.1:{self.port}"
        self._folder = folder
        self._admin = folder / "admin.sock"
        self._nodes: list[tuple[Running, AsyncExitStack]] = []
        self._haproxy: asyncio.subprocess.Process | None = None
        ports = [free_port() for _ in range(NODES)]
        for number, port in enumerate(ports):
            text = CONFIG.format(port=port, folder=folder, index=index, notice=5 if LONG else 4)
            self._config(number).write_text(text)
        places = [f"127.0.0.1:{port}" for port in ports]
        listen = f"127.0.0.1:{self.port}"
        config = read_config(str(self._config(0)))
        text = configuration(config, places, listen, str(self._admin), made_from="node.toml")
        (folder / "haproxy.cfg").write_text(text)

    def _config(self, number: int) -> Path:
        return self._folder / f"node{number}.toml"

    async def _start(self, number: int) -> tuple[Running, AsyncExitStack]:
        stack = AsyncExitStack()
        return await stack.enter_async_context(serving(self._config(number))), stack

    async def start(self) -> None:
        self._nodes = [await self._start(0)]  # which makes the archive
        self._nodes += await asyncio.gather(*(self._start(number) for number in range(1, NODES)))
        await self.start_haproxy()

    async def start_haproxy(self) -> float:
        """Start it; gives when it listened."""
        command = str(field.haproxy()), "-f", str(self._folder / "haproxy.cfg")
        with (self._folder / "haproxy.log").open("ab") as log:
            self._haproxy = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return time.monotonic()
                await asyncio.sleep(0.01)

    async def kill_haproxy(self) -> None:
        if self._haproxy is not None:
            self._haproxy.kill()
            await self._haproxy.wait()
            self._haproxy = None

    async def end(self, number: int, how: int = signal.SIGTERM) -> int:
        """End a worker; gives its exit code."""
        node, stack = self._nodes[number]
        async with stack:
            node.process.send_signal(how)
            return await node.ended()

    async def begin(self, number: int) -> None:
        """Start it again, and wait until HAProxy has asked it."""
        self._nodes[number] = await self._start(number)
        await self.is_up(number)

    async def is_up(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while not (await self._status(number)).startswith("UP"):
                await asyncio.sleep(0.05)

    async def _status(self, number: int) -> str:
        reader, writer = await asyncio.open_unix_connection(self._admin)
        writer.write(b"show stat -1 4 -1\n")
        rows = (await reader.read()).decode().splitlines()
        writer.close()
        names = rows[0].lstrip("# ").split(",")
        found = [dict(zip(names, row.split(","), strict=False)) for row in rows[1:]]
        return next(row["status"] for row in found if row["svname"] == f"node{number + 1}")

    async def echo(self) -> None:
        async with associate(self.address, calling_ae_title="WATCHDOG") as association:
            assert (await association.c_echo(timeout=10)).status == 0

    async def close(self) -> None:
        await self.kill_haproxy()
        for _, stack in self._nodes:
            await stack.aclose()


@asynccontextmanager
async def cluster(folder: Path, index: str) -> AsyncIterator[Cluster]:
    made = Cluster(folder, index)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


def stored(url: str, folder: Path) -> set[tuple[str, str]]:
    """The instances that the index has, and whose file is there, with their digests."""
    index = PostgresIndex(url, durability="none", readers=1)
    with index._engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT sop_instance_uid, digest, file FROM instance").all()
    index.close()
    return {(uid, digest) for uid, digest, file in rows if (folder / "data" / "objects" / file).is_file()}


@long_test
def test_restarts_cost_nobody_anything_and_kills_no_instance(postgres: Server, tmp_path: Path) -> None:
    """Once: the event loop of the test is not what is tested."""
    field.need("haproxy")
    index = postgres.url()

    async def work() -> None:
        with opened(tmp_path / "journal", sync=False) as journal:
            async with cluster(tmp_path, index) as made:
                senders = Senders(made.address, journal)
                await senders.go_on()
                for number in range(NODES * ROUNDS if LONG else 1):
                    assert await made.end(number % NODES) == 0
                    await senders.go_on()
                    await made.begin(number % NODES)
                    await senders.go_on()
                assert senders.failed == [], "an association failed, where nothing was killed"
                restarted = senders.done
                for number in range(ROUNDS):
                    await _killed(made, senders, number % NODES)
                await senders.end()
                print(f"{restarted} associations during restarts, 0 failed; {len(senders.failed)} by kills")
            found = stored(index, tmp_path)
            assert journal.kept <= found
            assert {uid for uid, _ in found} <= set(journal.sent)
            assert not journal.failed

    asyncio.run(work())


async def _killed(made: Cluster, senders: Senders, number: int) -> None:
    """HAProxy has nothing to find out before it passes on: the first call after it listens is answered."""
    await made.kill_haproxy()
    listened = await made.start_haproxy()
    await made.echo()
    print(f"C-ECHO {time.monotonic() - listened:.3f} s after HAProxy was there again")
    await senders.go_on()
    before = len(senders.failed)
    assert await made.end(number, signal.SIGKILL) == -signal.SIGKILL
    await made.echo()  # by the others
    await senders.go_on()
    began = time.monotonic()
    await made.begin(number)
    took = time.monotonic() - began
    print(f"a worker killed: {len(senders.failed) - before} associations failed; up in {took:.3f} s")
    await made.echo()
    await senders.go_on()
