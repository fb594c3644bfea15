"""How many connections there are, and from where: what the limits of a server are counted by."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["ConnectionRates", "CountedSet", "is_local", "origin_of"]

_Member = TypeVar("_Member", bound=Hashable)

_BURST = 2.0  # seconds' worth of connections that may come at once
_REMEMBERED = 10_000  # addresses
_PREFIX = 8  # bytes of an IPv6 address that a site cannot choose: its /64
_MAPPED = bytes(10) + b"\xff\xff"


def is_local(host: str) -> bool:
    """Whether a peer is on this machine: then limits for each peer protect nobody from anybody."""
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "?")


def origin_of(host: str) -> str:
    """What connections from there are counted by: an IPv4 address, or the /64 of an IPv6 address.

    Whoever has one IPv6 address has 2**64 of them.
    """
    if ":" not in host:
        return host
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:_PREFIX] + bytes(8)) + "/64"


class CountedSet(Generic[_Member]):
    """A set of members that are also counted by keys, such as the address they come from."""

    __slots__ = ("_counts", "_keys")

    def __init__(self) -> None:
        self._keys: dict[_Member, tuple[Hashable, ...]] = {}
        self._counts: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[_Member]:
        return iter(self._keys)

    def count(self, key: Hashable) -> int:
        """How many members have this key."""
        return self._counts[key]

    def has(self, member: _Member, key: Hashable) -> bool:
        """Whether a member is in and has this key."""
        return key in self._keys.get(member, ())

    def add(self, member: _Member, *keys: Hashable) -> None:
        """Take in a member that is not in yet."""
        self._keys[member] = keys
        self._counts.update(keys)

    def discard(self, member: _Member) -> None:
        """Let go of a member, if it is in."""
        for key in self._keys.pop(member, ()):
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class ConnectionRates:
    """How fast connections may come from each origin: `rate` a second, two seconds' worth at once."""

    __slots__ = ("_origins", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._origins: dict[str, tuple[float, float]] = {}  # what is left of the burst, and when it was

    def allows(self, origin: str, now: float) -> bool:
        """Count one more connection, if it is not too fast."""
        origins, burst = self._origins, self._rate * _BURST
        left, since = origins.pop(origin, (burst, now))
        left = min(left + (now - since) * self._rate, burst)
        allowed = left >= 1
        origins[origin] = (left - allowed, now)  # the dict is in the order of the last connection
        oldest = next(iter(origins))
        if now - origins[oldest][1] >= _BURST or len(origins) > _REMEMBERED:
            del origins[oldest]  # it is entitled to a full burst again
        return allowed
