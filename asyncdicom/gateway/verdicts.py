"""What an attempt to send an instance says: of the instance, and of the destination."""

from __future__ import annotations

import enum
import errno
from collections.abc import Collection
from typing import TypeGuard

from asyncdicom.archive.errors import ArchiveError
from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationError,
    DataSetError,
    PresentationContextError,
    RemoteProtocolError,
)
from asyncdicom.status import Status

__all__ = ["NotTakenError", "Verdict", "cause_of", "verdict_of_error", "verdict_of_status"]


class NotTakenError(Exception):
    """A destination that answers by no status works, and does not take this instance."""


class Verdict(enum.Enum):
    """Whose fault it was, which decides what is tried again, and when."""

    DELIVERED = "delivered"
    OBJECT = "the destination did not take this instance"
    """It may take it later, as often as the options say."""
    REFUSED = "the destination does not take such instances"
    """Nothing changes by itself: it is not tried again before an operator says so."""
    DESTINATION = "the destination cannot be reached, or takes nothing now"
    BROKEN = "the association was lost while this instance was sent"
    """Either of them may be the reason."""
    UNREADABLE = "it cannot be read here"
    """Nobody else's fault: the destination is none the better or worse for it."""
    HERE = "it cannot be read here now"
    """Nor is it the file's: too many are open, a bucket or the index cannot be reached."""
    RETURNED = "it was not sent"
    """Nobody's fault: we stop, or pause."""


# PS3.4 Table B.2-1 and PS3.7 Annex C. By code, then by its first digits; what is not here is OBJECT.
_BY_STATUS = {
    Status.SOP_CLASS_NOT_SUPPORTED: Verdict.REFUSED,
    Status.NO_SUCH_SOP_CLASS: Verdict.REFUSED,
    Status.UNRECOGNIZED_OPERATION: Verdict.REFUSED,
    Status.RESOURCE_LIMITATION: Verdict.DESTINATION,
}
_BY_FAMILY = {0xA700: Verdict.DESTINATION}

# What an operating system says of a file that is missing or damaged; all else may be otherwise later.
_OF_A_FILE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EIO,
    errno.EINVAL,
    errno.ENXIO,
)


def verdict_of_status(
    status: Status, also_delivered: Collection[int] = (), not_delivered: Collection[int] = ()
) -> Verdict:
    """Judge the answer to a C-STORE.

    A Warning is a delivery: the instance is stored (0xB000, 0xB006, 0xB007). `also_delivered`: Failures that
    this destination means as one, such as 0x0111 where it has the instance already; `not_delivered`: Warnings
    by which it does not.
    """
    if status in not_delivered:
        return Verdict.OBJECT
    if status.is_success or status.is_warning or status in also_delivered:
        return Verdict.DELIVERED
    return _BY_STATUS.get(status) or _BY_FAMILY.get(status & 0xFF00, Verdict.OBJECT)


def verdict_of_error(error: BaseException, *, was_sending: bool) -> Verdict:
    """Judge an exception. `was_sending`: the association stood, and the instance was on its way."""
    if not isinstance(error, Exception):
        return Verdict.RETURNED
    if isinstance(error, PresentationContextError):
        return Verdict.REFUSED
    if isinstance(error, NotTakenError):
        return Verdict.OBJECT
    error = cause_of(error)
    if isinstance(error, AssociationError | RemoteProtocolError):
        return Verdict.BROKEN if was_sending else Verdict.DESTINATION
    if isinstance(error, ArchiveError):
        return Verdict.HERE
    if isinstance(error, OSError):
        if not was_sending:
            return Verdict.DESTINATION
        is_of_the_file = isinstance(error, FileNotFoundError) or error.errno in _OF_A_FILE
        return Verdict.UNREADABLE if is_of_the_file else Verdict.HERE
    return Verdict.UNREADABLE


def cause_of(error: Exception) -> Exception:
    """Give what has failed here, if an association was aborted because of that; else the error itself."""
    cause = error.__cause__
    return cause if isinstance(error, AssociationAborted) and _is_ours(cause) else error


def _is_ours(cause: BaseException | None) -> TypeGuard[Exception]:
    """Tell whether an association that we have aborted was that for what was read here, not for the peer."""
    is_of_the_peer = isinstance(cause, AssociationError | RemoteProtocolError | ConnectionError)
    return isinstance(cause, OSError | DataSetError | ArchiveError) and not is_of_the_peer
