"""What tools print: JSON lines, text from the network, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdicom.status import Status

__all__ = ["Advance", "json_line", "progress", "status_fields"]

Advance = Callable[..., None]
"""Called with how much was done, and the new total where it became known."""


def json_line(**fields: Any) -> None:
    """Print one JSON object."""
    print(json.dumps(fields, ensure_ascii=False), flush=True)


def status_fields(status: Status) -> dict[str, Any]:
    """Give the fields that show a DIMSE Status in JSON."""
    return {"status": int(status), "category": status.category, "meaning": str(status)}


@contextmanager
def progress(what: str, total: int | None, *, unit_is_bytes: bool = False) -> Iterator[Advance | None]:
    """Show a progress bar on a terminal; gives a function that advances it, None where there is no bar."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ModuleNotFoundError:
        yield None
        return
    counts = (DownloadColumn(), TransferSpeedColumn()) if unit_is_bytes else (MofNCompleteColumn(),)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda count, total=None: bar.update(task, advance=count, total=total)
