"""Lines that repeat are shown a few times, then counted: for each peer and reason."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from asyncdicom.telemetry.log import fields_of

__all__ = ["Repeats"]

_WINDOW = 10.0  # seconds until the lines that were left out are told
_SHOWN = 3  # lines of one kind shown in a window
_KINDS = 1024  # counted apart; what comes beyond is one kind
_KINDS_OF_A_PEER = 16
_OTHERS = "others"
_VARIABLE = re.compile(r"\d[\d.]*")  # ports, Message IDs and UIDs make no other reason

_Kind = tuple[str, str]


class _Run:
    """One kind of line in one window."""

    __slots__ = ("left_out", "lines", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.left_out = ""  # the first that was not shown


class Repeats:
    """Decides which lines are shown. It keeps text only, and a bounded amount of it."""

    def __init__(self) -> None:
        self._runs: dict[_Kind, _Run] = {}
        self._kinds: dict[str, int] = {}  # of each peer

    @property
    def is_counting(self) -> bool:
        """Whether `summaries` may have something to tell later."""
        return bool(self._runs)

    def shows(self, record: logging.LogRecord, now: float) -> bool:
        """Count a line, and say whether it is shown; one below WARNING always is: it was asked for."""
        if record.levelno < logging.WARNING:
            return True
        run = self._run(record, now)
        run.lines += 1
        if run.lines <= _SHOWN:
            return True
        if not run.left_out:
            run.left_out = record.getMessage()
        return False

    def _run(self, record: logging.LogRecord, now: float) -> _Run:
        peer, reason = _kind(record)
        run = self._runs.get((peer, reason))
        if run is not None:
            return run
        if len(self._runs) >= _KINDS:
            peer, reason = "", _OTHERS
        elif peer and self._kinds.get(peer, 0) >= _KINDS_OF_A_PEER:
            reason = _OTHERS
        run = self._runs.get((peer, reason))
        if run is None:
            run = self._runs[peer, reason] = _Run(now)
            self._kinds[peer] = self._kinds.get(peer, 0) + 1
        return run

    def summaries(self, now: float, *, all_of_them: bool = False) -> Iterator[str]:
        """Give a line for each kind whose window has passed and of which lines were left out."""
        for kind, run in list(self._runs.items()):
            seconds = now - run.since
            if seconds < _WINDOW and not all_of_them:
                continue
            del self._runs[kind]
            peer = kind[0]
            self._kinds[peer] -= 1
            if not self._kinds[peer]:
                del self._kinds[peer]
            if run.lines > _SHOWN:
                like = " and others" if kind[1] == _OTHERS else ""
                yield f"{run.lines - _SHOWN} more times in {seconds:.0f} s: {run.left_out}{like}"


def _kind(record: logging.LogRecord) -> _Kind:
    """Whom a line is about, and which one it is: its template, with the words that are filled in."""
    fields = fields_of(record)
    peer = str(fields.get("address", ""))
    caller = str(fields.get("calling_ae_title", ""))
    args = record.args if isinstance(record.args, tuple) else ()
    words = (_VARIABLE.sub("#", arg) for arg in args[bool(peer) :] if isinstance(arg, str))
    return peer, "|".join((record.name, str(record.msg), caller, *words))
