"""Eight senders with a mix of sizes, and what they cost the receiver, beside one sender with the same mix."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample, sample
from benchmarks.peers import dcmtk
from benchmarks.processes import cpu_seconds, cpu_seconds_with_children

_EIGHT = "asyncdicom, 8 senders"
_SENDERS = 8
_SHARES = {instances.IMAGE: 0.18, instances.SMALL: 0.02}  # of the bytes; the large ones have 0.80


def _folders(bench: Bench) -> list[str]:
    large = instances.MODEST if bench.quick else instances.LARGE
    folders = [str(bench.instances(large, 1))]
    for kind, share in _SHARES.items():
        folders.append(str(bench.instances(kind, round(large.size / 0.80 * share / kind.size))))
    return folders


def _send_all(
    bench: Bench, stack: ExitStack, port: int, pid: int, received: str, *, at_once: int, forks: bool
) -> Measure:
    folders = _folders(bench)
    count = sum(len(instances.files(folder)) for folder in folders) * _SENDERS
    size = sum(instances.size_of(folder) for folder in folders) * _SENDERS
    workers = [bench.worker(stack, "ours") for _ in range(at_once)]
    cpu = cpu_seconds_with_children if forks else cpu_seconds

    def measure() -> Sample:
        before = cpu(pid)
        slowest = 0.0
        cpu_sender = 0.0
        for _ in range(_SENDERS // at_once):
            for worker in workers:
                worker.begin("send", port=port, folders=folders, receiver_pid=pid)
            results = [worker.end() for worker in workers]
            slowest += max(result["seconds"] for result in results)
            cpu_sender += sum(
                result["operations"] * result["cpu_us_per_op_sender"] / 1e6 for result in results
            )
        cpu_receiver = cpu(pid) - before
        instances.empty(received, expected=count, at_least=0)
        return sample(slowest, count, size, cpu_sender, cpu_receiver)

    return measure


def _to_ours(bench: Bench, at_once: int, stack: ExitStack) -> Measure:
    received = bench.folder(stack)
    receiver = bench.worker(stack, "ours")
    port = receiver.call("receive", directory=received)
    return _send_all(bench, stack, port, receiver.pid, str(received), at_once=at_once, forks=False)


def _to_dcmtk(bench: Bench, at_once: int, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    options = ("+B", "+uf", "-pdu", "131072", "--fork")
    server = stack.enter_context(dcmtk.storescp(work / "storescp", *options, nodelay=True))
    received = str(work / "storescp" / "received")
    return _send_all(bench, stack, server.port, server.pid, received, at_once=at_once, forks=True)


def _contenders(bench: Bench) -> Sequence[Contender]:
    scp = "storescp +B --fork"
    return [
        Contender(_EIGHT, "8 asyncdicom", "asyncdicom", partial(_to_ours, bench, 8)),
        Contender("asyncdicom, 1 sender", "asyncdicom", "asyncdicom", partial(_to_ours, bench, 1)),
        Contender("DCMTK, 8 senders", "8 asyncdicom", scp, partial(_to_dcmtk, bench, 8)),
        Contender("DCMTK, 1 sender", "asyncdicom", scp, partial(_to_dcmtk, bench, 1)),
    ]


SCENARIO = Scenario(
    "senders",
    "8 senders, 80 % of the bytes in large, 18 % in 512 KiB, 2 % in 39 KiB instances",
    (
        Column("cpu_s_per_gb_receiver", "receiver CPU s/GB", ".3f", True),
        Column("mb_per_s", "MB/s"),
        Column("cpu_s_per_gb_sender", "senders CPU s/GB", ".3f", True),
    ),
    _contenders,
    (
        Target(
            "receiver's CPU s/GB at most 1.2 x that with one sender",
            lambda medians: medians.ratio("cpu_s_per_gb_receiver", _EIGHT, "asyncdicom, 1 sender"),
            at_most=1.2,
        ),
    ),
    (
        Headline(
            "8 senders (receiver's CPU time)",
            _EIGHT,
            "cpu_s_per_gb_receiver",
            ("DCMTK, 8 senders",),
            True,
        ),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: "large is 16 MiB here" if bench.quick else "large is 256 MiB",
)
