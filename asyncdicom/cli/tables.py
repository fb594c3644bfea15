"""Matches for people: a table as wide as the terminal, a tree, or CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["FORMATS", "as_csv", "as_table", "as_tree", "in_order", "width_of"]

Fields = Mapping[str, str]
"""A match: what it has, by keyword, within sequences as KEYWORD[0].KEYWORD."""

# What makes a spreadsheet calculate what a peer has written: at the beginning of a cell, and of what is one
# where cells are separated by a semicolon or a tab. Plain numbers are none of it.
_FORMULA = re.compile(r"(^|[;\t\n])(?=[=+\-@\t\n＝＋－＠])")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)

_GAP = "  "
_NARROWEST = 12  # columns of the terminal that a cut value keeps

# What matches are sorted by, and what of it counts as a number.
_ORDER = (
    "PatientName",
    "PatientID",
    "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartTime",
    "StudyDate",
    "StudyTime",
    "StudyInstanceUID",
    "SeriesNumber",
    "SeriesInstanceUID",
    "InstanceNumber",
    "SOPInstanceUID",
)

# The levels of a tree: what tells one from the next, the first that there is, and what names it.
_LEVELS = (
    (("PatientID", "PatientName"), ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")),
    (
        ("StudyInstanceUID",),
        ("StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "StudyInstanceUID"),
    ),
    (("SeriesInstanceUID",), ("Modality", "SeriesNumber", "SeriesDescription", "SeriesInstanceUID")),
)


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes: characters of East Asia two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """A text of at most `width` columns; what is cut ends with an ellipsis."""
    if width_of(text) <= width:
        return text
    kept, left = "", width - 1
    for character in text:
        left -= _width(character)
        if left < 0:
            break
        kept += character
    return f"{kept}…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - width_of(text))


def in_order(matches: Iterable[Fields]) -> list[Fields]:
    """Sort by patient, date, study and number."""

    def key(match: Fields) -> list[tuple[int, str]]:
        values = [match.get(name, "") for name in _ORDER]
        return [(int(value) if _is_number(value) else 0, value) for value in values]

    return sorted(matches, key=key)


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 13  # what IS has room for


def _columns(matches: Sequence[Fields], wanted: Iterable[str]) -> list[str]:
    """What was asked for, in that order, then what came beside; nothing that no match has."""
    there = dict.fromkeys(name for match in matches for name, value in match.items() if value)
    return [*(name for name in wanted if name in there), *(name for name in there if name not in set(wanted))]


def as_table(matches: Sequence[Fields], wanted: Sequence[str], width: int) -> str:
    """A line for each match, under the names of the columns. UIDs are never cut: one wants to copy them."""
    columns = _columns(matches, wanted)
    if not columns:
        return "\n".join("(nothing is told of it)" for _ in matches)
    names = [column.rpartition(".")[2] for column in columns]
    rows = [names, *([match.get(column, "") for column in columns] for match in matches)]
    widths = [max(width_of(row[number]) for row in rows) for number in range(len(columns))]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    cuttable = [number for number, name in enumerate(names) if not name.endswith("UID")]
    while excess > 0 and cuttable:
        widest = max(cuttable, key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
        excess -= 1
    rows.insert(1, ["-" * each for each in widths])
    return "\n".join(
        _GAP.join(_padded(_cut(text, each), each) for text, each in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_tree(matches: Sequence[Fields], wanted: Sequence[str], width: int) -> str:
    """Patients, their studies, their series, and what is left of each match below them."""
    lines: list[str] = []
    before: list[str | None] = [None] * len(_LEVELS)
    for match in matches:
        told: set[str] = set()
        depth = 0
        for number, (keys, names) in enumerate(_LEVELS):
            own = next((match[key] for key in keys if match.get(key)), None)
            if own is None:
                continue
            if before[number] != own:
                before[number:] = [own] + [None] * (len(_LEVELS) - number - 1)
                lines.append("  " * depth + _said(match, names))
            told.update(names)
            depth += 1
        rest = [name for name in _columns([match], wanted) if name not in told]
        if rest:
            lines.append("  " * depth + _said(match, rest))
    return "\n".join(lines)


def _said(match: Fields, names: Iterable[str]) -> str:
    return ", ".join(match[name] for name in names if match.get(name))


def as_csv(matches: Sequence[Fields], columns: Sequence[str], *, is_first: bool) -> str:
    """Lines of CSV (RFC 4180), with the names of the columns before the first.

    What a spreadsheet would take for a formula gets an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if is_first:
        writer.writerow(columns)
    writer.writerows([_harmless(match.get(column, "")) for column in columns] for match in matches)
    return text.getvalue().rstrip("\n")


def _harmless(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return text
    return _FORMULA.sub(r"\1'", text.replace("\r", "\n"))  # a CR alone would not be quoted, and end the line


FORMATS: Mapping[str, Callable[[Sequence[Fields], Sequence[str], int], str]] = {
    "table": as_table,
    "tree": as_tree,
}
"""What takes all matches, sorted, before it prints."""
