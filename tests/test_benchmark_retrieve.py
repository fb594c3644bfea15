"""The benchmarks of asking archives: each gives all that was stored, and all are asked the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from benchmarks.harness import Bench, Scenario, open_bench
from benchmarks.processes import BenchmarkError
from benchmarks.scenarios import retrieve
from benchmarks.scenarios.retrieve import Archive

JOBS = ("find", "get", "move")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with open_bench(quick=True, memory=tmp_path, disk=tmp_path, report=print) as made:
        yield made


@pytest.mark.parametrize("scenario", retrieve.SCENARIOS, ids=lambda each: each.name)
def test_all_are_asked_the_same_and_say_what_they_promised(bench: Bench, scenario: Scenario) -> None:
    contenders = {each.name: each for each in scenario.contenders(bench)}
    promises = {each.receiver: each.durability for each in contenders.values()}
    assert promises["asyncdicom qrscp"] == "power"
    assert promises["dcmqrscp"] == "process"
    assert {each.sender for each in contenders.values()} == {"asyncdicom"}
    named = {name for headline in scenario.headlines for name in (headline.ours, *headline.peers)}
    assert named == set(contenders)


def _archives() -> Iterator[object]:
    yield pytest.param(lambda bench: partial(retrieve._ours, bench, None), id="asyncdicom")
    needs = pytest.mark.skipif(shutil.which("dcmqrscp") is None, reason="DCMTK is not installed")
    yield pytest.param(lambda bench: partial(retrieve._dcmqrscp, bench), id="dcmqrscp", marks=needs)


@pytest.mark.parametrize("archive_of", list(_archives()))
def test_an_archive_gives_all_that_was_stored_by_each_service(
    bench: Bench, archive_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive: Archive = archive_of(bench)
    with ExitStack() as stack:
        running = retrieve._running(bench, archive, stack)
        for job in JOBS:
            sample = retrieve._asking(bench, job, running, stack)()
            assert sample["operations"] == 3 * 4
            assert ("mb_per_s" in sample) == (job != "find")
        monkeypatch.setattr(retrieve, "_corpus", lambda _: retrieve._Corpus(1, 5))
        with pytest.raises(BenchmarkError, match="there were 4 instances of a study, not 5"):
            retrieve._asking(bench, "find", running, stack)()
