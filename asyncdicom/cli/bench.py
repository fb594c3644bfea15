"""``asyncdicom bench``: how quick a peer is, measured within limits, and writing only when told."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import click

from asyncdicom.cli.number import Number
from asyncdicom.cli.options import EPILOG, peer_options
from asyncdicom.cli.output import json_line
from asyncdicom.cli.peer import Peer
from asyncdicom.cli.run import FAILED, OK, run
from asyncdicom.cli.tool import Tool

if TYPE_CHECKING:
    from asyncdicom.scu.client import Client

_MOST = 10_000  # requests of a kind
_MOST_MATCHES = 100
_MOST_INSTANCES = 10_000


@dataclass
class Measured:
    """What was done of a kind: the seconds that each took, and the first reason of those that failed."""

    name: str
    times: list[float] = field(default_factory=list)
    failed: int = 0
    why: str = ""
    bytes: int = 0
    seconds: float = 0.0

    def percentile(self, percent: float) -> float:
        """Give the milliseconds that so many percent took at most."""
        ordered = sorted(self.times)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000 if ordered else 0.0

    @property
    def rate(self) -> float:
        """How many were done a second."""
        return len(self.times) / self.seconds if self.seconds else 0.0


@click.command(cls=Tool, habits_of="BENCH", epilog=EPILOG)
@click.option("--seconds", type=Number(1, 60), default=5, show_default=True, help="For each kind.")
@click.option(
    "--associations",
    type=Number(1, 16),
    default=1,
    show_default=True,
    help="How many associations, with one request at a time on each.",
)
@click.option(
    "--find", "keys", multiple=True, metavar="KEY=VALUE", help="Query by this; 100 matches at most."
)
@click.option("--get", "study", metavar="UID", help="Retrieve this study, again and again; nothing is saved.")
@click.option(
    "--store",
    "files",
    multiple=True,
    type=click.Path(exists=True),
    metavar="FILE",
    help="Send this file or folder, once. Without it nothing is written to the peer.",
)
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw the times (matplotlib).")
@peer_options("BENCH")
def command(
    peer: Peer,
    seconds: int,
    associations: int,
    keys: tuple[str, ...],
    study: str | None,
    files: tuple[str, ...],
    plot: str | None,
    as_json: bool,
) -> int:
    """Measure PEER: C-ECHO, and what the options ask for. Ask its owner before.

    \b
    asyncdicom bench PACS@10.0.0.5:104
    asyncdicom bench PACS@10.0.0.5:104 --associations 4 --find PatientID=123 --get 1.2.3 --plot pacs.png

    Gives the requests a second, and the milliseconds that half, 95 % and 99 % of them took at most.
    """
    from asyncdicom.cli.keys import wanted

    query = wanted(None, None, keys) if keys else None
    if plot is not None:
        _matplotlib()
    pairs = None if query is None else query.identifier
    return run(lambda: _bench(peer, seconds, associations, pairs, study, files, plot, as_json))


async def _bench(
    peer: Peer,
    seconds: int,
    associations: int,
    keys: object,
    study: str | None,
    files: tuple[str, ...],
    plot: str | None,
    as_json: bool,
) -> int:
    from dataclasses import replace

    from asyncdicom.scu.client import Client

    options = peer.options() | {"limits": replace(peer.limits, operations_invoked=1)}
    results = []
    async with Client(peer.address, associations=associations, **options) as pacs:
        await pacs.echo()  # if there is no association, there is nothing to measure
        kinds: list[tuple[str, Callable[[], Awaitable[int]] | None]] = [
            ("echo", lambda: _echo(pacs)),
            ("find", None if keys is None else lambda: _find(pacs, keys)),
            ("get", None if study is None else lambda: _get(pacs, study)),
        ]
        for name, once in kinds:
            if once is not None:
                results.append(await _measure(name, once, seconds, associations))
                _report(results[-1], as_json)
        if files:
            results.append(await _store(pacs, files, associations))
            _report(results[-1], as_json)
    if plot is not None:
        import asyncio

        await asyncio.to_thread(_draw, results, str(peer.address), plot)
    return FAILED if any(result.failed for result in results) else OK


async def _echo(pacs: Client) -> int:
    (await pacs.echo()).raise_for_status()
    return 0


async def _find(pacs: Client, keys: object) -> int:
    from contextlib import aclosing

    matches = 0
    async with aclosing(aiter(pacs.find(keys, returned=[]))) as found:  # type: ignore[arg-type]
        async for _ in found:
            matches += 1
            if matches == _MOST_MATCHES:
                break
    return 0


async def _get(pacs: Client, study: str) -> int:
    retrieving = pacs.retrieve(study, maximum_instances=_MOST_INSTANCES)
    size = 0
    async for instance in retrieving:
        size += instance.size
    retrieving.result.raise_for_failures()
    return size


async def _measure(name: str, once: Callable[[], Awaitable[int]], seconds: int, at_once: int) -> Measured:
    """Do it again and again, on so many associations, until the time is over."""
    import asyncio

    result = Measured(name)
    start = time.perf_counter()
    left = iter(range(_MOST))

    async def work() -> None:
        for _ in left:
            if time.perf_counter() - start >= seconds or result.failed >= 10:
                return
            await _timed(result, once)

    await asyncio.gather(*(work() for _ in range(at_once)))
    result.seconds = time.perf_counter() - start
    return result


async def _timed(result: Measured, once: Callable[[], Awaitable[int]]) -> None:
    from asyncdicom.exceptions import DicomNetworkError

    begin = time.perf_counter()
    try:
        result.bytes += await once()
    except (DicomNetworkError, OSError) as error:
        result.failed += 1
        result.why = result.why or " ".join(str(error).split())
    else:
        result.times.append(time.perf_counter() - begin)


async def _store(pacs: Client, files: Sequence[str], at_once: int) -> Measured:
    """Send each file once."""
    import asyncio

    from asyncdicom.net.threads import file_threads, in_thread
    from asyncdicom.scu.files import find_files

    def sized() -> list[tuple[str, int]]:
        return [(path, os.stat(path).st_size) for path in find_files(files)]

    paths = iter(await in_thread(file_threads(), sized))
    result = Measured("store")
    start = time.perf_counter()

    async def send(path: str, size: int) -> int:
        stored = (await pacs.store(path)).raise_for_failures()
        return size if stored.sent else 0

    async def work() -> None:
        for path, size in paths:
            await _timed(result, partial(send, path, size))

    await asyncio.gather(*(work() for _ in range(at_once)))
    result.seconds = time.perf_counter() - start
    return result


def _report(result: Measured, as_json: bool) -> None:
    p50, p95, p99 = (result.percentile(percent) for percent in (50, 95, 99))
    speed = result.bytes / result.seconds / 1e6 if result.seconds else 0.0
    if as_json:
        json_line(
            kind=result.name,
            done=len(result.times),
            failed=result.failed,
            per_second=round(result.rate, 3),
            p50_ms=round(p50, 3),
            p95_ms=round(p95, 3),
            p99_ms=round(p99, 3),
            megabytes_per_second=round(speed, 3),
            **({"error": result.why} if result.why else {}),
        )
        return
    volume = f", {speed:.1f} MB/s" if result.bytes else ""
    failed = f", {result.failed} failed: {result.why}" if result.failed else ""
    times = f"50 % in {p50:.1f} ms, 95 % in {p95:.1f} ms, 99 % in {p99:.1f} ms"
    print(
        f"{result.name:5} {len(result.times)} done, {result.rate:.1f}/s{volume}, {times}{failed}", flush=True
    )


def _matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install matplotlib")


def _draw(results: Sequence[Measured], peer: str, file: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for result in results:
        times = sorted(1000 * each for each in result.times)
        if times:
            share = [100 * (number + 1) / len(times) for number in range(len(times))]
            axes.step(times, share, where="post", label=f"{result.name}: {result.rate:.1f}/s")
    axes.set(xscale="log", xlabel="milliseconds (less is better)", ylabel="% of the requests", title=peer)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
