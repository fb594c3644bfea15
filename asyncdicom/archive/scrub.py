"""The scrub: slowly, all the time, each stored file is compared with its digest.

Where it is, is in the index: a restart goes on there. It tells what is missing or damaged, and changes
nothing: a good copy that is sent again heals it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from asyncdicom.archive.blobs.base import Blobs, Ended, State, Unreachable
from asyncdicom.archive.errors import reason
from asyncdicom.archive.index.base import IndexFailed
from asyncdicom.archive.index.leases import Lease
from asyncdicom.archive.index.opened import OpenIndex
from asyncdicom.archive.index.place import Place, write_place
from asyncdicom.archive.index.upkeep import FileRow
from asyncdicom.archive.ingest import Ingest
from asyncdicom.telemetry.log import Log

__all__ = ["Pace", "Scrub"]

_LOG = Log("asyncdicom.archive")

_FIRST = 60.0  # seconds after the start: the sweep, and those who call first, have the disk for themselves
_AGAIN = timedelta(days=1)  # after one time round: a small archive is not read all day
_SAVED = 64  # rows after which the place is noted
_OTHERS = 30.0  # seconds between two looks whether another process does it still
_RETRY = 600.0  # seconds after an error: of the index, mostly
_NAMED = 10  # files a time round that are named one by one
_TABLES = ("instance", "quarantine")


class Pace:
    """Called with what was read (bytes); waits so long that it is not more than `rate` bytes a second.

    Raises `Ended` when `ending` is set, also while it waits.
    """

    def __init__(self, rate: int | None, ending: threading.Event) -> None:
        self._rate = rate
        self._ending = ending
        self._due = time.monotonic()

    def __call__(self, size: int) -> None:
        """Wait for what was read."""
        if self._rate is not None:
            now = time.monotonic()
            self._due = max(self._due, now - 1) + size / self._rate
            self._ending.wait(max(0.0, self._due - now))
        if self._ending.is_set():
            raise Ended


class Scrub:
    """Owns the thread. ``rate``: bytes a second."""

    def __init__(
        self,
        blobs: Blobs,
        index: OpenIndex,
        ingest: Ingest,
        *,
        rate: int,
        first: float = _FIRST,
    ) -> None:
        self._blobs = blobs
        self._index = index
        self._ingest = ingest
        self._first = first
        self._ending = threading.Event()
        self._wait = Pace(rate, self._ending)
        self._lease = Lease(index.leases, "scrub")
        self._place = Place()
        self._thread = threading.Thread(target=self._run, name="asyncdicom-scrub", daemon=True)
        self.rounds = 0
        """How many times it has been all round."""

    @property
    def is_running(self) -> bool:
        """Tell whether the thread is there."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End it; the index has to be open still. Blocks for one read and one commit."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        wait = self._first
        while not self._ending.wait(wait):
            try:
                wait = self._go_round() if self._lease.keep() else _OTHERS
            except Ended:
                wait = _OTHERS
            except Exception as error:
                _LOG.error("the scrub waits for %d s: %s", _RETRY, reason(error))
                wait = _RETRY
            with suppress(IndexFailed):  # it ends by itself
                self._lease.give_back()

    def _pace(self, size: int) -> None:
        """Wait for what was read; raises `Ended` when it ends, or another process has taken over."""
        self._wait(size)
        if not self._lease.keep():
            raise Ended

    def _go_round(self) -> float:
        """Look at what is left of this time round; gives the seconds until the next one."""
        self._place = self._index.place()
        if not self._place.name and self._place.ended:
            with suppress(ValueError):  # a clock that was put back makes it wait no longer than a day
                rest = datetime.fromisoformat(self._place.ended) + _AGAIN - datetime.now(UTC)
                if timedelta(0) < rest <= _AGAIN:
                    return rest.total_seconds()
        first = _TABLES.index(self._place.name) if self._place.name in _TABLES else 0
        path: dict[str, Callable[[str], str]] = {
            "instance": self._blobs.path,
            "quarantine": self._blobs.quarantine_path,
        }
        for name in _TABLES[first:]:
            if name != self._place.name:
                self._place = self._place._replace(name=name, after=0)
            try:
                self._go_through(name, path[name])
            finally:
                self._save()
        self._end_round()
        return 0.0

    def _go_through(self, name: str, path: Callable[[str], str]) -> None:
        while rows := self._index.upkeep.file_rows(name, self._place.after):
            for number, row in enumerate(rows, 1):
                self._look(name, path(row.file), row)
                self._place = self._place._replace(after=row.id)
                if number % _SAVED == 0:
                    self._save()

    def _look(self, name: str, path: str, row: FileRow) -> None:
        try:
            state = self._blobs.look_at(path, row, read_so_far=self._pace)
        except Unreachable:
            raise  # that says nothing about it
        except OSError:
            state = State.DAMAGED  # it cannot be read
        self._pace(0)
        if state is State.SOUND or self._index.upkeep.file_rows(name, row.id - 1)[:1] != [row]:
            return  # replaced, accepted or removed meanwhile
        what = state.name.lower()
        self._place = self._place._replace(**{what: getattr(self._place, what) + 1})
        if self._place.missing + self._place.damaged <= _NAMED:
            _LOG.error(
                "%s: its file %s is %s: put it back from a copy, or have it sent again",
                row.sop_instance_uid,
                path,
                state.value,
            )

    def _end_round(self) -> None:
        bad = self._place.missing + self._place.damaged
        if bad:
            _LOG.error(
                "the scrub has been all round: %d files are missing, %d damaged; `verify` names them",
                self._place.missing,
                self._place.damaged,
            )
        self._place = Place(
            missing=0, damaged=0, last_missing=self._place.missing, last_damaged=self._place.damaged,
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self._save()
        self.rounds += 1

    def _save(self) -> None:
        place = self._place
        if not self._lease.keep():
            raise Ended  # who has taken over knows better
        self._ingest.change(lambda writer: write_place(writer, place))
