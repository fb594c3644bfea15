"""What is around a gateway that owes a great many deliveries: who fills its outbox, sends, and takes."""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from asyncdicom import AssociationPool, Request, Server, Status, Timeouts, associate, file_source, serve
from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.index import deliveries
from asyncdicom.archive.index.chosen import Choice, ChosenInstance
from asyncdicom.archive.index.enqueue import enqueue_for_instances
from asyncdicom.archive.index.sqlite import Index
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.index.writer import Writer
from benchmarks.measure import Measurement, Sample
from benchmarks.peers.ours import Template, copy_contexts

_DELIVERY = "store"
_SCRAPED = 1.0  # seconds between two looks at the metrics

_arrived: dict[str, dict[str, float]] = {}  # by destination and UID, when
_numbers: dict[str, int] = {}  # how many came, by destination
_servers: dict[str, Server] = {}
_came = asyncio.Event()


# the outbox


async def fill(directory: str, destination: str, files: int, revisions: int, size: int) -> float:
    """Store some files, and enqueue so many deliveries of each; gives the seconds that one row took.

    The same bytes are sent again and again, so each row is a delivery that is really made.
    """
    template, base = Template(size), time.time_ns()
    async with Archive(directory, durability="none", scrub=0) as archive:
        for number in range(files):
            await archive.store(template.source(base + number))
        chosen: list[ChosenInstance] = []
        while page := await archive.read(
            archive.chosen.page, Choice(since="2000"), chosen[-1].id if chosen else 0
        ):
            chosen += page
    return await asyncio.to_thread(_enqueue, directory, destination, chosen, revisions)


def _enqueue(directory: str, destination: str, chosen: Sequence[ChosenInstance], revisions: int) -> float:
    index = Index(directory, durability="none", readers=1, calls=FileCalls())
    writer = index.writer()
    # What still waits is not enqueued again: so each is enqueued as one that was given up, and retried.
    work = Work(_DELIVERY, destination, state=State.FAILED, on_duplicate="resend")
    start = time.perf_counter()
    for each in chosen:

        def enqueue(writer: Writer, each: ChosenInstance = each) -> None:
            for second in range(revisions):
                enqueue_for_instances(
                    writer.execute_all, [(each.sop_instance_uid, each.digest, work)], 1.7e9 + second
                )

        writer.change(enqueue)
    seconds = time.perf_counter() - start
    while writer.change(lambda writer: deliveries.retry_failed(writer, None, destination, time.time())):
        pass
    writer.close()
    index.close()
    return seconds / (len(chosen) * revisions)


# the destinations


async def receive(name: str, port: int = 0) -> int:
    """Be a destination, which drops what it gets and notes when it came; gives the port."""
    if name not in _servers:
        _numbers[name], _arrived[name] = 0, {}

        async def take(request: Request) -> Status:
            async for _ in request.data.batches():
                pass
            _numbers[name] += 1
            _arrived[name].setdefault(request.affected_sop_instance_uid, time.perf_counter())
            _came.set()
            return Status.SUCCESS

        _servers[name] = await serve(
            f"{name}@127.0.0.1:{port}", c_store=take, unknown_storage=True, timeouts=Timeouts(idle=None)
        )
    return _servers[name].port


async def arrivals(name: str, count: int, patience: float = 900.0) -> float:
    """Wait until some more came; gives the seconds from the first one of them to the last."""
    first, goal = None, _numbers[name] + count
    async with asyncio.timeout(patience):
        while _numbers[name] < goal:
            _came.clear()
            await _came.wait()
            first = first or time.perf_counter()
    return time.perf_counter() - (first or 0.0)


async def quiet(name: str) -> None:
    """Wait until nothing comes any more."""
    before = -1
    while before != _numbers[name]:
        before = _numbers[name]
        await asyncio.sleep(0.5)


# who sends


async def echo(port: int) -> None:
    """Ask whether it is there."""
    async with associate(f"GATE@127.0.0.1:{port}") as association:
        (await association.c_echo()).raise_for_status()


async def latencies(
    port: int, http: int, count: int, size: int, associations: int, receiver_pid: int, through: str
) -> Sample:
    """Send new instances, and time each until it is at a destination; the metrics are asked for meanwhile."""
    template, came = Template(size), _arrived[through]
    came.clear()
    base, began = time.time_ns(), dict[str, float]()
    sources = iter([template.source(base + number) for number in range(count)])
    scraping = asyncio.create_task(_scrape(http))

    async def work() -> None:
        async with associate(f"GATE@127.0.0.1:{port}", contexts=copy_contexts()) as association:
            for source in sources:
                began[source.sop_instance_uid] = time.perf_counter()
                (await association.c_store(source)).raise_for_status()

    with Measurement(receiver_pid) as it:
        await asyncio.gather(*(work() for _ in range(associations)))
        async with asyncio.timeout(120):
            while len(came) < count:
                _came.clear()
                await _came.wait()
    scraping.cancel()
    await asyncio.wait((scraping,))
    seconds = sorted(came[uid] - start for uid, start in began.items())
    return it.sample(count, count * size) | {
        "p50_ms": seconds[count // 2] * 1e3,
        "p99_ms": seconds[count * 99 // 100] * 1e3,
        "scrape_ms": max(scraping.result() if not scraping.cancelled() else [0.0]) * 1e3,
    }


async def stores(port: int, count: int, size: int, receiver_pid: int) -> Sample:
    """Send new instances, one after the other, and time each until it is answered."""
    template, seconds = Template(size), list[float]()
    base = time.time_ns()
    async with associate(f"GATE@127.0.0.1:{port}", contexts=copy_contexts()) as association:
        with Measurement(receiver_pid) as it:
            for number in range(count):
                start = time.perf_counter()
                (await association.c_store(template.source(base + number))).raise_for_status()
                seconds.append(time.perf_counter() - start)
    seconds.sort()
    return it.sample(count, count * size) | {
        "p50_ms": seconds[count // 2] * 1e3,
        "p99_ms": seconds[count * 99 // 100] * 1e3,
    }


async def _scrape(port: int) -> list[float]:
    """Ask for the metrics, as Prometheus does; gives how long each took, when it is cancelled."""
    took: list[float] = []
    with suppress(asyncio.CancelledError):
        while True:
            start = time.perf_counter()
            await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
            took.append(time.perf_counter() - start)
            await asyncio.sleep(_SCRAPED)
    return took or [0.0]


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response:
        response.read()


def _files(directory: str) -> list[Path]:
    return sorted(Path(directory, "objects").rglob("*.dcm"))


async def send_files(
    port: int, directory: str, count: int, size: int, operations: int, receiver_pid: int, ae_title: str
) -> Sample:
    """Send an archive's files by an `AssociationPool`, over and over: as a gateway, without its work."""
    sources = [file_source(path) for path in _files(directory)]
    turns: Iterator[int] = iter(range(count))
    endless = itertools.cycle(sources)
    length = sum(source.length for source in sources) // len(sources)
    async with AssociationPool(
        f"{ae_title}@127.0.0.1:{port}", size=size, operations=operations, contexts=copy_contexts()
    ) as pool:

        async def work() -> None:
            for _ in turns:
                (await pool.c_store(next(endless))).raise_for_status()

        with Measurement(receiver_pid) as it:
            await asyncio.gather(*(work() for _ in range(size * operations)))
    return it.sample(count, count * length)
