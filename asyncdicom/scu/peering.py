"""What the jobs of a client have in common: the pool, where C-MOVE sends to, what is known of the peer."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from asyncdicom.address import Address
from asyncdicom.association import Association
from asyncdicom.exceptions import AssociationError, AssociationTimeout, LocalProtocolError
from asyncdicom.pool import AssociationPool
from asyncdicom.scu.handover import Handover
from asyncdicom.scu.listening import Listening
from asyncdicom.services.contexts import Proposable
from asyncdicom.telemetry.log import Log

__all__ = ["Method", "Peering"]

log = Log("asyncdicom.scu")

_T = TypeVar("_T")

Method = Literal["get", "move"]


@dataclass(slots=True)
class Peering:
    """One peer, as a client has it."""

    address: Address
    calling_ae_title: str
    associations: int
    pool: AssociationPool
    listening: Listening | None
    method: Method | None
    """How the peer retrieves, once that is known."""
    is_open: bool = False
    running: set[Handover[Any]] = field(default_factory=set)
    """What is under way, to be stopped at the end."""
    used: weakref.WeakSet[Association] = field(default_factory=weakref.WeakSet)
    """Associations that have answered something: one of these may have been lost while it was idle."""

    def check_open(self) -> None:
        """Raise `LocalProtocolError` outside the block of the client."""
        if not self.is_open:
            raise LocalProtocolError("a Client is used within its block: async with Client(...) as client")

    def may_be_stale(self, error: AssociationError, association: Association) -> bool:
        """Whether a request failed for an association that was lost while nobody used it."""
        return association in self.used and not isinstance(error, AssociationTimeout)

    async def ask(
        self,
        contexts: Iterable[Proposable],
        work: Callable[[Association], Awaitable[_T]],
        on_repeat: Callable[[], object] = lambda: None,
    ) -> _T:
        """Do what changes nothing at the peer; once more if the association turns out to be gone."""
        self.check_open()
        contexts = list(contexts)
        while True:
            async with self.pool.acquire(contexts) as association:
                try:
                    result = await work(association)
                except AssociationError as error:
                    if not self.may_be_stale(error, association):
                        raise
                    log.info("%s: %s; it is asked once more, on another association", self.address, error)
                    on_repeat()
                else:
                    self.used.add(association)
                    return result
