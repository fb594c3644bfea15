"""How a scenario is run: every contender is started, then they take turns, round after round."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import instances
from benchmarks.machine import file_system
from benchmarks.measure import Sample
from benchmarks.processes import RECEIVER, ROOT, SENDER, BenchmarkError, Missing, Worker, on_core

Measure = Callable[[], Sample]
_TMPFS = Path("/dev/shm")
_ENOUGH = 2 << 30


class Column(NamedTuple):
    """A figure that the table shows; the first one of a scenario is drawn too."""

    key: str
    title: str
    format: str = ".0f"
    less_is_better: bool = False


class Contender(NamedTuple):
    """Somebody who takes part: ``start`` starts its processes and gives the function that measures once."""

    name: str
    sender: str
    receiver: str
    start: Callable[[ExitStack], Measure]
    nodelay: str = "both"
    durability: str = "none"


class Target(NamedTuple):
    """A goal: ``value`` of the medians has to be at least, or at most, ``bound``."""

    text: str
    value: Callable[[Medians], float]
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        """Tell whether a value is good enough."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most


class Medians:
    """The medians of a scenario: ``medians("asyncdicom", "mb_per_s")``; KeyError if it was not measured."""

    def __init__(self, results: Sequence[dict[str, Any]]) -> None:
        self._results = {result["name"]: result["summary"] for result in results if result["summary"]}

    def __call__(self, name: str, key: str) -> float:
        value: float = self._results[name][key]["median"]
        return value

    def ratio(self, key: str, one: str, other: str) -> float:
        """Divide the median of one contender by that of another."""
        return self(one, key) / self(other, key)


class Headline(NamedTuple):
    """A row of the summary plot: ``ours`` beside ``peers``, by their medians of ``key``."""

    label: str
    ours: str
    key: str
    peers: tuple[str, ...]
    less_is_better: bool = False

    def ratios(self, medians: Medians) -> dict[str, float]:
        """Tell how many times better ours is than each peer that was measured."""
        found = {}
        for peer in self.peers:
            with suppress(KeyError, ZeroDivisionError):
                ratio = medians.ratio(self.key, self.ours, peer)
                found[peer] = 1 / ratio if self.less_is_better else ratio
        return found


class Scenario(NamedTuple):
    """One table."""

    name: str
    title: str
    columns: tuple[Column, ...]
    contenders: Callable[[Bench], Sequence[Contender]]
    targets: tuple[Target, ...] = ()
    headlines: tuple[Headline, ...] = ()
    rounds: int = 5
    quick_rounds: int = 2
    note: Callable[[Bench], str] = lambda bench: ""


class Bench:
    """What scenarios ask for: sizes, folders, files to send, workers."""

    def __init__(self, *, quick: bool, memory: Path, disk: Path, report: Callable[[str], None]) -> None:
        self.quick = quick
        self.backlog: int | None = None
        self.rounds: int | None = None
        self.against: Path | None = None  # another checkout of this project, to be measured, too
        self.memory = memory
        self.disk = disk
        self.report = report
        self.progress = ""  # which of how many scenarios this is
        self._folders = 0

    def pick(self, full: Any, quick: Any) -> Any:
        """Choose by the kind of run."""
        return quick if self.quick else full

    def instances(self, kind: instances.Kind, count: int, study: int = 0) -> Path:
        """Give a folder with so many files of one kind and study, made once a scenario."""
        folder = self.memory / f"{kind.name.replace(' ', '')}-{count}-{study}"
        if not folder.exists():
            instances.make(folder, kind, count, study)
        return folder

    def forget_instances(self) -> None:
        """Remove the files to send: all of a run would fill the memory."""
        for entry in self.memory.iterdir():
            shutil.rmtree(entry)

    def folder(self, stack: ExitStack, *, disk: bool = False) -> Path:
        """Give a new folder that goes away with the scenario; one on the `disk`, at the end of the run.

        Without a journal ext4 looks past the inodes of what was removed in the last minutes whenever it makes
        a file: what one scenario removes would cost the files of the next ones several times as much. A run
        needs room for all of them, and another one some minutes of rest before it.
        """
        self._folders += 1
        folder = (self.disk if disk else self.memory) / f"work-{self._folders}"
        folder.mkdir()
        if not disk:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    @staticmethod
    def worker(stack: ExitStack, peer: str, *, loop: str = "uvloop", checkout: Path = ROOT) -> Worker:
        """Start a worker of one peer."""
        return stack.enter_context(Worker(f"benchmarks.peers.{peer}", loop=loop, checkout=checkout))

    def pair(self, stack: ExitStack, peer: str, *, loop: str = "uvloop") -> tuple[Worker, Worker]:
        """Start a receiver and a sender of one peer, each on a core of its own."""
        with on_core(RECEIVER):
            receiver = self.worker(stack, peer, loop=loop)
        with on_core(SENDER):
            return receiver, self.worker(stack, peer, loop=loop)


