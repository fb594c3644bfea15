"""What `protocol.UpperLayer` reports to its caller: the indications and confirmations of PS3.8 7.

Received data is reported as `PDataFragment`, just as the decoder made it.
"""

# No `from __future__ import annotations`: each field that is text costs a NamedTuple a compilation.

from typing import NamedTuple

from asyncdicom.exceptions import RemoteProtocolError

from .decoder import PDataFragment
from .pdu import AAssociateAC, AAssociateRJ, AAssociateRQ


class AssociateIndication(NamedTuple):
    """A-ASSOCIATE indication: answer with `accept` or `reject`."""

    request: AAssociateRQ


class AssociateConfirmation(NamedTuple):
    """A-ASSOCIATE confirmation: the peer accepted."""

    accept: AAssociateAC


class AssociateRejection(NamedTuple):
    """The peer rejected; on the acceptor's side: our provider did, before any indication (AE-6)."""

    rejection: AAssociateRJ


class ReleaseIndication(NamedTuple):
    """A-RELEASE indication: answer with `release_response`, after what still has to be sent.

    In a collision both sides have asked. `release_response` on this event and again on
    `ReleaseConfirmation` is right on both sides: where it is not its turn it does nothing.
    """

    collision: bool


class ReleaseConfirmation:
    """A-RELEASE confirmation: the peer agreed. The connection closes, or (collision) our answer is due."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ReleaseConfirmation()"


class AbortIndication(NamedTuple):
    """A-ABORT or A-P-ABORT indication: the peer aborted, with the numbers of its A-ABORT PDU."""

    source: int
    reason: int


class TransportClosed:
    """A-P-ABORT indication: the connection was lost."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "TransportClosed()"


class ProtocolViolation(NamedTuple):
    """The peer broke the protocol; our A-ABORT is in `data_to_send`."""

    error: RemoteProtocolError


class TimerExpired(NamedTuple):
    """A deadline passed: artim, acse, release, receive or idle. All but idle end the association."""

    which: str


Event = (
    AssociateIndication
    | AssociateConfirmation
    | AssociateRejection
    | PDataFragment
    | ReleaseIndication
    | ReleaseConfirmation
    | AbortIndication
    | TransportClosed
    | ProtocolViolation
    | TimerExpired
)
