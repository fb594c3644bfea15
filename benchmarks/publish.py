"""What is published: a run's figures, their plot, and the table in benchmarks/README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import lines, plots, report
from benchmarks.processes import ROOT

README = ROOT / "benchmarks" / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


class Publication(NamedTuple):
    """What that page shows of a group of scenarios: between which mark and the next end, from which files."""

    mark: str
    figures: str
    plot: str
    caption: str
    draw: Callable[[list[dict[str, Any]], Path], list[Path]]

    @property
    def block(self) -> re.Pattern[str]:
        """What finds the block in the page."""
        start, end = f"<!-- benchmarks: {self.mark} -->\n", "<!-- end of benchmarks -->"
        return re.compile(f"(?<={start}).*?(?={end})", re.DOTALL)


PUBLICATIONS = {
    "speed": Publication(
        "summary", "results.json", "summary.svg", "How asyncdicom compares with its peers", plots.draw_summary
    ),
    "distance": Publication(
        "distance", "distance.json", "distance.svg", "Seconds over the round trip", lines.draw
    ),
}


def publish(document: dict[str, Any]) -> None:
    """Keep the figures of a run and their plot in `RESULTS`, and write the block of benchmarks/README.md."""
    RESULTS.mkdir(exist_ok=True)
    it, kept = PUBLICATIONS[document["group"]], _without_rounds(document)
    (RESULTS / it.figures).write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    it.draw(kept["scenarios"], RESULTS)
    README.write_text(it.block.sub(lambda _: block(kept), README.read_text("utf-8")), "utf-8")


def published(group: str = "speed") -> dict[str, Any]:
    """Give the figures of a group that are shown."""
    document: dict[str, Any] = json.loads((RESULTS / PUBLICATIONS[group].figures).read_text("utf-8"))
    return document


def block(document: dict[str, Any]) -> str:
    """Write what stands between the marks in README."""
    it = PUBLICATIONS[document.get("group", "speed")]
    return f"![{it.caption}](results/{it.plot})\n\n{report.summary_markdown(document)}\n"


def block_of_readme(group: str = "speed") -> str:
    """Give what stands there."""
    found = PUBLICATIONS[group].block.search(README.read_text("utf-8"))
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
