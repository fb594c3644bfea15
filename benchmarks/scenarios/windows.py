"""What the size of the operations window decides: storescu through links of each round trip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Bench, Column, Contender, Scenario, Target
from benchmarks.peers.tools import Command, Ours
from benchmarks.scenarios import distance

_WINDOWS = (8, 16, 32)


class _Window(Ours):
    """asyncdicom with another window than its own."""

    def __init__(self, operations: int) -> None:
        self.name = f"a window of {operations}"
        self.store_options = ("--operations", str(operations))

    def receiver(self, port: int, folder: Path) -> Command:
        """See `Tools`."""
        return [*super().receiver(port, folder), *self.store_options]


def _contenders(job: distance.Job, bench: Bench) -> Sequence[Contender]:
    return [
        Contender(family.name, family.name, family.archive_of, partial(distance.start, bench, job, family))
        for family in map(_Window, _WINDOWS)
    ]


_TARGET = Target(
    "a window of 16 at 100 ms: at least as fast as one of 8",
    lambda medians: medians.ratio("seconds_100", "a window of 8", "a window of 16"),
    1.0,
)


def _scenario(job: distance.Job) -> Scenario:
    return Scenario(
        job.name.replace("store", "window"),
        f"C-STORE, {job.full:,} x {job.kind.name}, by the operations window",
        tuple(Column(f"seconds_{rtt}", f"s at {rtt} ms", ".2f", True) for rtt in distance.RTTS),
        partial(_contenders, job),
        (_TARGET,),
        rounds=1,
        quick_rounds=1,
        note=partial(distance.note, job),
    )


SCENARIOS = tuple(_scenario(job) for job in distance.JOBS if job.service == "store")
