"""On which line of a TOML file a key stands: `tomllib` does not tell."""

from __future__ import annotations

import re

__all__ = ["Key", "line_of"]

Key = tuple[str | int, ...]
"""The way to a value: names of keys, and for an array of tables the number of its table, from 0."""

_HEADER = re.compile(r"\s*(\[{1,2})([^\]]+)\]")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, key: Key) -> int | None:
    """Give the number of the line that sets a key, or the nearest table above it that has a line."""
    lines = _lines(text)
    while key:
        if key in lines:
            return lines[key]
        below = [number for path, number in lines.items() if path[: len(key)] == key]
        if below:
            return min(below)
        key = key[:-1]
    return None


def _lines(text: str) -> dict[Key, int]:
    lines: dict[Key, int] = {}
    tables: dict[Key, int] = {}  # the arrays of tables, and how many each has so far
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, setting = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            table = _within(_parts(header[2]), tables, is_array=header[1] == "[[")
            lines.setdefault(table, number)
        elif setting is not None:
            lines.setdefault(table + _parts(setting[1]), number)
    return lines


def _within(path: tuple[str, ...], tables: dict[Key, int], *, is_array: bool) -> Key:
    """Put the numbers of the tables in: a name of an array stands for its last table, or begins another."""
    full: Key = ()
    for place, part in enumerate(path, start=1):
        full += (part,)
        if is_array and place == len(path):
            tables[full] = tables.get(full, 0) + 1
        if full in tables:
            full += (tables[full] - 1,)
    return full


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
