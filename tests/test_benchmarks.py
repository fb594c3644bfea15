"""What README says about speed is what was measured."""

from __future__ import annotations

import pytest

from benchmarks import publish, report
from benchmarks.scenarios import GROUPS, SCENARIOS


def test_readme_shows_the_figures_that_are_kept() -> None:
    """Nobody edits them: `python -m benchmarks --write-summary` does."""
    assert publish.block_of_readme() == publish.block(publish.published())


def test_the_plot_is_there_and_small() -> None:
    for kind in ("svg", "png"):
        path = publish.RESULTS / f"summary.{kind}"
        assert 0 < path.stat().st_size < 200_000
    assert (publish.RESULTS / "results.json").stat().st_size < 200_000


def test_every_scenario_was_measured() -> None:
    assert {result["name"] for result in publish.published()["scenarios"]} == set(SCENARIOS)


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
