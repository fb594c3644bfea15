"""The table of attacks in tests/README.md is the one that was measured, and its judgement can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from endurance import attack
from endurance.attack import MEASURED, Attack, Counts, judge, record
from endurance.table import README, with_table
from endurance.test_attacks import ATTACKS


async def nothing(folder: Path) -> Counts:
    return {}


ROW = Attack("a row", "nothing", nothing, {"lost": 0})


def test_readme_has_what_was_measured() -> None:
    assert README.read_text() == with_table(README.read_text())


def test_measured_are_the_attacks_that_there_are() -> None:
    names = [each.name for each in ATTACKS]
    assert len(names) == len(set(names))
    assert set(json.loads(MEASURED.read_text())) <= set(names)


@pytest.mark.parametrize(("lost", "exceeds"), [(0, False), (1, True)])
def test_a_bound_is_the_most_that_is_right(lost: float, exceeds: bool) -> None:
    assert bool(judge(ROW, {"lost": lost})) is exceeds


def test_what_was_not_counted_is_no_success() -> None:
    with pytest.raises(KeyError):
        judge(ROW, {})


def test_goals_are_judged_where_they_were_compared() -> None:
    assert judge(ROW, {"lost": 0, attack.GOALS_MISSED: 1})


def test_a_run_fills_its_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "measured.json"
    record(ROW, {"lost": 1}, file)
    assert not file.exists()
    for column, lost in (("before", 3), ("now", 0)):
        monkeypatch.setattr(attack, "RECORD", column)
        record(ROW, {"lost": lost}, file)
    assert json.loads(file.read_text()) == {"a row": {"before": {"lost": 3}, "now": {"lost": 0}}}
