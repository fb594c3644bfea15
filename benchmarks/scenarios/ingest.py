"""The archive takes small objects and answers when they are durable, beside what the disk itself does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.peers import dcmtk

_MANY, _DISK = "asyncdicom archive, 64 associations", "disk, 16 threads"
_SIZE = 39 * 1024


def _count(bench: Bench) -> int:
    count: int = bench.pick(5000, 300)
    return count


def _archive(bench: Bench, durability: str, associations: int, stack: ExitStack) -> Measure:
    receiver, sender = bench.worker(stack, "archive"), bench.worker(stack, "ours")
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


def _dcmqrscp(bench: Bench, stack: ExitStack) -> Measure:
    folder = bench.folder(stack, disk=True) / "dcmqrscp"
    server = stack.enter_context(dcmtk.qrscp(folder))
    sender = bench.worker(stack, "ours")
    return partial(
        sender.call,
        "send_copies",
        port=server.port,
        count=min(500, _count(bench) // 5),  # each one makes the next one slower
        size=_SIZE,
        associations=1,
        receiver_pid=server.pid,
        ae_title="QRSCP",
    )


def _disk(bench: Bench, stack: ExitStack) -> Measure:
    writer = bench.worker(stack, "archive")
    folder = bench.folder(stack, disk=True)
    return partial(writer.call, "write_files", directory=folder, count=_count(bench), size=_SIZE, threads=16)


def _contenders(bench: Bench) -> Sequence[Contender]:
    def ours(name: str, durability: str, associations: int) -> Contender:
        start = partial(_archive, bench, durability, associations)
        return Contender(name, "asyncdicom", "asyncdicom archive", start, durability=durability)

    return [
        ours(_MANY, "power", 64),
        ours("asyncdicom archive, 1 association", "power", 1),
        ours("asyncdicom archive, 64 associations, not synced", "none", 64),
        Contender("DCMTK dcmqrscp, 1 association", "asyncdicom", "dcmqrscp", partial(_dcmqrscp, bench)),
        Contender(_DISK, "-", "create, write, fdatasync", partial(_disk, bench), "-", "power"),
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
            "64 associations: at least half of what the disk does",
            lambda medians: medians.ratio("ops_per_s", _MANY, _DISK),
            0.5,
        ),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: f"{_count(bench)} objects a round, a fifth of them where one association sends",
)
