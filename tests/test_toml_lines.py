"""On which line of a TOML file a key stands."""

from __future__ import annotations

import pytest

from asyncdicom.toml_lines import Key, line_of

TEXT = """ae_title = "A"
[limits]
maximum_associations = 3

[[routes]]
name = "first"
[routes.when]
calling = "CT*"
not.Modality = "SR"

[[routes]]
name = "second"
when = { calling = "MR*" }
[[routes.more]]
x = 1
[[routes.more]]
x = 2
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("ae_title",), 1),
        (("limits", "maximum_associations"), 3),
        (("limits", "unknown"), 2),
        (("routes", 0, "name"), 6),
        (("routes", 0, "when", "calling"), 8),
        (("routes", 0, "when", "not", "Modality"), 9),
        (("routes", 1), 11),
        (("routes", 1, "when", "calling"), 13),
        (("routes", 1, "more", 1, "x"), 17),
        (("routes",), 5),
        (("nowhere",), None),
    ],
)
def test_a_key_has_its_line(key: Key, line: int | None) -> None:
    assert line_of(TEXT, key) == line
