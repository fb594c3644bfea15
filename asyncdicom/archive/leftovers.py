"""Files without a row: they are indexed again, or set aside; none that may have been acknowledged is removed.

A crash leaves a few, an index that was lost or put back from a copy leaves many. Only what has a name of ours
is touched, and nothing behind a link. It goes folder by folder and is committed in groups: one that breaks
off goes on at the next start where it ended, and what it holds in memory does not grow with the archive.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from asyncdicom.archive.arrival import Found, Outcome
from asyncdicom.archive.blobs.base import Blobs, Ended, State
from asyncdicom.archive.errors import reason
from asyncdicom.archive.examine import Unusable, examine
from asyncdicom.archive.index.deleting import Tombstone
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.origin import Router
from asyncdicom.telemetry.log import Log

__all__ = ["Leftovers", "Swept"]

_LOG = Log("asyncdicom.archive")

_GROUP = 64  # files that are on their way into the index at a time
_NAMES = 1000  # asked for in one query
_NAMED = 10  # files that are named one by one
_MOVING = 3600.0  # seconds that another process may take from a file's move to quarantine to its row


@dataclass
class Swept:
    """How many files a sweep has dealt with, and in what way."""

    indexed: int = 0
    """Indexed again, also in place of one that was missing or damaged."""

    mismatched: int = 0
    """Of those: another patient has their Study Instance UID, or their Patient ID is there twice."""

    quarantined: int = 0
    """In quarantine now: another instance has their SOP Instance UID."""

    set_aside: int = 0
    """In the folder `lost` now: damaged or cut off, or no instances that can be indexed."""

    copies: int = 0
    """Removed: the same bytes are in another file, which was compared, and have a row."""

    deleted: int = 0
    """Removed: their instances were deleted, and their tombstones say so of the very file."""

    unfinished: int = 0
    """Removed: their data set had not come to its end, so nobody was told that they are kept."""

    failed: int = 0
    """Still where they were: the disk or the index failed. The next start tries again."""

    missing: int = 0
    """Rows whose file is not there."""

    found: int = 0
    """Without a row, and left where they are: by a dry run."""

    foreign: int = 0
    """Things in the archive's folders that have no name of ours, links among them: left alone."""

    def told(self) -> str:
        """Say what was done in one line, empty if that was nothing."""
        return ", ".join(
            f"{count} {_WORDS[name]}" for name, count in asdict(self).items() if count and name in _WORDS
        )


_WORDS = {
    "indexed": "files that were not in the index are indexed again",
    "mismatched": "of them of another patient than the rest of their study, or with two Patient IDs",
    "quarantined": "put into quarantine",
    "set_aside": "set aside in lost/",
    "copies": "removed as copies of indexed files",
    "deleted": "removed whose instances were deleted before",
    "unfinished": "removed that were never received to their end",
    "failed": "left because of errors",
    "found": "files that are not in the index; nothing was done",
    "foreign": "foreign things left alone",
}


