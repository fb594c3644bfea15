"""A data set for people, and for programs (the DICOM JSON model, PS3.18 F)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import keyword_for_tag

from asyncdicom.cli.output import json_text
from asyncdicom.telemetry.text import printable

__all__ = ["as_json_model", "as_text"]

_LONGEST_BYTES = 32

config.settings.reading_validation_mode = config.IGNORE  # what a peer answered is shown as it is


def as_text(dataset: Dataset) -> str:
    """Give a line for each attribute, ``Keyword: value``, and an empty one at the end."""
    return "\n".join((*_lines(dataset, ""), ""))


def as_json_model(dataset: Dataset) -> str:
    """Give the DICOM JSON model on one line; what cannot be represented in it is left out."""
    return json_text(dataset.to_json_dict(suppress_invalid_tags=True))


def _lines(dataset: Dataset, indent: str) -> Iterator[str]:
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom converts now, and raises whatever comes of a wrong value
            yield f"{indent}{keyword_for_tag(tag) or tag}: {printable(repr(dataset.get_item(tag).value))}"
            continue
        name = element.keyword or str(element.tag)
        if element.VR != "SQ":
            yield f"{indent}{name}: {_value(element.value)}".rstrip()
            continue
        yield f"{indent}{name}:"
        for item in element.value:
            for number, line in enumerate(_lines(item, "")):
                yield f"{indent}{'    ' if number else '  - '}{line}"


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex(" ") if len(value) <= _LONGEST_BYTES else f"{len(value)} bytes"
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return "\\".join(map(_value, value))
    return printable(str(value))
