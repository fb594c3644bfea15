"""Log lines of the archive. A log that fails must not cost anybody an answer, or a thread its life."""

from __future__ import annotations

import logging

__all__ = ["error", "info", "warning"]

_LOG = logging.getLogger("asyncdicom.archive")


def info(message: str, *arguments: object) -> None:
    """Log what an operator may want to know; never raises."""
    _tell(logging.INFO, message, arguments)


def warning(message: str, *arguments: object) -> None:
    """Log what went wrong for one instance; never raises."""
    _tell(logging.WARNING, message, arguments)


def error(message: str, *arguments: object) -> None:
    """Log what an operator has to look at; never raises."""
    _tell(logging.ERROR, message, arguments)


def _tell(level: int, message: str, arguments: tuple[object, ...]) -> None:
    try:
        _LOG.log(level, message, *arguments)
    except Exception:  # a handler that somebody has installed: nobody is left to be told
        return
