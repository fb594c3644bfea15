"""The plots: one a scenario, as PNG and SVG. matplotlib is needed only here."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

_OURS, _OTHERS, _CEILING = "#1f6f8b", "#b8b8b8", "#e0b050"


class NoMatplotlib(Exception):
    """matplotlib is not installed."""


def load_pyplot() -> Any:
    """Give matplotlib's pyplot, for files only; `NoMatplotlib` if it is not there."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise NoMatplotlib("no plots: they need matplotlib; install asyncdicom[bench]") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "asyncdicom"  # the same figures give the same file
    return pyplot


def draw(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw the first column of each scenario; gives the files."""
    pyplot = load_pyplot()
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


_CLOSE = 1.8  # times as far to the right
# What is compared as shipped is not shown: it measures Nagle's algorithm. README says so in a footnote.
_AS_SHIPPED = "as shipped"
# The scenarios whose headline is a cost: processor time, memory. They are shown apart.
_COSTS = ("echo", "senders", "idle")
# The peers of the summary plot: what their names begin with, a colour, and a marker.
_PEERS = (
    ("pynetdicom", "pynetdicom", "#d1495b", "o"),
    ("DCMTK", "DCMTK, TCP_NODELAY=1", "#1f6f8b", "D"),
    ("raw", "plain sockets, no protocol (the ceiling)", "#8a8a8a", "|"),
    ("bare", "plain sockets, no protocol (the ceiling)", "#8a8a8a", "|"),
    ("disk", "plain sockets, no protocol (the ceiling)", "#8a8a8a", "|"),
)


def draw_summary(results: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw how many times better asyncdicom is than each peer, a row a headline; gives the files."""
    speed, cost = _rows(results, costs=False), _rows(results, costs=True)
    if not speed and not cost:
        return []
    pyplot = load_pyplot()
    heights = [len(speed) + 1, len(cost) + 1]
    figure, panels = pyplot.subplots(
        2, 1, sharex=True, figsize=(9, 2 + 0.4 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    _draw_panel(panels[0], "Speed: so many times as fast as ...", ("slower", "faster"), speed)
    _draw_panel(
        panels[1], "Cost: so many times as little processor time or memory as ...", ("more", "less"), cost
    )
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(low / 1.3, high * 1.3)
    panels[1].xaxis.set_major_formatter(lambda value, _: f"{value:g} x")
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    drawn = [folder / f"summary.{kind}" for kind in ("png", "svg")]
    for path in drawn:
        # Opaque, so that it can be read on a dark page too.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, facecolor="white", metadata=metadata)
    pyplot.close(figure)
    return drawn


def _rows(results: list[dict[str, Any]], *, costs: bool) -> list[tuple[str, dict[str, float]]]:
    """The headlines of speed, or of cost: what they are called, and the ratios to show."""
    found = []
    for result in results:
        for headline in result["headlines"] if (result["name"] in _COSTS) is costs else ():
            ratios = {peer: ratio for peer, ratio in headline["ratios"].items() if _AS_SHIPPED not in peer}
            if ratios:
                found.append((headline["label"], ratios))
    return found


def _draw_panel(
    axes: Any, title: str, sides: tuple[str, str], rows: list[tuple[str, dict[str, float]]]
) -> None:
    for number, (_, ratios) in enumerate(rows):
        axes.axhline(number, color="#ececec", linewidth=1, zorder=0)
        _draw_row(axes, number, ratios)
    axes.axvline(1, color="#404040", linewidth=1.2, zorder=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -1)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, fontsize=11, loc="left")
    left, right = sides
    for text, offset, side in ((f"\u25c0 {left}", -8, "right"), (f"{right} \u25b6", 8, "left")):
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate(text, (1, 1), (offset, -4), **at, ha=side, va="top", size=10, weight="bold")


def _draw_row(axes: Any, number: int, ratios: dict[str, float]) -> None:
    styles = {label: (color, marker) for _, label, color, marker in _PEERS}
    lowest: dict[str, float] = {}  # of two ways to reach the ceiling the better one counts
    for peer, ratio in ratios.items():
        label = next(label for start, label, *_ in _PEERS if peer.startswith(start))
        lowest[label] = min(ratio, lowest.get(label, ratio))
    before, above = 0.0, True
    for label, ratio in sorted(lowest.items(), key=itemgetter(1)):
        color, marker = styles[label]
        size, width = (200, 3) if marker == "|" else (60, 0)
        axes.scatter(ratio, number, s=size, c=color, marker=marker, linewidths=width, label=label, zorder=3)
        above = not above if ratio < before * _CLOSE else True  # so that figures do not cover each other
        offset = (0, 7) if above else (0, -14)
        axes.annotate(_times(ratio), (ratio, number), offset, textcoords="offset points", ha="center", size=8)
        before = ratio


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.2g}"


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
