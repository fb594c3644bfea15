"""What looks after an open archive: the check at start, the sweep, the scrub, the quarantine, the counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from asyncdicom.archive.arrival import Outcome
from asyncdicom.archive.aside import Aside
from asyncdicom.archive.blobs.base import Blobs, Ended
from asyncdicom.archive.errors import reason
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.leases import Lease
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.ingest import Ingest
from asyncdicom.archive.leftovers import Leftovers, Swept
from asyncdicom.archive.origin import Router
from asyncdicom.archive.reassign import Reassigning
from asyncdicom.archive.scrub import Scrub
from asyncdicom.archive.verifying import Verified, verified
from asyncdicom.telemetry.log import Log

__all__ = ["Care"]

_LOG = Log("asyncdicom.archive")

_TURN = 0.5  # seconds between two looks whether another process has ended its sweep
_CONFLICTS = (Outcome.QUARANTINED, Outcome.ALREADY_IN_QUARANTINE, Outcome.REFUSED, Outcome.REPLACED)
_TOLD = {
    "conflicts": tuple(outcome.name.lower() for outcome in _CONFLICTS),
    "refused_conflicts": ("quarantine_full",),
    "healed": ("healed", "healed_in_quarantine"),
}
# Told if there are any.
_RARE = (
    "store_failures",
    "set_aside",
    "superseded",
    "same",
    "incomplete",
    "strange",
    "mismatch",
    "divided",
    "returned",
)


class Care:
    """Every method blocks; all but `counts`, `stat` and `verify` are for one and the same thread.

    ``scrub_rate``: bytes a second, 0: no scrub. ``is_closing`` ends what is long. ``happened``: what the
    archive counts since its start. ``router`` and ``on_work``: see `Aside`.
    """

    def __init__(
        self,
        directory: str,
        blobs: Blobs,
        index: OpenIndex,
        ingest: Ingest,
        reassigning: Reassigning,
        *,
        scrub_rate: int,
        is_closing: Callable[[], bool],
        happened: Counter[str],
        router: Callable[[], Router | None],
        on_work: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._directory = directory
        self._blobs = blobs
        self._index = index
        self._ingest = ingest
        self._router = router
        self._is_closing = is_closing
        self._scrub = Scrub(blobs, index, ingest, rate=scrub_rate) if scrub_rate else None
        self._happened = happened
        self.swept = Swept()
        """What the sweep under way, or the last one, has done so far."""
        self.quarantine = Aside(
            blobs, index.quarantine, ingest, is_closing=is_closing, router=router, on_work=on_work
        )
        self.reassigning = reassigning

    def start(self, *, tell: bool) -> None:
        """Start the scrub; before, ``tell`` what an operator should know."""
        if tell:
            self._tell_disks()
            try:
                self._tell_quarantine()
            except IndexFailed as error:
                _LOG.error("the index cannot tell what is in quarantine: %s", reason(error))
        if self._scrub is not None:
            self._scrub.start()

    def _tell_quarantine(self) -> None:
        files, size = self._index.quarantine.usage()
        if files:
            _LOG.warning(
                "%d instances (%d MiB) are in quarantine: asyncdicom archive %s quarantine list shows them",
                files,
                size >> 20,
                self._directory,
            )
            if not self._blobs.has_quarantined():
                _LOG.error("%s is empty: is its disk mounted?", self._blobs.quarantine)

    def _tell_disks(self) -> None:
        """A name is moved between the two folders: on two disks, or two mounts of one, that cannot be."""
        if not self._blobs.can_move_to_quarantine():
            _LOG.error(
                "%s and %s are on two disks or mounts: instances that conflict cannot be put into quarantine "
                "and are refused (0xA700); let both be folders of one disk",
                self._blobs.objects,
                self._blobs.quarantine,
            )

    def close(self) -> None:
        """End the scrub; the index is open still."""
        if self._scrub is not None and self._scrub.is_running:
            self._scrub.close()

    # counting

    def stat(self) -> dict[str, int]:
        """Count rows by table, what is aside or was found bad, and what happened since the start."""
        _, size = self._index.quarantine.usage()
        place = self._index.place()
        return {
            **self._index.upkeep.counts(),
            "quarantine_bytes": size,
            "purged": self._index.quarantine.tombstones(),
            "deleted": self._index.deletions.count(),
            "lost": self._blobs.count_lost(),
            **({"waiting": self._blobs.count_waiting()} if self._blobs.is_spool else {}),
            "missing": max(place.missing, place.last_missing),
            "damaged": max(place.damaged, place.last_damaged),
            **{name: sum(self._happened[each] for each in parts) for name, parts in _TOLD.items()},
            **{name: self._happened[name] for name in _RARE if self._happened[name]},
        }

    def verify(self, pace: Callable[[int], None]) -> Iterator[Verified]:
        """Compare each file with its row; ``pace`` is called with what was read, and may wait or raise."""
        return verified(self._index.upkeep, self._blobs, pace)

    def copy_index(self, path: str) -> None:
        """Copy the whole index to a path that nothing is at; for any thread."""
        self._index.copy_to(path)

    def kept(self, sop_instance_uids: Sequence[str]) -> dict[str, str]:
        """Give the SOP Class UID of each that is stored whole, and whose file is there in its size."""
        return {
            uid: sop_class
            for uid, sop_class, file, size in self._index.upkeep.complete(sop_instance_uids)
            if self._blobs.size(self._blobs.path(file)) == size
        }

    # the sweep

    def sweep(self, ending: threading.Event | None = None, dry_run: bool = False) -> Swept | None:
        """Check the index, then deal with the files it does not know; None if that ended early.

        ``ending``, when it is set, ends it early. ``dry_run``: they are only counted.
        """

        def is_ending() -> bool:
            return self._is_closing() or (ending is not None and ending.is_set())

        lease = Lease(self._index.leases, "sweep")

        def is_over() -> bool:
            return is_ending() or not lease.keep()

        try:
            while not lease.keep():
                if is_ending():
                    return None
                time.sleep(_TURN)
        except IndexFailed as error:
            _LOG.error("files without a row are not looked for: %s", reason(error))
            return None
        try:
            return self._sweep(is_ending, is_over, dry_run)
        finally:
            with suppress(IndexFailed):  # it ends by itself
                lease.give_back()

    def _sweep(
        self, is_ending: Callable[[], bool], is_over: Callable[[], bool], dry_run: bool
    ) -> Swept | None:
        self.swept = Swept()
        try:
            damage = self._index.upkeep.damage(is_ending)
            if damage:
                _LOG.error(
                    "the index is damaged, nothing is swept: stop, put a copy of it back or have it built "
                    "again: asyncdicom archive %s reindex (%s)",
                    self._directory,
                    damage,
                )
                return None
            return self._sweep_leftovers(is_over, dry_run)
        except Ended:
            return None
        except (OSError, IndexFailed) as error:
            if not is_ending():
                _LOG.error("the sweep for files without a row ended early: %s", reason(error))
            return None

    def _sweep_leftovers(self, is_over: Callable[[], bool], dry_run: bool) -> Swept:
        swept = Leftovers(
            self._blobs,
            self._index,
            self._ingest,
            self.swept,
            is_closing=is_over,
            router=self._router,
            dry_run=dry_run,
        ).sweep()
        if swept.set_aside:
            self._happened["set_aside"] += swept.set_aside
        if told := swept.told():
            _LOG.warning("files and index of %s compared: %s", self._directory, told)
        if swept.missing:
            _LOG.error(
                "%d indexed files are missing: put them back from a copy, or have them sent again; "
                "asyncdicom archive %s verify names them",
                swept.missing,
                self._directory,
            )
        return swept
