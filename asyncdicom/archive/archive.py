"""The archive as its users hold it: store, find, and where to read what was found."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar, TypeVarTuple

from asyncdicom.archive.arrival import Arrival, OnConflict, OnMismatch, Outcome, Rules
from asyncdicom.archive.blobs.files import InstanceFile
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.blobs.header import header_of
from asyncdicom.archive.blobs.room import Room
from asyncdicom.archive.care import Care
from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.archive.find import Finder, MatchingInstances
from asyncdicom.archive.index.base import IndexFailed, Uncertain
from asyncdicom.archive.index.kinds import recent_kinds
from asyncdicom.archive.index.record import WANTED_TAGS
from asyncdicom.archive.index.sqlite import DURABILITIES, Index
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.leftovers import Swept
from asyncdicom.archive.marker import Marker, check_place, next_marker, read_marker, write_marker
from asyncdicom.archive.origin import Origin, Received, Router
from asyncdicom.archive.outbox import Outbox
from asyncdicom.archive.receive import Reception, Refused
from asyncdicom.archive.round import Bounds
from asyncdicom.archive.stored import MAXIMUM_COMMENT, Stored, answer_to, count_and_tell
from asyncdicom.archive.workers import Workers
from asyncdicom.net.lane import lane
from asyncdicom.net.threads import Threads, in_thread
from asyncdicom.status import Status
from asyncdicom.telemetry.log import Log
from asyncdicom.uid import InformationModel, is_usable_uid

__all__ = ["PIECE", "Archive", "Stored"]

_LOG = Log("asyncdicom.archive")

PIECE = 256 * 1024  # bytes gathered before a thread is asked to write them: small objects take one hop
_WRITERS = 8  # as many files are synced at the same time
_READERS = 2  # for the archive itself: they look after the index, and count
_QUERIES = 4  # for peers, who share them

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Archive:
    """Instances as Part 10 files below one folder, and their index. Use it with ``async with``.

    ``durability`` says what a Success has survived: "power" (a power cut), "process" (the death of this
    process) or "none". ``on_conflict`` says what becomes of other bytes under a SOP Instance UID that is
    taken and that say something else: "quarantine" (0xB007; kept aside), "keep" (0x0111; not kept) or
    "replace" (Success). ``on_mismatch`` says what becomes of an instance whose Patient ID is there twice,
    or whose study is that of another patient: "separate" (Success; kept under its own Patient ID, with a
    warning) or "quarantine" (0xB007). ``incomplete`` says what becomes of a data set that ends within an
    element: "refuse" (0xC000; nothing is kept) or "store" (Success; marked in the index). A complete one
    that has all its complete elements takes its place, and it goes to quarantine.
    ``maximum_size`` bounds one data set, in bytes; ``minimum_free`` is how much of the disk is kept free, in
    bytes (None: 2 GiB, or 5 % of a smaller disk; 0: nothing). Beyond either the answer is 0xA700.
    ``existing``: refuse to make a new archive, because a disk that is not mounted looks like a new folder.
    ``maximum_quarantined`` and ``maximum_quarantined_bytes`` bound what peers bring into quarantine: beyond
    them a conflict is refused (0xA700). ``scrub``: stored files are compared with their digests, slowly, all
    the time, at so many bytes a second; 0: never. ``sweep``: at start, deal with files without a row and
    tell what is amiss; without it, `reindex` deals with them.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: str = "power",
        on_conflict: str = "quarantine",
        on_mismatch: str = "separate",
        incomplete: str = "refuse",
        files: FileCalls | None = None,
        maximum_size: int = 16 << 30,
        minimum_free: int | None = None,
        existing: bool = False,
        maximum_quarantined: int = 10_000,
        maximum_quarantined_bytes: int = 16 << 30,
        scrub: int = 1 << 20,
        sweep: bool = True,
    ) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
        self.directory = os.path.abspath(directory)
        self.durability = durability
        self._rules = Rules(OnConflict(on_conflict), OnMismatch(on_mismatch))
        if incomplete not in ("refuse", "store"):
            raise ValueError(f"incomplete must be refuse or store, not {incomplete!r}")
        self._keeps_incomplete = incomplete == "store"
        self._maximum_size = maximum_size
        self._existing = existing
        self._bounds = Bounds(maximum_quarantined, maximum_quarantined_bytes)
        self._scrub_rate = scrub
        self._sweeps = sweep
        self._sync = durability == "power"
        self._calls = files if files is not None else FileCalls()
        self._folders = Folders(self.directory, self._calls, sync=self._sync)
        self._room = Room(self.directory, self._calls, minimum_free)
        self._lock = -1
        self._is_open = False
        self._is_closing = False
        self._sweep: asyncio.Future[Swept | None] | None = None
        self._router: Router | None = None
        self._tags = WANTED_TAGS
        self.happened: Counter[str] = Counter()
        """What happened to instances since the start, beside being stored: by its name, how many times."""
        self.is_new = False

    async def __aenter__(self) -> Archive:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the folder, made on first use; then the index is checked and gets what it lacks, meanwhile.

        Raises `ArchiveError` if another process has it, a later version made it, its disk seems not to be
        mounted, or its index is damaged.
        """
        self._writers = Workers(_WRITERS, "asyncdicom-files")
        self._upkeep = Workers(1, "asyncdicom-upkeep")
        self._outgoing = Workers(1, "asyncdicom-outbox")
        self._comparing = Workers(1, "asyncdicom-compare")  # who sends conflicts waits behind himself
        self._readers = ThreadPoolExecutor(_READERS, "asyncdicom-reader")
        try:
            await in_thread(self._readers, self._open)
        except BaseException:
            self._writers.shutdown()
            self._upkeep.shutdown()
            self._comparing.shutdown()
            self._outgoing.shutdown()
            self._readers.shutdown()
            raise
        self._is_open = True
        self.outbox.start()
        if self._sweeps:
            self._sweep = asyncio.ensure_future(in_thread(self._upkeep, self.care.sweep))

    def _open(self) -> None:
        try:
            self._folders.prepare_root()
            self._lock = self._calls.lock_directory(self.directory)
            self._open_index()
        except BlockingIOError:
            raise ArchiveError(f"{self.directory} is in use by another archive process") from None
        except OSError as error:
            self._unlock()
            raise ArchiveError(f"{self.directory} cannot be used: {error.strerror}") from error
        except IndexFailed as error:
            self._unlock()
            raise ArchiveError(
                f"the index in {self.directory} cannot be opened ({reason(error)}): put a copy of it back, "
                f"or have it built again from the files: asyncdicom archive {self.directory} reindex"
            ) from error
        except BaseException:
            self._unlock()
            raise

    def _open_index(self) -> None:
        marker = read_marker(self.directory, self._calls)
        told = check_place(self._folders, self._calls, marker, existing=self._existing)
        had_objects = self._folders.has_objects()
        self._index = Index(
            self.directory, durability=self.durability, readers=_READERS + _QUERIES, calls=self._calls
        )
        try:
            identity, has_rows = self._index.identity()
            if has_rows and not had_objects:
                raise ArchiveError(
                    f"the index in {self.directory} has instances, and {self._folders.objects} is empty: is "
                    "its disk mounted? If the files are lost for good, move index.sqlite away to start anew"
                )
            known = None if identity is None else Marker(*identity)
            new, more = next_marker(self.directory, marker, known, has_rows)
            self._folders.prepare()
            self._index.set_identity(*new)
            write_marker(self.directory, new, self._calls, sync=self._sync)
            self._folders.sync_root()
            self.is_new = new.generation == 1 and not has_rows and not had_objects
            if told or more:
                _LOG.warning("%s", told or more)
            self._queries = self._index.queries(_QUERIES)
            self._finder = Finder(self._queries, self._folders.path)
            self._ingest = Ingest(
                self._index.writer(),
                self._folders,
                self._calls,
                rules=self._rules,
                bounds=self._bounds,
                elsewhere=self._writers.submit,
                one_by_one=self._comparing.submit,
                on_work=lambda urgency: self.outbox.tell_from_thread(urgency),
            )
            self.deliveries = self._index.deliveries
            self.outbox = Outbox(self._ingest.change, self.deliveries, self._outgoing)
            self._ingest.start()
            self.outbox.open()
            self.care = Care(
                self.directory,
                self._folders,
                self._calls,
                self._index,
                self._ingest,
                sync=self._sync,
                scrub_rate=self._scrub_rate,
                is_closing=lambda: self._is_closing,
                happened=self.happened,
            )
            self.care.start(tell=self._sweeps)
        except BaseException:
            self._index.close()
            raise

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
        await self.outbox.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._queries.close()
        self._upkeep.shutdown()
        self._writers.shutdown()
        self._comparing.shutdown()
        self._outgoing.shutdown()
        self.care.close()
        self._ingest.close()
        self._readers.shutdown()
        self._index.close()
        self._unlock()

    # storing

    @property
    def is_routing(self) -> bool:
        """Whether somebody says what instances lead to."""
        return self._router is not None

    def route(self, router: Router | None) -> None:
        """Have a router say which work the instances lead to that come from now on (None: to none).

        It is committed together with the instance, into `outbox`.
        """
        self._router = router
        self._tags = WANTED_TAGS if router is None else WANTED_TAGS | router.tags

    def path_of(self, file: str) -> str:
        """Give the path of an instance's file, by its name in the index."""
        return self._folders.path(file)

    async def store(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        batches: AsyncIterator[list[memoryview]],
        calling_ae_title: str | None = None,
        origin: Origin | None = None,
    ) -> Stored:
        """Store one instance; gives the answer to the C-STORE, with the reason for what is no Success.

        The UIDs are those of the command, ``batches`` is the data set as it arrives. `origin`: what a router
        may ask about who has sent it. It may be left unread
        when the answer is a Failure. After a Failure, an exception or a cancellation nothing is kept.
        """
        if not (is_usable_uid(sop_class_uid) and is_usable_uid(sop_instance_uid)):
            return Stored(Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS, "a SOP UID of the command is not usable")
        header = header_of(sop_class_uid, sop_instance_uid, transfer_syntax_uid, calling_ae_title)
        reception = Reception(
            InstanceFile(self._folders, self._calls, header, sync=self._sync),
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
            return Stored(refusal.status, str(refusal)[:MAXIMUM_COMMENT])
        except _StorageFailed as failure:
            storage_failed = True
            _LOG.error("%s not stored: %s", sop_instance_uid, failure)
            return Stored(Status.OUT_OF_RESOURCES, str(failure)[:MAXIMUM_COMMENT])
        finally:
            await self._tidy_up(reception.file, arrival, storage_failed)
        count_and_tell(sop_instance_uid, arrival, outcome, self.happened, self.directory)
        return answer_to(arrival, outcome)

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
                await self._scan(reception, pending, size, peer)
                await self._write(reception.take, pending)
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

    async def _settle(
        self, arrival: Arrival, reception: Reception, rest: list[memoryview], origin: Origin
    ) -> Outcome:
        """Have the last bytes written and the instance indexed, in one go from thread to thread."""
        router = self._router

        def finish() -> None:
            try:
                arrival.record = reception.finish(rest)
                arrival.is_incomplete = reception.is_incomplete
                arrival.is_strange = reception.is_strange
                if router is not None:
                    arrival.work = router.work_for(_received(arrival, reception, origin))
            except BaseException as error:
                arrival.tell(error)
            else:
                self._ingest.submit(arrival)

        self._check_open()
        try:
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

    async def _tidy_up(self, file: InstanceFile, arrival: Arrival | None, storage_failed: bool) -> None:
        if arrival is not None and arrival.is_uncertain:
            return  # it counts as being received: the sweep does not judge it
        if arrival is not None and arrival.is_kept:
            file.keep()
            if arrival.obsolete is not None and arrival.answer.result() is Outcome.SUPERSEDED:
                await self._quietly(self._put_into_quarantine, arrival.obsolete)
            elif arrival.obsolete is not None and arrival.answer.result().heals:
                await self._quietly(self._set_aside, arrival.obsolete)
            elif arrival.obsolete is not None:  # on_conflict is "replace": that is the rule
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

    def _put_into_quarantine(self, path: str) -> None:
        if self._calls.look(path) is None:
            return  # a sweep has come first
        self._folders.move_to_quarantine(path)
        self._folders.sync(self._folders.quarantine)

    def _set_aside(self, path: str) -> None:
        if self._calls.look(path) is not None:
            self._folders.set_aside(path)

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

    async def recent_kinds(self) -> Counter[tuple[str, str]]:
        """How many of the newest instances there are of each SOP class and transfer syntax."""
        return await self._queries.run(None, recent_kinds)

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

    async def upkeep(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make a call of `care` in the one thread that looks after files, behind a sweep that is under way.

        Raises what it raises, and `ArchiveError` when the archive is closed, or disk or index fail. A
        cancellation is raised when the call has ended.
        """
        return await self.called(self._upkeep, call, *arguments)

    async def read(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make a call of `care` that only reads, in another thread; as `upkeep`."""
        return await self.called(self._readers, call, *arguments)

    async def called(
        self,
        threads: Threads,
        call: Callable[[*_Ts], _T],
        *arguments: *_Ts,
        ending: threading.Event | None = None,
    ) -> _T:
        """Make a call in one of some threads; a cancellation sets ``ending``, then as `upkeep`."""
        if not self._is_open:
            raise ArchiveError("the archive is closed")
        calling = asyncio.ensure_future(in_thread(threads, call, *arguments))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            if ending is not None:
                ending.set()
            await asyncio.wait((calling,))
            calling.exception()
            raise
        except (OSError, IndexFailed) as error:
            raise ArchiveError(f"{self.directory}: disk or index failed ({reason(error)})") from error

    async def counts(self) -> dict[str, int]:
        """Count patients, studies, series, instances and what is in quarantine, by table name.

        Raises `ArchiveError` when the index cannot be read.
        """
        try:
            return await in_thread(self._readers, self._index.upkeep.counts)
        except IndexFailed as error:
            raise ArchiveError(
                f"the index in {self.directory} cannot be read ({reason(error)}): stop what serves it, and "
                f"have it built again from the files: asyncdicom archive {self.directory} reindex"
            ) from error

    # what runs while serving

    async def reindex(self) -> Swept:
        """Index every file that has no row, while serving, and tell what came of it.

        Waits for a sweep that is under way, then sweeps again. Raises `ArchiveError` when it could not go to
        its end. A cancellation ends the sweep, and is raised then; a sweep that is under way goes on.
        """
        ending = threading.Event()
        swept = await self.called(self._upkeep, self.care.sweep, ending, ending=ending)
        if swept is None:
            raise ArchiveError("the sweep has ended early: the log says why")
        return swept


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
