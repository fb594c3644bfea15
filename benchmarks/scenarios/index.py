"""The archive's index as it grows: what an insertion costs, and how long a C-FIND by an indexed key takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks import identifiers
from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample


def _sizes(bench: Bench) -> tuple[int, ...]:
    sizes: tuple[int, ...] = bench.pick((10_000, 100_000, 1_000_000), (2_000, 20_000))
    return sizes


def _start(bench: Bench, count: int, stack: ExitStack) -> Measure:
    folder = bench.folder(stack, disk=True)
    receiver, sender = bench.worker(stack, "archive"), bench.worker(stack, "ours")
    filled = receiver.call("fill", directory=folder, count=count, one_series=False)
    port = receiver.call("serve", directory=folder, durability="none")
    chance = random.Random(1)
    patients = identifiers.patients(count)
    queries = [
        identifiers.patient_query(identifiers.patient_id(chance.randrange(patients))).hex()
        for _ in range(bench.pick(2000, 200))
    ]

    def measure() -> Sample:
        found = sender.call("find_latency", port=port, identifiers_hex=queries, receiver_pid=receiver.pid)
        return {**found, **filled}

    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    return [
        Contender(f"{count:,} instances", "asyncdicom", "archive", partial(_start, bench, count))
        for count in _sizes(bench)
    ]


SCENARIO = Scenario(
    "index",
    "the archive's index: C-FIND by Patient ID, and the cost of an insertion",
    (
        Column("find_p99_ms", "C-FIND p99 ms", ".2f", True),
        Column("find_p50_ms", "p50 ms", ".2f", True),
        Column("cpu_us_per_op_receiver", "archive CPU us/query", ".0f", True),
        Column("insert_us", "insertion us", ".0f", True),
    ),
    _contenders,
    (
        Target(
            "a million instances: C-FIND p99 at most 10 ms",
            lambda medians: medians("1,000,000 instances", "find_p99_ms"),
            at_most=10.0,
        ),
        Target(
            "insertion: a million costs at most 1.5 x of ten thousand",
            lambda medians: medians.ratio("insert_us", "1,000,000 instances", "10,000 instances"),
            at_most=1.5,
        ),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: "100 instances a patient; one C-FIND after another; insertion: the last 10,000",
)
