"""`Finding`: a query, whole or match by match."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import TYPE_CHECKING

from asyncdicom.association import Association
from asyncdicom.exceptions import DicomNetworkError, LocalProtocolError
from asyncdicom.scu.handover import Handover
from asyncdicom.scu.identifiers import Wanted
from asyncdicom.scu.peering import Peering
from asyncdicom.scu.results import Matches
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Finding"]

log = Log("asyncdicom.scu")

_MAXIMUM_MATCHES = 100_000  # of a list
_WAITING = 100  # matches that wait for who iterates; then the peer is held back


class Finding:
    """A query: `await` gives all `Matches`, `async for` one after another, as pydicom Datasets.

    Leaving the loop early, or a cancellation, sends C-CANCEL.
    """

    def __init__(
        self, peering: Peering, wanted: Wanted, *, maximum_matches: int | None, timeout: float | None
    ) -> None:
        self.matches = Matches()
        """What is known of the matches as a whole; the list itself is filled by `await`."""
        self._peering = peering
        self._wanted = wanted
        self._maximum = maximum_matches
        self._timeout = timeout
        self._given = 0
        self._handover: Handover[Dataset] = Handover(_WAITING)
        self._is_started = False

    def __await__(self) -> Generator[object, None, Matches]:
        return self._whole().__await__()

    async def _whole(self) -> Matches:
        if self._maximum is None:
            self._maximum = _MAXIMUM_MATCHES
        try:
            async with aclosing(aiter(self)) as matches:
                async for match in matches:
                    self.matches.append(match)
        except DicomNetworkError as error:
            raise error.having(self.matches) from error.__cause__
        return self.matches

    def __aiter__(self) -> AsyncGenerator[Dataset, None]:
        self._peering.check_open()
        if self._is_started:
            raise LocalProtocolError("this query was started before; ask for a new one")
        self._is_started = True
        return self._handover.taken(self._run, self._peering.running)

    async def _run(self) -> None:
        await self._peering.ask([self._wanted.sop_class("find")], self._ask, self._repeat)

    def _repeat(self) -> None:
        self.matches.repeated += 1

    async def _ask(self, association: Association) -> None:
        given = 0
        query = association.c_find(
            self._wanted.identifier,
            information_model=self._wanted.sop_class("find"),
            timeout=self._timeout,
        )
        try:
            async with query:
                async for match in query:
                    given += 1
                    if given > self._given:  # what was given before is not given again
                        if given - 1 == self._maximum:
                            raise DicomNetworkError(
                                f"more than {self._maximum} matches (maximum_matches): iterate over them, or "
                                "ask for less"
                            )
                        self._given = given
                        await self._handover.put(match)
        finally:
            self.matches.optional_keys_supported = query.optional_keys_supported
            self.matches.number_unreadable = query.number_unreadable
        if not query.optional_keys_supported:
            log.warning("%s does not match by all of these keys: it may find too much", self._peering.address)
