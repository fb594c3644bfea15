"""What `dimse.association.AssociationCore` reports: what has happened on an association.

Beside these it hands on the events of the upper layer (`ul.events`) as they come, for whoever traces an
association, and of the assembler `MessageStarted` (a request has come; its data set follows if the command
announces one) and `DataReceived` (more of the data set of the request that came last).
"""

# No `from __future__ import annotations`: each field that is text costs a NamedTuple a compilation.

from typing import NamedTuple

from asyncdicom.dimse.assembler import DataReceived, MessageStarted
from asyncdicom.dimse.messages import Command
from asyncdicom.dimse.operations import Invoked
from asyncdicom.exceptions import AssociationError
from asyncdicom.ul.events import Event as UpperLayerEvent
from asyncdicom.ul.negotiation import Negotiated

__all__ = [
    "CancelReceived",
    "CommandDropped",
    "DuplicateRefused",
    "Ended",
    "Established",
    "Event",
    "OperationFailed",
    "OperationsFailed",
    "ResponseReceived",
]


class Established(NamedTuple):
    """The association stands: operations can be invoked."""

    negotiated: Negotiated


class ResponseReceived(NamedTuple):
    """A response to one of our operations, with its whole data set."""

    operation: Invoked
    command: Command
    data: bytes | None
    is_final: bool


class CommandDropped(NamedTuple):
    """A response that nobody waits for, or a request that comes when none is taken any more."""

    command: Command


class DuplicateRefused(NamedTuple):
    """A request came under a Message ID that is in use: send this response (0210H); nothing is performed."""

    context_id: int
    command: Command
    response: Command


class CancelReceived(NamedTuple):
    """C-CANCEL came for this request, which has no final response yet."""

    command: Command
    request: Command


class OperationFailed(NamedTuple):
    """No response will come to this operation; the association ends for it."""

    operation: Invoked
    error: AssociationError


class OperationsFailed(NamedTuple):
    """The peer has asked for the release: no response will come to any operation."""

    error: AssociationError


class Ended(NamedTuple):
    """The association is over; said once. `error` tells how, also where it ended in order."""

    error: AssociationError


Event = (
    UpperLayerEvent
    | MessageStarted
    | DataReceived
    | Established
    | ResponseReceived
    | CommandDropped
    | DuplicateRefused
    | CancelReceived
    | OperationFailed
    | OperationsFailed
    | Ended
)
