"""Attacks with what is stuck or used up: logs on a full disk, endless queries, descriptors, handlers.

Most are played on ``qrscp`` as a process of its own. What is counted is who is left without an answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from endurance.attack import Attack, Counts
from endurance.attackers import FIND, STORE, ended, opened, until_the_end, worst_pattern_keys
from endurance.attacks_kept import image, images, send
from endurance.attacks_time import LONG_TEXTS
from endurance.siege import target
from helpers.archive_process import Qrscp, qrscp
from helpers.peer import Peer, cancel_rq, find_rq, store_rq

from asyncdicom import Request, Timeouts, serve
from asyncdicom.exceptions import AssociationError

SOON = 3.0  # seconds; what takes milliseconds and is not there then, is not coming
ONE_STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.5.1"}
FULL_DISK = Path("/dev/full")
ON_ITS_WAY = 1 << 12  # bytes that a pipe takes while nobody reads


@contextmanager
def stuck_pipe(folder: Path) -> Iterator[Path]:
    """A pipe that nobody reads."""
    path = folder.parent / "log"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, ON_ITS_WAY)
        yield path
    finally:
        os.close(descriptor)


async def provoked(archive: Qrscp, rounds: int) -> Counts:
    """Stores that are refused, in conflict or good, each of which is told in the log; who is not answered?"""
    for number in range(rounds):
        uid, good = image(1000 + number)
        _, conflict = image(1000 + number, x00100020=b"OTHER")
        for each in ({uid: good}, {uid: conflict}, {uid + ".1": b"rubbish."}):
            if -1 in await send(archive, each, SOON):
                return {"stores without an answer": 1}  # it may never answer again
    return {"stores without an answer": 0}


async def log_on_a_full_disk(folder: Path) -> Counts:
    async with qrscp(folder, log=FULL_DISK) as archive:
        return await provoked(archive, 1)


async def log_nobody_reads(folder: Path) -> Counts:
    with stuck_pipe(folder) as path:
        async with qrscp(folder, log=path) as archive:
            return await provoked(archive, 40)


async def commit_fails_and_log_too(folder: Path) -> Counts:
    """The index may not grow for a while, and the log is on a full disk."""
    async with qrscp(folder, log=FULL_DISK) as archive:
        assert await send(archive, images(1, 1)) == [0]
        limit = resource.prlimit(archive.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(archive.pid, resource.RLIMIT_FSIZE, (4096, limit[1]))
        failed = await send(archive, images(2, 2), SOON)
        resource.prlimit(archive.pid, resource.RLIMIT_FSIZE, limit)
        afterwards = await send(archive, images(3, 3), SOON)
    return {
        "acknowledged without a row": failed.count(0),
        "stores without an answer": (failed + afterwards).count(-1),
        "refused afterwards": sum(status > 0 for status in afterwards),
    }


async def querying(archive: Qrscp, count: int) -> Peer:
    """A peer with so many queries under way, of the worst patterns."""
    peer = await opened(archive.port, window=16)
    for message_id in range(1, count + 1):
        peer.send(FIND, find_rq(message_id), worst_pattern_keys())
    await peer.writer.drain()
    await asyncio.sleep(0.3)
    return peer


async def queries_cancelled(folder: Path) -> Counts:
    """C-CANCEL for each query that is under way, then a good one of somebody else."""
    await LONG_TEXTS(folder)
    async with qrscp(folder) as archive:
        peer = await querying(archive, 8)
        for message_id in range(1, 9):
            peer.send(FIND, cancel_rq(message_id))
        finals = await until_the_end(peer, of=8, patience=SOON)
        found: Sequence[object] = []
        with suppress(TimeoutError, AssociationError):
            async with asyncio.timeout(SOON), archive.associate() as association:
                found = await association.c_find(ONE_STUDY)
        await ended(peer)
    return {"cancels without an answer": 8 - finals, "good queries without an answer": not found}


async def stopped_while_queried(folder: Path) -> Counts:
    """SIGTERM, after the peer whose queries are under way has vanished."""
    await LONG_TEXTS(folder)
    async with qrscp(folder) as archive:
        peer = await querying(archive, 8)
        await ended(peer)
        archive.process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(archive.process.wait(), SOON)
        return {"still running": archive.process.returncode is None}


async def descriptors_used_up(folder: Path) -> Counts:
    """Idle associations, more than the soft limit of descriptors; the hard limit would allow them."""
    limited = ("bash", "-c", 'ulimit -Sn 64; exec "$@"', "bash")
    async with qrscp(folder, prefix=limited) as archive:
        idle = []
        with suppress(TimeoutError):
            for number in range(80):
                async with asyncio.timeout(1):
                    idle.append(await opened(archive.port, number))
        statuses = await send(archive, images(1, 1), SOON)
        for peer in idle:
            await ended(peer)
    return {"good stores that failed": len(statuses) - statuses.count(0)}


# handlers


async def asked(port: int, message_id: int = 1) -> int | None:
    """What a C-STORE is answered with: its status, -1 for an A-ABORT, None for nothing."""
    peer = await opened(port)
    peer.send(STORE, store_rq(message_id), bytes(100))
    try:
        async with asyncio.timeout(1):
            return (await peer.message()).command.status
    except AssertionError:
        return -1
    except TimeoutError:
        return None
    finally:
        await ended(peer)


async def answers_that_are_none(folder: Path) -> Counts:
    answers = (False, True, None, "0000", 0.0, [0])

    async def handler(request: Request) -> object:
        return answers[request.message_id - 1]

    async with serve("ARCHIVE@127.0.0.1:0", c_store=handler) as server:  # type: ignore[arg-type]
        statuses = [await asked(server.port, number + 1) for number in range(len(answers))]
    return {
        "Success or Warning for no answer": sum(status in (0, 1) for status in statuses),
        "neither answered nor aborted": statuses.count(None),
    }


async def base_exceptions(folder: Path) -> Counts:
    async with target(handlers="raise") as node:
        answers = await asyncio.gather(*(asked(node.port, number) for number in (1, 2, 3)))
    return {"neither answered nor aborted": answers.count(None)}


async def handler_that_hangs(folder: Path) -> Counts:
    async def hang(request: Request) -> int:
        await asyncio.Event().wait()
        return 0

    try:
        async with serve("ARCHIVE@127.0.0.1:0", c_store=hang, **deadline(0.2)) as server:
            return {"neither answered nor aborted": await asked(server.port) is None}
    except TypeError:
        return {"neither answered nor aborted": 1}  # there is no such deadline


def deadline(seconds: float) -> dict[str, Any]:
    """How `serve` is told how long a handler may take."""
    return {"timeouts": Timeouts(handler_deadline=seconds)}


ATTACKS = (
    Attack("log on a full disk", "stores that are refused or in conflict; the log is on a full disk",
           log_on_a_full_disk, {"stores without an answer": 0}),
    Attack("log nobody reads", "up to 80 refusals and conflicts; the log is a pipe that nobody reads",
           log_nobody_reads, {"stores without an answer": 0}),
    Attack("commit fails and log too", "a commit fails for want of room, and the log line about it does",
           commit_fails_and_log_too,
           {"acknowledged without a row": 0, "stores without an answer": 0, "refused afterwards": 0}),
    Attack("queries cancelled", "8 C-FINDs of the worst patterns, C-CANCEL for each, then a good one",
           queries_cancelled, {"cancels without an answer": 0, "good queries without an answer": 0}),
    Attack("stopped while queried", "8 C-FINDs of the worst patterns, then SIGTERM",
           stopped_while_queried, {"still running": 0}),
    Attack("descriptors used up", "80 idle associations with 64 descriptors, of which more could be had",
           descriptors_used_up, {"good stores that failed": 0}),
    Attack("answers that are none", "handlers that give False, True, None, text, 0.0, a list",
           answers_that_are_none, {"Success or Warning for no answer": 0, "neither answered nor aborted": 0}),
    Attack("base exceptions", "handlers that raise GeneratorExit, a BaseException, CancelledError",
           base_exceptions, {"neither answered nor aborted": 0}),
    Attack("handler that hangs", "a handler that does not end, with a deadline",
           handler_that_hangs, {"neither answered nor aborted": 0}),
)  # fmt: skip
