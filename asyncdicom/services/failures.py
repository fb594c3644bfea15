"""Why the sub-operations of a retrieval failed: told once a kind in the log, and in the last response."""

from __future__ import annotations

import logging

from asyncdicom.telemetry.log import Log

__all__ = ["Failures"]

log = Log("asyncdicom.services")

_MAXIMUM_KINDS = 8  # the peer can choose what it answers


class Failures:
    """Collects reasons; `whose`: what the log lines begin with."""

    __slots__ = ("_kinds", "_whose", "comment")

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._kinds: set[str] = set()
        self.comment: str | None = None
        """The first reason, for the Error Comment."""

    def add(self, kind: str, detail: str = "", *, is_ours: bool = False) -> None:
        """Something failed; one log line for each kind of reason, an error if the fault `is_ours`."""
        if self.comment is None:
            self.comment = kind
        if kind in self._kinds or len(self._kinds) >= _MAXIMUM_KINDS:
            return
        self._kinds.add(kind)
        level = logging.ERROR if is_ours else logging.WARNING
        log.log(level, "%s: %s", self._whose, detail or kind)
