"""Generates asyncdicom/data/_dictionary.py, on standard output, from pydicom's copy of PS3.6."""

from __future__ import annotations

from collections import defaultdict
from textwrap import wrap

import pydicom
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary

NAME = "generate_data_dictionary.py"
NOT_ELEMENTS = "NONE"


def tags() -> dict[str, list[int]]:
    """VR, or VRs with "or" between them -> tags."""
    found = defaultdict(list)
    for tag, (vr, *_) in sorted(DicomDictionary.items()):
        if tag >= 0x00030000 and vr != NOT_ELEMENTS:
            found[vr].append(tag)
    return dict(sorted(found.items()))


def repeating() -> dict[str, list[str]]:
    """The same for tags with an x for each digit that may be any."""
    found = defaultdict(list)
    for tag, (vr, *_) in sorted(RepeatersDictionary.items()):
        found[vr].append(tag)
    return dict(sorted(found.items()))


def in_groups(tags: list[int]) -> str:
    words, group = [], None
    for tag in tags:
        if tag >> 16 != group:
            group = tag >> 16
            words.append(f"{group:04X}:")
        words.append(f"{tag & 0xFFFF:04X}")
    return " ".join(words)


def table(name: str, rows: dict[str, str]) -> list[str]:
    lines = [f'{name} = """\\']
    for vr, text in rows.items():
        lines += [f"{vr} =", *wrap(text, 108)]
    return [*lines, '"""']


def generate() -> str:
    lines = [
        f"# Generated (pydicom {pydicom.__version__}) by tests/standard/{NAME}: edit that.",
        '"""The Value Representations of PS3.6 6 and 7; `dictionary.py` reads them.',
        "",
        "Behind each VR its elements: a group with a colon, and what follows is in that group.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *table("TAGS", {vr: in_groups(found) for vr, found in tags().items()}),
        "",
        "# x: any digit.",
        *table("REPEATING", {vr: " ".join(found) for vr, found in repeating().items()}),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(generate(), end="")
