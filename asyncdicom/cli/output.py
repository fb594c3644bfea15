"""What tools print: JSON lines, text from the network, progress on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from asyncdicom.services.responses import Response
    from asyncdicom.status import Status

__all__ = [
    "Advance",
    "give_up_stdout",
    "json_line",
    "json_text",
    "prepare_streams",
    "progress",
    "response_fields",
    "said",
    "status_fields",
    "warn",
]

Advance = Callable[..., None]
"""Called with how much was done, and the new total where it became known."""


def prepare_streams() -> None:
    """Make stdout and stderr take any text: what their encoding does not have is escaped.

    A standard stream that was closed becomes the null device: a file opened later would get its number.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            with suppress(OSError):
                if not _is_open(descriptor):
                    _open_null_as(descriptor)
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open
        elif descriptor and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Let the flush at exit, of what could not be written, succeed."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_null_as(descriptor: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)


def warn(text: str) -> None:
    """Print one line on stderr, escaped; a stderr that takes nothing changes nothing."""
    with suppress(OSError, ValueError):
        print(printable(text), file=sys.stderr)


def json_text(value: object) -> str:
    """Give JSON on one line that any terminal and any encoding can show: the value stays what it is."""
    text = json.dumps(value, ensure_ascii="utf" not in (sys.stdout.encoding or "").lower())
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def json_line(**fields: Any) -> None:
    """Print one JSON object."""
    print(json_text(fields), flush=True)


def status_fields(status: Status) -> dict[str, Any]:
    """Give the fields that show a DIMSE Status in JSON."""
    return {"status": int(status), "category": status.category, "meaning": str(status)}


def response_fields(response: Response) -> dict[str, Any]:
    """Give what a response shows in JSON: its status, and the peer's Error Comment if there is one."""
    comment = {"error_comment": response.error_comment} if response.error_comment else {}
    return status_fields(response.status) | comment


def said(response: Response) -> str:
    """Give what a response shows in a line of text."""
    return f"{response.status}{f': {printable(response.error_comment)}' if response.error_comment else ''}"


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
