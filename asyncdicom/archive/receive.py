"""One instance on its way to the disk: scanning, writing, checking. All of it runs in worker threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncdicom.archive.arrival import Outcome
from asyncdicom.archive.blobs.base import NewBlob
from asyncdicom.archive.blobs.room import Room
from asyncdicom.archive.index.record import WANTED_TAGS, Record, usable_record
from asyncdicom.data.elements import Element
from asyncdicom.data.inflation import CorruptStream
from asyncdicom.data.scanner import IncompleteDataSet, Scanner
from asyncdicom.data.steps import Steps, finish
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import transfer_syntax

__all__ = ["Reception", "Refused"]


class Refused(Exception):
    """An object that the archive does not take, with the outcome; the text says why."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Reception:
    """Takes the pieces of one data set; every method may block.

    All element headers are walked, values are skipped by their length: so it is known whether the data set
    ends where its last element does. One that does not is refused, or with `keeps_incomplete` taken and
    marked (`is_incomplete`). What cannot be read behind the indexed attributes costs the instance nothing.
    """

    def __init__(
        self,
        file: NewBlob,
        room: Room,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        keeps_incomplete: bool = False,
        tags: frozenset[int] = WANTED_TAGS,
    ) -> None:
        self.file = file
        self.is_incomplete = False
        self._keeps_incomplete = keeps_incomplete
        self._room = room
        self._expected = (sop_class_uid, sop_instance_uid)
        syntax = transfer_syntax(transfer_syntax_uid)
        self._little_endian, self._is_deflated = syntax.little_endian, syntax.deflated
        self._is_scanned = False
        self._is_lost = False  # the walk, behind what is indexed: where the data set ends cannot be told
        self._scanner = Scanner(transfer_syntax_uid, tags, whole=True)

    def is_long_to_scan(self, size: int) -> bool:
        """Whether scanning the next `size` bytes belongs into the lane, before `take`.

        What is deflated may have a thousand elements in a few bytes; elsewhere nearly every byte behind the
        first piece is of Pixel Data, and passed by arithmetic.
        """
        return not self._is_lost and (
            self._is_deflated or (self.file.length > 0 and self._scanner.skips < size)
        )

    @property
    def elements(self) -> Mapping[int, Element]:
        """The elements that were picked out."""
        return self._scanner.found

    @property
    def is_strange(self) -> bool:
        """Whether there are elements that cannot be read; none of those that place the instance."""
        return self._is_lost or self._scanner.strange > 0

    def scan(self, views: Sequence[memoryview]) -> Steps[None]:
        """Look through the next pieces, in steps; `take` will not do so again. Raises ``Refused``."""
        self._is_scanned = True
        if self._is_lost:
            return
        try:
            for view in views:
                yield from self._scanner.feeding(view)
        except DataSetError as error:
            if isinstance(error, CorruptStream) or not self._scanner.is_behind:
                raise Refused(Outcome.UNREADABLE, str(error)) from None
            self._is_lost = True

    def take(self, views: Sequence[memoryview]) -> None:
        """Scan (unless that was done) and write the next pieces. Raises ``Refused`` or ``OSError``."""
        self._room.check()
        self._write(views, last=False)

    def complete(self, views: Sequence[memoryview]) -> Record:
        """Take the last pieces and check the whole; whether there is room is for others to look at.

        Raises ``Refused`` or ``OSError``.
        """
        if not self.file.length and not any(map(len, views)):
            raise Refused(Outcome.WRONG, "the data set is empty")
        self._write(views, last=True)
        return self._checked()

    def _write(self, views: Sequence[memoryview], *, last: bool) -> None:
        if not self._is_scanned:
            finish(self.scan(views))
        self._is_scanned = False
        self.file.write(views, last=last)

    def _checked(self) -> Record:
        elements = self._scanner.found
        try:
            if not self._is_lost:
                self._scanner.finish()
        except IncompleteDataSet as error:
            if not self._keeps_incomplete:
                raise Refused(Outcome.UNREADABLE, str(error)) from None
            self.is_incomplete = True
        except DataSetError as error:
            raise Refused(Outcome.UNREADABLE, str(error)) from None
        try:
            record = usable_record(
                elements, little_endian=self._little_endian, repeated=self._scanner.repeated
            )
        except DataSetError as error:
            raise Refused(Outcome.WRONG, str(error)) from None
        if self._expected != (record.sop_class_uid, record.sop_instance_uid):
            raise Refused(Outcome.WRONG, "the SOP UIDs of the command are not those of the data set")
        return record
