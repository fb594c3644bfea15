"""Many idle associations in one process: memory and CPU time of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.processes import anonymous_memory, cpu_seconds

_CONTEXTS = 128
_SPARE_DESCRIPTORS = 200
_OURS = "asyncdicom"


def _count(bench: Bench) -> int:
    count: int = bench.pick(10_000, 300)
    return count


def _figures(bench: Bench, pid: int, before: int, count: int, opening: float) -> Sample:
    rise = anonymous_memory(pid) - before
    watch: float = bench.pick(20.0, 2.0)
    start, cpu = time.perf_counter(), cpu_seconds(pid)
    time.sleep(watch)
    used = (cpu_seconds(pid) - cpu) / (time.perf_counter() - start)
    return {
        "kib_each": rise / count / 1024,
        "cpu_percent": used * 100,
        "associations": count,
        "opening_s": opening,
    }


def _ours(bench: Bench, stack: ExitStack) -> Measure:
    receiver, sender = bench.worker(stack, "ours"), bench.worker(stack, "ours")
    wanted = _count(bench)
    allowed = min(
        worker.call("allow_descriptors", count=wanted + _SPARE_DESCRIPTORS) for worker in (receiver, sender)
    )
    count = min(wanted, allowed - _SPARE_DESCRIPTORS)
    port = receiver.call("receive", directory=None, maximum_associations=2 * wanted)
    open_many = partial(sender.call, "open_many", port=port, contexts=_CONTEXTS, store=True)

    def measure() -> Sample:
        # The first ones make what all share: block pool, tables, threads.
        open_many(count=20)
        before = anonymous_memory(receiver.pid)
        figures = _figures(bench, receiver.pid, before, count, open_many(count=count))
        sender.call("close_many")
        return figures

    return measure


def _pynetdicom(bench: Bench, stack: ExitStack) -> Measure:
    count = bench.pick(100, 8)
    receiver, sender = bench.worker(stack, "pynetdicom"), bench.worker(stack, "pynetdicom")
    port = receiver.call("answer_echo")

    def measure() -> Sample:
        sender.call("open_many", port=port, count=5)
        before = anonymous_memory(receiver.pid)
        opening = sender.call("open_many", port=port, count=count)
        figures = _figures(bench, receiver.pid, before, count, opening)
        sender.call("close_many")
        return figures

    return measure


def _contenders(bench: Bench) -> Sequence[Contender]:
    return [
        Contender(_OURS, "asyncdicom", "asyncdicom", partial(_ours, bench)),
        Contender("pynetdicom", "pynetdicom", "pynetdicom", partial(_pynetdicom, bench)),
    ]


SCENARIO = Scenario(
    "idle",
    "idle associations: RssAnon and CPU of the accepting process",
    (
        Column("kib_each", "KiB each", ".1f", True),
        Column("cpu_percent", "CPU %", ".2f", True),
        Column("associations", "associations"),
        Column("opening_s", "opening them took s", ".1f", True),
    ),
    _contenders,
    (
        Target("at most 12 KiB each", lambda medians: medians(_OURS, "kib_each"), at_most=12.0),
        Target("0 % CPU (below 0.5)", lambda medians: medians(_OURS, "cpu_percent"), at_most=0.5),
    ),
    (Headline("memory of an idle association", _OURS, "kib_each", ("pynetdicom",), True),),
    rounds=1,
    quick_rounds=1,
    note=lambda bench: (
        f"{_count(bench)} x {_CONTEXTS} contexts x 3 transfer syntaxes, one C-STORE done on each"
    ),
)
