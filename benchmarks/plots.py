"""The plots: one a scenario, as PNG and SVG. matplotlib is needed only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OURS, _OTHERS, _CEILING = "#1f6f8b", "#b8b8b8", "#e0b050"


class NoMatplotlib(Exception):
    """matplotlib is not installed."""


def draw(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw the first column of each scenario; gives the files."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise NoMatplotlib("no plots: they need matplotlib; install asyncdicom[bench]") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "asyncdicom"  # the same figures give the same file
    drawn = []
    for result in results:
        bars = [contender for contender in result["contenders"] if _figures(result, contender)]
        if not bars:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 0.9 + 0.38 * len(bars)), layout="constrained")
        _draw_bars(axes, result, bars)
        for kind in ("png", "svg"):
            path = folder / f"{result['name']}.{kind}"
            figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            drawn.append(path)
        pyplot.close(figure)
    return drawn


def _figures(result: dict[str, Any], contender: dict[str, Any]) -> dict[str, float] | None:
    figures: dict[str, float] | None = contender["summary"].get(result["columns"][0]["key"])
    return figures


def _draw_bars(axes: Any, result: dict[str, Any], bars: list[dict[str, Any]]) -> None:
    column = result["columns"][0]
    figures = [_figures(result, bar) or {} for bar in bars]
    medians = [one["median"] for one in figures]
    errors = [
        [one["median"] - one["min"] for one in figures],
        [one["max"] - one["median"] for one in figures],
    ]
    colors = [_color(bar["name"]) for bar in bars]
    drawn = axes.barh([bar["name"] for bar in bars], medians, xerr=errors, color=colors, ecolor="#404040")
    axes.bar_label(drawn, [format(median, column["format"]) for median in medians], padding=6)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    less = ", less is better" if column["less_is_better"] else ""
    axes.set_xlabel(f"{column['title']}{less} (median, smallest and largest of the rounds)", fontsize=9)
    axes.set_title(result["title"], fontsize=10, loc="left")


def _color(name: str) -> str:
    if name.startswith("asyncdicom"):
        return _OURS
    return _CEILING if name.startswith(("raw", "bare", "disk")) else _OTHERS
