"""On which line of a TOML file a key stands: `tomllib` does not tell."""

from __future__ import annotations

import re

__all__ = ["line_of"]

_HEADER = re.compile(r"\s*\[+([^\]]+)\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, key: tuple[str, ...]) -> int | None:
    """Give the number of the line that sets a key, or the nearest table above it that has a line."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, setting = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif setting is not None:
            lines.setdefault(table + _parts(setting[1]), number)
    while key:
        if key in lines:
            return lines[key]
        below = [number for path, number in lines.items() if path[: len(key)] == key]
        if below:
            return min(below)
        key = key[:-1]
    return None


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
