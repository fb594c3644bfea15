"""Texts with what is known of an instance in them: "TENANT-{called}", "{PatientID}"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from asyncdicom.gateway.facts import FORGOTTEN, Facts, Wanted, picked, wanted_of

__all__ = ["Template", "check_known", "filled", "parse_parts", "tags_of"]

_ELEMENT = re.compile(r"\{([^{}]*)\}")

Template = tuple[str | Wanted, ...]
"""Text, and what is put between it."""


def parse_parts(text: str) -> Template:
    """Understand a template. Raises ValueError for a brace without its other one, and for no element."""
    parts: list[str | Wanted] = []
    for number, part in enumerate(_ELEMENT.split(text)):
        if number % 2:
            parts.append(wanted_of(part))
        elif "{" in part or "}" in part:
            raise ValueError(f"{text!r} has a brace without its other one")
        elif part:
            parts.append(part)
    return tuple(parts)


def check_known(templates: Iterable[Template]) -> None:
    """Raise ValueError for what nobody knows of an instance that is in the archive."""
    for part in (part for template in templates for part in template):
        if isinstance(part, Wanted) and part.name in FORGOTTEN:
            raise ValueError(f"{{{part.name}}} is not known any more of an instance that is kept")


def tags_of(parts: Iterable[str | Wanted]) -> frozenset[int]:
    """Give the elements that have to be known."""
    return picked(part.tag for part in parts if isinstance(part, Wanted) and part.tag)


def filled(template: Template, facts: Facts, make: Callable[[str], str]) -> str:
    """Fill a template in; `make` gives what stands in it for a value."""
    return "".join(part if isinstance(part, str) else make(_value(part, facts)) for part in template)


def _value(wanted: Wanted, facts: Facts) -> str:
    return facts.text(wanted.tag, wanted.vr) if wanted.tag else facts.values(wanted)[0]
