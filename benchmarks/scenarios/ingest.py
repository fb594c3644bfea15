"""The archive takes small objects and answers when they are durable: beside others, and beside the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.peers import dcmtk, orthanc
from benchmarks.processes import ROOT

_MANY, _ONE = "asyncdicom archive, 64 associations", "asyncdicom archive, 1 association"
_MANY_ORTHANC, _ONE_ORTHANC = "Orthanc, 64 associations", "Orthanc, 1 association"
_DCMQRSCP = "DCMTK dcmqrscp, 1 association"
_DISK = "disk, 16 threads, groups of 64"
_SIZE = 39 * 1024
_ASSOCIATIONS = 64

_FILE = "power: file"
"""The file is synced before Success; the row of its index is not."""


def _count(bench: Bench) -> int:
    count: int = bench.pick(5000, 300)
    return count


def _archive(
    bench: Bench, durability: str, associations: int, stack: ExitStack, checkout: Path = ROOT
) -> Measure:
    receiver, sender = bench.worker(stack, "archive", checkout=checkout), bench.worker(stack, "ours")
    folder = bench.folder(stack, disk=True)
    port = receiver.call("serve", directory=folder, durability=durability)
    count = _count(bench) if associations > 1 else _count(bench) // 5
    send = partial(
        sender.call,
        "send_copies",
        port=port,
        size=_SIZE,
        associations=associations,
        receiver_pid=receiver.pid,
    )
    send(count=associations)
    return partial(send, count=count)


def _orthanc(bench: Bench, associations: int, stack: ExitStack) -> Measure:
    server = stack.enter_context(orthanc.running(bench.folder(stack, disk=True), associations))
    return _others(bench, stack, server.pid, server.port, associations, "RECEIVER")


def _dcmqrscp(bench: Bench, stack: ExitStack) -> Measure:
    server = stack.enter_context(dcmtk.qrscp(bench.folder(stack, disk=True) / "dcmqrscp"))
    return _others(bench, stack, server.pid, server.port, 1, "QRSCP")


def _others(bench: Bench, stack: ExitStack, pid: int, port: int, associations: int, ae_title: str) -> Measure:
    sender = bench.worker(stack, "ours")
    send = partial(
        sender.call,
        "send_copies",
        port=port,
        size=_SIZE,
        associations=associations,
        receiver_pid=pid,
        ae_title=ae_title,
    )
    send(count=associations)
    return partial(send, count=min(500, _count(bench) // 5))  # each one makes the next one slower


def _disk(bench: Bench, stack: ExitStack) -> Measure:
    writer = bench.worker(stack, "archive")
    folder = bench.folder(stack, disk=True)
    return partial(
        writer.call,
        "write_files",
        directory=folder,
        count=_count(bench),
        size=_SIZE,
        threads=16,
        group=_ASSOCIATIONS,
    )


def _older(bench: Bench, checkout: Path) -> Contender:
    start = partial(_archive, bench, "power", _ASSOCIATIONS, checkout=checkout)
    name = f"the archive of {checkout.name}, 64 associations"
    return Contender(name, "asyncdicom", f"asyncdicom archive of {checkout.name}", start, durability="power")


def _contenders(bench: Bench) -> Sequence[Contender]:
    def ours(name: str, durability: str, associations: int) -> Contender:
        start = partial(_archive, bench, durability, associations)
        return Contender(name, "asyncdicom", "asyncdicom archive", start, durability=durability)

    def another(name: str, what: str, start: Callable[[ExitStack], Measure], durability: str) -> Contender:
        return Contender(name, "asyncdicom", what, start, durability=durability)

    older = [] if bench.against is None else [_older(bench, bench.against.resolve())]
    return [
        *older,
        ours(_MANY, "power", _ASSOCIATIONS),
        ours(_ONE, "power", 1),
        ours("asyncdicom archive, 64 associations, not synced", "none", _ASSOCIATIONS),
        another(_MANY_ORTHANC, "Orthanc", partial(_orthanc, bench, _ASSOCIATIONS), _FILE),
        another(_ONE_ORTHANC, "Orthanc", partial(_orthanc, bench, 1), _FILE),
        another(_DCMQRSCP, "dcmqrscp", partial(_dcmqrscp, bench), "process"),
        Contender(_DISK, "-", "create, write, fdatasync, fsync", partial(_disk, bench), "-", "power"),
    ]


SCENARIO = Scenario(
    "ingest",
    "39 KiB objects into the archive, one operation at a time on each association",
    (
        Column("ops_per_s", "objects/s"),
        Column("mb_per_s", "MB/s", ".1f"),
        Column("cpu_us_per_op_receiver", "archive CPU us/object", ".0f", True),
    ),
    _contenders,
    (
        Target(
            "64 associations: at least 0.4 of what the disk does",
            lambda medians: medians.ratio("ops_per_s", _MANY, _DISK),
            0.4,
        ),
        Target(
            "64 associations: an object costs the archive at most 350 us",
            lambda medians: medians(_MANY, "cpu_us_per_op_receiver"),
            at_most=350.0,
        ),
    ),
    (
        Headline("durable ingest, 64 associations", _MANY, "ops_per_s", (_MANY_ORTHANC,)),
        Headline("durable ingest, 1 association", _ONE, "ops_per_s", (_ONE_ORTHANC, _DCMQRSCP)),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: (
        f"{_count(bench)} objects a round, a fifth where one association sends, at most 500 to others. "
        "What a Success promises: ours, that file, name and row survive a power cut; Orthanc "
        "(SyncStorageArea, TCP_NODELAY=1), that the file does: the commit of its index is not synced; "
        "dcmqrscp syncs nothing. The disk: files from 16 threads, then their folder, 64 at a time"
    ),
)
