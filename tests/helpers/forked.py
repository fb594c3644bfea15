"""A life: a program of a test that kills itself somewhere, forked off one that has loaded everything."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
"""What a program needs to find this module."""


def life(live: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """Run it in a process of its own; gives its exit code: 0, 1 for an exception, -9 if it was killed."""
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(live())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lives(root: Path, step: int, live: Callable[[Path, int], Coroutine[Any, Any, Any]]) -> None:
    """Live and die at every `step`-th of what is counted, then live on, until one is not killed any more."""
    kill_at, ended = 1, -9
    while ended == -9:
        folder = root / str(kill_at)
        folder.mkdir()
        ended = life(lambda: live(folder, kill_at))  # noqa: B023 - it has ended before the next one
        assert ended in (-9, 0), ended
        assert life(lambda: live(folder, 0)) == 0  # noqa: B023
        kill_at += step


def note(file: Path, line: str) -> None:
    """Write a line where no death takes it back."""
    with file.open("a") as out:
        out.write(f"{line}\n")


def lines(path: Path) -> list[str]:
    """Give the lines that were noted."""
    return path.read_text().splitlines() if path.exists() else []
