"""SIGTERM and SIGINT: what is under way ends, nothing is lost, and the exit code is 0 or 130."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers.archive_process import CT, LONG, Journal, data_set, long_test, opened, qrscp
from helpers.peer import ABORTED_BY_USER, EOF, RELEASE_RQ, Peer, fragments, message, store_rq

from asyncdicom import PresentationContext, associate
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.pdu import A_RELEASE_RP

CONTEXT = PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))
RESTARTS = 100 if LONG else 3
SENDERS = 8
SOME = 10  # instances of an association


class Server(NamedTuple):
    process: asyncio.subprocess.Process
    port: int

    def stop(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.process.pid, number)

    async def refuses(self) -> bool:
        try:
            await (await Peer.connect(self.port)).close()
        except ConnectionRefusedError:
            return True
        return False


@asynccontextmanager
async def storescp(folder: Path) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "asyncdicom", "storescp", "0", "-od", str(folder), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = re.search(rb":(\d+)", await asyncio.wait_for(process.stdout.readline(), 60))
        assert port is not None
        yield Server(process, int(port[1]))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def archive(folder: Path) -> AsyncIterator[Server]:
    async with qrscp(folder) as running:
        yield Server(running.process, running.port)


Serve = Callable[[Path], AbstractAsyncContextManager[Server]]
both = pytest.mark.parametrize("serve", [archive, storescp], ids=["qrscp", "storescp"])


async def half_stored(port: int, uid: str, data: bytes) -> Peer:
    """A sender in the middle of a C-STORE."""
    peer = await Peer.connect(port)
    await peer.associate([CONTEXT])
    begun = message(1, store_rq(uid=uid)) + fragments(1, False, data)[: len(data) // 2]
    peer.write(begun)
    await peer.writer.drain()
    return peer


def rest_of(data: bytes) -> bytes:
    return fragments(1, False, data)[len(data) // 2 :]


@both
def test_what_is_under_way_ends(serve: Serve, tmp_path: Path) -> None:
    """SIGINT: whoever is between two operations is aborted."""

    async def work() -> None:
        async with serve(tmp_path / "data") as server:
            data = {uid: data_set(uid, 100_000) for uid in ("1.2.3.1.1.1", "1.2.3.1.1.2")}
            senders = [await half_stored(server.port, *each) for each in data.items()]
            async with await Peer.connect(server.port) as silent, await Peer.connect(server.port) as idle:
                await idle.associate([CONTEXT])
                server.stop(signal.SIGINT)
                assert await idle.pdu() == ABORTED_BY_USER
                assert await silent.pdu() == EOF
                assert await server.refuses()
            for sender, each in zip(senders, data.values(), strict=True):
                sender.write(rest_of(each))
                assert (await sender.message()).command.status == 0
                assert await sender.pdu() == ABORTED_BY_USER
                await sender.close()
            assert await asyncio.wait_for(server.process.wait(), 30) == 130
        assert len(list((tmp_path / "data").rglob("*.dcm"))) == 2

    asyncio.run(work())


@both
def test_associations_go_on_until_they_are_done(serve: Serve, tmp_path: Path) -> None:
    """SIGTERM: nobody new comes in, and whoever is there may store one instance after the other."""

    async def work() -> None:
        async with serve(tmp_path / "data") as server:
            data = {uid: data_set(uid) for uid in ("1.2.3.1.1.1", "1.2.3.1.1.2", "1.2.3.1.1.3")}
            async with await Peer.connect(server.port) as sender:
                await sender.associate([CONTEXT])
                server.stop()
                while not await server.refuses():
                    await asyncio.sleep(0.01)
                for uid, each in data.items():
                    sender.send(1, store_rq(uid=uid), each)
                    assert (await sender.message()).command.status == 0
                sender.write(RELEASE_RQ)
                assert (await sender.pdu())[0] == A_RELEASE_RP
            assert await asyncio.wait_for(server.process.wait(), 30) == 0
        assert len(list((tmp_path / "data").rglob("*.dcm"))) == 3

    asyncio.run(work())


@both
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(serve: Serve, second: signal.Signals, tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path / "data") as server:
            data = data_set("1.2.3.1.1.1", 1_000_000)
            sender = await half_stored(server.port, "1.2.3.1.1.1", data)
            server.stop()
            while not await server.refuses():
                await asyncio.sleep(0.01)
            assert server.process.returncode is None
            server.stop(second)
            assert await asyncio.wait_for(server.process.wait(), 15) == 130  # and not after `Timeouts.drain`
            assert await sender.pdu() in (ABORTED_BY_USER, EOF)
            await sender.close()
        assert not list((tmp_path / "data").rglob("*.dcm"))

    asyncio.run(work())


@pytest.mark.skipif(not LONG, reason="takes as long as `Timeouts.drain`")
@both
def test_who_does_not_end_is_aborted(serve: Serve, tmp_path: Path) -> None:
    async def work() -> None:
        async with serve(tmp_path / "data") as server:
            sender = await half_stored(server.port, "1.2.3.1.1.1", data_set("1.2.3.1.1.1", 1_000_000))
            server.stop()
            assert await asyncio.wait_for(server.process.wait(), 60) == 0
            assert await sender.pdu() == ABORTED_BY_USER
            await sender.close()

    asyncio.run(work())


class Sender:
    """Sends one instance after another, some by one association, each until it is taken: as a queue does."""

    def __init__(self, port: int, journal: Journal, number: int) -> None:
        self.retries = 0
        self._address = f"ARCHIVE@127.0.0.1:{port}"
        self._journal = journal
        self._uids = map(f"1.2.3.1.1.{number}.{{}}".format, itertools.count())
        self._uid = next(self._uids)

    async def work(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            try:
                async with associate(self._address, contexts=[CONTEXT]) as association:
                    for _ in range(SOME):
                        data = data_set(self._uid, len(self._uid) % 3 * 100_000 + 1000)
                        if await self._journal.store(association, self._uid, data) == 0:
                            self._uid = next(self._uids)
            except (AssociationError, OSError):
                self.retries += 1
                await asyncio.sleep(0.02)


def a_port_of_our_own() -> int:
    """One that no outgoing connection is given meanwhile."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


@long_test
def test_restarts_lose_nothing(tmp_path: Path) -> None:
    port = a_port_of_our_own()

    async def work() -> None:
        enough = asyncio.Event()
        with opened(tmp_path / "journal", sync=False) as journal:
            senders = [Sender(port, journal, number) for number in range(SENDERS)]
            tasks = [asyncio.ensure_future(sender.work(enough)) for sender in senders]
            for restart in range(RESTARTS + 1):
                async with qrscp(tmp_path / "data", "--port", str(port)) as running:
                    wanted = len(journal.kept) + 3 * SENDERS
                    async with asyncio.timeout(60):
                        while len(journal.kept) < wanted:
                            await asyncio.sleep(0.01)
                    if restart == RESTARTS:
                        enough.set()
                        await asyncio.gather(*tasks)
                    running.process.terminate()
                    assert await asyncio.wait_for(running.process.wait(), 60) == 0
            found = journal.compare(tmp_path / "data")
            sent = {(uid, digest) for uid, digests in journal.sent.items() for digest in digests}
            assert journal.kept == sent  # each arrived at last
            assert found == len(sent)
            assert not journal.failed  # refused by an archive that is closing, say
            retries = sum(sender.retries for sender in senders)
            print(f"{RESTARTS} restarts, {found} acknowledged, 0 lost, {retries} retries")

    asyncio.run(work())
