"""Who may do what: one policy, and the pure functions that apply it.

It is evaluated in this order: the address, at accept; then, when the A-ASSOCIATE-RQ has come, the TLS
certificate, the called AE title, the calling AE title with its networks and certificates, the user identity;
the services, context by context and request by request; the destination of a C-MOVE.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asyncdicom.address import Address, check_ae_title
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.status import Status
from asyncdicom.ul.items import UserIdentity
from asyncdicom.ul.negotiation import Policy
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from asyncdicom.destination import Destination

    Networks = tuple[IPv4Network | IPv6Network, ...]

__all__ = [
    "ANYBODY",
    "EVERYTHING",
    "NAME_KINDS",
    "SERVICES",
    "AccessPolicy",
    "Certificate",
    "Grant",
    "Peer",
    "Refusal",
    "certificate_name",
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
    """A verified certificate of a peer: its SHA-256 fingerprint, and its Subject Alternative Names.

    The names are those that `certificate_name` gives: one of one kind never passes for one of another.
    """

    fingerprint: str
    names: frozenset[str] = frozenset()

    def is_one_of(self, known: frozenset[str]) -> bool:
        """Whether it is meant by one of these fingerprints or names."""
        return _FINGERPRINT + self.fingerprint in known or not known.isdisjoint(self.names)


class Peer:
    """What one AE title may do here, and how it has to show who it is; what is left out is not limited.

    `address`: "host:port" where it listens, which makes it a C-MOVE destination; a `Destination` also says
    how it is called: by TLS, under which AE titles, how often at once. `networks`: it calls only
    from these ("10.0.0.7", "10.1.0.0/16"). `certificates`: it shows one of these, by its SHA-256
    fingerprint ("sha256:9f86...") or a Subject Alternative Name: "ws.example" or an IP address, or with its
    kind, as in "uri:urn:x:ws", "email:ws@x.example", "dns:ws.example", "ip:10.0.0.7". `services`: those that
    it may use, by the names in `SERVICES` or that of a `Service` of yours. `move_destinations`: the AE titles
    that it may have instances sent to. One text does for a list of one; an empty list allows nothing.

    Raises ValueError for what is not an address, a network, a fingerprint, the name of a service or an AE
    title; `serve` does for the name of a service that there is not.
    """

    __slots__ = ("certificates", "destination", "grant", "host", "networks")

    def __init__(
        self,
        address: Destination | Address | str | None = None,
        *,
        networks: Iterable[str] | None = None,
        certificates: Iterable[str] | None = None,
        services: Iterable[str] | None = None,
        move_destinations: Iterable[str] | None = None,
    ) -> None:
        self.destination: Destination | None = None
        if address is not None:
            from asyncdicom.destination import as_destination  # 3 ms that who only calls does not need

            self.destination = as_destination(address)
        self.host = _ip(self.destination.where.host) if self.destination is not None else None
        self.networks = _networks(networks)
        self.certificates = _each(_certificate, certificates)
        self.grant = Grant(_each(_service, services), _each(check_ae_title, move_destinations))

    @property
    def address(self) -> Address | None:
        """Where it listens."""
        return None if self.destination is None else self.destination.where


Peers: TypeAlias = "Mapping[str, Peer | Destination | Address | str | None] | Collection[str]"


class AccessPolicy:
    """Who may connect, associate and do what; the default lets anybody do everything.

    `networks`: connections come only from these, `denied_networks`: never from these; others are closed
    without a byte. `proxies`: those that pass connections on to us and say who calls, in a header of the
    PROXY protocol, version 2, with which each of their connections begins; all that counts or judges
    addresses then sees the caller. It is believed from nowhere else. `certificates`: only peers that show one
    of these (see `Peer`) may associate; that a certificate is valid is for the `ssl` context to require.
    `called_ae_titles`: the AE titles to be called by. `peers`: who may call: AE titles, each with a `Peer` or
    just the "host:port" (or `Destination`) where it is a C-MOVE destination ("" or None: it is none); "*"
    stands for all that are not named.
    `user_identity`: a coroutine function that judges the user identity, or its absence: True lets the user
    in, so do bytes, the server response to send back; anything else, and an exception, refuses.

    Raises ValueError for what cannot be understood.
    """

    __slots__ = (
        "called_ae_titles",
        "certificates",
        "denied_networks",
        "destinations",
        "knows_addresses",
        "networks",
        "peers",
        "proxies",
        "user_identity",
    )

    def __init__(
        self,
        *,
        networks: Iterable[str] | None = None,
        denied_networks: Iterable[str] = (),
        proxies: Iterable[str] = (),
        certificates: Iterable[str] | None = None,
        called_ae_titles: Iterable[str] | None = None,
        peers: Peers | None = None,
        user_identity: UserIdentityCheck | None = None,
    ) -> None:
        self.networks = _networks(networks)
        self.denied_networks = _networks(denied_networks) or ()
        self.proxies = _networks(proxies) or ()
        self.certificates = _each(_certificate, certificates)
        self.called_ae_titles = _each(check_ae_title, called_ae_titles)
        self.peers = _peers({ANYBODY: None} if peers is None else peers)
        self.destinations = {
            title: peer.destination.named(title)
            for title, peer in self.peers.items()
            if peer.destination is not None and title != ANYBODY
        }
        self.user_identity = user_identity
        self.knows_addresses = any(peer.networks or peer.host for _, peer in self._named())

    def renew(self, other: AccessPolicy) -> None:
        """Be what `other` is, for all who have this policy, from now on: associations that stand go on.

        The C-MOVE destinations of a server are renewed by `Server.renew`.
        """
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    @property
    def asks_for_certificates(self) -> bool:
        """Whether anybody has to show a certificate, which takes TLS."""
        return self.certificates is not None or any(
            peer.certificates is not None for peer in self.peers.values()
        )

    @property
    def knows_anybody(self) -> bool:
        """Whether any peer can show that it is known: by its networks, its certificates or its address."""
        return self.knows_addresses or any(peer.certificates for _, peer in self._named())

    def _named(self) -> Iterable[tuple[str, Peer]]:
        return ((title, peer) for title, peer in self.peers.items() if title != ANYBODY)

    def knows_address(self, host: str) -> bool:
        """Whether a named peer calls from there, by its networks or the address where it listens."""
        return self.knows_addresses and any(_calls_from(peer, host) for _, peer in self._named())

    def knows(self, calling_ae_title: str, host: str, certificate: Certificate | None) -> bool:
        """Whether the caller is a named peer and has shown it, by where it calls from or by its certificate.

        An AE title is no proof of anything.
        """
        peer = self.peers.get(calling_ae_title) if calling_ae_title != ANYBODY else None
        if peer is None:
            return False
        if peer.certificates is not None:
            return _shows(certificate, peer.certificates)
        return _calls_from(peer, host)

    def trusts(self, host: str) -> bool:
        """Whether a proxy calls from there, which says who calls."""
        return bool(self.proxies) and _is_within(host, self.proxies)

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
    unknown, retrieval = offer.unknown_storage, offer.unknown_retrieval
    return offer._replace(
        performed=_permitted(offer.performed, performed_by, services),
        invoked=_permitted(offer.invoked, invoked_by, services),
        unknown_storage=unknown if unknown is None or "store" in services else (),
        unknown_retrieval=retrieval if retrieval is None or "get" in services else (),
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
    known = text.strip()
    digits = known.lower().removeprefix(_FINGERPRINT).replace(":", "")
    if len(digits) == 64 and set(digits) <= set("0123456789abcdef"):
        return _FINGERPRINT + digits
    if known.lower().startswith(_FINGERPRINT):
        raise ValueError(f"{text!r} is no fingerprint: sha256: and 64 hexadecimal digits")
    if not known:
        raise ValueError("a certificate is named by its fingerprint or a Subject Alternative Name")
    kind, colon, name = known.partition(":")
    if colon and kind.lower() in NAME_KINDS:
        return certificate_name(kind.lower(), name)
    if _ip(known) is not None:
        return certificate_name("ip", known)
    if set(known) & set(":@/"):
        raise ValueError(f"{text!r}: say of which kind the name is: {', '.join(f'{k}:' for k in NAME_KINDS)}")
    return certificate_name("dns", known)


NAME_KINDS = ("dns", "ip", "uri", "email")


def certificate_name(kind: str, name: str) -> str:
    """Write a Subject Alternative Name with its kind, so that equal ones are equal texts."""
    if kind == "ip":
        name = _ip(name) or name
    elif kind != "uri":  # which differ by their case
        name = name.lower()
    return f"{kind}:{name}"


def _ip(text: str) -> str | None:
    from ipaddress import ip_address

    try:
        return str(ip_address(text.strip()))
    except ValueError:
        return None


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


def _calls_from(peer: Peer, host: str) -> bool:
    if peer.networks is not None:
        return _is_within(host, peer.networks)
    return peer.host is not None and peer.host == _ip(host.removeprefix("::ffff:"))


def _shows(certificate: Certificate | None, known: frozenset[str] | None) -> bool:
    return known is None or (certificate is not None and certificate.is_one_of(known))
