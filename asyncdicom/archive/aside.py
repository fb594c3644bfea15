"""What an operator does with the quarantine: look, accept one in place of the stored one, remove.

A file has two names while its row moves: it is linked where it will be, the rows are changed in one
transaction, then the old name goes. Whoever is killed on the way leaves files whose bytes have a row under
their other name; the sweep at the next start removes those names. Nothing is ever without a file.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.examine import Examined, Unusable, examine
from asyncdicom.archive.index.base import Changes, Existing, Insertion, aside
from asyncdicom.archive.index.quarantined import Quarantined, QuarantineReader, bury, take
from asyncdicom.archive.index.work import Work, urgency_of
from asyncdicom.archive.index.writer import Writer
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.origin import Router
from asyncdicom.telemetry.log import Log

__all__ = ["Aside", "Quarantined"]

_LOG = Log("asyncdicom.archive")

_NAME = re.compile(r"[0-9a-f]{8,32}")
_REASON = "an operator has accepted another one in its place"


class Aside:
    """The quarantine of an open archive. Every method blocks; `accept` and `purge` are for one thread.

    That thread is the one of the sweep: what has two names for a moment is not taken for a leftover.
    ``router`` gives who says what an accepted instance leads to; ``on_work`` is told of it, as in `Ingest`.
    """

    def __init__(
        self,
        blobs: Blobs,
        reader: QuarantineReader,
        ingest: Ingest,
        *,
        is_closing: Callable[[], bool],
        router: Callable[[], Router | None],
        on_work: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._blobs = blobs
        self._reader = reader
        self._ingest = ingest
        self._is_closing = is_closing
        self._router = router
        self._on_work = on_work

    def pages(self) -> Iterator[list[Quarantined]]:
        """Give what is there, page by page, in the order in which it came."""
        after = 0
        while rows := self._reader.page(after):
            yield rows
            after = rows[-1].id

    def _named(self, name: str) -> Quarantined:
        if not _NAME.fullmatch(name):
            raise ArchiveError(
                f"{name[:40]!r} names nothing: give 8 or more digits of a name that `list` shows"
            )
        rows = self._reader.named(name)
        if len(rows) != 1:
            what = "two files" if rows else "no file"
            raise ArchiveError(f"{what} in quarantine: the name starts with {name}; see `quarantine list`")
        return rows[0]

    # in place of the stored one

    def accept(self, name: str) -> str:
        """Put a file of the quarantine in the place of the stored one, which goes to quarantine.

        ``name``: that of its file, or the first 8 or more of its digits. Gives its SOP Instance UID. Raises
        `ArchiveError` when there is none, or it is damaged, and what disk and index raise: then nothing has
        changed.
        """
        row = self._named(name)
        path = self._blobs.quarantine_path(row.file)
        router = self._router()
        examined = self._examined(path, row, router)
        work = examined.work(router, row.calling_ae_title)
        target = self._blobs.take_name()
        old: list[str] = []
        try:
            self._blobs.copy(path, self._blobs.path(target))
            self._blobs.sync(os.path.dirname(self._blobs.path(target)))
            stored = self._ingest.change(lambda writer: writer.find(row.sop_instance_uid), is_durable=False)
            kept = self._copy_aside(stored)  # a copy may take long: no transaction waits for it
            try:
                self._ingest.change(
                    lambda writer: self._swap(writer, row, examined, target, work, (stored, kept))
                )
            except BaseException:
                if kept:
                    self._blobs.remove(self._blobs.quarantine_path(kept))
                raise
            if stored is not None and kept:
                old.append(self._blobs.path(stored.file))
        except LookupError:
            self._blobs.remove(self._blobs.path(target))
            raise ArchiveError(
                f"{row.file} is not in quarantine any more, or another one was stored in between: look again"
            ) from None
        finally:
            self._blobs.give_back(target, failed=False)
        if urgency := urgency_of(work):
            self._on_work(urgency)
        for each in (path, *old):
            with suppress(OSError):  # the sweep finds it: its bytes have a row under another name
                self._blobs.remove(each)
        _LOG.warning(
            "%s: the instance from quarantine was put in place of the stored one", row.sop_instance_uid
        )
        return row.sop_instance_uid

    def _examined(self, path: str, row: Quarantined, router: Router | None) -> Examined:
        try:
            examined = examine(self._blobs, path, row.file, is_closing=self._is_closing, router=router)
        except FileNotFoundError:
            raise ArchiveError(f"{row.file} is missing in {self._blobs.quarantine}") from None
        except Unusable as error:
            raise ArchiveError(f"{row.file} cannot be accepted: {error}") from None
        if examined.file.digest != row.digest:
            raise ArchiveError(f"{row.file} cannot be accepted: it is damaged, its row has another digest")
        return examined

    def _copy_aside(self, stored: Existing | None) -> str:
        """Give the stored file a second name in quarantine, and give that; empty if there is none."""
        if stored is None:
            return ""
        name = f"{secrets.token_hex(16)}.dcm"
        try:
            self._blobs.copy(self._blobs.path(stored.file), self._blobs.quarantine_path(name))
        except FileNotFoundError:  # nothing is there that could be kept
            _LOG.warning("%s is missing", stored.file)
            return ""
        self._blobs.sync(self._blobs.quarantine)
        return name

    def _swap(
        self,
        writer: Writer,
        row: Quarantined,
        examined: Examined,
        target: str,
        work: Sequence[Work],
        aside_: tuple[Existing | None, str],
    ) -> None:
        """Change the rows. Raises ``LookupError`` if they are not what they were."""
        taken = take(writer, row.file)
        existing, name = writer.find(row.sop_instance_uid), aside_[1]
        if (existing and existing.file) != (aside_[0] and aside_[0].file):
            raise LookupError
        changes = Changes()
        if existing is not None and name:
            changes.quarantined.append(aside(existing, name, _REASON))
        entry = examined.entry(target, taken.calling_ae_title)
        changes.instances.append(Insertion(examined.record, entry, existing, taken.received))
        changes.work += [(row.sop_instance_uid, row.digest, each) for each in work]
        writer.apply(changes)

    # away

    def purge(self, name: str) -> Quarantined:
        """Remove a file of the quarantine for good; its row is kept as a tombstone.

        ``name``: as for `accept`. The row goes first: whoever is killed then leaves a file with a tombstone,
        which the next start removes. Raises as `accept`.
        """
        row = self._named(name)
        try:
            self._ingest.change(lambda writer: bury(writer, row.file))
        except LookupError:
            raise ArchiveError(f"{row.file} is not in quarantine any more") from None
        with suppress(OSError):
            self._blobs.remove(self._blobs.quarantine_path(row.file))
        _LOG.warning("%s: %s was removed from quarantine, as asked", row.sop_instance_uid, row.file)
        return row
