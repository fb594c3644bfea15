"""docs/glossary.md: in order, each term once, each of the standard's with its place."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|") and not line.startswith(("|--", "| term"))
]
PLACE = r"PS3\.\d+ (Annex [A-Z]+|(?:[A-Z]\.|[A-Z]{2}\.)?\d[\d.]*)((,| to) [A-Z]?\.?[\d.]+)?"


def test_terms_are_in_order_and_once() -> None:
    for rows in ([row for row in ROWS if len(row) == 3], [row for row in ROWS if len(row) == 2]):
        terms = [row[0].casefold() for row in rows]
        assert terms == sorted(set(terms))


def test_terms_of_the_standard_say_where_it_has_them() -> None:
    places = [row[2] for row in ROWS if len(row) == 3]
    assert len(places) > 40
    assert [place for place in places if not re.fullmatch(PLACE, place)] == []
