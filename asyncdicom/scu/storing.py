"""`Storing`: files, folders and data sets to a peer, over as many associations as it may use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from asyncdicom.exceptions import (
    AssociationError,
    AssociationRejected,
    AssociationTimeout,
    DicomNetworkError,
    LocalProtocolError,
)
from asyncdicom.net.sources import Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.scu.files import find_files, read_heads
from asyncdicom.scu.handover import Handover, all_of
from asyncdicom.scu.peering import Peering
from asyncdicom.scu.results import Stored, StoreResult
from asyncdicom.services.contexts import storage_contexts
from asyncdicom.telemetry.text import printable

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Storable", "Storing"]

Storable: TypeAlias = "str | os.PathLike[str] | Dataset | Source"
"""A DICOM file, a folder, a pydicom Dataset, or a `Source`."""

_AT_ONCE = 64  # files whose heads are read in one go
_WAITING = 1000  # outcomes that wait for who iterates
_IN_A_ROW = 8  # losses of an association, after which the peer is given up


class Storing:
    """Sends instances: `async for` gives what became of each (`Stored`), `await` the sum (`StoreResult`).

    `result` is what has come of it so far. Leaving the loop early, or a cancellation, ends it: what is being
    sent aborts its association, because a C-STORE cannot be taken back in the middle.
    """

    def __init__(
        self,
        peering: Peering,
        what: Storable | Iterable[Storable],
        *,
        operations: int,
        strict: bool,
        on_progress: Callable[[Stored], None] | None,
        timeout: float | None,
    ) -> None:
        self.result = StoreResult()
        self._peering = peering
        self._what = what
        self._workers = peering.associations * operations
        self._strict = strict
        self._on_progress = on_progress
        self._timeout = timeout
        self._waiting: asyncio.Queue[Source | Dataset | None] = asyncio.Queue(_AT_ONCE)
        self._handover: Handover[Stored] = Handover(_WAITING)
        self._lost_in_a_row = 0
        self._given_up: AssociationError | None = None
        self._is_started = False

    def __await__(self) -> Generator[object, None, StoreResult]:
        return self._whole().__await__()

    async def _whole(self) -> StoreResult:
        async with aclosing(aiter(self)) as outcomes:
            async for _ in outcomes:
                pass
        return self.result

    def __aiter__(self) -> AsyncGenerator[Stored, None]:
        self._peering.check_open()
        if self._is_started:
            raise LocalProtocolError("these were sent before; ask for a new one")
        self._is_started = True
        return self._handover.taken(self._run, self._peering.running)

    async def _run(self) -> None:
        await all_of([self._read(), *(self._work() for _ in range(self._workers))])
        if self._given_up is not None:
            raise self._given_up.having(self.result)

    # what there is to send

    async def _read(self) -> None:
        for item in _each(self._what):
            if self._given_up is not None:
                break
            if isinstance(item, (str, os.PathLike)):
                await self._read_files(os.fspath(item))
            elif hasattr(item, "open") or hasattr(item, "walk"):
                await self._waiting.put(item)
            else:
                raise TypeError(f"files, folders, sources and datasets can be sent, not {item!r:.100}")
        for _ in range(self._workers):
            await self._waiting.put(None)

    async def _read_files(self, path: str) -> None:
        paths = find_files([path])
        while self._given_up is None:
            some = await in_thread(file_threads(), lambda: list(islice(paths, _AT_ONCE)))
            if not some:
                return
            read = await read_heads(some, self._unreadable, named=[path], strict=self._strict)
            self.result.skipped += read.skipped
            self._peering.pool.expect(storage_contexts(read.sources))
            for source in read.sources:
                await self._waiting.put(source)

    async def _unreadable(self, path: str, why: str) -> None:
        await self._tell(Stored(Path(path), "", None, printable(why)))

    # sending

    async def _work(self) -> None:
        while (instance := await self._waiting.get()) is not None:
            await self._tell(await self._send(instance))

    async def _send(self, instance: Source | Dataset) -> Stored:
        path = getattr(instance, "path", None)
        uid = str(getattr(instance, "sop_instance_uid", "") or getattr(instance, "SOPInstanceUID", ""))
        stored = Stored(None if path is None else Path(path), uid, None)
        if self._given_up is not None:
            return stored._replace(error=f"not sent: {self._given_up}")
        if not uid or (not hasattr(instance, "open") and not hasattr(instance, "SOPClassUID")):
            return stored._replace(error="a data set without SOP Class UID or SOP Instance UID")
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1

        while True:
            try:
                response = await self._peering.pool.c_store(
                    instance, timeout=self._timeout, on_attempt=attempt
                )
            except AssociationError as error:
                if attempts == 1 and _may_be_stale(error):
                    continue  # on a new association: told by `Stored.repeated`
                self._lose(error, is_open=attempts > 0)
                return stored._replace(error=str(error), repeated=attempts > 1)
            except (DicomNetworkError, OSError) as error:
                return stored._replace(error=_reason(error, path), repeated=attempts > 1)
            self._lost_in_a_row = 0
            why = response.error_comment or ("" if response.status.is_success else str(response.status))
            return stored._replace(status=response.status, error=printable(why), repeated=attempts > 1)

    def _lose(self, error: AssociationError, *, is_open: bool) -> None:
        """An association was lost, or could not be opened at all: then nothing more is tried."""
        self._lost_in_a_row += 1
        if not is_open or self._lost_in_a_row >= _IN_A_ROW:
            self._given_up = self._given_up or error

    async def _tell(self, stored: Stored) -> None:
        self.result.add(stored)
        if self._on_progress is not None:
            self._on_progress(stored)
        await self._handover.put(stored)


def _may_be_stale(error: AssociationError) -> bool:
    return not isinstance(error, (AssociationRejected, AssociationTimeout))


def _reason(error: Exception, path: Any) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).removeprefix(f"{path}: ").split())


def _each(what: Storable | Iterable[Storable]) -> Iterable[Storable]:
    is_one = isinstance(what, (str, os.PathLike)) or hasattr(what, "open") or hasattr(what, "walk")
    return [cast("Storable", what)] if is_one else cast("Iterable[Storable]", what)
