"""The `trace` of `associate` and `serve` that sees every byte, above TLS."""

from __future__ import annotations

from asyncdicom.net.channel import Trace
from asyncdicom.net.transport import Watcher
from asyncdicom.tracing.recorder import Recorder, Watched

__all__ = ["Tap"]


class Tap:
    """Shows the connections of this process to a `Recorder`; messages go on to `trace`, if there is one."""

    def __init__(self, recorder: Recorder, trace: Trace | None = None) -> None:
        self._recorder = recorder
        self._trace = trace

    def __call__(self, direction: str, what: object) -> None:
        """See `associate`."""
        if self._trace is not None:
            self._trace(direction, what)

    def watch(self, requestor: bool, ours: tuple[str, int], theirs: tuple[str, int]) -> Watcher:
        """A connection was made; `requestor`: by us."""
        pair = (ours, theirs) if requestor else (theirs, ours)
        return _Ours(self._recorder.connection(*pair), requestor)


class _Ours:
    """One connection, seen from its end here (`net.transport.Watcher`)."""

    def __init__(self, watched: Watched, requestor: bool) -> None:
        self._watched = watched
        self._requestor = requestor

    def passed(self, sent: bool, data: bytes | memoryview) -> None:
        """We have sent or received these bytes."""
        # A copy: what is received lies in a block that others wait for.
        self._watched.passed(sent is self._requestor, bytes(data))

    def ended(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._watched.ended(error)
