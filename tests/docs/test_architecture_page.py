"""docs/architecture.md names every folder and module of the package, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import asyncdicom

PACKAGE = Path(asyncdicom.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "architecture.md").read_text()


def test_every_folder_and_module_has_its_place() -> None:
    there = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there |= {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("_")}
    drawing = TEXT.partition("Imports go down only")[0]
    assert [name for name in sorted(there) if not re.search(rf"(?<![\w/]){re.escape(name)}", drawing)] == []


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"(?<![\w/.])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py|[a-z_]+/(?![\w.]))", TEXT))
    assert len(named) > 60
    inner = {"index/", "blobs/"}  # of the archive, which the drawing says
    inside = {"dimse.py"}
    assert [name for name in sorted(named - inner - inside) if not (PACKAGE / name).exists()] == []
