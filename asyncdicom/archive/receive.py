"""One C-STORE on its way to the disk: scanning, writing, checking. All of it runs in worker threads."""

from __future__ import annotations

from collections.abc import Sequence

from asyncdicom.archive.blobs.files import InstanceFile
from asyncdicom.archive.blobs.room import Room
from asyncdicom.archive.index.record import WANTED_TAGS, Record, usable_record
from asyncdicom.data.scanner import Scanner
from asyncdicom.data.steps import Steps, finish
from asyncdicom.exceptions import DataSetError
from asyncdicom.status import Status
from asyncdicom.uid import transfer_syntax

__all__ = ["Reception", "Refused"]

_MISMATCH = Status.DATA_SET_DOES_NOT_MATCH_SOP_CLASS


class Refused(Exception):
    """An object that the archive does not take; ``status`` is the answer, the text is for the log."""

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(why)
        self.status = status


class Reception:
    """Takes the pieces of one data set; every method may block."""

    def __init__(
        self,
        file: InstanceFile,
        room: Room,
        *,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> None:
        self.file = file
        self._room = room
        self._expected = (sop_class_uid, sop_instance_uid)
        syntax = transfer_syntax(transfer_syntax_uid)
        self._little_endian, self._is_deflated = syntax.little_endian, syntax.deflated
        self._is_scanned = False
        self._scanner = Scanner(transfer_syntax_uid, WANTED_TAGS)

    @property
    def is_long_to_scan(self) -> bool:
        """Whether scanning what comes next belongs into the lane, before `take`.

        What is deflated may have a thousand elements in a few bytes; elsewhere nearly every data set is done
        with after its first piece.
        """
        return not self._scanner.done and (self._is_deflated or self.file.length > 0)

    def scan(self, views: Sequence[memoryview]) -> Steps[None]:
        """Look through the next pieces, in steps; `take` will not do so again. Raises ``Refused``."""
        self._is_scanned = True
        try:
            for view in views:
                yield from self._scanner.feeding(view)
        except DataSetError as error:
            raise Refused(Status.CANNOT_UNDERSTAND, str(error)) from None

    def take(self, views: Sequence[memoryview], *, last: bool = False) -> None:
        """Scan (unless that was done) and write the next pieces. Raises ``Refused`` or ``OSError``."""
        if not self._is_scanned:
            finish(self.scan(views))
        self._is_scanned = False
        self._room.check()
        self.file.write(views, last=last)

    def finish(self, views: Sequence[memoryview]) -> Record:
        """Take the last pieces, check the whole and make it durable. Raises ``Refused`` or ``OSError``."""
        if not self.file.length and not any(map(len, views)):
            raise Refused(_MISMATCH, "the data set is empty")
        self.take(views, last=True)
        record = self._checked()
        self.file.finish()
        return record

    def _checked(self) -> Record:
        try:
            elements = self._scanner.finish()
        except DataSetError as error:
            raise Refused(Status.CANNOT_UNDERSTAND, str(error)) from None
        try:
            record = usable_record(elements, little_endian=self._little_endian)
        except DataSetError as error:
            raise Refused(_MISMATCH, str(error)) from None
        if self._expected != (record.sop_class_uid, record.sop_instance_uid):
            raise Refused(_MISMATCH, "the SOP UIDs of the command are not those of the data set")
        return record
