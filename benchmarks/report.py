"""The printed tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_NAMES = 4  # columns of words come before those of figures


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """Say in a few lines what was measured and where."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    load = " ".join(f"{value:.2f}" for value in machine["load_before"])
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; load {load}"
    yield f"{machine['kernel']}; {machine['python']}; {packages}; {machine['dcmtk'] or 'no DCMTK'}"
    yield f"commit {machine['commit']}, {machine['date']}"


def scenario_lines(result: dict[str, Any]) -> Iterator[str]:
    """Write the table of one scenario."""
    yield f"{result['name']}: {result['title']}"
    yield f"  {result['note']}{'; ' if result['note'] else ''}files on {result['file_system']}"
    columns = result["columns"]
    headline = columns[0]
    header = ["", "sender -> receiver", "TCP_NODELAY", "durability", headline["title"], "best", "spread"]
    rows = [header + [column["title"] for column in columns[1:]]]
    errors = []
    for contender in result["contenders"]:
        if contender["summary"]:
            rows.append(_row(contender, columns))
        if contender["error"] is not None:
            errors.append(f"  {contender['name']}: {contender['error'].strip().splitlines()[-1]}")
    yield from (f"  {line}" for line in _aligned(rows))
    yield from errors
    for target in result["targets"]:
        yield f"  {_verdict(target)}"


def _row(contender: dict[str, Any], columns: list[dict[str, Any]]) -> list[str]:
    headline, summary = columns[0], contender["summary"]
    pair = f"{contender['sender']} -> {contender['receiver']}"
    cells = [contender["name"], pair, contender["nodelay"], contender["durability"]]
    figures = summary.get(headline["key"])
    if figures is None:
        cells += ["-", "-", "-"]
    else:
        best = figures["min"] if headline["less_is_better"] else figures["max"]
        half = (figures["max"] - figures["min"]) / 2 / (abs(figures["median"]) or 1)
        cells += [
            format(figures["median"], headline["format"]),
            format(best, headline["format"]),
            f"±{half:.0%}",
        ]
    for column in columns[1:]:
        figures = summary.get(column["key"])
        cells.append("-" if figures is None else format(figures["median"], column["format"]))
    return cells


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if index < _NAMES else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def summary_lines(document: dict[str, Any]) -> Iterator[str]:
    """Write all targets with what was measured, for a terminal."""
    rows = [
        [name, text, "", mark, measured] for name, text, measured, mark in _targets(document["scenarios"])
    ]
    yield from _aligned([["", "asked for", "", "", "measured"], *rows])


def summary_markdown(document: dict[str, Any]) -> str:
    """Write the same for benchmarks/README.md: a table of all targets, and where it was measured."""
    machine = document["machine"]
    titles = {result["name"]: result["title"] for result in document["scenarios"]}
    lines = ["| | asked for | measured | |", "|---|---|---|---|"]
    before = None
    for name, text, measured, mark in _targets(document["scenarios"]):
        lines.append(f"| {titles[name] if name != before else ''} | {text} | {measured} | {mark} |")
        before = name
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("uvloop", "pynetdicom"))
    kind = "a quick run, small sizes" if document["quick"] else "medians"
    lines += [
        "",
        f"Measured {machine['date'][:10]} ({kind}): {machine['processor']}, {machine['cores']} cores, "
        f"{machine['python']}, {packages}, {machine['dcmtk'] or 'no DCMTK'}; one machine, over loopback. "
        "What each row compares, and what it does not show, is told below.",
    ]
    return "\n".join(lines)


def _targets(scenarios: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    for result in scenarios:
        for target in result["targets"]:
            measured, met = target["measured"], target["met"]
            if measured is None:
                yield result["name"], target["text"], "-", "not measured"
            else:
                yield result["name"], target["text"], _short(measured), "met" if met else "missed"


def _short(value: float) -> str:
    """Write three digits that count, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _verdict(target: dict[str, Any]) -> str:
    if target["measured"] is None:
        return f"[      ] {target['text']}: not measured"
    mark = "met   " if target["met"] else "MISSED"
    return f"[{mark}] {target['text']}: {_short(target['measured'])}"
