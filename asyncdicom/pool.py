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
from asyncdicom.services.handlers import Response

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["AssociationPool"]


class AssociationPool:
    """Up to `size` associations to one peer; each serves one task at a time.

    An association is opened when a task needs one and all others are busy, and kept for the next. One
    that was lost is not given out again. Options are those of `associate`. Leaving the block releases
    them all, or aborts them after an exception.
    """

    def __init__(self, address: str | Address, *, size: int = 4, **options: Any) -> None:
        if size < 1:
            raise ValueError("a pool has at least one association")
        self._address = address
        self._options = options
        self._room = asyncio.Semaphore(size)
        self._idle: list[Association] = []
        self._open: set[Association] = set()
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
        if self._open:
            ends = [a.release() if error is None else a.abort() for a in self._open]
            await asyncio.gather(*ends)

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[Association, None]:
        """Borrow an association: ``async with pool.acquire() as association``.

        Raises what `associate` raises. Cancelled while waiting: nothing was taken.
        """
        if self._closed:
            raise LocalProtocolError("the pool is closed")
        async with self._room:
            association = await self._take()
            try:
                yield association
            finally:
                if association.is_established:
                    self._idle.append(association)
                else:
                    self._open.discard(association)

    async def _take(self) -> Association:
        while self._idle:
            association = self._idle.pop()
            if association.is_established:
                return association
            self._open.discard(association)
        association = await associate(self._address, **self._options)
        self._open.add(association)
        return association

    async def c_store(self, instance: str | os.PathLike[str] | Dataset | Source, **options: Any) -> Response:
        """Send one instance over whichever association is free; see `Association.c_store`."""
        async with self.acquire() as association:
            return await association.c_store(instance, **options)
