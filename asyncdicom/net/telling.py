"""What the log is told of the end of an association."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from asyncdicom.dimse.association import AssociationCore
from asyncdicom.exceptions import (
    AssociationClosed,
    AssociationError,
    AssociationRejected,
    AssociationReleased,
)
from asyncdicom.telemetry.log import Log

__all__ = ["tell_end"]

log = Log("asyncdicom.association")


def tell_end(
    core: AssociationCore, error: AssociationError, seconds: float | None, fields: Mapping[str, object]
) -> None:
    """Say how an association ended; `seconds` that it was established, None if it never was."""
    level = logging.INFO if _is_news(core, error) else logging.DEBUG
    if seconds is None:
        log.log(level, "%s", error, fields=fields)
    else:
        log.log(level, "%s (%.3f s)", error, seconds, fields={**fields, "seconds": round(seconds, 6)})


def _is_news(core: AssociationCore, error: AssociationError) -> bool:
    """Whether an end is worth a log line that is seen.

    Not an orderly one of a requestor, who knows; not that of a connection that was only opened and closed
    (a health check), and not a rejection, which whoever rejects has logged. A stranger who speaks
    something else is.
    """
    if isinstance(error, AssociationReleased):
        return not core.is_requestor
    if isinstance(error, AssociationRejected) and not core.is_requestor:
        return False
    if core.request is None:
        return error.__cause__ is not None and not isinstance(error, AssociationClosed)
    return True
