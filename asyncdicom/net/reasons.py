"""Why something failed, short enough for an Error Comment (0000,0902), which holds 64 characters."""

from __future__ import annotations

import socket
import ssl

from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
)

__all__ = ["NotAttempted", "in_short"]

_TIMEOUTS = {
    "connect": "no connection in time",
    "acse": "no answer to the association request in time",
    "dimse": "no response in time",
    "write": "it does not take what is sent",
    "release": "no answer to the release request in time",
}


class NotAttempted(AssociationError):
    """No connection was opened, for a reason of our own; `in_short`: the message for an Error Comment."""

    def __init__(self, message: str, in_short: str) -> None:
        super().__init__(message)
        self.in_short = in_short


def in_short(error: BaseException) -> str:
    """Say in a few words why an association failed or a file could not be read; no received text is in it."""
    if isinstance(error, NotAttempted):
        return error.in_short
    cause = error.__cause__ if error.__cause__ is not None else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return _of_tls(cause)
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, socket.gaierror):
        return "unknown host"
    if isinstance(error, AssociationRejected):
        return str(AssociationRejected(error.result, error.source, error.reason)).partition(": ")[2]
    if isinstance(error, AssociationAborted):
        return "association aborted"
    if isinstance(error, AssociationTimeout):
        return _TIMEOUTS.get(error.which, "too late")
    if isinstance(cause, OSError):
        return cause.strerror or "connection lost"
    return "connection lost"


def _of_tls(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if "_ALERT_" in reason:
        return f"TLS refused: {reason.split('_ALERT_')[1].replace('_', ' ').lower()}"
    return f"TLS handshake failed: {reason.replace('_', ' ').lower() or 'no TLS on this port?'}"
