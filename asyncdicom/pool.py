"""`AssociationPool`: several associations to one peer, opened when they are needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asyncdicom.address import Address
from asyncdicom.association import Association
from asyncdicom.client import associate
from asyncdicom.exceptions import LocalProtocolError
from asyncdicom.net.payload import Source
from asyncdicom.services.responses import Response

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["AssociationPool"]


class AssociationPool:
    """Up to `size` associations to one peer, each for up to `operations` tasks at a time.

    An association is opened when a task needs one and all others are busy, and kept for the next. One
    that was lost is not given out again. `operations` above 1 proposes an Asynchronous Operations Window
    of that size (PS3.7 D.3.3.3); if the peer grants less, the tasks of an association take turns. Options
    are those of `associate`. Leaving the block releases them all, or aborts them after an exception.
    """

    def __init__(self, address: str | Address, *, size: int = 4, operations: int = 1, **options: Any) -> None:
        if size < 1 or operations < 1:
            raise ValueError("a pool has at least one association, for at least one operation")
        self._address = address
        self._size = size
        self._operations = operations
        self._options = options | {"operations_invoked": operations}
        self._room = asyncio.Semaphore(size * operations)
        self._users: dict[Association, int] = {}
        self._opening = 0
        self._opened = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._users:
            ends = [a.release() if error is None else a.abort() for a in self._users]
            await asyncio.gather(*ends)

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Association, None]:
        """Borrow an association: ``async with pool.acquire() as association``.

        Raises what `associate` raises. Cancelled while waiting: nothing was taken.
        """
        async with self._room:
            association = await self._take()
            self._users[association] += 1
            try:
                yield association
            finally:
                self._users[association] -= 1

    async def _take(self) -> Association:
        """Give an association that nobody uses, or a new one, or (several operations) the least used."""
        while True:
            if self._closed:
                raise LocalProtocolError("the pool is closed")
            for association in [a for a, users in self._users.items() if not (a.is_established or users)]:
                del self._users[association]
            usable = [association for association in self._users if association.is_established]
            least_used = min(usable, key=self._users.__getitem__, default=None)
            if least_used is not None and self._users[least_used] == 0:
                return least_used
            if len(usable) + self._opening < self._size:
                return await self._open()
            if least_used is not None and self._users[least_used] < self._operations:
                return least_used
            self._opened.clear()  # one is being opened, which has room
            await self._opened.wait()

    async def _open(self) -> Association:
        self._opening += 1
        try:
            association = await associate(self._address, **self._options)
        finally:
            self._opening -= 1
            self._opened.set()
        self._users[association] = 0
        return association

    async def c_store(self, instance: str | os.PathLike[str] | Dataset | Source, **options: Any) -> Response:
        """Send one instance over whichever association is free; see `Association.c_store`."""
        async with self.acquire() as association:
            return await association.c_store(instance, **options)
