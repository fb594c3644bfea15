"""A durable gateway: what 16 senders bring is sent on to two destinations, beside Orthanc's auto-routing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample, sample
from benchmarks.peers import gateways
from benchmarks.processes import Running, Worker, cpu_seconds_with_children

_OURS, _ORTHANC = "asyncdicom gateway", "Orthanc, Lua auto-routing"
_SENDERS = 16
_FEW = 100  # objects that Orthanc gets: each one that waits there makes the next one slower


def _measure(sender: Worker, sinks: Worker, count: int, size: int, running: Running) -> Sample:
    """Send, and wait until both destinations have everything: until then it is not done."""
    sinks.begin("arrived", count=count)
    cpu, start = cpu_seconds_with_children(running.pid), time.perf_counter()
    sent: Sample = sender.call(
        "send_copies",
        port=running.port,
        count=count,
        size=size,
        associations=_SENDERS,
        receiver_pid=running.pid,
    )
    end: float = sinks.end()
    cpu = cpu_seconds_with_children(running.pid) - cpu
    return sample(end - start, count, count * size, 0.0, cpu) | {"taken_per_s": sent["ops_per_s"]}


def _start(bench: Bench, kind: str, size: int, count: int, stack: ExitStack) -> Measure:
    sinks, sender = bench.worker(stack, "gateways"), bench.worker(stack, "ours")
    ports = sinks.call("receive")
    folder = bench.folder(stack, disk=True)
    if kind == _ORTHANC:
        count = min(count, _FEW)
        running = stack.enter_context(gateways.routing_orthanc(folder, ports))
    else:
        worker = bench.worker(stack, "gateways")
        running = Running(worker.pid, worker.call("route", directory=folder, ports=ports))
    measure = partial(_measure, sender, sinks, size=size, running=running)
    measure(count=_SENDERS)
    return partial(measure, count=count)


def _contenders(size: int, full: int, quick: int, bench: Bench) -> Sequence[Contender]:
    count: int = bench.pick(full, quick)
    return [
        Contender(name, "asyncdicom", what, partial(_start, bench, name, size, count), durability="power")
        for name, what in ((_OURS, "asyncdicom archive and gateway"), (_ORTHANC, "Orthanc"))
    ]


def _scenario(name: str, size: int, full: int, quick: int) -> Scenario:
    kib = size >> 10
    return Scenario(
        name,
        f"{kib} KiB objects from {_SENDERS} senders through a durable gateway to two destinations",
        (
            Column("ops_per_s", "objects/s, in and out"),
            Column("mb_per_s", "MB/s", ".1f"),
            Column("taken_per_s", "taken/s"),
            Column("cpu_us_per_op_receiver", "gateway CPU us/object", ".0f", True),
        ),
        partial(_contenders, size, full, quick),
        (
            Target(
                "at least 3 x Orthanc",
                lambda medians: medians.ratio("ops_per_s", _OURS, _ORTHANC),
                3.0,
            ),
        ),
        (Headline(f"gateway, {kib} KiB", _OURS, "ops_per_s", (_ORTHANC,)),),
        rounds=5,
        quick_rounds=1,
        note=lambda bench: (
            f"{bench.pick(full, quick)} objects a round, Orthanc gets {min(bench.pick(full, quick), _FEW)}; "
            "it ends when both destinations have all of them. "
            "Orthanc: SyncStorageArea, TCP_NODELAY=1; ours: Success says that the deliveries are durable, too"
        ),
    )


SCENARIOS = (_scenario("gateway", 39 << 10, 2000, 100), _scenario("gateway-large", 512 << 10, 500, 50))
