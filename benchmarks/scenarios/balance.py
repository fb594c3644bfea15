"""Few long associations on several processes: handed out by one that accepts, or by SO_REUSEPORT."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.processes import Worker

_COUNTS = (4, 8, 16, 40)
_WAYS = {"handed out": "hand_out", "SO_REUSEPORT": "share_port"}


def _name(way: str, processes: int) -> str:
    return f"{way}, {processes} processes"


def _start(bench: Bench, function: str, processes: int, stack: ExitStack) -> Measure:
    port, pids = bench.worker(stack, "balance").call(function, processes=processes)
    caller = bench.worker(stack, "balance")
    runs = bench.pick(10, 3)
    return partial(_measure, caller, itertools.count(), port=port, pids=pids, runs=runs)


def _measure(caller: Worker, seeds: itertools.count[int], *, port: int, pids: list[int], runs: int) -> Sample:
    sample: Sample = caller.call("spreads", port=port, pids=pids, counts=_COUNTS, runs=runs, seed=next(seeds))
    return sample


def _contenders(bench: Bench) -> Sequence[Contender]:
    return [
        Contender(_name(way, processes), "asyncdicom", way, partial(_start, bench, function, processes))
        for processes in (2, 4)
        for way, function in _WAYS.items()
    ]


def _columns() -> tuple[Column, ...]:
    columns = []
    for count in (16, *(each for each in _COUNTS if each != 16)):  # the first one is the one that is drawn
        columns += [
            Column(f"opened_{count}", f"{count} opened", ".2f", True),
            Column(f"opened_{count}_worst", "worst", ".2f", True),
            Column(f"replaced_{count}", "half replaced", ".2f", True),
        ]
    return tuple(columns)


SCENARIO = Scenario(
    "balance",
    "long associations, opened one after another: what the busiest process has, as a multiple of the mean",
    _columns(),
    _contenders,
    (
        Target(
            "handed out to 4 processes: 16 associations, the busiest has at most 1.01 x the mean",
            lambda medians: medians(_name("handed out", 4), "opened_16"),
            at_most=1.01,
        ),
        Target(
            "the same, after half of them ended by chance, and as many came",
            lambda medians: medians(_name("handed out", 4), "replaced_16"),
            at_most=1.01,
        ),
    ),
    (
        Headline(
            "16 associations on 4 processes, the busiest",
            _name("handed out", 4),
            "opened_16",
            (_name("SO_REUSEPORT", 4),),
            True,
        ),
    ),
    rounds=5,
    quick_rounds=1,
    note=lambda bench: f"the mean of {bench.pick(10, 3)} runs a round; worst: the worst of them",
)
