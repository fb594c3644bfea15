"""The attacks of the table, one test each; ``ASYNCDICOM_LONG=1`` for those that take long.

A row that is not held today says why in `Attack.fails`, and has to fail: who mends it, empties that.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from endurance import attacks_disks, attacks_kept, attacks_leaving, attacks_stuck, attacks_time
from endurance.attack import Attack, judge, record
from helpers.archive_process import LONG, long_test

ATTACKS = (
    *attacks_kept.ATTACKS,
    *attacks_time.ATTACKS,
    *attacks_stuck.ATTACKS,
    *attacks_disks.ATTACKS,
    *attacks_leaving.ATTACKS,
)


def row(attack: Attack) -> object:
    marks = (
        [pytest.mark.xfail(strict=True, raises=AssertionError, reason=attack.fails)] if attack.fails else []
    )
    if attack.only_long:
        marks.append(pytest.mark.skipif(not LONG, reason="in the long form"))
    return pytest.param(attack, id=attack.name.replace(" ", "-"), marks=marks)


@long_test
@pytest.mark.parametrize("attack", [row(attack) for attack in ATTACKS])
def test_attack(attack: Attack, tmp_path: Path) -> None:
    counts = asyncio.run(attack.make(tmp_path / "archive"))
    print(f"{attack.name}: " + ", ".join(f"{what} {count:g}" for what, count in counts.items()))
    record(attack, counts)
    exceeded = judge(attack, counts)
    assert not exceeded