@contextmanager
def open_bench(
    *, quick: bool, memory: Path | None, disk: Path | None, report: Callable[[str], None]
) -> Iterator[Bench]:
    """Make the folders that everything is written to, and remove them in the end."""
    if memory is None:
        usable = _TMPFS.is_dir() and shutil.disk_usage(_TMPFS).free >= _ENOUGH
        memory = _TMPFS if usable else Path(tempfile.gettempdir())
    disk = disk if disk is not None else Path(tempfile.gettempdir())
    with (
        tempfile.TemporaryDirectory(prefix="asyncdicom-bench-", dir=memory) as one,
        tempfile.TemporaryDirectory(prefix="asyncdicom-bench-", dir=disk) as two,
    ):
        yield Bench(quick=quick, memory=Path(one), disk=Path(two), report=report)


def run_scenario(scenario: Scenario, bench: Bench, rounds: int | None) -> dict[str, Any]:
    """Run one scenario and give everything that was measured."""
    rounds = rounds or bench.pick(scenario.rounds, scenario.quick_rounds)
    began = time.monotonic()
    with ExitStack() as stack:
        bench.report(f"{bench.progress}{scenario.name}: starting")
        entries = [_enter(contender, stack) for contender in scenario.contenders(bench)]
        warm_up = 0 if bench.quick or rounds == 1 else 1  # a round that does not count
        for number in range(1 - warm_up, rounds + 1):
            turn = number % len(entries)
            for result, measure in entries[turn:] + entries[:turn]:
                if measure is None or result["error"] is not None:
                    continue
                turn_of = f"round {number}/{rounds}" if number else "a round that does not count"
                bench.report(f"{bench.progress}{scenario.name}: {turn_of}: {result['name']}")
                try:
                    sample = measure()
                except (BenchmarkError, OSError) as error:
                    result["error"] = str(error)
                    complain(f"{scenario.name}: {result['name']}: {error}")
                    continue
                if number > 0:
                    result["rounds"].append(sample)
    bench.forget_instances()
    results = [result for result, _ in entries]
    for result in results:
        result["summary"] = _summary(result["rounds"])
    medians = Medians(results)
    return {
        "name": scenario.name,
        "title": scenario.title,
        "note": scenario.note(bench),
        "file_system": f"{file_system(bench.memory)} (archives: {file_system(bench.disk)})",
        "seconds": round(time.monotonic() - began, 1),
        "columns": [column._asdict() for column in scenario.columns],
        "contenders": results,
        "targets": _judge(scenario.targets, medians),
        "headlines": [
            {"label": headline.label, "ratios": headline.ratios(medians)} for headline in scenario.headlines
        ],
    }


def _enter(contender: Contender, stack: ExitStack) -> tuple[dict[str, Any], Measure | None]:
    result: dict[str, Any] = {
        "name": contender.name,
        "sender": contender.sender,
        "receiver": contender.receiver,
        "nodelay": contender.nodelay,
        "durability": contender.durability,
        "rounds": [],
        "error": None,
    }
    try:
        return result, contender.start(stack)
    except Missing as reason:
        result["error"] = str(reason)
    except (BenchmarkError, OSError, ImportError) as error:
        result["error"] = str(error)
        complain(f"{contender.name} could not be started: {error}")
    return result, None


def _summary(rounds: Sequence[Sample]) -> dict[str, dict[str, float]]:
    summary = {}
    for key in dict.fromkeys(key for sample in rounds for key in sample):
        values = [sample[key] for sample in rounds if key in sample]
        summary[key] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return summary


def _judge(targets: Sequence[Target], medians: Medians) -> list[dict[str, Any]]:
    verdicts: list[dict[str, Any]] = []
    for target in targets:
        try:
            value = target.value(medians)
        except (KeyError, ZeroDivisionError):
            verdicts.append({"text": target.text, "measured": None, "met": None})
        else:
            verdicts.append({"text": target.text, "measured": value, "met": target.is_met(value)})
    return verdicts


def complain(text: str) -> None:
    """Say what went wrong, at once: the run goes on."""
    print(f"\nbenchmarks: {text}", file=sys.stderr, flush=True)