class Leftovers:
    """One sweep of the archive's folders, for a thread of its own; it counts in ``swept``.

    ``is_closing`` ends it early. ``router`` gives who says what the instances lead to that are indexed again.
    ``dry_run``: it only counts.
    """

    def __init__(
        self,
        blobs: Blobs,
        index: OpenIndex,
        ingest: Ingest,
        swept: Swept,
        *,
        is_closing: Callable[[], bool],
        router: Callable[[], Router | None],
        dry_run: bool = False,
    ) -> None:
        self._blobs = blobs
        self._dry_run = dry_run
        self._index = index
        self._ingest = ingest
        self._is_closing = is_closing
        self._router = router
        self._swept = swept
        self._has_deletions = False
        self._in_use = 0

    def sweep(self) -> Swept:
        """Deal with every file that has no row. Raises `Ended`, `OSError` or `IndexFailed` on the way."""
        seen: set[str] = set()
        for folder in self._blobs.all_folders():
            seen.add(folder)
            self._sweep_folder(folder)
        for folder in self._index.upkeep.folders():
            if folder not in seen and not self._blobs.is_folder(self._blobs.below_root(folder)):
                self._count_missing(folder, set())
        self._swept.foreign += self._blobs.foreign_folders()
        if self._in_use:
            _LOG.info("%d folders that others receive into now are left for the next sweep", self._in_use)
        return self._swept

    def _sweep_folder(self, folder: str) -> None:
        if self._is_closing():
            raise Ended
        with self._blobs.sweeping(folder) as is_free:
            names, foreign = self._blobs.names_in(folder)
            self._swept.foreign += foreign
            if is_free:
                # In this order: what is committed between the two looks is in the second.
                whole = [name for name in names if not self._blobs.is_receiving(name)]
                unknown = [name for some in _chunks(whole, _NAMES) for name in self._unknown(folder, some)]
                if self._dry_run:
                    self._swept.found += len(unknown)
                else:
                    self._deal_with(folder, unknown)
            else:
                self._in_use += 1
        self._count_missing(folder, set(names))

    def _deal_with(self, folder: str, unknown: list[str]) -> None:
        if not unknown:
            return
        if folder == "quarantine":
            unknown = self._without_buried(self._without_moving(unknown))
        else:
            # Whoever made these folders may have died before their entries were durable.
            for path in (self._blobs.objects, os.path.dirname(self._blobs.below_root(folder))):
                self._blobs.sync(path)
            self._has_deletions = self._has_deletions or self._index.deletions.has_any()
            if self._has_deletions:
                unknown = self._without_deleted(folder, unknown)
        for group in _chunks(unknown, _GROUP):
            self._index_again(folder, group)

    def _without_moving(self, names: list[str]) -> list[str]:
        """Leave to other processes what they may be about to give a row."""
        if not self._index.others():
            return names
        return [
            name for name in names if not self._blobs.is_recent(self._blobs.quarantine_path(name), _MOVING)
        ]

    def _unknown(self, folder: str, names: Sequence[str]) -> list[str]:
        known = self._index.upkeep.known(folder, names)
        return [name for name in names if name not in known]

    def _without_buried(self, names: Sequence[str]) -> list[str]:
        """Remove what an operator has removed already, when a crash had left the file."""
        left: list[str] = []
        for some in _chunks(names, _NAMES):
            buried = self._index.quarantine.buried(some)
            for name in buried:
                self._blobs.remove(self._blobs.quarantine_path(name))
            left += [name for name in some if name not in buried]
        return left

    def _without_deleted(self, folder: str, names: Sequence[str]) -> list[str]:
        """Remove the files of instances that were deleted: left by a crash, or put back from a copy.

        That is the name, the length and the digest in its tombstone; any other file is none of them.
        """
        below = folder.partition("/")[2]
        left: list[str] = []
        for some in _chunks(names, _NAMES):
            buried = self._index.deletions.of_files([f"{below}/{name}" for name in some])
            for name in some:
                row = buried.get(f"{below}/{name}")
                if row is None or not self._remove_deleted(self._blobs.path(row.file), row):
                    left.append(name)
        return left

    def _remove_deleted(self, path: str, row: Tombstone) -> bool:
        if self._is_closing():
            raise Ended
        try:
            if self._blobs.look_at(path, row) is not State.SOUND:
                return False
            self._blobs.remove(path)
        except OSError as error:
            self._fail(path, error)
        else:
            self._swept.deleted += 1
        return True

    def _count_missing(self, folder: str, names: set[str]) -> None:
        after = ""
        while rows := self._index.upkeep.files_in(folder, after):
            for name in rows:
                if name in names or self._blobs.is_there(self._blobs.below_root(f"{folder}/{name}")):
                    continue
                if not self._index.is_shared or not self._unknown(folder, [name]):  # deleted meanwhile
                    self._swept.missing += 1
            after = rows[-1]

    # one file

    def _index_again(self, folder: str, names: Sequence[str]) -> None:
        on_their_way = [found for name in names if (found := self._submit(folder, name)) is not None]
        for found in on_their_way:
            answer = found.wait()
            try:
                self._conclude(found, answer)
            except OSError as error:
                self._fail(found.file.path, error)

    def _submit(self, folder: str, name: str) -> Found | None:
        path = self._blobs.below_root(f"{folder}/{name}")
        below = folder.partition("/")[2]
        try:
            named = f"{below}/{name}" if below else name
            router = self._router()
            examined = examine(self._blobs, path, named, is_closing=self._is_closing, router=router)
        except Unusable as error:
            self._give_up(path, error)
        except FileNotFoundError:
            return None  # somebody has taken it away
        except OSError as error:
            self._fail(path, error)
        else:
            found = Found(
                examined.file,
                examined.transfer_syntax_uid,
                examined.record,
                in_quarantine=not below,
                is_incomplete=examined.is_incomplete,
                calling_ae_title=examined.source_ae_title,
                work=examined.work(router, examined.source_ae_title) if below else (),
            )
            uid = found.record.sop_instance_uid
            if below and self._has_deletions:
                found.was_deleted = self._index.deletions.is_deleted(uid, found.file.digest)
            self._ingest.submit(found)
            return found
        return None

    def _conclude(self, found: Found, answer: object) -> None:
        if answer in (Outcome.STORED, Outcome.REPLACED, Outcome.HEALED, Outcome.HEALED_IN_QUARANTINE):
            self._swept.indexed += 1
            if found.mismatch:
                self._tell_mismatch(found)
            if found.obsolete is not None and self._blobs.is_there(found.obsolete):
                self._blobs.set_aside(found.obsolete)
        elif answer is Outcome.QUARANTINED:
            self._swept.quarantined += 1
        elif answer in (Outcome.ALREADY_HERE, Outcome.ALREADY_IN_QUARANTINE):
            self._remove_copy(found)
        else:
            self._fail(found.file.path, answer)

    def _tell_mismatch(self, found: Found) -> None:
        self._swept.mismatched += 1
        if self._swept.mismatched <= _NAMED:
            _LOG.warning(
                "%s: %s: kept under its own Patient ID; `reassign study` can change that",
                found.record.sop_instance_uid,
                found.mismatch,
            )

    def _remove_copy(self, found: Found) -> None:
        """Remove a file whose bytes are in another one, which has a row and was compared with it just now."""
        if found.has_row:
            return  # it is the one that the row means, by now: what else was looked at says nothing of it
        file = found.file
        sound = [name for name, state in found.looked.items() if state is State.SOUND]
        kept = [path(name) for name in sound for path in (self._blobs.path, self._blobs.quarantine_path)]
        if self._blobs.is_other_name(file.path, kept):
            self._swept.foreign += 1  # seen twice, by a mount: there is only one
            return
        self._blobs.remove(file.path)
        self._swept.copies += 1

    def _give_up(self, path: str, why: Unusable) -> None:
        try:
            if why.was_acknowledged:
                self._blobs.set_aside(path)
                self._swept.set_aside += 1
                if self._swept.set_aside <= _NAMED:
                    _LOG.warning("%s was set aside in lost/: %s", os.path.basename(path), why)
            else:
                self._blobs.remove(path)
                self._swept.unfinished += 1
        except OSError as error:
            self._fail(path, error)

    def _fail(self, path: str, error: object) -> None:
        self._swept.failed += 1
        if self._swept.failed <= _NAMED:
            _LOG.error("%s has no row and could not be indexed: %s", path, _reason(error))


def _reason(error: object) -> str:
    if isinstance(error, Outcome):
        return error.value
    return reason(error) if isinstance(error, BaseException) else type(error).__name__


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
