"""A stock DCMTK storescu, with Nagle's algorithm on, sends small instances to each receiver."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import dcmtk

_SHIPPED = "DCMTK storescp as shipped"
_NODELAY = "DCMTK storescp, TCP_NODELAY=1"
_COLUMNS = (
    Column("seconds", "s", ".3f", True),
    Column("ops_per_s", "objects/s"),
    Column("cpu_us_per_op_receiver", "receiver CPU us/object", ".0f", True),
)


def _count(bench: Bench) -> int:
    count: int = bench.pick(100, 10)
    return count


def _sender(bench: Bench, work: Path, received: Path, port: int, pid: int) -> Measure:
    sender = dcmtk.Sender(work / "storescu", bench.instances(instances.TINY, 1), nodelay=False)
    sender.warm_up(port)
    instances.empty(received)
    files = bench.instances(instances.SMALL, _count(bench))

    def measure() -> Sample:
        sample = sender.send(port, files, pid)
        instances.empty(received, expected=_count(bench))
        return sample

    return measure


def _to_worker(bench: Bench, peer: str, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    received = work / "received"
    received.mkdir()
    receiver = bench.worker(stack, peer)
    port = receiver.call("receive", directory=received)
    return _sender(bench, work, received, port, receiver.pid)


def _to_dcmtk(bench: Bench, nodelay: bool, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    server = stack.enter_context(dcmtk.storescp(work / "storescp", nodelay=nodelay))
    return _sender(bench, work, work / "storescp" / "received", server.port, server.pid)


def _contenders(bench: Bench) -> Sequence[Contender]:
    scu = "storescu as shipped"
    return [
        Contender("asyncdicom", scu, "asyncdicom", partial(_to_worker, bench, "ours"), "receiver"),
        Contender(_SHIPPED, scu, "storescp", partial(_to_dcmtk, bench, False), "off"),
        Contender(_NODELAY, scu, "storescp", partial(_to_dcmtk, bench, True), "receiver"),
        Contender("pynetdicom", scu, "pynetdicom", partial(_to_worker, bench, "pynetdicom"), "receiver"),
    ]


SCENARIO = Scenario(
    "nagle",
    "39 KiB instances from a stock DCMTK storescu (Nagle on)",
    _COLUMNS,
    _contenders,
    (
        Target(
            "at least 10 x as fast as DCMTK's storescp as shipped",
            lambda medians: medians.ratio("seconds", _SHIPPED, "asyncdicom"),
            10.0,
        ),
    ),
    (
        Headline(
            "39 KiB from a stock storescu",
            "asyncdicom",
            "ops_per_s",
            (_SHIPPED, _NODELAY, "pynetdicom"),
        ),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: f"{_count(bench)} instances a round",
)
