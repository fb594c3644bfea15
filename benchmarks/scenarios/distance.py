"""Over distance: whole commands of each family, from start to end, through links of 0 to 200 ms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.instances import Kind
from benchmarks.measure import Sample
from benchmarks.peers import tools
from benchmarks.peers.tools import Tools
from benchmarks.processes import Worker, free_port, run, server

OURS, DCMTK = "asyncdicom", "DCMTK"
RTTS, QUICK_RTTS = (0, 10, 50, 100, 200), (0, 50)
ALL, A_FIFTH, ONE = range(3)
"""Studies of the same kind of instances: all, a fifth of them, and one."""


class Job(NamedTuple):
    """What is asked for: a service, and how many instances of which kind."""

    service: str
    kind: Kind
    full: int
    quick: int
    quick_kind: Kind | None = None
    at_least: float = 1.0
    """So many times as fast as DCMTK at 50 ms it should be."""

    @property
    def name(self) -> str:
        """The name of the scenario."""
        return f"{self.service}-{self.kind.name.replace(' ', '').lower()}"


JOBS = (
    *(Job(service, instances.SMALL, 1000, 30, at_least=8.0) for service in ("store", "get", "move")),
    *(Job(service, instances.IMAGE, 300, 10, at_least=5.0) for service in ("store", "get", "move")),
    *(Job(service, instances.LARGE, 1, 1, instances.MODEST) for service in ("store", "get", "move")),
    Job("find", instances.SMALL, 1000, 30),
)
_SERVICES = {"store": "C-STORE", "get": "C-GET", "move": "C-MOVE", "find": "C-FIND"}
_FAMILIES_OF = {"get": tools.FAMILIES, "find": tools.FAMILIES}  # dcm4che has only these two


class _Run:
    """One family does one job: its server is up, with a link of each round trip to it."""

    def __init__(self, bench: Bench, job: Job, family: Tools, stack: ExitStack) -> None:
        family.check()
        self._bench, self._job, self._family = bench, job, family
        self._kind = bench.pick(job.kind, job.quick_kind or job.kind)
        self._count: int = bench.pick(job.full, job.quick)
        self._work = bench.folder(stack)
        self._received = self._work / "received"
        self._received.mkdir()
        self._links = stack.enter_context(Worker("benchmarks.link", loop="precise"))
        self._receiving = free_port()  # the destination of C-MOVE
        self.rtts: Sequence[int] = bench.pick(RTTS, QUICK_RTTS)
        self._port = free_port()
        self._start(stack)
        self._ports = self._links_to(self._port)

    def _links_to(self, port: int) -> dict[int, int]:
        return {rtt: self._links.call("open_link", port=port, rtt=rtt / 1e3) for rtt in self.rtts}

    def _start(self, stack: ExitStack) -> None:
        family, env = self._family, tools.environment()
        if self._job.service == "store":
            command = family.receiver(self._port, self._received)
            stack.enter_context(server(command, self._port, env=env, cwd=self._work))
            return
        destinations = {f"D{rtt}": port for rtt, port in self._links_to(self._receiving).items()}
        command = family.archive(self._port, self._work / "archive", destinations)
        stack.enter_context(server(command, self._port, env=env, cwd=self._work))
        for study in dict.fromkeys(study for rtt in self.rtts for study in self._studies(rtt)):
            self._run(family.store(self._port, self._files(study)))

    def _studies(self, rtt: int) -> Sequence[int]:
        """The studies whose times tell what this round trip costs."""
        is_long = rtt > self._family.whole_to and self._count >= 10 and self._job.service != "find"
        return (ONE, A_FIFTH) if is_long else (ALL,)

    def _size(self, study: int) -> int:
        return {ALL: self._count, A_FIFTH: self._count // 5, ONE: 1}[study]

    def _files(self, study: int) -> Path:
        return self._bench.instances(self._kind, self._size(study), study)

    def _run(self, command: list[str]) -> float:
        return run(command, cwd=self._work, env=tools.environment()).wall

    def seconds(self, rtt: int) -> float:
        """What the job takes; where it was done in part, a line through its two parts is continued."""
        times = {self._size(study): self._time(rtt, study) for study in self._studies(rtt)}
        (less, first), (more, last) = min(times.items()), max(times.items())
        return last if less == more else first + (last - first) / (more - less) * (self._count - less)

    def _time(self, rtt: int, study: int) -> float:
        port, uid = self._ports[rtt], instances.study_uid(self._kind, study)
        commands: dict[str, Callable[[], list[str]]] = {
            "store": lambda: self._family.store(port, self._files(study)),
            "get": lambda: self._family.get(port, uid, self._received),
            "move": lambda: self._family.move(port, uid, self._received, f"D{rtt}", self._receiving),
            "find": lambda: self._family.find(port, uid, instances.series_uid(self._kind, study)),
        }
        seconds = self._run(commands[self._job.service]())
        if self._job.service != "find":
            instances.empty(
                self._received, expected=self._size(study), at_least=self._size(study) * self._kind.size
            )
        return seconds


def start(bench: Bench, job: Job, family: Tools, stack: ExitStack) -> Measure:
    it = _Run(bench, job, family, stack)

    def measure() -> Sample:
        sample = {}
        for rtt in it.rtts:
            bench.report(f"{bench.progress}{job.name}: {family.name} at {rtt} ms")
            sample[f"seconds_{rtt}"] = it.seconds(rtt)
        return sample

    return measure


def _contenders(job: Job, bench: Bench) -> Sequence[Contender]:
    def contender(family: Tools) -> Contender:
        return Contender(family.name, family.name, family.archive_of, partial(start, bench, job, family))

    return [contender(family) for family in _FAMILIES_OF.get(job.service, tools.FAMILIES[:3])]


def _target(job: Job) -> Target:
    return Target(
        f"at 50 ms at least {job.at_least:g} x as fast as DCMTK",
        lambda medians: medians.ratio("seconds_50", DCMTK, OURS),
        job.at_least,
    )


def note(job: Job, bench: Bench) -> str:
    kind = bench.pick(job.kind, job.quick_kind or job.kind)
    return (
        f"{bench.pick(job.full, job.quick)} x {kind.name}; seconds from the start of the command to its end"
    )


def _scenario(job: Job) -> Scenario:
    return Scenario(
        job.name,
        f"{_SERVICES[job.service]}, {job.full:,} x {job.kind.name}",
        tuple(Column(f"seconds_{rtt}", f"s at {rtt} ms", ".2f", True) for rtt in RTTS),
        partial(_contenders, job),
        (_target(job),),
        rounds=1,
        quick_rounds=1,
        note=partial(note, job),
    )


SCENARIOS = tuple(_scenario(job) for job in JOBS)
