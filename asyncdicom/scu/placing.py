"""Received files get their names: nothing is replaced, and other bytes get a name of their own. Blocking."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from asyncdicom.data.part10 import HEAD_SIZE, read_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.disk import Buffer
from asyncdicom.uid import transfer_syntax

__all__ = ["UIDS", "Placed", "differs", "differs_in", "missing_end", "place", "study_of"]

# What a retrieval can ask for, by the attributes of the instances.
UIDS = {"StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E, "SOPInstanceUID": 0x00080018}
_HEAD = 1 << 20  # these come early in every data set
_PIECE = 1 << 20
_PATIENCE = 2.0  # seconds of CPU to find the end of a data set: a peer can make it of 100 million elements
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


class Placed(NamedTuple):
    """Where a received file is now; `what`: "new", "same" (the file was there) or "other" (its UID was).

    `missing`: why it is known to be incomplete.
    """

    path: Path
    what: str
    missing: str = ""


def place(received: Path, target: Path) -> Placed:
    """Give a complete file its name; raises OSError, and leaves it where it is."""
    if _named(received, target):
        return Placed(target, "new")
    if _is_same(received, target):
        received.unlink()
        return Placed(target, "same")
    digest = _digest(received)[:16]
    end, number = digest, 1
    while True:  # who knows the digest may have sent another instance whose UID makes this name
        other = target.with_name(f"{target.stem}-{end}{target.suffix}")
        if _named(received, other):
            return Placed(other, "other")
        if _is_same(received, other):
            received.unlink()
            return Placed(other, "same")
        number += 1
        end = f"{digest}-{number}"


def _named(received: Path, target: Path) -> bool:
    """Give it this name unless there is one: in one step, so that of two none is lost."""
    try:
        os.link(received, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        received.replace(target)
        return True
    received.unlink()
    return True


def _is_same(received: Path, target: Path) -> bool:
    """Whether the data sets are equal, byte for byte; who sent them is in the meta information."""
    try:
        if not stat.S_ISREG(os.lstat(target).st_mode):  # a link, or a pipe that reading would wait for
            return False
        if filecmp.cmp(received, target, shallow=False):
            return True
        return _digest(received) == _digest(target)
    except (OSError, DataSetError):  # what has the name may be anything
        return False


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        meta = read_file_meta(file.read(_HEAD))
        digest.update(meta.transfer_syntax_uid.encode())
        file.seek(meta.offset)
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def missing_end(received: Path) -> str | None:
    """Say why the data set of a file is not whole, if its elements do not end where it does; else None.

    What cannot be read is not judged, nor is what takes more than two seconds: nothing is refused for that.
    """
    start = time.thread_time()
    with received.open("rb", buffering=0) as file:
        meta = read_file_meta(file.read(HEAD_SIZE))
        file.seek(meta.offset)
        pieces = iter(lambda: file.read(_PIECE), b"")
        if transfer_syntax(meta.transfer_syntax_uid).deflated:
            return _missing_end_of_deflated(pieces, start)
        scanner = Scanner(meta.transfer_syntax_uid, frozenset(), whole=True)
        try:
            for piece in pieces:
                scanner.feed(piece)
                if time.thread_time() - start > _PATIENCE:
                    return None
        except DataSetError:
            return None
    try:
        scanner.finish()
    except DataSetError as error:
        return str(error)
    return None


def _missing_end_of_deflated(pieces: Iterator[bytes], start: float) -> str | None:
    """Its own end is enough: to go through all that comes out of it is for nobody."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            rest = piece
            while rest and not inflate.eof:
                inflate.decompress(rest, _PIECE)
                rest = inflate.unconsumed_tail
                if time.thread_time() - start > _PATIENCE:
                    return None
    except zlib.error:  # it may have a header of zlib
        return None
    return None if inflate.eof else "the deflated data set is truncated"


def differs(received: Path, asked: Mapping[int, frozenset[str]]) -> str | None:
    """Say what of an instance is not what was asked for, or None."""
    return _difference(_uids_in(received, asked), asked)


def differs_in(data: bytes, transfer_syntax_uid: str, asked: Mapping[int, frozenset[str]]) -> str | None:
    """As `differs`, for a data set in memory."""
    return _difference(_uids_of([memoryview(data)[:_HEAD]], transfer_syntax_uid, asked), asked)


def _difference(found: Mapping[int, str], asked: Mapping[int, frozenset[str]]) -> str | None:
    for name, tag in UIDS.items():
        if tag in asked and found[tag] not in asked[tag]:
            return f"not asked for: its {name} is {found[tag] or 'missing'}"
    return None


def study_of(received: Path) -> str:
    """Give the Study Instance UID of a file; "" if it has none that can be read."""
    tag = UIDS["StudyInstanceUID"]
    return _uids_in(received, (tag,))[tag]


def _uids_in(received: Path, tags: Iterable[int]) -> dict[int, str]:
    with received.open("rb", buffering=0) as file:
        head = file.read(HEAD_SIZE)
        meta = read_file_meta(head)
        first = head[meta.offset :]
        return _uids_of(_pieces(file, first), meta.transfer_syntax_uid, tags)


def _pieces(file: FileIO, first: bytes) -> Iterator[bytes]:
    piece = first
    while piece and file.tell() <= _HEAD:
        yield piece
        piece = file.read(HEAD_SIZE)


def _uids_of(pieces: Iterable[Buffer], transfer_syntax_uid: str, tags: Iterable[int]) -> dict[int, str]:
    scanner = Scanner(transfer_syntax_uid, frozenset(tags))
    try:
        for piece in pieces:
            scanner.feed(piece)
            if scanner.done:
                break
    except DataSetError:
        pass  # what was read before it counts
    found = dict.fromkeys(tags, "")
    for tag, element in scanner.found.items():
        found[tag] = bytes(element.value).decode("ascii", "replace").rstrip("\0 ")
    return found
