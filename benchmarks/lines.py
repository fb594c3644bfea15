"""The plot of what is done over distance: seconds over the round trip, a line for each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import plots

# Whose line: what the contender's name begins with, a colour, and a marker.
_FAMILIES = (
    ("asyncdicom", "#1f6f8b", "o"),
    ("DCMTK", "#9a7bb0", "s"),
    ("pynetdicom", "#d1495b", "^"),
    ("dcm4che", "#e0b050", "D"),
)
_SHOWN = ("39kib", "512kib")
"""The sizes that the plot has rows for: with large instances the line decides, not the tool."""
_SECONDS = "seconds_"


def draw(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw the jobs with many instances, a row for each size; gives the files."""
    jobs = [result for result in results if result["name"].endswith(_SHOWN) and _is_measured(result)]
    rows = [[job for job in jobs if job["name"].endswith(size)] for size in _SHOWN]
    rows = [row for row in rows if row]
    if not rows:
        return []
    pyplot = plots.load_pyplot()
    columns = max(map(len, rows))
    size = (3.1 * columns, 2.9 * len(rows))
    figure, grid = pyplot.subplots(len(rows), columns, figsize=size, layout="constrained", squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for place, job in zip(axes, row, strict=False):
            _draw_job(place, job)
        for place in axes[len(row) :]:
            place.set_visible(False)
        axes[0].set_ylabel("seconds (less is better)", fontsize=9)
    handles: dict[str, Any] = {}
    for place in grid.flat:
        handles |= dict(zip(*reversed(place.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), frameon=False)
    drawn = [folder / f"distance.{kind}" for kind in ("png", "svg")]
    for path in drawn:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, facecolor="white", metadata=metadata)
    pyplot.close(figure)
    return drawn


def _is_measured(result: dict[str, Any]) -> bool:
    return any(contender["summary"] for contender in result["contenders"])


def _draw_job(axes: Any, job: dict[str, Any]) -> None:
    for contender in job["contenders"]:
        points = {
            int(key.removeprefix(_SECONDS)): figures["median"]
            for key, figures in contender["summary"].items()
            if key.startswith(_SECONDS)
        }
        if points:
            color, marker = next(style for start, *style in _FAMILIES if contender["name"].startswith(start))
            axes.plot(points.keys(), points.values(), color=color, marker=marker, label=contender["name"])
    axes.set_title(job["title"], fontsize=10)
    axes.set_xlabel("round trip, ms", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.grid(color="#ececec")
    axes.spines[["top", "right"]].set_visible(False)
