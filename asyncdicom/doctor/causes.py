"""From what was seen to its cause: what is wrong, why it is thought so, and what to change on which side.

Pure: errors, statuses and what probes have shown go in. The texts stand in one table, `CAUSES`.
"""

from __future__ import annotations

import errno
from typing import Literal, NamedTuple

from asyncdicom.exceptions import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
    PresentationContextError,
    StatusError,
)
from asyncdicom.status import Status

__all__ = [
    "CAUSES",
    "Cause",
    "Finding",
    "Probed",
    "Result",
    "Side",
    "cause",
    "cause_of_association",
    "cause_of_connection",
    "cause_of_error",
    "cause_of_move",
    "cause_of_status",
    "cause_of_tls",
    "is_about_titles",
]

Side = Literal["here", "peer", "network"]
Result = Literal["ok", "warning", "failed", "skipped"]


class Cause(NamedTuple):
    """Why a step failed: a name, what that means, what to change, and on which side."""

    name: str
    why: str
    change: str
    side: Side


class Finding(NamedTuple):
    """What one step has shown; `seconds` is how long it took."""

    step: str
    result: Result
    detail: str
    cause: Cause | None = None
    seconds: float = 0.0


class Probed(NamedTuple):
    """What a port was seen to speak when it was asked for it; None: not asked."""

    tls: bool | None = None
    dicom: bool | None = None


