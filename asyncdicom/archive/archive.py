"""The archive as its users hold it: store, find, and where to read what was found."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from asyncdicom.archive.arrival import OnConflict, OnMismatch, Rules
from asyncdicom.archive.blobs.base import Reading
from asyncdicom.archive.blobs.kinds import open_blobs
from asyncdicom.archive.blobs.room import Room, Space
from asyncdicom.archive.care import Care
from asyncdicom.archive.deleted_journal import DeletedJournal
from asyncdicom.archive.deleting import Deleted, Deleting, Scope, delete
from asyncdicom.archive.entering import Entered, Entrance
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.failures import opening, reading_index
from asyncdicom.archive.file_calls import FileCalls, TogetherCalls
from asyncdicom.archive.find import Finder, MatchingInstances
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.chosen import ChosenInstance
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.archive.index.engines import DURABILITIES
from asyncdicom.archive.index.finding import Finding
from asyncdicom.archive.index.query import Query
from asyncdicom.archive.index.reader import Row
from asyncdicom.archive.index.work import COMMITTED, State, Work
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.intake import Intake
from asyncdicom.archive.journal import Journal
from asyncdicom.archive.leftovers import Swept
from asyncdicom.archive.origin import Origin, Passing, Router
from asyncdicom.archive.outbox import Outbox
from asyncdicom.archive.peers import PeerMemory
from asyncdicom.archive.reassign import Reassigning
from asyncdicom.archive.reports import Reports
from asyncdicom.archive.round import Bounds
from asyncdicom.archive.search import Match, match_of, query_of
from asyncdicom.archive.senders import Senders
from asyncdicom.archive.sources import batches_of, source_of
from asyncdicom.archive.stability import StableStudies, StableStudy
from asyncdicom.archive.standing import Standing, Taken
from asyncdicom.archive.stored import Stored
from asyncdicom.archive.threads import READERS, ArchiveThreads, call_in
from asyncdicom.net.sources import Source
from asyncdicom.net.threads import Threads, in_thread
from asyncdicom.telemetry.log import Log

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Archive", "Stored"]

_LOG = Log("asyncdicom.archive")

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
    tell what is amiss; without it, `reindex` deals with them. ``index``: the URL of the PostgreSQL database
    that has the index, as ``postgresql://user@host/database`` (needs the extra ``postgres``): then several
    processes of one machine may have the archive open; None: it is a file of the folder, and one may.
    ``blobs``: the URL of a bucket that has the instances, as ``s3://bucket/prefix`` (needs the extra ``s3``;
    the environment has credentials and endpoint); None: they are in the folder. ``ack``: where they are at a
    Success: in the bucket ("object"), or in the folder, and moved on afterwards ("spool").
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
        index: str | None = None,
        blobs: str | None = None,
        ack: str = "object",
    ) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
        self.directory = os.path.abspath(directory)
        self.durability = durability
        self._rules = Rules(OnConflict(on_conflict), OnMismatch(on_mismatch))
        if incomplete not in ("refuse", "store"):
            raise ValueError(f"incomplete must be refuse or store, not {incomplete!r}")
        self._existing = existing
        self._url = index
        self._bounds = Bounds(maximum_quarantined, maximum_quarantined_bytes)
        self._scrub_rate = scrub
        self._sweeps = sweep
        self._sync = durability == "power"
        self._calls = files if files is not None else TogetherCalls()
        self._is_open = False
        self._is_closing = False
        self._sweep: asyncio.Future[Swept | None] | None = None
        self.happened: Counter[str] = Counter()
        """What happened to instances since the start, beside being stored: by its name, how many times."""
        self.senders = Senders()
        """How many instances came from whom since the start, and when the last one did."""
        self._blobs = open_blobs(
            self.directory,
            blobs,
            self._calls,
            sync=self._sync,
            ack=ack,
            is_shared=index is not None,
            on_failure=lambda: self.happened.update(store_failures=1),
        )
        self._entrance = Entrance(self.directory, index, self._blobs, self._calls, durability=durability)
        self.is_new = False
        self.is_served_by_tls = False
        """Whether a server takes instances for it by TLS: then they are not sent on in the clear unasked."""
        self.passing: Passing | None = None
        """Who is asked first about a C-STORE request, and may answer it: then it is not stored."""
        self._room = Room(self.directory, self._calls, minimum_free)
        self._intake = Intake(
            self._blobs,
            self._room,
            keeps_incomplete=incomplete == "store",
            maximum_size=maximum_size,
            happened=self.happened,
            senders=self.senders,
            directory=self.directory,
        )

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
        self._threads = ArchiveThreads()
        try:
            await in_thread(self._threads.readers, self._open)
        except BaseException:
            self._threads.end()
            raise
        self._is_open = True
        self._intake.open(self._threads.writers, self._ingest, together=self._together)
        self.outbox.start()
        self._peers.start()
        if self._sweeps:
            self._sweep = asyncio.ensure_future(in_thread(self._threads.upkeep, self.care.sweep))

    def _open(self) -> None:
        with (
            opening(self.directory, in_database=self._url is not None),
            self._entrance.entering(existing=self._existing, readers=READERS + _QUERIES) as entered,
        ):
            self._together = not self._sync or self._calls.can_sync_together(self.directory)
            self._index, self.is_new = entered.opened, entered.is_new
            self._open_index(entered)

    def _open_index(self, entered: Entered) -> None:
        index, is_shared = self._index, self._index.is_shared
        if is_shared:
            self._blobs.share()
        self._queries = index.queries(_QUERIES)
        self._finder = Finder(Finding(self._queries), self._blobs)
        standing = Standing()
        self._ingest = Ingest(
            index.writer(),
            self._blobs,
            rules=self._rules,
            bounds=self._bounds,
            elsewhere=self._threads.writers.submit,
            one_by_one=self._threads.comparing.submit,
            standing=standing,
            on_work=self._tell_of_work,
        )
        change, outgoing = self._ingest.change, self._threads.outgoing
        self.deliveries, self.chosen = index.deliveries, index.chosen
        self.expiry, self.leases = index.expiry, index.leases
        self.outbox = Outbox(
            self._ingest, self.deliveries, outgoing, index.hints, standing, is_shared=is_shared
        )
        self.reports = Reports(self.outbox, self.deliveries, self.read)
        self._peers = PeerMemory(index.learned(time.time()), change, outgoing.submit)
        self.stability = StableStudies(index.stability, change, self.read, self.leases)
        self._ingest.start()
        journal = Journal(self.directory, self._calls, sync=self._sync)
        reassigning = Reassigning(journal, self._ingest, is_shared=is_shared)
        deleted = DeletedJournal(self.directory, entered.archive_id, self._calls, sync=self._sync)
        self.deleting = Deleting(deleted, self._blobs, index.deletions, self._ingest, self.happened)
        self.care = Care(
            self.directory,
            self._blobs,
            index,
            self._ingest,
            reassigning,
            scrub_rate=self._scrub_rate,
            is_closing=lambda: self._is_closing,
            happened=self.happened,
            router=lambda: self._intake.router,
            on_work=self._tell_of_work,
        )
        try:
            if entered.is_first:
                self.leases.free_all()
                reassigning.reconcile()
                self.deleting.reconcile()
            if is_shared:
                self.deleting.join()
            self.outbox.open(is_alone=entered.is_first)
        except BaseException:
            self._ingest.close()
            raise
        self.care.start(tell=self._sweeps)
        self._blobs.serve(index.upkeep.known)

    def _tell_of_work(self, urgency: Mapping[str, int], taken: Taken | None = None) -> None:
        self.outbox.tell_from_thread(urgency, taken)

    async def close(self) -> None:
        """Commit what is queued and close everything; a store that is not so far yet fails."""
        if not self._is_open:
            return
        self._is_open, self._is_closing = False, True
        self._intake.close()
        self._peers.stop()
        if self._sweep is not None:
            await asyncio.wait((self._sweep,))
        await self.outbox.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._queries.close()
        self._threads.end_writing()
        self._blobs.close()
        self.care.close()
        self._ingest.close()
        self._threads.readers.shutdown()
        with suppress(IndexFailed):  # they end by themselves
            self.leases.give_all_back()
        self._index.close()
        self._blobs.leave()
        self._calls.end()
        self._entrance.leave()

    # storing

    @property
    def is_routing(self) -> bool:
        """Whether somebody says what instances lead to."""
        return self._intake.router is not None

    def route(self, router: Router | None) -> None:
        """Have a router say which work the instances lead to that come from now on (None: to none).

        It is committed together with the instance, into `outbox`. So is the work of those that are accepted
        from quarantine, and of files without a row that are indexed: the sweep of the start begins behind
        whatever is called, without an await between, when `open` has returned.
        """
        self._intake.route(router)

    def source_of(self, claimed: Claimed) -> Source:
        """Give what sends the data set of an instance that claimed work is about."""
        return self._blobs.source(
            self._blobs.path(claimed.file or ""),
            sop_class_uid=claimed.sop_class_uid or "",
            sop_instance_uid=claimed.sop_instance_uid or "",
            transfer_syntax_uid=claimed.transfer_syntax_uid or "",
            offset=claimed.data_set_offset or 0,
            length=claimed.data_set_length or 0,
        )

    def reading(self, claimed: Claimed | ChosenInstance) -> Reading:
        """Open the file of an instance that claimed work is about, to be read and closed. Blocks.

        Raises ``OSError``.
        """
        return self._blobs.read(self._blobs.path(claimed.file or ""))

    async def store(
        self,
        instance: str | os.PathLike[str] | bytes | Source | Dataset,
        *,
        calling_ae_title: str | None = None,
    ) -> Stored:
        """Store a DICOM file (by its path, or its bytes), a `Source`, or a pydicom Dataset.

        As `receive`, which C-STORE uses. `calling_ae_title` is noted as where it came from. Raises
        `DataSetError` or ``OSError`` for what cannot be read.
        """
        source = await source_of(instance)
        async with aclosing(batches_of(source)) as batches:
            return await self.receive(
                sop_class_uid=source.sop_class_uid,
                sop_instance_uid=source.sop_instance_uid,
                transfer_syntax_uid=source.transfer_syntax_uid,
                batches=batches,
                calling_ae_title=calling_ae_title,
            )

    async def receive(
        self,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        batches: AsyncIterator[list[memoryview]],
        calling_ae_title: str | None = None,
        origin: Origin | None = None,
    ) -> Stored:
        """Store one instance while it arrives; gives what became of it, with the reason for a refusal.

        The UIDs are those that are promised, ``batches`` is the data set as it arrives. `origin`: what a
        router may ask about who has sent it. It may be left unread when it is refused. After a refusal, an
        exception or a cancellation nothing is kept.
        """
        return await self._intake.receive(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            batches=batches,
            calling_ae_title=calling_ae_title,
            origin=origin,
        )

    # finding

    async def search(
        self, wanted: Mapping[str, Any] | Dataset, *, level: str = "", peer: Hashable = None
    ) -> AsyncGenerator[Match, None]:
        """Search by keywords, as a C-FIND does (PS3.4 C.2.2.2), and give a mapping of keywords each.

        `wanted`: keywords, or a Dataset, with what they are to be: text (also with wildcards, a range of
        dates, a list), or nothing for what only is to be told. `level`: PATIENT, STUDY, SERIES or IMAGE; else
        the lowest one that a keyword belongs to. The Unique Keys down to it are told, too. `peer`, and what
        is raised: as for `rows`; a keyword that the archive is not searched by is an `IdentifierError`.
        """
        query = query_of(wanted, level)
        async with aclosing(self._finder.rows(query, peer)) as rows:
            async for row in rows:
                yield match_of(query, row)

    def rows(self, query: Query, *, peer: Hashable = None) -> AsyncGenerator[Row, None]:
        """Give the rows that match, page by page: no transaction is open while one is used.

        `peer` says who asks: those with different ones take turns at the index. Cancelled: the statement that
        runs is interrupted. Raises `IdentifierError`, before the first row, for a query that would take too
        much, `QueriesClosed` when the archive is closed meanwhile, and `IndexFailed`.
        """
        return self._finder.rows(query, peer)

    async def recent_kinds(self) -> Counter[tuple[str, str]]:
        """How many of the newest instances there are of each SOP class and transfer syntax."""
        return await self._finder.index.recent_kinds()

    async def instances(
        self, query: Query | Mapping[str, Any] | Dataset, *, peer: Hashable = None
    ) -> MatchingInstances:
        """Give the instances that a retrieval asks for, or those of all that keywords match (see `search`).

        8 bytes are kept for each. `peer` and what is raised: as for `rows`.
        """
        if not isinstance(query, Query):
            query = query_of(query)
        return await self._finder.instances(query, peer)

    async def assigned(self, source: Source, *, peer: Hashable = None) -> Source:
        """Give what is to be sent of a stored instance: as it is, or with the patient it was put under.

        `peer` and what is raised: as for `rows`.
        """
        return await self._finder.assigned(source, peer) if self.care.reassigning.is_used else source

    # deleting

    async def delete(
        self,
        level: str,
        uid: str,
        *,
        patient_id: str | None = None,
        even_failed: bool = False,
        dry_run: bool = False,
        why: str = "by the application",
    ) -> Deleted:
        """Delete a study, series or instance, and give what was deleted; `dry_run`: only look.

        `level`: STUDY, SERIES or IMAGE; `uid`: its UID. `patient_id`: of whom, where several patients have
        it. Nothing of it is deleted while a delivery or a storage commitment of one of its instances is open,
        or a delivery has failed (unless `even_failed`): `Deleted.refused` says which. Each 500 instances are
        one transaction; what comes meanwhile stays. `why` stays known. A retrieval that is under way tells of
        each instance that it misses.

        Raises `ArchiveError` if there is no such thing, several patients have it, or disk or index fail; what
        was deleted by then stays deleted, as after a cancellation.
        """
        scope = Scope(level, uid, patient_id)
        async with aclosing(self.delete_by_steps(scope, even_failed, dry_run, why)) as steps:
            *_, deleted = [step async for step in steps]
        return deleted

    def delete_by_steps(
        self, scope: Scope, even_failed: bool, dry_run: bool, why: str
    ) -> AsyncGenerator[Deleted, None]:
        """As `delete`: give how much is deleted after each transaction, and then what was."""
        return delete(
            self.deleting,
            scope,
            read=self.read,
            upkeep=self.upkeep,
            why=why,
            even_failed=even_failed,
            dry_run=dry_run,
        )

    async def note_committed(self, sop_instance_uids: Sequence[str], by: str) -> None:
        """Note that a peer keeps instances, as `StorageCommitmentUser.commit` was told (PS3.4 J.3.3).

        Rules of retention ask for it. `by`: its name. What is not here is passed over. Raises `ArchiveError`.
        """
        work = Work(COMMITTED, by, state=State.DONE)
        await self.upkeep(self.deleting.note, list(sop_instance_uids), work)

    async def upkeep(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make a call of `care` in the one thread that looks after files, behind a sweep that is under way.

        Raises what it raises, and `ArchiveError` when the archive is closed, or disk or index fail. A
        cancellation is raised when the call has ended.
        """
        return await self.called(self._threads.upkeep, call, *arguments)

    async def read(self, call: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        """Make a call of `care` that only reads, in another thread; as `upkeep`."""
        return await self.called(self._threads.readers, call, *arguments)

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
        return await call_in(threads, self.directory, call, *arguments, ending=ending)

    @property
    def is_shared(self) -> bool:
        """Whether other processes may have it open, too: its index is in a database."""
        return self._index.is_shared

    @property
    def is_writing(self) -> bool:
        """Whether what arrives can be indexed: the archive is open, and its writer is at work."""
        return self._is_open and self._ingest.is_alive

    async def space(self) -> Space:
        """Tell how much room the disk has, and whether that is too little to store. As `read`."""
        return await self.read(self._room.look)

    async def counts(self) -> dict[str, int]:
        """Count patients, studies, series, instances and what is in quarantine, by table name.

        Raises `ArchiveError` when the index cannot be read.
        """
        with reading_index(self.directory, in_database=self._url is not None):
            return await in_thread(self._threads.readers, self._index.upkeep.counts)

    async def stable_studies(
        self, *, quiet: float = 60.0, name: str = "default"
    ) -> AsyncGenerator[StableStudy, None]:
        """Give every study that nothing has come for since `quiet` seconds; one that gets more, again.

        `name`: who asks; each name is given every study. A study counts as given when the next one is asked
        for: after a crash, or a restart, what was not is given again, with what has come meanwhile. A name
        that asks for the first time gets what comes from then on. The index is looked at eight times in
        `quiet`, and at least every 5 seconds. Ends when the archive is closed. Raises ValueError for a time
        that is not positive, or if somebody has the name now, and `ArchiveError` if disk or index fail.
        """
        try:
            async with aclosing(self.stability.studies(name, quiet)) as studies:
                async for study in studies:
                    yield study
        except ArchiveError:
            if self._is_open:
                raise

    # what runs while serving

    async def reindex(self, *, dry_run: bool = False) -> Swept:
        """Index every file that has no row, while serving, and tell what came of it; `dry_run`: only count.

        Waits for a sweep that is under way, then sweeps again. Raises `ArchiveError` when it could not go to
        its end. A cancellation ends the sweep, and is raised then; a sweep that is under way goes on.
        """
        ending = threading.Event()
        swept = await self.called(self._threads.upkeep, self.care.sweep, ending, dry_run, ending=ending)
        if swept is None:
            raise ArchiveError("the sweep has ended early: the log says why")
        return swept
