"""The archive as its users hold it: store, find, and where to read what was found."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy.exc import SQLAlchemyError

from asyncdicom.archive.answer import Answers
from asyncdicom.archive.files import FileCalls, Folders, InstanceFile
from asyncdicom.archive.index import PAGE, SYNCHRONOUS, ArchiveError, Reader, StoredInstance, open_index
from asyncdicom.archive.ingest import Arrival, Ingest, OnConflict, Outcome, Uncertain
from asyncdicom.archive.matching import IdentifierError
from asyncdicom.archive.query import QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE, find_query, retrieve_query
from asyncdicom.archive.receive import Reception, Refused
from asyncdicom.archive.record import SPECIFIC_CHARACTER_SET
from asyncdicom.archive.room import Room
from asyncdicom.archive.workers import Workers
from asyncdicom.data.elements import Element, decode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.threads import in_thread
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import InformationModel, is_usable_uid, transfer_syntax

__all__ = ["PIECE", "Archive"]

_LOG = Log("asyncdicom.archive")

PIECE = 256 * 1024  # bytes gathered before a thread is asked to write them: small objects take one hop
_WRITERS = 8  # as many files are synced at the same time
_READERS = 3

_INSTANCE_AVAILABILITY = 0x00080056

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
        self._readers = ThreadPoolExecutor(_READERS, "asyncdicom-query")
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
        self._engine = open_index(index, durability=self.durability, readers=_READERS)
        self._folders.sync_root()
        self._reader = Reader(self._engine)
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
            rest = await self._receive(reception, batches)
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
        self, reception: Reception, batches: AsyncIterator[list[memoryview]]
    ) -> list[memoryview]:
        """Write what comes, and give what was not worth a hop to a thread."""
        pending: list[memoryview] = []
        size = total = 0
        async for views in batches:
            pending += views
            size += sum(map(len, views))
            if total + size > self._maximum_size:
                raise Refused(Status.OUT_OF_RESOURCES, "the data set is too large")
            if size >= PIECE:
                await self._write(reception.take, pending)
                total += size
                pending, size = [], 0
        return pending

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

    async def find(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        retrieve_ae_title: str = "",
        relational: bool = False,
    ) -> AsyncIterator[bytes]:
        """Give the encoded identifiers that match, page by page: no transaction is open while one is used.

        Raises `IdentifierError`, before the first match, for an identifier that cannot be answered.
        """
        elements, little_endian = _read(identifier, transfer_syntax_uid)
        query = find_query(elements, information_model, little_endian=little_endian, relational=relational)
        answers = Answers(
            query,
            transfer_syntax_uid,
            {
                QUERY_RETRIEVE_LEVEL: ("CS", query.level),
                RETRIEVE_AE_TITLE: ("AE", retrieve_ae_title),
                _INSTANCE_AVAILABILITY: ("CS", "ONLINE"),
            },
            with_set=any(element.tag == SPECIFIC_CHARACTER_SET for element in elements),
        )
        read = self._reader.matches(query)

        def page(after: int) -> list[tuple[int, bytes]]:
            return [(row[0], answers.encode(row[1:])) for row in read(after)]

        async for _, encoded in self._pages(page):
            yield encoded

    async def matching_instances(
        self,
        identifier: bytes,
        transfer_syntax_uid: str,
        information_model: InformationModel,
        *,
        relational: bool = False,
    ) -> list[StoredInstance]:
        """Give the instances that the identifier of a C-GET or C-MOVE asks for. Raises `IdentifierError`."""
        elements, little_endian = _read(identifier, transfer_syntax_uid)
        query = retrieve_query(
            elements, information_model, little_endian=little_endian, relational=relational
        )
        return [
            StoredInstance(sop_class, uid, syntax, self._folders.path(name), offset, length)
            async for _, sop_class, uid, syntax, name, offset, length in self._pages(
                self._reader.instances(query)
            )
        ]

    async def _pages(self, page: Callable[[int], Sequence[Any]]) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        after = 0
        while True:
            rows = await loop.run_in_executor(self._readers, page, after)
            for row in rows:
                yield row
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

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


def _read(identifier: bytes, transfer_syntax_uid: str) -> tuple[list[Element], bool]:
    try:
        elements = decode(identifier, transfer_syntax_uid)
    except DataSetError:
        raise IdentifierError("the identifier cannot be read", Status.UNABLE_TO_PROCESS) from None
    return elements, transfer_syntax(transfer_syntax_uid).little_endian
