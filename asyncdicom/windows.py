"""`WindowMemory`: which peers do not get along with an Asynchronous Operations Window (PS3.7 D.3.3.3).

A few peers reject, abort, close or fall silent when a window is proposed, or when the second operation of
one that they have granted comes. Whoever associates asks here first, and tells how it went.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncdicom.address import Address

__all__ = ["MINDS", "WINDOWS", "WindowMemory"]

MINDS = 3600.0
"""Seconds that no window is proposed to a peer that minds it."""

_MAXIMUM = 1000  # peers that are remembered
_CLEARED = 60.0  # seconds that a peer which fails without a window as well is asked once only
_STRIKES = (
    2  # associations lost with several operations outstanding, until the window is taken for the reason
)


class _Known:
    """What is known of one peer, until `until`."""

    __slots__ = ("minds", "strikes", "until")

    def __init__(self) -> None:
        self.minds = False
        self.strikes = 0
        self.until = 0.0


class WindowMemory:
    """Remembers peers by their address and AE title, for an hour at most. Time is an argument, in seconds.

    An archive remembers them across its restarts (`archive.peers`).
    """

    def __init__(self, maximum: int = _MAXIMUM) -> None:
        self._maximum = maximum
        self._known: dict[Address, _Known] = {}
        self.on_minds: list[Callable[[Address], None]] = []
        """Are told of each peer that is found to mind it: for those who remember it for longer."""

    def may_propose(self, peer: Address, now: float) -> bool:
        """Whether a window may be proposed to this peer."""
        known = self._get(peer, now)
        return known is None or not known.minds

    def may_ask_again(self, peer: Address, now: float) -> bool:
        """Whether a proposal that has failed is worth a second one without a window."""
        known = self._get(peer, now)
        return known is None or known.minds or known.strikes > 0  # others may know by now that it minds

    def minds(self, peer: Address, now: float) -> None:
        """It took the association without a window, and not with one."""
        known = self._renew(peer, now + MINDS)
        known.minds = True
        self._tell(peer)

    def learn(self, peer: Address, until: float) -> None:
        """It is known from before that it minds the window; that holds until then."""
        self._renew(peer, until).minds = True

    def cleared(self, peer: Address, now: float) -> None:
        """It did not take the association without a window either: that was not the reason."""
        known = self._get(peer, now)
        if known is None or not known.minds:  # what is known from another association stays
            self._renew(peer, now + _CLEARED).strikes = 0

    def lost(self, peer: Address, now: float, *, is_certain: bool) -> bool:
        """It ended an association when several operations were outstanding; whether it minds the window.

        `is_certain`: by an A-ABORT. Otherwise it takes two such losses in an hour: it may also have crashed.
        """
        known = self._renew(peer, now + MINDS)
        known.strikes += _STRIKES if is_certain else 1
        known.minds = known.minds or known.strikes >= _STRIKES
        if known.minds:
            self._tell(peer)
        return known.minds

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def _tell(self, peer: Address) -> None:
        for tell in self.on_minds:
            tell(peer)

    def _get(self, peer: Address, now: float) -> _Known | None:
        known = self._known.get(peer)
        if known is not None and now >= known.until:
            del self._known[peer]
            return None
        return known

    def _renew(self, peer: Address, until: float) -> _Known:
        known = self._known.pop(peer, None) or _Known()
        if len(self._known) >= self._maximum:
            del self._known[next(iter(self._known))]  # the one of which nothing was heard for longest
        self._known[peer] = known
        known.until = until
        return known


WINDOWS = WindowMemory()
"""What this process knows: all that associate ask and tell this one."""
