"""The benchmark of how evenly processes get associations: what it counts is there, and nothing is left."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.harness import Bench, open_bench
from benchmarks.peers import balance
from benchmarks.scenarios.balance import _COUNTS, SCENARIO

KINDS = ("opened", "replaced")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_bench(quick=True, memory=tmp_path, disk=tmp_path, report=print) as made:
        yield made


def test_connections_of_a_process_are_those_to_the_port_alone() -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        for number, listener in enumerate(listeners, 1):
            for _ in range(number):
                stack.enter_context(socket.create_connection(listener.getsockname()))
                stack.enter_context(listener.accept()[0])
        for number, listener in enumerate(listeners, 1):
            assert balance.connections(listener.getsockname()[1], [os.getpid()]) == {os.getpid(): number}


@pytest.mark.parametrize("function", ["hand_out", "share_port"])
def test_all_that_are_opened_are_counted_and_all_have_ended(bench: Bench, function: str) -> None:
    with ExitStack() as stack:
        port, pids = bench.worker(stack, "balance").call(function, processes=2)
        assert len(set(pids)) == 2
        caller = bench.worker(stack, "balance")
        sample = caller.call("spreads", port=port, pids=pids, counts=[2, 4], runs=1, seed=1)
        assert not any(balance.connections(port, pids).values())
    assert set(sample) == {
        f"{what}_{count}{end}" for what in KINDS for count in (2, 4) for end in ("", "_worst")
    }
    assert all(1.0 <= value <= 2.0 for value in sample.values())
    if function == "hand_out":
        assert sample["opened_4"] == sample["replaced_4"] == 1.0
    deadline = time.monotonic() + 60
    while any(map(_runs_ours, pids)):  # they were told; nobody waits for them
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs_ours(pid: int) -> bool:
    try:
        return b"benchmarks.peers.balance" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


def test_both_ways_are_measured_with_as_many_processes() -> None:
    with open_bench(quick=True, memory=None, disk=None, report=print) as bench:
        names = {each.name for each in SCENARIO.contenders(bench)}
    assert {name.replace("handed out", "SO_REUSEPORT") for name in names} < names
    named = {name for headline in SCENARIO.headlines for name in (headline.ours, *headline.peers)}
    assert named <= names


def test_all_that_is_shown_is_measured() -> None:
    counts = {int(column.key.split("_")[1]) for column in SCENARIO.columns}
    assert {column.key.split("_")[0] for column in SCENARIO.columns} == set(KINDS)
    assert counts == set(_COUNTS)
