"""Instances whose last bytes are there are finished in groups: written, made durable together, then indexed.

Many threads that write and sync a small file each cost more than disk and index do, because they take turns
at the interpreter's lock at every file call. So one thread at a time takes all that waits and writes it; then
it syncs that by one call, and another one may write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from asyncdicom.archive.arrival import Answer, Arrival, deliver
from asyncdicom.archive.blobs.base import NewBlob
from asyncdicom.archive.blobs.room import Room
from asyncdicom.archive.workers import Workers

__all__ = ["GROUP", "Finishing"]

GROUP = 64
"""At most so many instances are synced together: the first of them waits for the last."""

_THREADS = 2  # while one waits for the disk, the other writes: two that write cost a sixth more than one
_BESIDE = 6  # more of them, when those are stuck
_STUCK = 0.5  # seconds in which they take nothing more: then another one takes what waits


_Waiting: TypeAlias = tuple[Arrival, NewBlob, Callable[[], None]]


class Finishing:
    """Finishes instances in threads of `workers`; `submit_all` gives those to the index that are durable.

    `finish_all`: see `Blobs`.

    Files that the disk does not take hold up those of their group; others go on, one by one.
    """

    def __init__(
        self,
        finish_all: Callable[[Sequence[NewBlob]], list[OSError | None]],
        room: Room,
        workers: Workers,
        submit_all: Callable[[Sequence[Arrival]], None],
    ) -> None:
        self._finish_all = finish_all
        self._room = room
        self._workers = workers
        self._submit_all = submit_all
        self._waiting: deque[_Waiting] = deque()
        self._free = deque([None] * _THREADS)  # one for each that may be at work
        self._pen = deque([None])  # who writes has it: then who waits need not ask, as he looks again
        self._spare = deque([None] * _BESIDE)  # one for each that may be at work beside them
        self._groups = 0  # that were taken
        self._looking: asyncio.TimerHandle | None = None
        self._is_called = False  # whether `_begin` is about to be

    def submit(self, arrival: Arrival, file: NewBlob, write: Callable[[], None]) -> None:
        """Have `write` called, its file made durable and the arrival given to the index.

        What fails is the answer to the arrival. Called in the event loop: what comes within one turn of it is
        taken together, since waking a thread costs as much as handing it ten more.
        """
        self._waiting.append((arrival, file, write))
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Have a thread take what waits, or leave it to those that are at work: they look again."""
        self._is_called = False
        if not self._waiting:
            return
        try:
            if not self._begin_another():
                self._watch()
        except RuntimeError as error:
            deliver([(arrival, error) for arrival, _, _ in self._take(len(self._waiting))])

    def _begin_another(self) -> bool:
        """Have another thread take what waits, if there is one and nobody writes now. Raises RuntimeError."""
        if not (self._pen and self._reserve(self._free)):
            return False
        try:
            self._workers.submit(self._run)
        except RuntimeError:
            self._free.append(None)
            raise
        return True

    def _watch(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_STUCK, self._look, self._groups)

    def _look(self, groups: int) -> None:
        """Have another thread take what waits, if nobody has taken anything for a while."""
        self._looking = None
        if not self._waiting:
            return
        if self._groups == groups:
            self._lay_pen_down()  # who has it may be stuck: another one may write
            with suppress(RuntimeError):  # the archive is being closed
                if not self._begin_another():
                    self._begin_beside()
        self._watch()

    def _begin_beside(self) -> None:
        if self._reserve(self._spare):
            try:
                self._workers.submit(self._run_beside)
            except RuntimeError:
                self._spare.append(None)
                raise

    def _lay_pen_down(self) -> None:
        """Let another one write. There is one pen, also when one comes back that was given up."""
        if not self._pen:
            self._pen.append(None)

    def _run_beside(self) -> None:
        try:
            while group := self._take(1):
                self._settle(*self._write(group))
        finally:
            self._spare.append(None)

    @staticmethod
    def _reserve(places: deque[None]) -> bool:
        """Take one of the places of those who work, if there is one."""
        try:
            places.pop()
        except IndexError:
            return False
        return True

    def _run(self) -> None:
        while True:
            try:
                while self._write_and_settle():
                    pass
            finally:
                self._free.append(None)
            # It may have come while nobody was to be asked.
            if not (self._waiting and self._pen and self._reserve(self._free)):
                return

    def _write_and_settle(self) -> bool:
        """Take what waits, and finish it; False: there was nothing, or another one writes."""
        if not self._reserve(self._pen):
            return False
        try:
            group = self._take()
            written = self._write(group)
        finally:
            self._lay_pen_down()
        if self._waiting:
            with suppress(RuntimeError):  # there is no other one: this one takes it afterwards
                self._begin_another()
        self._settle(*written)
        return bool(group)

    def _take(self, most: int = GROUP) -> list[_Waiting]:
        group: list[_Waiting] = []
        try:
            while len(group) < most:
                group.append(self._waiting.popleft())
        except IndexError:
            pass
        self._groups += bool(group)
        return group

    def _write(self, group: Sequence[_Waiting]) -> tuple[list[Arrival], list[NewBlob]]:
        """Write what was taken; gives what is written. What fails is answered."""
        failed: list[tuple[Arrival, Answer]] = []
        written: list[Arrival] = []
        files: list[NewBlob] = []
        shortage = self._shortage() if group else None
        for arrival, file, write in group:
            try:
                if shortage is not None:
                    raise shortage
                write()
            except BaseException as error:
                failed.append((arrival, error))
            else:
                written.append(arrival)
                files.append(file)
        deliver(failed)
        return written, files

    def _settle(self, written: Sequence[Arrival], files: Sequence[NewBlob]) -> None:
        """Make files durable, and give them to the index; what fails is answered."""
        if not written:
            return
        try:
            errors = self._finish_all(files)
        except BaseException as error:
            deliver([(arrival, error) for arrival in written])
            return
        ended = list(zip(written, errors, strict=True))
        self._submit_all([arrival for arrival, error in ended if error is None])
        deliver([(arrival, error) for arrival, error in ended if error is not None])

    def _shortage(self) -> OSError | None:
        """Look whether there is room on the disk, once for all."""
        try:
            self._room.check()
        except OSError as error:
            return error
        return None
