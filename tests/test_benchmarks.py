"""What is said about speed is what was measured."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import processes, publish, report
from benchmarks.scenarios import GROUPS


@pytest.mark.parametrize("group", publish.PUBLICATIONS)
def test_the_readme_of_the_benchmarks_shows_the_figures_that_are_kept(group: str) -> None:
    """Nobody edits them: `python -m benchmarks --write-summary` does."""
    assert publish.block_of_readme(group) == publish.block(publish.published(group))


CLAIMS = [
    ("256 MiB instances, PDU 128 KiB", "DCMTK +B, TCP_NODELAY=1", "1.1 times as fast as DCMTK"),
    ("256 MiB instances, PDU 128 KiB", "raw sockets, sendfile", "0.7 times the rate of plain sockets"),
    ("39 KiB instances, one operation at a time", "DCMTK +B, TCP_NODELAY=1", "0.71 times the rate of DCMTK"),
    ("512 KiB instances, one operation at a time", "DCMTK +B, TCP_NODELAY=1", "0.86 times for 512 KiB"),
    ("39 KiB instances, 16 operations outstanding", "DCMTK +B, TCP_NODELAY=1", "1.3 and 1.5 times"),
    (
        "512 KiB instances, 16 operations outstanding",
        "DCMTK +B, TCP_NODELAY=1",
        "1.5 times the rate of DCMTK",
    ),
    ("256 MiB instances, PDU 128 KiB", "pynetdicom", "3 to 35 times as fast"),
    ("39 KiB instances, 16 operations outstanding", "pynetdicom", "35 times as fast"),
]


@pytest.mark.parametrize(("what", "peer", "claim"), CLAIMS)
def test_what_readme_claims_was_measured(what: str, peer: str, claim: str) -> None:
    (ratio,) = {
        headline["ratios"][peer]
        for result in publish.published()["scenarios"]
        for headline in result["headlines"]
        if headline["label"] == what
    }
    text = " ".join((publish.README.parents[1] / "README.md").read_text().split())
    assert claim in text
    assert f"{ratio:.2g}" == claim.split()[0]


@pytest.mark.parametrize("service", ["store", "get", "move"])
def test_what_readme_claims_over_distance_was_measured(service: str) -> None:
    (result,) = (
        one for one in publish.published("distance")["scenarios"] if one["name"] == f"{service}-39kib"
    )
    seconds = {one["name"]: one["summary"]["seconds_50"]["median"] for one in result["contenders"]}
    ratio = seconds["DCMTK"] / seconds["asyncdicom"]
    text = " ".join((publish.README.parents[1] / "README.md").read_text().split())
    said = {"store": "are stored {} times", "get": "by C-GET {} times", "move": "by C-MOVE {} times"}[service]
    assert said.format(f"{ratio:.2g}") in text


@pytest.mark.parametrize("group", publish.PUBLICATIONS)
def test_the_plot_is_there_and_small(group: str) -> None:
    it = publish.PUBLICATIONS[group]
    for name in (it.plot, it.plot.replace("svg", "png"), it.figures):
        assert 0 < (publish.RESULTS / name).stat().st_size < 200_000


NOT_MEASURED: dict[str, set[str]] = {"speed": set(), "distance": set()}


@pytest.mark.parametrize("group", publish.PUBLICATIONS)
def test_every_scenario_was_measured(group: str) -> None:
    measured = {result["name"] for result in publish.published(group)["scenarios"]}
    assert set(GROUPS[group]) - measured == NOT_MEASURED[group]


def test_a_target_that_was_missed_is_called_missed() -> None:
    target = {"text": "at least 2 x", "measured": 1.5, "met": False}
    result = {
        "name": "large",
        "title": "Large",
        "targets": [target, {**target, "measured": 0.0, "met": True}],
    }
    document = publish.published() | {"scenarios": [result]}
    lines = report.summary_markdown(document).splitlines()
    assert lines[2:4] == ["| Large | at least 2 x | 1.5 | missed |", "|  | at least 2 x | 0 | met |"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_every_scenario_says_what_it_shows(group: str, name: str) -> None:
    scenario = GROUPS[group][name]
    assert scenario.targets
    assert scenario.columns
    assert f"`{name}`" in (publish.RESULTS.parent / "README.md").read_text()


def test_a_child_that_is_gone_when_it_is_looked_at_counts_with_those_that_were_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    seen = iter([[gone.pid], []])
    monkeypatch.setattr(processes, "_children", lambda _: next(seen))
    assert processes.cpu_seconds_with_children(os.getpid()) > 0
    assert next(seen, None) is None
