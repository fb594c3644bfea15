"""Who may do what: one policy, and the pure functions that apply it.

It is evaluated in this order: the address, at accept; then, when the A-ASSOCIATE-RQ has come, the TLS
certificate, the called AE title, the calling AE title with its networks and certificates, the user identity;
the services, context by context and request by request; the destination of a C-MOVE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from asyncdicom.address import Address, check_ae_title
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.status import Status
from asyncdicom.ul.items import UserIdentity
from asyncdicom.ul.negotiation import Policy
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    Networks = tuple[IPv4Network | IPv6Network, ...]

__all__ = [
    "ANYBODY",
    "EVERYTHING",
    "SERVICES",
    "AccessPolicy",
    "Certificate",
    "Grant",
    "Peer",
    "Refusal",
    "check_grant",
    "check_services",
    "judge",
    "permitted",
    "refused_operation",
]

ANYBODY = "*"

SERVICES = frozenset(
    {"echo", "store", "find", "worklist", "get", "move"}  # DIMSE-C
    | {"commitment", "mpps", "ups", "print", "ian", "normalized"}  # DIMSE-N; "normalized" are all others
)
"""The names of the services that the library has; `serve(services=[...])` may bring others."""

# PS3.8 Table 9-21: result, source, reason.
REJECTED = AAssociateRJ(1, 1, 1)
CALLING_NOT_RECOGNIZED = AAssociateRJ(1, 1, 3)
CALLED_NOT_RECOGNIZED = AAssociateRJ(1, 1, 7)
LOCAL_LIMIT_EXCEEDED = AAssociateRJ(2, 3, 2)

_FINGERPRINT = "sha256:"

UserIdentityCheck = Callable[[AAssociateRQ, UserIdentity | None], Awaitable[bool | bytes]]

# The policy.


class Grant(NamedTuple):
    """What an association may be used for; None is "all"."""

    services: frozenset[str] | None = None
    move_destinations: frozenset[str] | None = None

    def allows(self, service: str | None) -> bool:
        """Whether a service is granted; None is one that has no name here, which only "all" includes."""
        return self.services is None or service in self.services


EVERYTHING = Grant()


class Certificate(NamedTuple):
    """A verified certificate of a peer: its SHA-256 fingerprint, and its Subject Alternative Names."""

    fingerprint: str
    names: frozenset[str] = frozenset()

    def is_one_of(self, known: frozenset[str]) -> bool:
        """Whether it is meant by one of these fingerprints or names."""
        names = (name for name in self.names if not name.startswith(_FINGERPRINT))
        return _FINGERPRINT + self.fingerprint in known or any(name in known for name in names)


class Peer:
    """What one AE title may do here, and how it has to show who it is; what is left out is not limited.

    `address`: "host:port" where it listens, which makes it a C-MOVE destination. `networks`: it calls only
    from these ("10.0.0.7", "10.1.0.0/16"). `certificates`: it shows one of these, by its SHA-256
    fingerprint ("sha256:9f86...") or a Subject Alternative Name. `services`: those that it may use, by the
    names in `SERVICES` or that of a `Service` of yours. `move_destinations`: the AE titles that it may have
    instances sent to. One text does for a list of one; an empty list allows nothing.

    Raises ValueError for what is not an address, a network, a fingerprint, the name of a service or an AE
    title; `serve` does for the name of a service that there is not.
    """

    __slots__ = ("address", "certificates", "grant", "networks")

    def __init__(
        self,
        address: Address | str | None = None,
        *,
        networks: Iterable[str] | None = None,
        certificates: Iterable[str] | None = None,
        services: Iterable[str] | None = None,
        move_destinations: Iterable[str] | None = None,
    ) -> None:
        self.address = Address.parse(address) if isinstance(address, str) else address
        self.networks = _networks(networks)
        self.certificates = _each(_certificate, certificates)
        self.grant = Grant(_each(_service, services), _each(check_ae_title, move_destinations))


Peers = Mapping[str, Peer | Address | str | None] | Collection[str]


class AccessPolicy:
    """Who may connect, associate and do what; the default lets anybody do everything.

    `networks`: connections come only from these, `denied_networks`: never from these; others are closed
    without a byte. `certificates`: only peers that show one of these (see `Peer`) may associate; that a
    certificate is valid is for the ``ssl`` context to require. `called_ae_titles`: the AE titles to be
    called by. `peers`: who may call: AE titles, each with a `Peer` or just the "host:port" where it is a
    C-MOVE destination ("" or None: it is none); "*" stands for all that are not named. `user_identity`: a
    coroutine function that judges the user identity, or its absence: True lets the user in, so do bytes,
    the server response to send back; anything else, and an exception, refuses.

    Raises ValueError for what cannot be understood.
    """

    __slots__ = (
        "addresses",
        "called_ae_titles",
        "certificates",
        "denied_networks",
        "networks",
        "peers",
        "user_identity",
    )

    def __init__(
        self,
        *,
        networks: Iterable[str] | None = None,
        denied_networks: Iterable[str] = (),
        certificates: Iterable[str] | None = None,
        called_ae_titles: Iterable[str] | None = None,
        peers: Peers | None = None,
        user_identity: UserIdentityCheck | None = None,
    ) -> None:
        self.networks = _networks(networks)
        self.denied_networks = _networks(denied_networks) or ()
        self.certificates = _each(_certificate, certificates)
        self.called_ae_titles = _each(check_ae_title, called_ae_titles)
        self.peers = _peers({ANYBODY: None} if peers is None else peers)
        self.addresses = {
            title: peer.address._replace(ae_title=title)
            for title, peer in self.peers.items()
            if peer.address is not None
        }
        self.user_identity = user_identity

    def refuses_address(self, host: str) -> str | None:
        """Why no connection may come from there, or None."""
        if _is_within(host, self.denied_networks):
            return "a denied address"
        if self.networks is not None and not _is_within(host, self.networks):
            return "not an allowed address"
        return None


# What is asked of it.


class Refusal(NamedTuple):
    """A refused association: what the peer is told, and why, for us alone."""

    rejection: AAssociateRJ
    why: str


def judge(
    policy: AccessPolicy, request: AAssociateRQ, host: str, certificate: Certificate | None = None
) -> Grant | Refusal:
    """What a request for an association is granted, as far as no user identity is asked for."""
    if not _shows(certificate, policy.certificates):
        return Refusal(REJECTED, "not an allowed certificate")
    if policy.called_ae_titles is not None and request.called_ae_title not in policy.called_ae_titles:
        return Refusal(CALLED_NOT_RECOGNIZED, "not our AE title")
    peer = policy.peers.get(request.calling_ae_title) or policy.peers.get(ANYBODY)
    if peer is None:
        return Refusal(CALLING_NOT_RECOGNIZED, "not a known AE title")
    if peer.networks is not None and not _is_within(host, peer.networks):
        return Refusal(CALLING_NOT_RECOGNIZED, "this AE title does not call from there")
    if not _shows(certificate, peer.certificates):
        return Refusal(CALLING_NOT_RECOGNIZED, "not the certificate of this AE title")
    return peer.grant


def permitted(
    offer: Policy,
    grant: Grant,
    performed_by: Mapping[str, frozenset[str]],
    invoked_by: Mapping[str, frozenset[str]],
) -> Policy:
    """What is left of an offer: the rest is refused by the user (PS3.8 Table 9-18), not unknown.

    `performed_by` and `invoked_by`: abstract syntax -> the services that it is offered for.
    """
    services = grant.services
    if services is None:
        return offer
    unknown = offer.unknown_storage
    return offer._replace(
        performed=_permitted(offer.performed, performed_by, services),
        invoked=_permitted(offer.invoked, invoked_by, services),
        unknown_storage=unknown if unknown is None or "store" in services else (),
    )


def _permitted(
    offered: Mapping[str, tuple[str, ...]], by: Mapping[str, frozenset[str]], services: frozenset[str]
) -> dict[str, tuple[str, ...]]:
    return {uid: syntaxes if by.get(uid, frozenset()) & services else () for uid, syntaxes in offered.items()}


def refused_operation(grant: Grant, service: str | None, command: Command) -> Status | None:
    """What a request for a service is answered with that was not granted; None if it was.

    `service`: None for a request that no service performs, which only "all" includes. A destination that is
    not allowed looks like one that does not exist.
    """
    if not grant.allows(service):
        return Status.NOT_AUTHORIZED
    destinations = grant.move_destinations
    is_move = command.command_field is CommandField.C_MOVE_RQ
    if is_move and destinations is not None and command.move_destination not in destinations:
        return Status.MOVE_DESTINATION_UNKNOWN
    return None


def check_services(policy: AccessPolicy, others: Collection[str] = ()) -> None:
    """Raise ValueError if a peer is granted a service that is not one of `SERVICES` or `others`."""
    for ae_title, peer in policy.peers.items():
        try:
            check_grant(peer.grant, others)
        except ValueError as error:
            raise ValueError(f"{ae_title}: {error}") from None


def check_grant(grant: Grant, others: Collection[str] = ()) -> None:
    """Raise ValueError for a service that is neither one of `SERVICES` nor one of `others`."""
    known = SERVICES.union(others)
    for name in sorted(grant.services or ()):
        if name not in known:
            raise ValueError(f"{name!r} is no service; they are {', '.join(sorted(known))}")


# Understanding what users write.


def _each(understand: Callable[[str], str], texts: Iterable[str] | None) -> frozenset[str] | None:
    if texts is None:
        return None
    return frozenset(map(understand, [texts] if isinstance(texts, str) else texts))


def _service(text: str) -> str:
    # Whether there is such a service is checked where the services are known (`check_services`).
    if not text or text != text.lower() or not text.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{text!r} is no service; they are {', '.join(sorted(SERVICES))}")
    return text


def _certificate(text: str) -> str:
    known = text.strip().lower()
    digits = known.removeprefix(_FINGERPRINT).replace(":", "")
    if len(digits) == 64 and set(digits) <= set("0123456789abcdef"):
        return _FINGERPRINT + digits
    if known.startswith(_FINGERPRINT):
        raise ValueError(f"{text!r} is no fingerprint: sha256: and 64 hexadecimal digits")
    if not known:
        raise ValueError("a certificate is named by its fingerprint or a Subject Alternative Name")
    return known


def _peers(peers: Peers) -> dict[str, Peer]:
    if isinstance(peers, str):
        peers = [peers]
    named = peers.items() if isinstance(peers, Mapping) else ((title, None) for title in peers)
    return {
        check_ae_title(title): peer if isinstance(peer, Peer) else Peer(peer or None) for title, peer in named
    }


def _networks(texts: Iterable[str] | None) -> Networks | None:
    if texts is None:
        return None
    from ipaddress import ip_network  # 2 ms that most do not need

    return tuple(ip_network(text) for text in ([texts] if isinstance(texts, str) else texts))


def _is_within(host: str, networks: Networks) -> bool:
    if not networks:
        return False
    from ipaddress import ip_address

    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:  # an AF_UNIX socket
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)


def _shows(certificate: Certificate | None, known: frozenset[str] | None) -> bool:
    return known is None or (certificate is not None and certificate.is_one_of(known))
