"""Every message on docs/troubleshooting.md is one of the package's."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import asyncdicom

PACKAGE = Path(asyncdicom.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| `(.+?)` \|", TEXT, re.MULTILINE)


@cache
def texts() -> str:
    """All texts of the package, one a line; "..." stands for what is put into them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        parts = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        # Texts that stand alone are docstrings: nobody is told those.
        parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                found.append(node.value)
    return re.sub(r"%[-\d.]*[sdgr]|\{\w+\}", "...", "\n".join(text.replace("\n", " ") for text in found))


def is_said(message: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.", message.strip(". ")))
    return re.search(pattern, texts()) is not None


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 50
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert not is_said("the peer is on fire")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_said(message: str) -> None:
    assert is_said(message)


def test_every_row_says_what_to_do() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert len(rows) == len(MESSAGES)
    assert all(len(cell) > 5 for row in rows for cell in row.strip("|").rsplit("|", 2)[1:])
