"""docs/networking.md is walked through: every command in its order, in an empty folder, at other ports."""

from __future__ import annotations

from pathlib import Path

from helpers.programs import once
from helpers.walking import walk


@once
async def test_the_walk(tmp_path: Path) -> None:
    await walk("networking.md", tmp_path)
    for folder in ("got", "moved", "retrieved"):
        assert len(list((tmp_path / folder).rglob("*.dcm"))) == 10, folder
