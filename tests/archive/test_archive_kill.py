"""kill -9 at every file and socket system call of a store and of a group commit, and at any time under load.

The archive is a process of its own; after each kill it is started again on the same folder. Whatever was
acknowledged must be there, whole, and nothing else but what was sent (`Journal.compare`).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from helpers.archive_process import (
    LONG,
    Journal,
    Qrscp,
    data_set,
    digest_of,
    files_below,
    long_test,
    needs_strace,
    opened,
    qrscp,
    strace,
    threads_of,
)
from helpers.buckets import below

from asyncdicom.exceptions import AssociationError

CALLS = "%file,%desc,%network,io_submit,io_getevents"
GROUP = 16
SECONDS = float(os.environ.get("ASYNCDICOM_LONG_SECONDS", "240")) if LONG else 2.0
CHAINS = 2  # archives that are killed at the same time: one a core

Store = Callable[[Qrscp, Journal, str], Awaitable[None]]


class Point(NamedTuple):
    """The n-th time that a thread makes a system call."""

    thread: str
    call: str
    number: int


async def one(archive: Qrscp, journal: Journal, uid: str) -> None:
    await archive.store(journal, uid, data_set(uid, 300_000))


async def group(archive: Qrscp, journal: Journal, uid: str) -> None:
    """Stores that are finished while the first of them is being committed."""
    uids = [f"{uid}.{number}" for number in range(GROUP)]
    await asyncio.gather(*(archive.store(journal, each, data_set(each, 2000)) for each in uids))


def options_for(store: Store, calls: str = CALLS, *inject: str) -> list[str]:
    options = ["-e", f"trace={calls}", *(word for each in inject for word in ("-e", f"inject={each}"))]
    if store is group:  # holds the first sync up until the others have arrived
        held = "openat" if calls == "io_submit" else "io_submit"
        options[1] += f",{held}"
        options += ["-e", f"inject={held}:delay_enter=150000:when=1"]
    return options


async def points_of(store: Store, folder: Path) -> list[Point]:
    """Let one store pass, and see what system calls it makes."""
    with opened(folder / "journal") as journal:
        async with qrscp(folder / "archive") as archive:
            threads = await threads_of(archive, journal, "1.2.3.1.1.1")
            async with strace(archive.pid, "-f", *options_for(store), output=folder / "trace"):
                await store(archive, journal, "1.2.3.1.1.2")
            journal.compare(archive.root)
    roles = {number: name for name, number in threads.items()}
    counts: Counter[tuple[str, str]] = Counter()
    for line in (folder / "trace").read_text().splitlines():
        found = re.match(r"(\d+) +(\w+)\(", line)
        if found and int(found[1]) in roles:
            counts[roles[int(found[1])], found[2]] += 1
    return [Point(*where, n) for where, count in sorted(counts.items()) for n in range(1, count + 1)]


async def kill_at_each(points: Iterable[Point], store: Store, folder: Path) -> int:
    """Kill an archive at one point after another; gives how many of them it came to."""
    numbers = itertools.count()
    with opened(folder / "journal") as journal:
        reached = 0
        for point in points:
            for _ in range(3):  # threads take turns as they like: it may not come so far
                if await kill_at(point, store, folder, journal, f"1.2.3.1.1.{next(numbers)}"):
                    reached += 1
                    break
        await finally_all_is_well(folder / "archive", journal)
    return reached


async def kill_at(point: Point, store: Store, folder: Path, journal: Journal, uid: str) -> bool:
    async with qrscp(folder / "archive") as archive:
        journal.compare(archive.root)  # what the last kill has left
        threads = await threads_of(archive, journal, f"{uid}.1")
        kill = options_for(store, point.call, f"{point.call}:signal=SIGKILL:when={point.number}")
        async with strace(threads[point.thread], *kill, output=folder / "trace"):
            await store(archive, journal, f"{uid}.2")
        with suppress(TimeoutError):
            await asyncio.wait_for(archive.process.wait(), 0.2)
        return archive.process.returncode == -9


async def finally_all_is_well(folder: Path, journal: Journal) -> int:
    for path in below(folder).rglob("*.dcm"):
        os.utime(path, (0, 0))  # what is young may be another process's, in a bucket
    async with qrscp(folder) as archive:
        journal.compare(folder)
        for uid, _ in random.sample(sorted(journal.kept), min(10, len(journal.kept))):
            (fetched,) = await archive.fetch(uid)
            assert digest_of(fetched) in journal.sent[uid]
        async with asyncio.timeout(30):  # the sweep indexes what is whole, and leaves nothing without a row
            while files_below(folder) != (count := journal.compare(folder)):
                await asyncio.sleep(0.1)
    return count


async def kill_at_points(store: Store, folder: Path, quick: int) -> tuple[int, int]:
    (folder / "watched").mkdir()
    points = await points_of(store, folder / "watched")
    assert {point.thread for point in points} == {"loop", "files", "index"}
    if not LONG:
        points = points[:: max(1, len(points) // quick)]
    chains: list[Sequence[Point]] = [points[start::CHAINS] for start in range(CHAINS)]
    for number in range(CHAINS):
        (folder / str(number)).mkdir()
    works = (kill_at_each(chain, store, folder / str(number)) for number, chain in enumerate(chains))
    return sum(await asyncio.gather(*works)), len(points)


def run(work: Awaitable[object]) -> None:
    async def main() -> None:
        print(await work)

    asyncio.run(main())


@needs_strace
@long_test
def test_killed_at_a_system_call_of_a_store(tmp_path: Path) -> None:
    async def work() -> str:
        reached, points = await kill_at_points(one, tmp_path, quick=4)
        assert reached >= 0.8 * points
        return f"killed at {reached} of {points} system calls of one store"

    run(work())


@needs_strace
@long_test
def test_killed_at_a_system_call_of_a_group_commit(tmp_path: Path) -> None:
    async def work() -> str:
        reached, points = await kill_at_points(group, tmp_path, quick=4)
        assert reached >= 0.8 * points
        return f"killed at {reached} of {points} system calls of a group commit"

    run(work())


@needs_strace
def test_a_start_syncs_what_a_killed_archive_had_not(tmp_path: Path) -> None:
    """Its rows may be in the WAL and not on the disk, and whoever sends again is told: it is here already."""
    watched = ["strace", "-D", "-f", "--seccomp-bpf", "-y", "-e", "trace=fdatasync,fsync,listen"]
    trace = tmp_path / "trace"

    async def work() -> str:
        with opened(tmp_path / "journal") as journal:
            async with qrscp(tmp_path / "archive") as archive:
                await one(archive, journal, "1.2.3.1.1.1")
            async with qrscp(tmp_path / "archive", prefix=[*watched, "-o", str(trace)]) as archive:
                return f"{journal.compare(archive.root)} instance is there"

    run(work())
    before, _, _ = trace.read_text().partition(" listen(")
    assert "index.sqlite-wal>)" in before


async def keep_sending(archive: Qrscp, journal: Journal, prefix: str, chance: random.Random) -> None:
    """One sender: small and large, some again, some under a UID that has other bytes."""
    sent: list[str] = []
    with suppress(AssociationError, OSError):
        async with archive.associate() as association:
            for number in itertools.count():
                uid = f"1.2.3.1.1.{prefix}.{number}"
                if sent and chance.random() < 0.1:
                    uid = chance.choice(sent)
                sent.append(uid)
                size = chance.choice((100, 500, 500, 3000, 3000, 30_000, 300_000, 1_500_000))
                assert await journal.store(association, uid, data_set(uid, size)) in (0x0000, 0xB007)


@long_test
def test_killed_at_any_moment_under_load(tmp_path: Path) -> None:
    async def work() -> str:
        chance = random.Random()
        kills = stored = 0
        end = asyncio.get_running_loop().time() + SECONDS
        for folder in map(tmp_path.joinpath, map(str, itertools.count())):
            with opened(tmp_path / "journal") as journal:
                for life in range(20):
                    async with qrscp(folder) as archive:
                        journal.compare(folder)
                        senders = [
                            asyncio.ensure_future(keep_sending(archive, journal, f"{life}.{n}", chance))
                            for n in range(8)
                        ]
                        await asyncio.sleep(chance.uniform(0.05, 0.8))
                        await archive.kill()
                        await asyncio.gather(*senders)
                        kills += 1
                    if (stored or journal.kept) and asyncio.get_running_loop().time() > end:
                        break
                await finally_all_is_well(folder, journal)
                stored += len(journal.kept)
            shutil.rmtree(folder)
            if stored and asyncio.get_running_loop().time() > end:
                break
        assert stored > 0
        return f"{kills} kills, {stored} acknowledged instances"

    run(work())