_ROWS: dict[str, tuple[Side, str, str]] = {
    # name and connection
    "unknown host name": (
        "here",
        "no address is known here for this host name",
        "correct the name, or add it to DNS or to the hosts file of this computer; or give the IP address",
    ),
    "wrong port": (
        "peer",
        "the host refuses connections to this port: nothing listens there",
        "correct the port, or start the peer; if it listens on 127.0.0.1 only, have it listen on its network",
    ),
    "firewall": (
        "network",
        "connecting is not answered at all: a firewall drops it, or the host is down or has another address",
        "have the firewall let this computer connect to this port; correct the address",
    ),
    "no route": (
        "network",
        "there is no way through the network to this address",
        "correct the address, or connect the VPN or network that it is in",
    ),
    "connection broken": (
        "network",
        "the connection was broken off as soon as it was made",
        "look at what lies between (firewall, proxy), and at the peer's list of addresses that may connect",
    ),
    # TLS
    "TLS here only": (
        "here",
        "the peer speaks DICOM without TLS on this port",
        "leave out the TLS options, or give the peer's port for TLS",
    ),
    "TLS at the peer only": (
        "here",
        "the peer speaks TLS on this port, and was asked without",
        "add --tls, or +cf with the authority of its certificate; or give the peer's port without TLS",
    ),
    "no TLS": (
        "peer",
        "the port speaks neither TLS nor DICOM",
        "correct the port; look at the peer's log",
    ),
    "TLS refused": (
        "peer",
        "the peer broke off the TLS handshake: no version or cipher in common, or a certificate it minds",
        "compare the TLS profiles of both sides; give a certificate that the peer trusts by +tls KEY CERT",
    ),
    "client certificate": (
        "here",
        "the peer asks for a certificate of ours and got none that it trusts",
        "add +tls KEY CERT; the peer has to trust the authority that issued it",
    ),
    "expired certificate": (
        "peer",
        "the certificate of the peer has expired",
        "renew it at the peer; if it looks valid, correct the clock of this computer",
    ),
    "certificate not yet valid": (
        "peer",
        "the certificate of the peer is not valid yet",
        "correct the clocks of both sides, or have it issued anew",
    ),
    "wrong host name": (
        "peer",
        "the certificate of the peer is for another host name or address than the one that was called",
        "call it by the name in its certificate, add --server-hostname NAME, or have it issued for this name",
    ),
    "untrusted certificate": (
        "here",
        "nobody that is trusted here has issued the certificate of the peer",
        "add +cf FILE with the certificate of its authority (of the peer itself if it is self-signed)",
    ),
    "revoked certificate": ("peer", "the certificate of the peer is revoked", "have a new one issued"),
    "revocation list": (
        "here",
        "the revocation list that was given is not one for this certificate, or too old",
        "renew the file of --crl, one for each authority",
    ),
    "certificate refused": (
        "peer",
        "the certificate of the peer was not accepted",
        "look at it with: openssl s_client -connect HOST:PORT -showcerts",
    ),
    # association
    "wrong called AE title": (
        "here",
        "the peer has another AE title than the one it was called by",
        "give its AE title by -aec or as AET@host:port; capitals and small letters differ",
    ),
    "unknown caller": (
        "peer",
        "the peer does not know our AE title, or not from this address",
        "have our AE title and address entered at the peer, or use one that it knows by -aet",
    ),
    "peer at its limit": (
        "peer",
        "the peer has no room for another association at present",
        "try again later; raise the limit of the peer, or end associations that hang in it",
    ),
    "rejected without a reason": (
        "peer",
        "the peer rejects the association and does not say why",
        "mostly it does not know our AE title or address, or minds a user or passcode: look at its log",
    ),
    "other application": (
        "here",
        "what answers on this port does not speak DICOM",
        "correct the port: the one for DICOM, not for HTTP or HL7",
    ),
    "other version": (
        "peer",
        "the peer does not know the DICOM application context or protocol version",
        "look at its version: it breaks PS3.8, or is no DICOM application",
    ),
    "aborted": (
        "peer",
        "the peer aborts the association while it is opened",
        "look at the peer's log; it may mind our AE title, or one of the presentation contexts",
    ),
    "closed without a word": (
        "peer",
        "the peer closes the connection instead of answering",
        "mostly it does not know our address or has no room: look at its log and its list of known callers",
    ),
    "no answer": (
        "peer",
        "the connection stands, and the request for an association is not answered",
        "the peer hangs, or this is no DICOM port, or a firewall lets only the connection through",
    ),
    # contexts and operations
    "no context": (
        "peer",
        "the peer does not accept the service",
        "switch the service on at the peer, for our AE title; it may be for another port or AE title of it",
    ),
    "no storage role": (
        "peer",
        "the peer lets us ask by C-GET, and not receive: it does not accept the SCP role for storage",
        "use C-MOVE with this peer, or have role selection (PS3.7 D.3.3.4) switched on at it",
    ),
    "Implicit only": (
        "peer",
        "the peer takes Implicit VR Little Endian only",
        "uncompressed images are re-encoded for it; for compressed ones, add transfer syntaxes at it",
    ),
    "not authorized": (
        "peer",
        "the peer does not let us do this",
        "have the permission given to our AE title (or user) at the peer",
    ),
    "operation refused": (
        "peer",
        "the peer answers the request with a failure",
        "look at the peer's log at this time",
    ),
    "out of resources": (
        "peer",
        "the peer says that it lacks resources: disk, memory, or its database",
        "look at the peer's disk and log; try again",
    ),
    "association lost": (
        "peer",
        "the peer ended the association instead of answering the request",
        "look at the peer's log at this time: this is mostly a fault in it",
    ),
    "no response": (
        "peer",
        "the peer does not answer the request in time",
        "look at what the peer does meanwhile; -td gives it more time",
    ),
    "unknown move destination": (
        "peer",
        "the peer has no address for our AE title; some also say so when they cannot connect to it",
        "enter our AE title with the host and port of the receiver in the peer's table of destinations",
    ),
    "destination down": (
        "peer",
        "the peer knows our AE title, and cannot connect to the address that it has for it",
        "correct host and port of our AE title in the peer's table; let a firewall pass it to this port",
    ),
    "destination refused": (
        "here",
        "the peer came to the receiver and could not store the image there",
        "see the warnings of the receiver, and the comment of the peer",
    ),
    "receiver": (
        "here",
        "the receiver cannot listen on this port",
        "choose another one by --port, which the peer has to know",
    ),
    "not delivered": (
        "peer",
        "the peer says that it has sent what was asked for, and nothing came",
        "look whether it sends to another host, and at its log",
    ),
    "transfer syntax": (
        "peer",
        "the peer could not send the image on this association",
        "look at its log: mostly it cannot send the image in a transfer syntax that was proposed",
    ),
}

CAUSES = {name: Cause(name, why, change, side) for name, (side, why, change) in _ROWS.items()}
"""Every cause that can be named, by its name."""


def cause(name: str, why: str = "") -> Cause:
    """Give a cause of `CAUSES`, with what was seen of it."""
    found = CAUSES[name]
    return found._replace(why=f"{found.why} ({why})") if why else found


_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_TIMED_OUT = {errno.ETIMEDOUT}


def cause_of_connection(error: OSError) -> Cause:
    """Judge a TCP connection that could not be made."""
    if isinstance(error, ConnectionRefusedError):
        return cause("wrong port")
    if isinstance(error, TimeoutError) or error.errno in _TIMED_OUT:
        return cause("firewall")
    if error.errno in _UNREACHABLE:
        return cause("no route", error.strerror or "")
    return cause("connection broken", error.strerror or "")


