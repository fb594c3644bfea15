"""`Endings`: associations that end while nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Self

from asyncdicom.association import Association
from asyncdicom.exceptions import AssociationError
from asyncdicom.opening import Opening, is_answer

__all__ = ["Endings"]


class Endings:
    """Ends associations in the background; leaving the block, or `close`, waits for those that still end.

    Nothing depends on the answer to an A-RELEASE-RQ: over a distance, to wait for it costs a round trip.
    `linger`: seconds that `close` waits until it aborts them; None: until their own time-out
    (`Timeouts.release`).
    """

    def __init__(self, linger: float | None = None) -> None:
        self._linger = linger
        self._ends: dict[asyncio.Task[None], Association] = {}

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._ends)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def release(self, association: Association, then: Callable[[], None] | None = None) -> None:
        """Release an association (PS3.8 7.2); `then` is called when it has ended."""
        self._begin(association, association.release(), then)

    def abort(self, association: Association, then: Callable[[], None] | None = None) -> None:
        """Abort an association (PS3.8 7.3); `then` is called when it has ended."""
        self._begin(association, association.abort(), then)

    @asynccontextmanager
    async def instead_of(self, opening: Opening[Association]) -> AsyncGenerator[Association, None]:
        """Open an association for a block, as ``async with opening``, but do not wait for its release.

        A peer that has room for one association may not have noticed that the one before has ended: if it
        does not take another, it is asked again when those that are ending have ended. Raises what
        `associate` raises.
        """
        try:
            association = await opening
        except AssociationError:
            if not self._ends:
                raise
            await self.close()
            association = await opening
        try:
            yield association
        except BaseException as error:
            await (association.release() if is_answer(error) else association.abort())
            raise
        self.release(association)

    def _begin(
        self,
        association: Association,
        ending: Coroutine[object, object, None],
        then: Callable[[], None] | None,
    ) -> None:
        task = asyncio.get_running_loop().create_task(ending)
        self._ends[task] = association

        def ended(task: asyncio.Task[None]) -> None:
            del self._ends[task]
            if then is not None:
                then()

        task.add_done_callback(ended)

    async def close(self) -> None:
        """Wait until all have ended. Cancelled: those that have not are aborted."""
        try:
            if self._ends:
                await asyncio.wait(self._ends, timeout=self._linger)
            for association in list(self._ends.values()):
                await association.abort()
            if self._ends:
                await asyncio.wait(self._ends)
        except asyncio.CancelledError:
            for task in self._ends:
                task.cancel()
            raise
