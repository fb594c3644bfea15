"""docs/operating.md lists the metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

from asyncdicom.cli.config import read_config
from asyncdicom.telemetry.prometheus import METRICS

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def test_the_webhook_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"<!-- webhook -->\n```toml\n(.*?)```", OPERATING.read_text(), re.DOTALL)
    (tmp_path / "serve.toml").write_text(text)
    assert read_config(tmp_path / "serve.toml")["webhook"].disk == 10000


def test_every_metric_is_listed() -> None:
    listed = [line for line in OPERATING.read_text().splitlines() if line.startswith("| `asyncdicom_")]
    rows = [f"| `asyncdicom_{each.name}` | {', '.join(each.labels)} | {each.help} |" for each in METRICS]
    assert listed == rows
