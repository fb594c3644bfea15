"""The archive as its users hold it: store, find, and where to read what was found."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar, TypeVarTuple

from sqlalchemy.exc import SQLAlchemyError

from asyncdicom.archive.files import FileCalls, Folders, InstanceFile
from asyncdicom.archive.find import Finder, MatchingInstances
from asyncdicom.archive.index import SYNCHRONOUS, ArchiveError, Reader, open_index
from asyncdicom.archive.ingest import Arrival, Ingest, OnConflict, Outcome, Uncertain
from asyncdicom.archive.queries import Queries
from asyncdicom.archive.receive import Reception, Refused
from asyncdicom.archive.room import Room
from asyncdicom.archive.workers import Workers
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.net.lane import lane
from asyncdicom.net.threads import in_thread
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import InformationModel, is_usable_uid

__all__ = ["PIECE", "Archive"]

_LOG = Log("asyncdicom.archive")

PIECE = 256 * 1024  # bytes gathered before a thread is asked to write them: small objects take one hop
_WRITERS = 8  # as many files are synced at the same time
_READERS = 2  # for the archive itself: they look after the index, and count
_QUERIES = 4  # for peers, who share them

_STATUSES = {
    Outcome.STORED: Status.SUCCESS,
    Outcome.REPLACED: Status.SUCCESS,
    Outcome.ALREADY_HERE: Status.SUCCESS,
    Outcome.QUARANTINED: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
    Outcome.ALREADY_IN_QUARANTINE: Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS_WARNING,
    Outcome.REFUSED: Status.DUPLICATE_SOP_INSTANCE,
}

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Archive:
    """Instances as Part 10 files below one folder, and their index. Use it with ``async with``.

    ``durability`` says what a Success has survived: "power" (a power cut), "process" (the death of this
    process) or "none". ``on_conflict`` says what becomes of other bytes under a SOP Instance UID that is
    taken: "quarantine" (0xB007; kept aside), "keep" (0x0111; not kept) or "replace" (Success).
    ``maximum_size`` bounds one data set, in bytes; ``minimum_free`` is how much of the disk is kept free, in
    bytes (None: 2 GiB, or 5 % of a smaller disk; 0: nothing). Beyond either the answer is 0xA700.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: str = "power",
        on_conflict: str = "quarantine",
        files: FileCalls | None = None,
        maximum_size: int = 16 << 30,
        minimum_free: int | None = None,
    ) -> None:
        if durability not in SYNCHRONOUS:
            raise ValueError(f"durability must be one of {', '.join(SYNCHRONOUS)}, not {durability!r}")
        self.directory = os.path.abspath(directory)
        self.durability = durability
        self._on_conflict = OnConflict(on_conflict)
        self._maximum_size = maximum_size
        self._sync = durability == "power"
        self._calls = files if files is not None else FileCalls()
        self._folders = Folders(self.directory, self._calls, sync=self._sync)
        self._room = Room(self.directory, self._calls, minimum_free)
        self._lock = -1
        self._is_open = False
        self._is_closing = False
        self._sweep: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Archive:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the folder, made on first use; the index is checked and swept for leftovers in the background.

        Raises `ArchiveError` if another process has it, or a later version made it.
        """
        self._writers = Workers(_WRITERS, "asyncdicom-files")
        self._readers = ThreadPoolExecutor(_READERS, "asyncdicom-reader")
        try:
            await in_thread(self._readers, self._open)
        except BaseException:
            self._writers.shutdown()
            self._readers.shutdown()
            raise
        self._is_open = True
        self._sweep = asyncio.get_running_loop().run_in_executor(self._readers, self._look_after)

    def _open(self) -> None:
        try:
            self._folders.prepare()
            self._lock = self._calls.lock_directory(self.directory)
            self._open_index()
        except BlockingIOError:
            raise ArchiveError(f"{self.directory} is in use by another archive process") from None
        except OSError as error:
            self._unlock()
            raise ArchiveError(f"{self.directory} cannot be used: {error.strerror}") from error
        except (SQLAlchemyError, sqlite3.Error) as error:
            self._unlock()
            why = type(error).__name__
            raise ArchiveError(f"the index in {self.directory} cannot be opened: {why}") from error
        except BaseException:
            self._unlock()
            raise

    def _open_index(self) -> None:
        index = os.path.join(self.directory, "index.sqlite")
        self._engine = open_index(index, durability=self.durability, readers=_READERS + _QUERIES)
        self._folders.sync_root()
        self._reader = Reader(self._engine)
        self._queries = Queries(self._engine, threads=_QUERIES)
        self._finder = Finder(self._queries, self._folders.path)
        self._ingest = Ingest(self._engine, self._folders, self._calls, on_conflict=self._on_conflict)
        self._ingest.start()

    def _unlock(self) -> None:
        if self._lock >= 0:
            self._calls.close(self._lock)
            self._lock = -1

    async def close(self) -> None:
        """Commit what is queued and close everything; a store that is not so far yet fails."""
        if not self._is_open:
            return
        self._is_open, self._is_closing = False, True
        if self._sweep is not None:
            await asyncio.wait((self._sweep,))
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._queries.close()
        self._writers.shutdown()
        self._ingest.close()
        self._readers.shutdown()
        self._engine.dispose()
        self._unlock()

    # storing

    async def store(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        batches: AsyncIterator[list[memoryview]],
        calling_ae_title: str | None = None,
    ) -> Status:
        """Store one instance; the Status is the answer to the C-STORE.

        The UIDs are those of the command, ``batches`` is the data set as it arrives. It may be left unread
        when the answer is a Failure. After a Failure, an exception or a cancellation nothing is kept.
        """
        if not (is_usable_uid(sop_class_uid) and is_usable_uid(sop_instance_uid)):
            return Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS
        header = encode_file_meta(
            sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_ae_title=calling_ae_title
        )
        reception = Reception(
            InstanceFile(self._folders, self._calls, header, sync=self._sync),
            self._room,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        )
        arrival: Arrival | None = None
        storage_failed = False
        try:
            rest = await self._receive(reception, batches, calling_ae_title)
            arrival = Arrival(reception.file, transfer_syntax_uid, calling_ae_title or "")
            outcome = await self._settle(arrival, reception, rest)
        except Refused as refusal:
            _LOG.warning("%s refused: %s (%s)", sop_instance_uid, refusal.status, refusal)
            return refusal.status
        except _StorageFailed as failure:
            storage_failed = True
            _LOG.error("%s not stored: %s", sop_instance_uid, failure)
            return Status.OUT_OF_RESOURCES
        finally:
            await self._tidy_up(reception.file, arrival, storage_failed)
        if outcome not in (Outcome.STORED, Outcome.ALREADY_HERE):
            _LOG.warning("%s conflicts with another instance: %s", sop_instance_uid, outcome.value)
        return _STATUSES[outcome]

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
                raise Refused(Status.OUT_OF_RESOURCES, "the data set is too large")
            if size >= PIECE:
                await self._scan(reception, pending, peer)
                await self._write(reception.take, pending)
                total += size
                pending, size = [], 0
        await self._scan(reception, pending, peer)
        return pending

    async def _scan(self, reception: Reception, views: list[memoryview], peer: Hashable) -> None:
        if reception.is_long_to_scan:
            await lane().run(peer, reception.scan(views))

    async def _write(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        self._check_open()
        try:
            return await in_thread(self._writers, call, *arguments)
        except OSError as error:
            raise _StorageFailed(error.strerror or type(error).__name__) from error

    async def _settle(self, arrival: Arrival, reception: Reception, rest: list[memoryview]) -> Outcome:
        """Have the last bytes written and the instance indexed, in one go from thread to thread."""

        def finish() -> None:
            try:
                arrival.record = reception.finish(rest)
            except BaseException as error:
                arrival.tell(error)
            else:
                self._ingest.submit(arrival)

        self._check_open()
        self._writers.submit(finish)
        try:
            outcome = await arrival.answer
        except Refused:
            raise
        except Uncertain as error:
            raise _StorageFailed("the index could not be written, nor could that be undone") from error
        except OSError as error:
            raise _StorageFailed(error.strerror or type(error).__name__) from error
        except Exception as error:
            raise _StorageFailed(f"the index could not be written ({type(error).__name__})") from error
        if outcome is Outcome.UNTRUSTED:
            raise _StorageFailed(outcome.value)
        return outcome

    def _check_open(self) -> None:
        if not self._is_open:
            raise _StorageFailed("the archive is closed")

    async def _tidy_up(self, file: InstanceFile, arrival: Arrival | None, storage_failed: bool) -> None:
        if arrival is not None and arrival.is_uncertain:
            return  # it counts as being received: the sweep does not judge it
        if arrival is not None and arrival.is_kept:
            file.keep()
            if arrival.obsolete is not None:
                await self._quietly(self._calls.remove, arrival.obsolete)
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

    # finding

    def find(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        retrieve_ae_title: str = "",
        relational: bool = False,
        peer: Hashable = None,
    ) -> AsyncIterator[bytes]:
        """Give the encoded identifiers that match, page by page: no transaction is open while one is used.

        `peer` says who asks: those with different ones take turns at the index. Cancelled: the statement that
        runs is interrupted. Raises `IdentifierError`, before the first match, for an identifier that cannot
        be answered, and `QueriesClosed` when the archive is closed meanwhile.
        """
        return self._finder.find(
            identifier,
            transfer_syntax_uid,
            information_model,
            retrieve_ae_title=retrieve_ae_title,
            relational=relational,
            peer=peer,
        )

    async def matching_instances(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        relational: bool = False,
        peer: Hashable = None,
    ) -> MatchingInstances:
        """Give the instances that the identifier of a C-GET or C-MOVE asks for: 8 bytes are kept for each.

        `peer` and what is raised: as for `find`.
        """
        return await self._finder.instances(
            identifier, transfer_syntax_uid, information_model, relational=relational, peer=peer
        )

    async def counts(self) -> dict[str, int]:
        """Count patients, studies, series, instances and what is in quarantine, by table name."""
        return await in_thread(self._readers, self._reader.counts)

    # what runs while serving, after a start

    def _look_after(self) -> None:
        try:
            damage = self._reader.damage(lambda: self._is_closing)
        except SQLAlchemyError as error:
            if not self._is_closing:
                _LOG.error("the index could not be checked, nothing is swept: %s", type(error).__name__)
        else:
            if damage:
                _LOG.error("the index is damaged: restore a copy; nothing is swept (%s)", damage)
            else:
                self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove the files that a crash has left without a row."""
        try:
            leftovers, indexed = self._leftovers()
            if len(leftovers) > indexed:
                # A crash leaves a few files; this is an index that was lost, or restored from an old copy.
                _LOG.error("%d files are not in the index: left alone", len(leftovers))
                return
            for name in leftovers:
                if self._is_closing:
                    return
                self._calls.remove(os.path.join(self.directory, *name.split("/")))
            if leftovers:
                _LOG.warning("removed %d files that were never acknowledged", len(leftovers))
        except (OSError, SQLAlchemyError) as error:
            _LOG.error("the sweep for leftovers ended early: %s", type(error).__name__)

    def _leftovers(self) -> tuple[list[str], int]:
        leftovers: list[str] = []
        indexed = 0
        for folder in self._folders.all_folders():
            if self._is_closing:
                return [], 0
            # In this order: what is committed between the two looks is in the second.
            names = {name for name in self._folders.names_in(folder) if not self._folders.is_receiving(name)}
            rows = self._reader.files_in(folder)
            indexed += len(rows)
            leftovers += (f"{folder}/{name}" for name in names - rows)
            missing = rows - names
            if missing and (missing := missing - self._folders.names_in(folder)):
                _LOG.error("%d indexed files are missing in %s", len(missing), folder)
        return leftovers, indexed


class _StorageFailed(Exception):
    """The disk or the index failed."""
