"""Instances are taken in: written while they arrive, indexed, and what is left over is tidied up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from typing import TypeVar, TypeVarTuple

from asyncdicom.archive.arrival import Arrival, Outcome
from asyncdicom.archive.blobs.base import Blobs, NewBlob
from asyncdicom.archive.blobs.header import header_of
from asyncdicom.archive.blobs.room import Room
from asyncdicom.archive.errors import reason
from asyncdicom.archive.finishing import Finishing
from asyncdicom.archive.index.base import Uncertain
from asyncdicom.archive.index.record import WANTED_TAGS
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.origin import Origin, Received, Router
from asyncdicom.archive.receive import Reception, Refused
from asyncdicom.archive.senders import Senders
from asyncdicom.archive.stored import MAXIMUM_COMMENT, Stored, answer_to, count_and_tell
from asyncdicom.archive.workers import Workers
from asyncdicom.net.lane import lane
from asyncdicom.net.threads import in_thread
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import is_usable_uid

__all__ = ["PIECE", "Intake"]

_LOG = Log("asyncdicom.archive")

PIECE = 256 * 1024  # bytes gathered before a thread is asked to write them: small objects take one hop

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Intake:
    """Takes instances in, from `open` to `close`; after that, and before, all are refused.

    ``maximum_size``: bytes of one data set. ``happened`` and ``senders`` count. ``directory`` is for the log.
    """

    def __init__(
        self,
        blobs: Blobs,
        room: Room,
        *,
        keeps_incomplete: bool,
        maximum_size: int,
        happened: Counter[str],
        senders: Senders,
        directory: str,
    ) -> None:
        self._blobs = blobs
        self._room = room
        self._keeps_incomplete = keeps_incomplete
        self._maximum_size = maximum_size
        self._happened = happened
        self._senders = senders
        self._directory = directory
        self._is_open = False
        self._tags = WANTED_TAGS
        self.router: Router | None = None

    def open(self, writers: Workers, ingest: Ingest, *, together: bool) -> None:
        """Begin: ``writers`` are the threads that write files; ``together``: small ones in groups."""
        self._writers = writers
        finish_all = self._blobs.finish_all
        self._finishing = (
            Finishing(finish_all, self._room, writers, ingest.submit_all)
            if together and finish_all is not None
            else None
        )
        self._ingest = ingest
        self._is_open = True

    def close(self) -> None:
        """Refuse what comes, and what is not whole yet."""
        self._is_open = False

    def route(self, router: Router | None) -> None:
        """See `Archive.route`."""
        self.router = router
        self._tags = WANTED_TAGS if router is None else WANTED_TAGS | router.tags

    async def receive(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        batches: AsyncIterator[list[memoryview]],
        calling_ae_title: str | None,
        origin: Origin | None,
    ) -> Stored:
        """See `Archive.receive`."""
        if not (is_usable_uid(sop_class_uid) and is_usable_uid(sop_instance_uid)):
            return Stored(Outcome.WRONG, "a SOP UID of the command is not usable")
        header = header_of(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title)
        reception = Reception(
            self._blobs.new(header),
            self._room,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            keeps_incomplete=self._keeps_incomplete,
            tags=self._tags,
        )
        arrival: Arrival | None = None
        storage_failed = False
        try:
            rest = await self._receive(reception, batches, calling_ae_title)
            arrival = Arrival(reception.file, transfer_syntax_uid, calling_ae_title or "")
            origin = origin or Origin(calling_ae_title or "")
            outcome = await self._settle(arrival, reception, rest, origin)
        except Refused as refusal:
            return Stored(refusal.outcome, str(refusal)[:MAXIMUM_COMMENT])
        except _StorageFailed as failure:
            storage_failed = True
            _LOG.error("%s not stored: %s", sop_instance_uid, failure)
            return Stored(Outcome.NO_ROOM, str(failure)[:MAXIMUM_COMMENT])
        finally:
            if arrival is not None and arrival.is_kept and arrival.obsolete is None:
                reception.file.keep()  # nearly always
            else:
                await self._tidy_up(reception.file, arrival, storage_failed)
        count_and_tell(sop_instance_uid, arrival, outcome, self._happened, self._directory)
        stored = answer_to(arrival, outcome)
        if stored.is_here:
            self._senders.note(calling_ae_title)
        return stored

    async def _receive(
        self, reception: Reception, batches: AsyncIterator[list[memoryview]], peer: Hashable
    ) -> list[memoryview]:
        """Write what comes, and give what was not worth a hop to a thread; scanned, if that takes long."""
        pending: list[memoryview] = []
        size = total = 0
        async for views in batches:
            pending += views
            size += sum(map(len, views))
            if total + size > self._maximum_size:
                raise Refused(Outcome.NO_ROOM, "the data set is too large")
            if size >= PIECE:
                await self._scan(reception, pending, size, peer)
                await self._write(reception.take, pending)
                await self._until_taken(reception.file)
                total += size
                pending, size = [], 0
        await self._scan(reception, pending, size, peer)
        return pending

    async def _scan(self, reception: Reception, views: list[memoryview], size: int, peer: Hashable) -> None:
        if reception.is_long_to_scan(size):
            await lane().run(peer, reception.scan(views))

    async def _write(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        self._check_open()
        try:
            return await in_thread(self._writers, call, *arguments)
        except OSError as error:
            raise _StorageFailed(error.strerror or type(error).__name__) from error

    async def _until_taken(self, file: NewBlob) -> None:
        """Wait for what takes the bytes, without a thread: others have their turn meanwhile."""
        if (busy := file.busy) is not None:
            try:
                await asyncio.wrap_future(busy)
            except OSError as error:
                raise _StorageFailed(error.strerror or type(error).__name__) from error

    async def _settle(
        self, arrival: Arrival, reception: Reception, rest: list[memoryview], origin: Origin
    ) -> Outcome:
        """Have the last bytes written and the instance indexed, in one go from thread to thread."""
        router = self.router

        def write() -> None:
            arrival.record = reception.complete(rest)
            arrival.is_incomplete = reception.is_incomplete
            arrival.is_strange = reception.is_strange
            if router is not None:
                arrival.work = router.work_for(_received(arrival, reception, origin))

        def finish() -> None:
            try:
                self._room.check()
                write()
            except BaseException as error:
                arrival.tell(error)
            else:
                reception.file.finish(finished)

        def finished(error: BaseException | None) -> None:
            if error is not None:
                arrival.tell(error)
            else:
                self._ingest.submit(arrival)

        self._check_open()
        try:
            if self._finishing is not None and not reception.file.length:
                self._finishing.submit(arrival, reception.file, write)
            else:  # a sync of much takes long, and nobody is to wait for it
                self._writers.submit(finish)
            outcome = await arrival.answer
        except Refused:
            raise
        except Uncertain as error:
            raise _StorageFailed("the index could not be written, nor could that be undone") from error
        except OSError as error:
            raise _StorageFailed(error.strerror or type(error).__name__) from error
        except Exception as error:
            raise _StorageFailed(f"the index could not be written ({reason(error)})") from error
        if outcome is Outcome.UNTRUSTED:
            raise _StorageFailed(outcome.value)
        return outcome

    def _check_open(self) -> None:
        if not self._is_open:
            raise _StorageFailed("the archive is closed")

    async def _tidy_up(self, file: NewBlob, arrival: Arrival | None, storage_failed: bool) -> None:
        if arrival is not None and arrival.is_uncertain:
            return  # it counts as being received: the sweep does not judge it
        if arrival is not None and arrival.is_kept:
            file.keep()
            if arrival.obsolete is not None and arrival.answer.result() is Outcome.SUPERSEDED:
                await self._quietly(self._put_into_quarantine, arrival.obsolete)
            elif arrival.obsolete is not None and arrival.answer.result().heals:
                await self._quietly(self._set_aside, arrival.obsolete)
            elif arrival.obsolete is not None:  # on_conflict is "replace": that is the rule
                await self._quietly(self._blobs.remove, arrival.obsolete)
        elif file.name:
            await self._quietly(file.discard, storage_failed)

    async def _quietly(self, call: Callable[[*_Ts], None], *arguments: *_Ts) -> None:
        """Make a call whose failure changes nothing: what is left over is swept at the next start."""
        try:
            if self._is_open:
                await in_thread(self._writers, call, *arguments)
            else:  # its threads are gone, or going when they are done with this file
                await asyncio.to_thread(call, *arguments)
        except OSError as error:
            _LOG.error("a file could not be removed: %s", error.strerror)

    def _put_into_quarantine(self, path: str) -> None:
        if not self._blobs.is_there(path):
            return  # a sweep has come first
        self._blobs.move_to_quarantine(path)
        self._blobs.sync(self._blobs.quarantine)

    def _set_aside(self, path: str) -> None:
        if self._blobs.is_there(path):
            self._blobs.set_aside(path)


def _received(arrival: Arrival, reception: Reception, origin: Origin) -> Received:
    record = arrival.record
    return Received(
        origin,
        record.sop_class_uid,
        record.sop_instance_uid,
        arrival.transfer_syntax_uid,
        arrival.file.length,
        reception.elements,
    )


class _StorageFailed(Exception):
    """The disk or the index failed."""
