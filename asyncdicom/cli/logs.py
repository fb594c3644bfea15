"""The log of a tool: what is told, where, and how it looks."""

from __future__ import annotations

import os

import click

from asyncdicom.telemetry.log_output import LogFormat, log_to

__all__ = ["LOG_OPTIONS", "set_up_logging"]

LOG_OPTIONS = [
    click.option(
        "--log-file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Append the log to FILE, not to stderr; SIGHUP opens it anew, after a rotation.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Lines for people, or a JSON object each, with time, level, AE titles, address and UIDs.",
    ),
]


def set_up_logging(level: int, path: str | None, format: LogFormat) -> None:
    """Log what has this level, to stderr or to a file. Raises ``click.UsageError``."""
    try:
        log_to(path, level=level, format=format)
    except OSError as error:
        folder = os.path.dirname(path or "") or "."
        why = error.strerror if os.path.isdir(folder) else f"there is no folder {folder}"
        raise click.UsageError(f"--log-file {path}: {why}") from None
