"""The state of a process that serves an archive, as one mapping: metrics, `top` and alarms are made of it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncdicom._version import __version__
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.dimse.messages import CommandField
from asyncdicom.status import Status
from asyncdicom.telemetry import counters

if TYPE_CHECKING:
    from asyncdicom.archive import Archive
    from asyncdicom.gateway.gateway import Gateway
    from asyncdicom.server import Server

__all__ = ["Looking", "Observer", "State", "counted"]

State = Mapping[str, Any]
"""Plain JSON. Peers' own words are in `last_trouble` of destinations alone."""

# What is counted, by the table of the state that has it: these, or all.
_TABLES: Mapping[str, tuple[str, ...] | None] = {
    "associations": ("accepted", "rejected", "connections_refused"),
    "events": None,
    "delivery_events": None,
    "log": None,
    "webhook": None,
    "archive": (
        *("conflicts", "refused_conflicts", "healed", "set_aside", "superseded", "same", "incomplete"),
        *("strange", "mismatch", "divided", "returned"),
    ),
}

_SHARED = 1.0  # seconds that what was found out is given to others, too


class Looking(ABC):
    """Looks at what runs, once for all who ask; who asks while it is found out gets the same as the first."""

    _finding: asyncio.Task[State] | None = None
    _until: float = 0.0
    _share: float = 10.0
    """What is found out is told again for so many times what it took: looks take a tenth of the time."""

    @abstractmethod
    def why_not_ready(self) -> list[str]:
        """Say what keeps it from taking instances, as far as that is known without a look."""

    @abstractmethod
    async def _find(self) -> State:
        """Find the state out."""

    async def state(self) -> State:
        """Give the state, at most a second old, or `_share` times what it takes to find it out."""
        now = asyncio.get_running_loop().time()
        if self._finding is None or (self._finding.done() and now >= self._until):
            self._finding = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._finding)

    async def _look(self) -> State:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._find()
        finally:
            self._until = loop.time() + max(_SHARED, self._share * (loop.time() - began))

    async def close(self) -> None:
        """Wait for what is being found out."""
        if self._finding is not None:
            await asyncio.wait((self._finding,))


@dataclass
class Observer(Looking):
    """Finds out the state of what runs, and never raises; `extra` gives more of it."""

    archive: Archive
    server: Server
    gateway: Gateway | None
    started: float = field(default_factory=time.time)
    extra: dict[str, Any] = field(default_factory=dict)

    def why_not_ready(self) -> list[str]:
        """Say what keeps it from taking instances, as far as that is known without looking at the disk."""
        reasons = []
        if self.server.is_closing:
            reasons.append("it is being stopped")
        if not self.archive.is_writing:
            reasons.append("the index's writer has ended")
        return reasons

    def counts(self) -> dict[str, Any]:
        """Give what is counted in this process: the part of the state that takes no look at anything."""
        return {
            "version": __version__,
            "started": self.started,
            "uptime": round(time.time() - self.started, 3),
            "is_stopping": self.server.is_closing,
            "associations": {
                "open": self.server.associations,
                "limit": self.server.maximum_associations,
                "accepted": counters.associations_accepted,
                "rejected": counters.associations_rejected,
                "connections_refused": counters.connections_refused,
            },
            "operations": _operations(),
            "events": dict(self.archive.happened),
            "delivery_events": dict(self.archive.outbox.happened),
            "senders": self.archive.senders.state(),
            "log": {"errors": counters.log_errors, "lines_lost": counters.log_lines_lost},
            "commands_failed": counters.commands_failed,
            **self.extra,
        }

    async def _find(self) -> State:
        state = self.counts()
        reasons = self.why_not_ready()
        try:
            await self._look_at(state)
            if state["disk"]["is_short"]:
                reasons.append("its disk has too little room: C-STORE is answered with 0xA700")
        except ArchiveError as error:
            reasons.append(str(error))
        return {**state, "ready": not reasons, "why_not": reasons}

    async def _look_at(self, state: dict[str, Any]) -> None:
        """Look at the disk and into the index. Raises `ArchiveError`."""
        state["disk"] = (await self.archive.space())._asdict()
        state["archive"] = await self.archive.read(self.archive.care.stat)
        if self.gateway is not None:
            state["destinations"] = await self.gateway.status()
            state["unrouted"] = await self.gateway.unrouted()


def _operations() -> list[dict[str, Any]]:
    """Give how many requests were answered, by operation and category of Status."""
    found: Counter[tuple[str, str]] = Counter()
    for (field_, status), number in list(counters.answered.items()):
        name = CommandField(field_).name.removesuffix("_RQ").replace("_", "-")
        found[name, Status(status).category] += number
    return [{"operation": name, "outcome": what, "number": n} for (name, what), n in sorted(found.items())]


def counted(state: State) -> Counter[tuple[str, ...]]:
    """Give what only grows in a state, or a part of one, by where it stands."""
    found: Counter[tuple[str, ...]] = Counter()
    for table, names in _TABLES.items():
        values = state.get(table, {})
        found.update({(table, name): values[name] for name in names or values if name in values})
    found["commands_failed",] = state.get("commands_failed", 0)
    for each in state.get("operations", ()):
        found["operations", each["operation"], each["outcome"]] += each["number"]
    for each in state.get("senders", ()):
        found["senders", each["calling"]] += each["instances"]
    for each in state.get("destinations", ()):
        found["destinations", each["destination"]] += each["delivered_since_start"]
    return found
