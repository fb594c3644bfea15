"""C-FIND: how fast many matches come; the requestor is always ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.measure import Sample
from benchmarks.peers import dcmtk
from benchmarks.processes import PeakMemory

_BYTES = "asyncdicom handler, bytes"
_DATASETS = "asyncdicom handler, Datasets"
_ARCHIVE = "asyncdicom archive"


def _matches(bench: Bench) -> int:
    matches: int = bench.pick(100_000, 3000)
    return matches


def _ask(
    bench: Bench, stack: ExitStack, port: int, pid: int, ae_title: str, matches: int, times: int = 1
) -> Measure:
    sender = bench.worker(stack, "ours")
    find = partial(sender.call, "find", port=port, ae_title=ae_title, matches=matches, receiver_pid=pid)
    cancel = partial(sender.call, "cancel", port=port, ae_title=ae_title, times=5, receiver_pid=pid)

    def measure() -> Sample:
        with PeakMemory(pid, 0.1) as peak, PeakMemory(sender.pid, 0.1) as peak_sender:
            found: Sample = find(times=times)
        cancelled = cancel()
        return found | {
            "rise_mib": peak.rise / 2**20,
            "rise_mib_sender": peak_sender.rise / 2**20,
            "slowest_cancel_ms": cancelled["slowest_cancel_ms"],
        }

    return measure


def _handler(bench: Bench, peer: str, stack: ExitStack, **options: Any) -> Measure:
    matches = _matches(bench) // (10 if options.pop("slow", False) and not bench.quick else 1)
    receiver = bench.worker(stack, peer)
    port = receiver.call("answer_find", matches=matches, **options)
    return _ask(bench, stack, port, receiver.pid, "RECEIVER", matches)


def _archive(bench: Bench, stack: ExitStack) -> Measure:
    folder = bench.folder(stack)
    receiver = bench.worker(stack, "archive")
    receiver.call("fill", directory=folder, count=_matches(bench), one_series=True)
    port = receiver.call("serve", directory=folder, durability="none")
    return _ask(bench, stack, port, receiver.pid, "RECEIVER", _matches(bench))


def _dcmqrscp(bench: Bench, stack: ExitStack) -> Measure:
    matches = min(_matches(bench), dcmtk.MOST_IN_INDEX)
    server = stack.enter_context(dcmtk.qrscp(bench.folder(stack) / "dcmqrscp", matches))
    times = _matches(bench) // matches
    return _ask(bench, stack, server.port, server.pid, "QRSCP", matches, times)


def _contenders(bench: Bench) -> Sequence[Contender]:
    def contender(name: str, receiver: str, start: partial[Measure]) -> Contender:
        return Contender(name, "asyncdicom", receiver, start)

    return [
        contender(_ARCHIVE, "asyncdicom archive", partial(_archive, bench)),
        contender(_BYTES, "asyncdicom", partial(_handler, bench, "ours", encoded=True)),
        contender(_DATASETS, "asyncdicom", partial(_handler, bench, "ours", encoded=False, slow=True)),
        contender("DCMTK dcmqrscp", "dcmqrscp", partial(_dcmqrscp, bench)),
        contender(
            "pynetdicom handler, Datasets", "pynetdicom", partial(_handler, bench, "pynetdicom", slow=True)
        ),
    ]


SCENARIO = Scenario(
    "find",
    "C-FIND at the IMAGE level, all instances of one series",
    (
        Column("ops_per_s", "responses/s"),
        Column("cpu_us_per_op", "CPU us/response", ".0f", True),
        Column("cpu_us_per_op_sender", "requestor", ".0f", True),
        Column("cpu_us_per_op_receiver", "provider", ".0f", True),
        Column("rise_mib", "provider's rise MiB", ".1f", True),
        Column("rise_mib_sender", "requestor's", ".1f", True),
        Column("slowest_cancel_ms", "C-CANCEL ms", ".1f", True),
    ),
    _contenders,
    (
        Target(
            "at least 5 x pynetdicom (handlers of Datasets)",
            lambda medians: medians.ratio("ops_per_s", _DATASETS, "pynetdicom handler, Datasets"),
            5.0,
        ),
        Target(
            "at least 5 x pynetdicom (our handler gives bytes)",
            lambda medians: medians.ratio("ops_per_s", _BYTES, "pynetdicom handler, Datasets"),
            5.0,
        ),
        Target(
            "at least 1 x dcmqrscp (archive)",
            lambda medians: medians.ratio("ops_per_s", _ARCHIVE, "DCMTK dcmqrscp"),
            1.0,
        ),
        Target(
            "flat memory of the archive: at most 16 MiB more for all matches",
            lambda medians: medians(_ARCHIVE, "rise_mib"),
            at_most=16.0,
        ),
        Target(
            "C-CANCEL ends it within 100 ms (archive, the slowest of 5)",
            lambda medians: medians(_ARCHIVE, "slowest_cancel_ms"),
            at_most=100.0,
        ),
    ),
    (
        Headline("C-FIND, answered", _ARCHIVE, "ops_per_s", ("DCMTK dcmqrscp",)),
        Headline("C-FIND, a handler of Datasets", _DATASETS, "ops_per_s", ("pynetdicom handler, Datasets",)),
    ),
    rounds=3,
    quick_rounds=1,
    note=lambda bench: (
        f"{_matches(bench)} matches (handlers of Datasets: {bench.pick('a tenth', 'the same')}; "
        f"dcmqrscp: {dcmtk.MOST_IN_INDEX} at most, again and again)"
    ),
)
