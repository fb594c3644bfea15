"""The loggers of the library: a line that cannot be written costs that line, and nothing else.

Lines are written between a decision and its answer, in event loops and in threads that everybody needs. The
handlers and filters behind them are the user's, and may raise anything. So every module takes its logger
from here: whatever is raised by a log call is counted (`counters.log_errors`) and goes no further.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from asyncdicom.telemetry import counters
from asyncdicom.telemetry.text import printable

__all__ = ["Log", "fields_of"]

_NUMBERS = frozenset({int, float, bool, type(None)})
_CALLER = 3  # frames between the caller and `logging`: the method, `_write`, `Logger.log`


class Log:
    """A logger of the standard library whose methods never raise.

    The arguments of a line become text when it is written, and only if somebody wants it: a handler that
    keeps records keeps no association. Peers' text in them is escaped (`text.printable`).

    An argument with a method `log_fields` (an association's channel), or `fields`, says whom the line is
    about: a mapping that becomes the attribute `fields` of the record, for JSON and for summing up.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_enabled_for(self, level: int) -> bool:
        """Whether a line of this level would be written."""
        return self._logger.isEnabledFor(level)

    def debug(self, message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
        """Log at level DEBUG."""
        self._write(logging.DEBUG, message, args, fields)

    def info(self, message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
        """Log at level INFO."""
        self._write(logging.INFO, message, args, fields)

    def warning(self, message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
        """Log at level WARNING."""
        self._write(logging.WARNING, message, args, fields)

    def error(
        self,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
        exc_info: BaseException | None = None,
    ) -> None:
        """Log at level ERROR, with the traceback of `exc_info` if there is one."""
        self._write(logging.ERROR, message, args, fields, exc_info)

    def exception(self, message: str, *args: object, fields: Mapping[str, object] | None = None) -> None:
        """Log at level ERROR, with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, message, args, fields, True)

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        fields: Mapping[str, object] | None = None,
        exc_info: BaseException | None = None,
    ) -> None:
        """Log at a level of `logging`."""
        self._write(level, message, args, fields, exc_info)

    def _write(
        self,
        level: int,
        message: str,
        args: tuple[object, ...],
        fields: Mapping[str, object] | None,
        exc_info: BaseException | bool | None = None,
    ) -> None:
        try:
            if not self._logger.isEnabledFor(level):
                return
            self._logger.log(
                level,
                message,
                *map(_plain, args),
                exc_info=exc_info,
                extra={"fields": {**_fields_in(args), **(fields or {})}},
                stacklevel=_CALLER,
            )
        except BaseException:  # SystemExit and the like, too: a handler does not decide that a peer waits
            counters.log_errors += 1


def _plain(argument: object) -> Any:
    """Give an argument as text that refers to nothing; numbers stay numbers, for `%d`."""
    if type(argument) in _NUMBERS:
        return argument
    try:
        return printable(str(argument))
    except Exception as error:
        return f"<{type(argument).__name__} that cannot be shown: {type(error).__name__}>"


def fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """Give what a record says about whom it is about: `address`, `calling_ae_title` and the like."""
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _fields_in(args: tuple[object, ...]) -> Mapping[str, object]:
    for argument in args:
        fields = getattr(argument, "log_fields", None)
        if fields is not None:
            found: Mapping[str, object] = fields()
            return found
    return {}
