"""How many connections there are, and from whom: bookkeeping for the limits of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Crowd", "Rates", "is_local"]

_Member = TypeVar("_Member", bound=Hashable)

_BURST = 2.0  # seconds' worth of connections that may come at once
_REMEMBERED = 10_000  # addresses


def is_local(host: str) -> bool:
    """Whether a peer is on this machine: then limits for each peer protect nobody from anybody."""
    return host.startswith(("127.", "::ffff:127.")) or host in ("::1", "?")


class Crowd(Generic[_Member]):
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


class Rates:
    """How fast connections may come from each address: ``rate`` a second, two seconds' worth at once."""

    __slots__ = ("_addresses", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._addresses: dict[str, tuple[float, float]] = {}  # what is left of the burst, and when it was

    def allows(self, address: str, now: float) -> bool:
        """Count one more connection, if it is not too fast."""
        addresses, burst = self._addresses, self._rate * _BURST
        left, since = addresses.pop(address, (burst, now))
        left = min(left + (now - since) * self._rate, burst)
        allowed = left >= 1
        addresses[address] = (left - allowed, now)  # the dict is in the order of the last connection
        oldest = next(iter(addresses))
        if now - addresses[oldest][1] >= _BURST or len(addresses) > _REMEMBERED:
            del addresses[oldest]  # it is entitled to a full burst again
        return allowed
