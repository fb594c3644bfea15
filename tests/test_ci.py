"""What the landing run and the configuration name is there: a file that moved is no reason to be red."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [".ci/run", "pyproject.toml", "CONTRIBUTING.md"])
def test_every_path_that_is_named_is_there(name: str) -> None:
    if not (ROOT / name).exists():
        pytest.skip("a source distribution has no .ci")
    named = set(
        re.findall(
            r"(?<![\w./])(?:tests|asyncdicom|benchmarks|fuzz)/[\w./*-]*[\w*]", (ROOT / name).read_text()
        )
    )
    assert named
    assert [path for path in sorted(named) if not list(ROOT.glob(path))] == []


def test_no_helper_hides_a_module_of_python() -> None:
    """A script beside it would import it in the place of that."""
    names = {path.stem for path in (ROOT / "tests" / "helpers").glob("*.py")}
    assert names
    assert names & sys.stdlib_module_names == set()
