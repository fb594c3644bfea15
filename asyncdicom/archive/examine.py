"""A file without a row is examined: is it an instance that was received to its end?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from asyncdicom.archive.blobs.base import Blobs, Ended, Reading
from asyncdicom.archive.blobs.files import StoredFile
from asyncdicom.archive.blobs.header import DIGEST_SIZE, digest_in
from asyncdicom.archive.index.base import FileEntry, entry_of
from asyncdicom.archive.index.record import WANTED_TAGS, Record, usable_record
from asyncdicom.archive.index.work import Work
from asyncdicom.archive.origin import Origin, Received, Router
from asyncdicom.data.elements import Element
from asyncdicom.data.inflation import CorruptStream
from asyncdicom.data.part10 import HEAD_SIZE, read_file_meta
from asyncdicom.data.scanner import IncompleteDataSet, Scanner
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import transfer_syntax

__all__ = ["Examined", "Unusable", "examine"]

_PIECE = 1 << 20
_SHORTEST = 132  # bytes of preamble and DICM
_UNFINISHED = bytes(DIGEST_SIZE).hex()


class Unusable(Exception):
    """Not an instance that can be indexed. ``was_acknowledged`` is False where that is proved."""

    def __init__(self, why: str, *, was_acknowledged: bool = True) -> None:
        super().__init__(why)
        self.was_acknowledged = was_acknowledged


class Examined(NamedTuple):
    """An instance that can be indexed."""

    file: StoredFile
    transfer_syntax_uid: str
    record: Record
    is_incomplete: bool
    elements: Mapping[int, Element]
    source_ae_title: str
    """Who has sent it, as the file tells."""

    def work(self, router: Router | None, calling_ae_title: str) -> Sequence[Work]:
        """Give the work that it leads to, as if it were received from there now."""
        if router is None:
            return ()
        return router.work_for(
            Received(
                Origin(calling_ae_title, is_partial=True),
                self.record.sop_class_uid,
                self.record.sop_instance_uid,
                self.transfer_syntax_uid,
                self.file.length,
                self.elements,
            )
        )

    def entry(self, name: str, calling_ae_title: str) -> FileEntry:
        """Give what the index is to say of the file, under a name."""
        return entry_of(
            self.file,
            name,
            self.transfer_syntax_uid,
            is_incomplete=self.is_incomplete,
            calling_ae_title=calling_ae_title,
        )


def examine(
    blobs: Blobs,
    path: str,
    name: str,
    *,
    is_closing: Callable[[], bool],
    router: Router | None = None,
) -> Examined:
    """Read a whole file, and make it durable; `router`: who wants to see elements of it. Blocks.

    A file of ours tells the digest of its data set: that proves that it is as it was received. One of an
    earlier version has to be a Part 10 file whose elements end where the file does. Raises `Unusable`,
    `OSError`, and `Ended` when ``is_closing()``.
    """
    with closing(blobs.read(path)) as blob:
        tags = WANTED_TAGS if router is None else WANTED_TAGS | router.tags
        examined = _examine(_Pieces(blob, is_closing), path, name, tags)
        blob.sync()
        return examined


class _Pieces:
    def __init__(self, blob: Reading, is_closing: Callable[[], bool]) -> None:
        self._blob = blob
        self._is_closing = is_closing

    def head(self) -> bytes:
        head = b""
        while len(head) < HEAD_SIZE and (piece := self._blob.read(HEAD_SIZE - len(head))):
            head += piece
        return head

    def rest(self) -> Iterator[bytes]:
        while piece := self._blob.read(_PIECE):
            if self._is_closing():
                raise Ended
            yield piece


def _examine(pieces: _Pieces, path: str, name: str, tags: frozenset[int]) -> Examined:
    head = pieces.head()
    if len(head) < _SHORTEST:
        raise Unusable("it has no data set", was_acknowledged=False)
    try:
        meta = read_file_meta(head)
    except DataSetError as error:
        raise Unusable(str(error)) from None
    told = digest_in(head, meta.offset)
    whole = _Whole(meta.transfer_syntax_uid, tags)
    whole.feed(head[meta.offset :])
    for piece in pieces.rest():
        whole.feed(piece)
    why = whole.what_is_wrong()
    if told == _UNFINISHED:
        # Complete all the same: a crash came just before its end, or the disk has lost what was written last.
        raise Unusable(why or "it was never finished", was_acknowledged=not why or whole.is_lost)
    if told is not None and told != whole.digest:
        raise Unusable("its bytes are not those that were received")
    if why and told is None:
        raise Unusable(why)
    try:
        record = whole.record()
    except DataSetError as error:
        raise Unusable(str(error)) from None
    file = StoredFile(name, path, meta.offset, whole.length, whole.digest)
    return Examined(
        file,
        meta.transfer_syntax_uid,
        record,
        whole.is_incomplete,
        whole.elements,
        meta.source_ae_title,
    )


class _Whole:
    """Takes a data set to its end: its digest, its record, and whether it is complete."""

    def __init__(self, transfer_syntax_uid: str, tags: frozenset[int]) -> None:
        self.length = 0
        self.is_incomplete = False
        self.is_lost = False  # where it ends cannot be told, and it may have been kept all the same
        self._syntax = transfer_syntax(transfer_syntax_uid)
        self._scanner = Scanner(transfer_syntax_uid, tags, whole=True)
        self._digest = hashlib.sha256()
        self._error = ""

    @property
    def elements(self) -> Mapping[int, Element]:
        return self._scanner.found

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()[: 2 * DIGEST_SIZE]

    def feed(self, piece: bytes) -> None:
        self.length += len(piece)
        self._digest.update(piece)
        if self._error:
            return
        try:
            if not self._scanner.done:
                self._scanner.feed(piece)
        except DataSetError as error:
            self._error = str(error)
            self.is_lost = self._scanner.is_behind and not isinstance(error, CorruptStream)

    def what_is_wrong(self) -> str:
        if self._error:
            return self._error
        try:
            self._scanner.finish()
        except DataSetError as error:
            self.is_incomplete = isinstance(error, IncompleteDataSet)
            return str(error)
        return ""

    def record(self) -> Record:
        return usable_record(
            self._scanner.found,
            little_endian=self._syntax.little_endian,
            repeated=self._scanner.repeated,
        )