# X509_V_ERR_... of OpenSSL.
_VERIFY_CODES = {
    3: "revocation list",
    9: "certificate not yet valid",
    10: "expired certificate",
    11: "revocation list",
    12: "revocation list",
    18: "untrusted certificate",
    19: "untrusted certificate",
    20: "untrusted certificate",
    21: "untrusted certificate",
    23: "revoked certificate",
    62: "wrong host name",
    64: "wrong host name",
}
_ABOUT_OURS = (
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "ACCESS_DENIED",
)


def _of_ssl(error: BaseException) -> Cause | None:
    """Judge by what OpenSSL says, if it is from there (`ssl.SSLError`)."""
    code = getattr(error, "verify_code", None)
    if code is not None:
        message = str(getattr(error, "verify_message", ""))
        return cause(_VERIFY_CODES.get(code, "certificate refused"), message)
    reason = str(getattr(error, "reason", None) or "")
    if "ALERT" not in reason:
        return None
    told = reason.partition("ALERT_")[2].replace("_", " ").lower()
    return cause("client certificate" if any(name in reason for name in _ABOUT_OURS) else "TLS refused", told)


def cause_of_tls(error: OSError, probed: Probed) -> Cause:
    """Judge a TLS handshake that failed; `probed`: what the port speaks without TLS."""
    if probed.dicom:
        return cause("TLS here only")
    known = _of_ssl(error)
    if known is not None:
        return known
    if isinstance(error, TimeoutError):
        return cause("no TLS", "the handshake is not answered")
    if isinstance(error, ConnectionError):
        return cause("TLS refused", "closed in the handshake")
    return cause("no TLS")


# PS3.8 Table 9-21: source and reason of an A-ASSOCIATE-RJ.
_REJECTIONS = {
    (1, 1): "rejected without a reason",
    (1, 2): "other version",
    (1, 3): "unknown caller",
    (1, 7): "wrong called AE title",
    (2, 1): "rejected without a reason",
    (2, 2): "other version",
    (3, 1): "peer at its limit",
    (3, 2): "peer at its limit",
}


def is_about_titles(error: AssociationError) -> bool:
    """Whether the peer has answered, and minds one of the AE titles."""
    return isinstance(error, AssociationRejected) and (error.source, error.reason) in ((1, 3), (1, 7))


def cause_of_association(error: AssociationError, probed: Probed) -> Cause:
    """Judge an association that was not established; `probed`: what the port speaks with TLS."""
    if isinstance(error, AssociationRejected):
        name = _REJECTIONS.get((error.source, error.reason), "rejected without a reason")
        return cause(name, f"{error.result}/{error.source}/{error.reason}")
    if probed.tls:
        return cause("TLS at the peer only")
    broken = None if error.__cause__ is None else _of_ssl(error.__cause__)
    if broken is not None:
        return broken
    if isinstance(error, AssociationTimeout):
        return cause("no answer" if error.which == "acse" else "firewall")
    if isinstance(error, AssociationAborted):
        # With a message it was this side that did not understand the answer.
        return cause("other application", error.message) if error.message else cause("aborted")
    return cause("closed without a word")


_OUT_OF_RESOURCES = range(0xA700, 0xA800)


def cause_of_status(status: Status, comment: str | None = None) -> Cause:
    """Judge a response that is a Failure (PS3.7 Annex C)."""
    told = f"{status}: {comment}" if comment else str(status)
    if status == Status.MOVE_DESTINATION_UNKNOWN:
        return cause("unknown move destination", told)
    if status == Status.NOT_AUTHORIZED:
        return cause("not authorized", told)
    if status == Status.SOP_CLASS_NOT_SUPPORTED:
        return cause("no context", told)
    return cause("out of resources" if status in _OUT_OF_RESOURCES else "operation refused", told)


def cause_of_error(error: Exception) -> Cause:
    """Judge what an operation raised."""
    if isinstance(error, StatusError):
        return cause_of_status(error.status, getattr(error.response, "error_comment", None))
    if isinstance(error, PresentationContextError):
        return cause("no context", str(error))
    if isinstance(error, AssociationTimeout):
        return cause("no response")
    if isinstance(error, AssociationError):
        return cause("association lost", str(error))
    return cause("operation refused", str(error))


def cause_of_move(status: Status, comment: str | None, *, came: bool, received: int) -> Cause | None:
    """Judge a C-MOVE of one image to a receiver of ours; None: it is all right.

    `came`: whether anybody asked the receiver for an association; `received`: how many images it got.
    """
    if received:
        return None
    if status in (Status.MOVE_DESTINATION_UNKNOWN, Status.NOT_AUTHORIZED, Status.SOP_CLASS_NOT_SUPPORTED):
        return cause_of_status(status, comment)
    told = f"{status}: {comment}" if comment else str(status)
    if came:
        return cause("destination refused", told)
    return cause("not delivered" if status.is_success else "destination down", told)
