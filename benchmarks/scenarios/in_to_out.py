"""How soon an instance is at the destination of a gateway, beside the two C-STOREs that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.scenarios.backlog import Gateway

_THROUGH, _DURABLE, _PLAIN = "through the gateway", "durable C-STORE", "plain C-STORE"
_SIZE = 512 << 10
_UP = "UP"


def _start(bench: Bench, name: str, count: int, stack: ExitStack) -> Measure:
    around = bench.worker(stack, "backlog")
    up: int = around.call("receive", name=_UP)
    if name == _PLAIN:
        sender = bench.worker(stack, "backlog")
        return lambda: sender.call("stores", port=up, count=count, size=_SIZE, receiver_pid=around.pid)
    to = [_UP] if name == _THROUGH else []
    gateway = Gateway(bench, stack, with_backlog=False, up=up, to=to)
    gateway.wait_for_metrics()

    def measure(count: int = count) -> Sample:
        pid = gateway.running.pid
        if name == _DURABLE:
            stored: Sample = around.call(
                "stores", port=gateway.port, count=count, size=_SIZE, receiver_pid=pid
            )
            return stored
        return gateway.latencies(around, count, _SIZE, 1)

    measure(10)
    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    count: int = bench.pick(300, 40)
    return [
        Contender(
            name,
            "asyncdicom",
            where,
            partial(_start, bench, name, count),
            durability="none" if name == _PLAIN else "power",
        )
        for name, where in (
            (_THROUGH, "gateway, then its destination"),
            (_DURABLE, "archive"),
            (_PLAIN, "asyncdicom, to nowhere"),
        )
    ]


SCENARIO = Scenario(
    "gateway-in-to-out",
    f"{_SIZE >> 10} KiB objects, one at a time: until it is at the destination, and its two C-STOREs alone",
    (
        Column("p50_ms", "p50 ms", ".2f", True),
        Column("p99_ms", "p99 ms", ".2f", True),
        Column("cpu_us_per_op_receiver", "receiver CPU us/object", ".0f", True),
    ),
    _contenders,
    (
        Target(
            "p50 at most 3 ms more than a durable C-STORE and a plain one to the destination",
            lambda medians: (
                medians(_THROUGH, "p50_ms") - medians(_DURABLE, "p50_ms") - medians(_PLAIN, "p50_ms")
            ),
            at_most=3.0,
        ),
    ),
    rounds=5,
    quick_rounds=2,
    note=lambda bench: (
        f"{bench.pick(300, 40)} objects a round; the next one is sent when the one before is stored"
    ),
)
