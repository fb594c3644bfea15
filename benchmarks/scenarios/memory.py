"""How far the memory rises while one huge object goes through."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import dcmtk
from benchmarks.processes import PeakMemory

_GATEWAY, _ARCHIVE = "asyncdicom gateway", "asyncdicom archive"


def _size(bench: Bench) -> int:
    size: int = bench.pick(5 << 30, 256 << 20)
    return size


def _watch(bench: Bench, stack: ExitStack, port: int, pid: int, received: str | None) -> Measure:
    sender = bench.worker(stack, "ours")
    send = partial(sender.call, "send_generated", port=port, receiver_pid=pid)
    send(size=1 << 20)  # so that what a first object imports is not counted

    def measure() -> Sample:
        with PeakMemory(sender.pid) as peak_sender, PeakMemory(pid) as peak:
            sample: Sample = send(size=_size(bench))
        if received is not None:
            instances.empty(received)
        sample["rise_mib"] = peak.rise / 2**20
        sample["rise_mib_sender"] = peak_sender.rise / 2**20
        return sample

    return measure


def _archive(bench: Bench, stack: ExitStack) -> Measure:
    receiver = bench.worker(stack, "archive")
    port = receiver.call("serve", directory=bench.folder(stack, disk=True), durability="power")
    return _watch(bench, stack, port, receiver.pid, None)


def _gateway(bench: Bench, stack: ExitStack) -> Measure:
    sink, gateway = bench.worker(stack, "ours"), bench.worker(stack, "ours")
    port = gateway.call("forward", port=sink.call("receive", directory=None))
    return _watch(bench, stack, port, gateway.pid, None)


def _file(bench: Bench, stack: ExitStack) -> Measure:
    received = bench.folder(stack)
    receiver = bench.worker(stack, "ours")
    port = receiver.call("receive", directory=received)
    return _watch(bench, stack, port, receiver.pid, str(received))


def _dcmtk(bench: Bench, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    options = ("+B", "+xa", "-pdu", "131072")
    server = stack.enter_context(dcmtk.storescp(work / "storescp", *options, nodelay=True))
    return _watch(bench, stack, server.port, server.pid, str(work / "storescp" / "received"))


def _contenders(bench: Bench) -> Sequence[Contender]:
    ours = "asyncdicom"
    return [
        Contender(_ARCHIVE, ours, "archive", partial(_archive, bench), durability="power"),
        Contender(_GATEWAY, ours, "gateway to asyncdicom", partial(_gateway, bench)),
        Contender("asyncdicom to a file", ours, ours, partial(_file, bench)),
        Contender("DCMTK storescp +B", ours, "storescp +B", partial(_dcmtk, bench)),
    ]


SCENARIO = Scenario(
    "memory",
    "one huge object: how far the receiver's RssAnon rises",
    (
        Column("rise_mib", "rise MiB", ".1f", True),
        Column("rise_mib_sender", "sender's rise MiB", ".1f", True),
        Column("mb_per_s", "MB/s"),
        Column("cpu_s_per_gb_receiver", "receiver CPU s/GB", ".2f", True),
    ),
    _contenders,
    (
        Target("archive: at most 32 MiB", lambda medians: medians(_ARCHIVE, "rise_mib"), at_most=32.0),
        Target("gateway: at most 32 MiB", lambda medians: medians(_GATEWAY, "rise_mib"), at_most=32.0),
    ),
    rounds=1,
    quick_rounds=1,
    note=lambda bench: f"{_size(bench) >> 20} MiB",
)
