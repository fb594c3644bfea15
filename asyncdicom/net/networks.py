"""Networks that are none of the system's, by the host names that only they have (`net.memory`: for tests).

A server or a requestor asks here by the host of its address; for all others it is the system's network.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Listener", "Network", "loop_for", "networks"]


class Listener(ABC):
    """A port that is listened on: what a listening socket is otherwise."""

    @abstractmethod
    def begin(self, take: Callable[[Any, str], None]) -> None:
        """Give each connection, and the host that it comes from, to `take` from now on."""

    @abstractmethod
    def close(self) -> None:
        """Listen no more."""


class Network(Protocol):
    """What has connections of its own."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """Give the event loop that runs, with the connections and the clock of this network."""

    def listen(self, port: int) -> Listener:
        """Open a port; 0 takes a free one. Raises OSError for one that is taken."""


networks: dict[str, Network] = {}
"""Those there are, by their host."""


def loop_for(host: str) -> asyncio.AbstractEventLoop:
    """Give the event loop that runs; for a host of such a network, one with its connections and clock."""
    network = networks.get(host)
    return asyncio.get_running_loop() if network is None else network.loop()
