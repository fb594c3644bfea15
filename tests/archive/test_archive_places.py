"""What is left out where index and instances are elsewhere is a table, and everything in it is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers import places
from helpers.places import IN_BUCKET, LEFT_OUT, NOT_IN_EVERY_RUN, ON_BOTH, in_every_run, is_left_out


def names_of(module: str) -> set[str]:
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text())
    functions = (each for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return {each.name for each in functions if each.name.startswith("test_")}


def test_every_test_that_is_named_is_there() -> None:
    for row in LEFT_OUT:
        for module, tests in row.tests.items():
            assert set(tests) - names_of(module) == set(), (module, row.why)
    assert {test for module in IN_BUCKET for test in names_of(module)} >= NOT_IN_EVERY_RUN


def test_no_test_is_named_twice() -> None:
    named = [
        (module, test)
        for row in LEFT_OUT
        for module, tests in row.tests.items()
        for test in tests or names_of(module)
    ]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("place", "left_out"),
    [
        ("", set()),
        ("sqlite+folder", {"nothing"}),
        ("postgresql+folder", {"nothing", "sqlite"}),
        ("postgresql+s3", {"nothing", "sqlite", "folder"}),
    ],
)
def test_a_test_is_left_out_where_what_it_needs_is_not(
    monkeypatch: pytest.MonkeyPatch, place: str, left_out: set[str]
) -> None:
    monkeypatch.setattr(places, "PLACE", place)
    for row in LEFT_OUT:
        for module, tests in row.tests.items():
            assert {is_left_out(module, test) for test in tests or names_of(module)} == {
                row.needs in left_out
            }
    chosen = [in_every_run(module, test) for module in ON_BOTH | IN_BUCKET for test in names_of(module)]
    assert any(chosen) == (not place)
