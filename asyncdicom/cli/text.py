"""A data set for people, and for programs (the DICOM JSON model, PS3.18 F)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement

from asyncdicom.cli.output import json_text
from asyncdicom.data.charset import TEXT_VRS, decode_text
from asyncdicom.telemetry.text import printable

__all__ = ["as_fields", "as_json_model", "as_text"]

_LONGEST_BYTES = 32

config.settings.reading_validation_mode = config.IGNORE  # what a peer answered is shown as it is


def as_text(dataset: Dataset) -> str:
    """Give a line for each attribute, ``Keyword: value``, and an empty one at the end."""
    _decode(dataset)
    return "\n".join((*_lines(dataset, ""), ""))


def as_json_model(dataset: Dataset) -> str:
    """Give the DICOM JSON model on one line; what cannot be represented in it is left out."""
    _decode(dataset)
    return json_text(dataset.to_json_dict(suppress_invalid_tags=True))


def as_fields(dataset: Dataset) -> dict[str, str]:
    """Give what it has as text, by keyword; what is within sequences by KEYWORD[0].KEYWORD."""
    _decode(dataset)
    return dict(_fields(dataset, ""))


def _fields(dataset: Dataset, prefix: str) -> Iterator[tuple[str, str]]:
    for tag in sorted(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # pydicom converts now, and raises whatever comes of a wrong value
            yield f"{prefix}{keyword_for_tag(tag) or tag}", printable(repr(dataset.get_item(tag).value))
            continue
        name = f"{prefix}{element.keyword or element.tag}"
        if element.VR != "SQ":
            yield name, _value(element.value)
            continue
        for number, item in enumerate(element.value):
            yield from _fields(item, f"{name}[{number}].")


def _decode(dataset: Dataset, character_set: str = "") -> None:
    """Decode text outside ASCII as the rest of the package does: pydicom does not know what the field sends.

    What is in a sequence has the character set of what it is in, unless it has its own (PS3.5 6.1.2.3).
    """
    declared = dataset.get("SpecificCharacterSet")
    if declared is not None:
        character_set = declared if isinstance(declared, str) else "\\".join(map(str, declared))
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        vr = raw.VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "UN")
        if vr == "SQ":
            with suppress(Exception):  # `_lines` shows what cannot be read
                for item in dataset[tag].value:
                    _decode(item, character_set)
        elif isinstance(raw, RawDataElement) and vr in TEXT_VRS and not (raw.value or b"").isascii():
            text = decode_text(raw.value or b"", character_set, vr)
            dataset[tag] = DataElement(tag, vr, text, validation_mode=config.IGNORE)


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
