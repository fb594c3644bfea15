"""What is asserted, and where: nothing in the package, and in the tests also where Python runs with -O."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "asyncdicom"


def assertions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assert):
            yield f"{path.name}:{node.lineno}"


def test_the_package_asserts_nothing() -> None:
    """With -O it would check nothing."""
    assert not [where for path in PACKAGE.rglob("*.py") for where in assertions(path)]


def test_an_assertion_of_a_test_module_holds() -> None:
    with pytest.raises(AssertionError):
        assert not PACKAGE


SHARED = [
    path
    for path in TESTS.rglob("*.py")
    if not path.name.startswith(("test_", "conftest")) and any(assertions(path))
]


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.stem)
def test_so_does_one_of_a_module_that_tests_share(path: Path) -> None:
    """Its name has to be in conftest.py."""
    module = import_module(".".join(path.relative_to(TESTS).with_suffix("").parts))
    assert module.__spec__ is not None
    assert type(module.__spec__.loader).__name__ == "AssertionRewritingHook"
