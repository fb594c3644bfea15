"""What is published: a run's figures, their plot, and the table in benchmarks/README.md."""

from __future__ import annotations

import json
import re
from typing import Any

from benchmarks import plots, report
from benchmarks.processes import ROOT

README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(?<=<!-- benchmarks: summary -->\n).*?(?=<!-- end of benchmarks -->)", re.DOTALL)


def publish(document: dict[str, Any]) -> None:
    """Keep the figures of a run and their plot in `RESULTS`, and write the block of benchmarks/README.md."""
    RESULTS.mkdir(exist_ok=True)
    kept = _without_rounds(document)
    (RESULTS / "results.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    plots.draw_summary(kept["scenarios"], RESULTS)
    README.write_text(_BLOCK.sub(lambda _: block(kept), README.read_text("utf-8")), "utf-8")


def published() -> dict[str, Any]:
    """Give the figures that are shown."""
    document: dict[str, Any] = json.loads((RESULTS / "results.json").read_text("utf-8"))
    return document


def block(document: dict[str, Any]) -> str:
    """Write what stands between the marks in README."""
    plot = "![How asyncdicom compares with its peers](results/summary.svg)"
    return f"{plot}\n\n{report.summary_markdown(document)}\n"


def block_of_readme() -> str:
    """Give what stands there."""
    found = _BLOCK.search(README.read_text("utf-8"))
    return "" if found is None else found[0]


def _without_rounds(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out the single rounds, and digits that mean nothing: the whole file is in the run's folder."""
    scenarios = [
        result | {"contenders": [{**one, "rounds": len(one["rounds"])} for one in result["contenders"]]}
        for result in document["scenarios"]
    ]
    rounded: dict[str, Any] = _rounded(document | {"scenarios": scenarios})
    return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value
