"""docs/operating.md lists the metrics that there are."""

from __future__ import annotations

from pathlib import Path

from asyncdicom.telemetry.prometheus import METRICS

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def test_every_metric_is_listed() -> None:
    listed = [line for line in OPERATING.read_text().splitlines() if line.startswith("| `asyncdicom_")]
    rows = [f"| `asyncdicom_{each.name}` | {', '.join(each.labels)} | {each.help} |" for each in METRICS]
    assert listed == rows
