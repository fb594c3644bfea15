"""What brings instances to a destination, whatever that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.status import Status

__all__ = ["Begun", "Carried", "Carrier"]

Begun = Callable[[], None]
"""Told when the destination can be reached, and an instance is on its way."""


class Carried(NamedTuple):
    """What a destination has said."""

    status: Status
    error_comment: str = ""


class Carrier(Protocol):
    """Brings instances to one destination. Nothing here is tried again.

    Cancelled while it sends, it ends what it does.
    """

    async def send(self, claimed: Claimed, priority: int, begun: Begun, lane: int | None) -> Carried:
        """Send an instance: of those of one lane (None: there are no lanes) none is sent beside another."""

    def leave(self, lane: int) -> None:
        """End what a lane has open; that is not waited for."""

    def rest(self) -> None:
        """End what nobody uses: nothing has been sent for a while."""

    async def close(self) -> None:
        """End everything, and wait for that."""
