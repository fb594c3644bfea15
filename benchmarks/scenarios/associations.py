"""Associations as such: how fast they are opened and released, and whether a thousand are served fairly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.peers import dcmtk

_OURS = "asyncdicom"
_SIZE = 39 * 1024


def _open_and_release(
    bench: Bench, stack: ExitStack, port: int, pid: int, count: int, at_once: int
) -> Measure:
    sender = bench.worker(stack, "ours")
    return partial(sender.call, "open_and_release", port=port, count=count, at_once=at_once, receiver_pid=pid)


def _worker(bench: Bench, peer: str, at_once: int, stack: ExitStack) -> Measure:
    receiver = bench.worker(stack, peer)
    count = bench.pick(5000, 500) if peer == "ours" else bench.pick(300, 30)
    return _open_and_release(bench, stack, receiver.call("answer_echo"), receiver.pid, count, at_once)


def _dcmtk(bench: Bench, stack: ExitStack) -> Measure:
    work = bench.folder(stack)
    server = stack.enter_context(dcmtk.storescp(work / "storescp", nodelay=True))
    return _open_and_release(bench, stack, server.port, server.pid, bench.pick(1000, 100), 1)


def _rate_contenders(bench: Bench) -> Sequence[Contender]:
    def contender(name: str, receiver: str, start: partial[Measure]) -> Contender:
        return Contender(name, "asyncdicom", receiver, start)

    return [
        contender(_OURS, "asyncdicom", partial(_worker, bench, "ours", 32)),
        contender("asyncdicom, one at a time", "asyncdicom", partial(_worker, bench, "ours", 1)),
        contender("DCMTK storescp, one at a time", "storescp", partial(_dcmtk, bench)),
        contender("pynetdicom", "pynetdicom", partial(_worker, bench, "pynetdicom", 32)),
        contender("pynetdicom, one at a time", "pynetdicom", partial(_worker, bench, "pynetdicom", 1)),
    ]


def _fair(bench: Bench, stack: ExitStack) -> Measure:
    receiver, sender = bench.worker(stack, "ours"), bench.worker(stack, "ours")
    count, each = bench.pick((1000, 20), (200, 5))
    for worker in (receiver, sender):
        worker.call("allow_descriptors", count=2 * count + 200)
    port = receiver.call("receive", directory=None)
    return partial(
        sender.call,
        "store_at_once",
        port=port,
        count=count,
        each=each,
        size=_SIZE,
        receiver_pid=receiver.pid,
    )


def _fair_contenders(bench: Bench) -> Sequence[Contender]:
    return [Contender(_OURS, "asyncdicom", "asyncdicom (drops it)", partial(_fair, bench))]


SCENARIOS = (
    Scenario(
        "associations",
        "associations opened and released; the requestor is always ours",
        (
            Column("ops_per_s", "associations/s"),
            Column("cpu_us_per_op", "CPU us each", ".0f", True),
            Column("cpu_us_per_op_sender", "requestor", ".0f", True),
            Column("cpu_us_per_op_receiver", "acceptor", ".0f", True),
        ),
        _rate_contenders,
        (Target("at least 1,500 a second", lambda medians: medians(_OURS, "ops_per_s"), 1500.0),),
        quick_rounds=1,
        note=lambda bench: "32 at a time unless the row says otherwise",
    ),
    Scenario(
        "fairness",
        "many associations store at once: the slowest beside the median",
        (
            Column("slowest_by_median", "slowest/median", ".2f", True),
            Column("median_s", "median s", ".2f", True),
            Column("slowest_s", "slowest s", ".2f", True),
            Column("ops_per_s", "objects/s"),
        ),
        _fair_contenders,
        (
            Target(
                "slowest/median at most 2",
                lambda medians: medians(_OURS, "slowest_by_median"),
                at_most=2.0,
            ),
        ),
        rounds=3,
        quick_rounds=1,
        note=lambda bench: bench.pick(
            "1000 associations, 20 x 39 KiB each", "200 associations, 5 x 39 KiB each"
        ),
    ),
)
