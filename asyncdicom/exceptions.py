"""The exceptions of the package: one tree, which says whose fault it was.

    DicomNetworkError
    ├── ProtocolError
    │   ├── LocalProtocolError         you asked for something PS3.7 or PS3.8 forbids now
    │   └── RemoteProtocolError        the peer sent something they forbid
    ├── AssociationError
    │   ├── AssociationRejected        A-ASSOCIATE-RJ, with result, source and reason
    │   ├── AssociationAborted         A-ABORT or A-P-ABORT, with source and reason
    │   ├── AssociationReleased        the association was released while something was open
    │   ├── AssociationClosed          the transport connection was lost or never came up
    │   └── AssociationTimeout         a deadline passed (also a TimeoutError)
    ├── PresentationContextError       no accepted context for this SOP class and transfer syntax
    ├── DataSetError                   a data set or a file that cannot be read (also a ValueError)
    └── StatusError                    a response whose Status is a Failure

A DIMSE Status is data; a broken association is an exception.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Self

from asyncdicom.status import Status

__all__ = [
    "AssociationAborted",
    "AssociationClosed",
    "AssociationError",
    "AssociationRejected",
    "AssociationReleased",
    "AssociationTimeout",
    "DataSetError",
    "DicomNetworkError",
    "LocalProtocolError",
    "PresentationContextError",
    "ProtocolError",
    "RemoteProtocolError",
    "StatusError",
]

# PS3.8 Table 9-21, by (source, reason/diagnosis).
_REJECT_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
_REJECT_RESULTS = {1: "permanently", 2: "transiently"}

# PS3.8 Table 9-26; a reason is significant only where the source is the service provider.
_ABORT_REASONS = {
    0: "no reason given",
    1: "unrecognized PDU",
    2: "unexpected PDU",
    4: "unrecognized PDU parameter",
    5: "unexpected PDU parameter",
    6: "invalid PDU parameter value",
}


class DicomNetworkError(Exception):
    """Whatever asyncdicom raises on purpose is one of these.

    `result` is what an operation had given when it was broken off: the matches of an awaited `c_find`; of
    `c_get` and `c_move` the `RetrieveResult` if they were answered (`StatusError`), else the last `Progress`.
    """

    result: Any = None

    def having(self, result: Any) -> Self:
        """Give a copy of this error with a result: the error of an association is that of many operations."""
        error = copy(self)
        error.result = result
        return error.with_traceback(self.__traceback__)


class ProtocolError(DicomNetworkError):
    """Somebody broke PS3.7 or PS3.8: see the two subclasses for who it was."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the standard forbids in the present state."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the standard forbids.

    ``reason`` is the reason/diagnosis of PS3.8 Table 9-26 that our A-ABORT carries.
    """

    def __init__(self, message: str, *, reason: int = 6) -> None:
        super().__init__(message)
        self.reason = reason


class AssociationError(DicomNetworkError):
    """There is no association (any more)."""


class AssociationRejected(AssociationError):
    """The peer answered with A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int, *, peer: str = "") -> None:
        self.peer = peer
        self.result = result
        self.source = source
        self.reason = reason
        super().__init__(result, source, reason)

    def __str__(self) -> str:
        how = _REJECT_RESULTS.get(self.result, f"with result {self.result}")
        why = _REJECT_REASONS.get((self.source, self.reason), "a reason that PS3.8 does not define")
        who = f"{self.peer}: " if self.peer else ""
        return f"{who}association rejected {how}: {why} ({self.result}/{self.source}/{self.reason})"


class AssociationAborted(AssociationError):
    """The association was aborted by a user or a provider, theirs or ours (PS3.8 9.3.8).

    ``source`` and ``reason`` are those of the A-ABORT; ``message`` tells more where we know more.
    """

    def __init__(self, source: int, reason: int, message: str = "", *, peer: str = "") -> None:
        self.source = source
        self.reason = reason
        self.message = message
        self.peer = peer
        super().__init__(source, reason, message)

    def __str__(self) -> str:
        if self.message:
            return self.message
        who = f"{self.peer}: " if self.peer else ""
        if self.source == 0:
            return f"{who}association aborted by the peer (A-ABORT, source 0: service user)"
        why = _ABORT_REASONS.get(self.reason, f"reason {self.reason}")
        return f"{who}association aborted by the peer's provider: {why} ({self.source}/{self.reason})"


class AssociationReleased(AssociationError):
    """The association has been released: nothing can be sent on it any more."""


class AssociationClosed(AssociationError):
    """The transport connection was lost or could not be opened; ``__cause__`` tells why if known."""


class AssociationTimeout(AssociationError, TimeoutError):
    """A deadline passed. `which`, of `Timeouts`: connect, acse, artim, dimse, release, receive, write."""

    def __init__(self, message: str, *, which: str = "") -> None:
        super().__init__(message)
        self.which = which


class PresentationContextError(DicomNetworkError):
    """No accepted presentation context fits what was to be sent."""


class DataSetError(DicomNetworkError, ValueError):
    """A data set, or a file that should hold one, cannot be read."""


class StatusError(DicomNetworkError):
    """A response whose Status is a Failure; ``response`` is the whole of it."""

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self.response = response
        self.status: Status = response.status

    def __str__(self) -> str:
        comment = getattr(self.response, "error_comment", None)
        tags = dict.fromkeys((*self._tags("attribute_identifier_list"), *self._tags("offending_elements")))
        about = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)
        return "; ".join(filter(None, (f"status {self.status}" + (f": {comment}" if comment else ""), about)))

    def _tags(self, name: str) -> tuple[int, ...]:
        """What the response says it is about (PS3.7 Annex C): Attribute Identifier List, Offending
        Element."""
        tags = getattr(self.response, name, ())
        return tuple(tag for tag in tags if isinstance(tag, int))
