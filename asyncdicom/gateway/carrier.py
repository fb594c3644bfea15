"""What brings instances to a destination, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.status import Status

__all__ = ["Begun", "Carried", "Carrier", "Trip"]

Begun = Callable[[], None]
"""Told when the destination can be reached, and an instance is on its way."""


class Carried(NamedTuple):
    """What a destination has said."""

    status: Status
    error_comment: str = ""


class Trip(Protocol):
    """Brings instance after instance, one at a time."""

    async def send(self, claimed: Claimed, begun: Begun) -> Carried:
        """Send an instance. Cancelled while it sends, it ends what it does."""

    async def end(self) -> None:
        """Let others have what it sends on."""


class Carrier(Protocol):
    """Brings instances to one destination. Nothing here is tried again."""

    def trip(self, lane: int | None) -> Trip:
        """Begin to send: of those of one lane (None: there are no lanes) none is sent beside another."""

    def leave(self, lane: int) -> None:
        """End what a lane has open; that is not waited for."""

    def rest(self) -> None:
        """End what nobody uses: nothing has been sent for a while."""

    async def close(self) -> None:
        """End everything, and wait for that."""
