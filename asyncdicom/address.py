"""Application entities and where they are: ``AET@host:port``."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PORT = 11112  # registered for DICOM with IANA, besides 104
ANY_SCP = "ANY-SCP"


def check_ae_title(text: str) -> str:
    """``text`` without its insignificant spaces, when it is a valid AE title (PS3.5 6.2, VR AE).

    Raises ``ValueError`` when it is not: 1 to 16 printable ASCII characters, no backslash, not only spaces.
    """
    title = text.strip(" ")
    if not title:
        raise ValueError(f"AE title {text!r} is empty")
    for position, character in enumerate(title, start=1):
        if not " " <= character <= "~" or character == "\\":
            raise ValueError(
                f"AE title {title!r} has {character!r} at position {position}, which is not allowed"
            )
    if len(title) > 16:
        raise ValueError(f"AE title {title!r} has {len(title)} characters: 16 are allowed")
    return title


class Address(NamedTuple):
    """An application entity and the host and TCP port it listens on."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Address:
        """Read ``AET@host:port``.

        ``AET@host`` takes ``default_port``, ``host:port`` takes the AE title ANY-SCP; an IPv6 address stands
        in brackets. Raises ``ValueError`` with one line that says what is wrong.
        """
        ae_title, at, place = text.strip().rpartition("@")
        host, port = _split_port(text, place)
        return cls(check_ae_title(ae_title) if at else ANY_SCP, host, default_port if port is None else port)

    @property
    def place(self) -> str:
        """ "host:port", an IPv6 address in brackets."""
        return place_of(self.host, self.port)

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.place}"


def place_of(host: str, port: int) -> str:
    """ "host:port", an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_OF_IPV6 = frozenset("0123456789abcdefABCDEF:")


def _split_port(text: str, place: str) -> tuple[str, int | None]:
    bracketed = place.startswith("[")
    if bracketed:
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise ValueError(f"address {text!r}: an IPv6 address is written [address]:port")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = place.partition(":")
        if port.startswith("//"):
            raise ValueError(f"address {text!r} is a URL: a peer is written AET@host:port")
        if ":" in port and all(character in _OF_IPV6 for character in place.partition("%")[0]):
            raise ValueError(f"address {text!r}: an IPv6 address is written in brackets, [{place}]")
        if ":" in port:
            raise ValueError(f"address {text!r} has a colon too many; write AET@host:port")
    if not host or not all(character > " " and character not in "[]/\\\x7f" for character in host):
        raise ValueError(f"address {text!r} has no valid host; write AET@host:port")
    if not colon:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ValueError(f"address {text!r} has the port {port!r}: it is a number up to 65535")
    return host, int(port)
