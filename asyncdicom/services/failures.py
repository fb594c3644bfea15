"""Why the sub-operations of a retrieval failed: told once a kind in the log, and in the last response."""

from __future__ import annotations

import logging

from asyncdicom.net.channel import IncomingRequest
from asyncdicom.telemetry.log import Log

__all__ = ["Failures"]

log = Log("asyncdicom.services")

_MAXIMUM_KINDS = 8  # the peer can choose what it answers


class Failures:
    """Collects reasons: of `incoming`, a C-GET or C-MOVE; `what` is how the log calls it."""

    __slots__ = ("_incoming", "_kinds", "_what", "comment")

    def __init__(self, incoming: IncomingRequest, what: str) -> None:
        self._incoming = incoming
        self._what = what
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
        log.log(level, "%s: %s: %s", self._incoming.channel, self._what, detail or kind)
        self._incoming.is_told = True
