"""Received files get their names: nothing is replaced, and other bytes get a name of their own. Blocking."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from asyncdicom.data.part10 import HEAD_SIZE, read_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.data.steps import Steps
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.disk import Buffer
from asyncdicom.uid import transfer_syntax

__all__ = ["UIDS", "Examined", "Placed", "differs", "differs_in", "examining", "place", "place_new"]

# What a retrieval can ask for, by the attributes of the instances.
UIDS = {"StudyInstanceUID": 0x0020000D, "SeriesInstanceUID": 0x0020000E, "SOPInstanceUID": 0x00080018}
_HEAD = 1 << 20  # these come early in every data set
_PIECE = 1 << 20
_PATIENCE = 2.0  # seconds of CPU to find the end of a data set: a peer can make it of 100 million elements
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


class Placed(NamedTuple):
    """Where a received file is now; `what`: "new", "same" (the file was there) or "other" (its UID was).

    `missing`: why it is known to be incomplete; `study`: its Study Instance UID, if that was looked for.
    """

    path: Path
    what: str
    missing: str = ""
    study: str = ""


def place(received: Path, target: Path) -> Placed:
    """Give a complete file its name; raises OSError, and leaves it where it is."""
    placed = place_new(received, target)
    if placed is not None:
        return placed
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


def place_new(received: Path, target: Path) -> Placed | None:
    """Give a complete file its name if nothing has it: this takes no look into any file. Raises OSError."""
    return Placed(target, "new") if _named(received, target) else None


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


class Examined(NamedTuple):
    """What a received file says of itself: values by tag ("" for none that can be read).

    They are bytes read as Latin-1, so that what differs stays different. `missing`: why its data set is not
    whole, if its elements do not end where it does.
    """

    values: Mapping[int, str]
    missing: str | None


def examining(received: Path, tags: Collection[int]) -> Steps[Examined]:
    """Look through a file for values (UIDs, text), and for the end of its data set.

    Of a large value only the header is read. What cannot be read is not judged, nor is what takes more than
    two seconds: nothing is refused for that. Raises OSError. What is deflated is looked through in one step.
    """
    with received.open("rb", buffering=0) as file:
        head = file.read(HEAD_SIZE)
        meta = read_file_meta(head)
        if transfer_syntax(meta.transfer_syntax_uid).deflated:
            values = _values_of(_pieces(file, head[meta.offset :]), meta.transfer_syntax_uid, tags)
            file.seek(meta.offset)
            return Examined(values, _missing_end_of_deflated(iter(lambda: file.read(_PIECE), b"")))
        scanner = Scanner(meta.transfer_syntax_uid, frozenset(tags), whole=True)
        try:
            yield from _scanning(scanner, _unskipped(file, head[meta.offset :], scanner))
        except (DataSetError, _TooLongError):
            missing = None
        else:
            missing = _missing_end(scanner)
    return Examined(_texts(scanner, tags), missing)


def _missing_end(scanner: Scanner) -> str | None:
    try:
        scanner.finish()
    except DataSetError as error:
        return str(error)
    return None


class _TooLongError(Exception):
    """It takes too long to find the end."""


def _scanning(scanner: Scanner, pieces: Iterable[Buffer]) -> Steps[None]:
    spent = 0.0
    for piece in pieces:
        start = time.thread_time()
        for _ in scanner.feeding(piece):
            spent += time.thread_time() - start
            yield  # and goes on in another thread, maybe
            start = time.thread_time()
        if spent > _PATIENCE:
            raise _TooLongError


def _unskipped(file: FileIO, first: bytes, scanner: Scanner) -> Iterator[bytes]:
    """What of a file a scanner has to look at: it knows how long most values are."""
    size = os.fstat(file.fileno()).st_size
    piece = first
    while piece:
        yield piece
        file.seek(scanner.skip(size - file.tell()), os.SEEK_CUR)
        piece = file.read(_PIECE)


def _missing_end_of_deflated(pieces: Iterator[bytes]) -> str | None:
    """Its own end is enough: to go through all that comes out of it is for nobody."""
    start = time.thread_time()
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


def differs(found: Mapping[int, str], asked: Mapping[int, frozenset[str]]) -> str | None:
    """Say what of an instance, by its UIDs, is not what was asked for, or None."""
    for name, tag in UIDS.items():
        if tag in asked and found[tag] not in asked[tag]:
            return f"not asked for: its {name} is {found[tag] or 'missing'}"
    return None


def differs_in(data: bytes, transfer_syntax_uid: str, asked: Mapping[int, frozenset[str]]) -> str | None:
    """As `differs`, for a data set in memory."""
    return differs(_values_of([memoryview(data)[:_HEAD]], transfer_syntax_uid, asked), asked)


def _pieces(file: FileIO, first: bytes) -> Iterator[bytes]:
    piece = first
    while piece and file.tell() <= _HEAD:
        yield piece
        piece = file.read(HEAD_SIZE)


def _values_of(pieces: Iterable[Buffer], transfer_syntax_uid: str, tags: Iterable[int]) -> dict[int, str]:
    scanner = Scanner(transfer_syntax_uid, frozenset(tags))
    try:
        for piece in pieces:
            scanner.feed(piece)
            if scanner.done:
                break
    except DataSetError:
        pass  # what was read before it counts
    return _texts(scanner, tags)


def _texts(scanner: Scanner, tags: Iterable[int]) -> dict[int, str]:
    found = dict.fromkeys(tags, "")
    for tag, element in scanner.found.items():
        if tag not in scanner.truncated:
            found[tag] = bytes(element.value).decode("latin-1").rstrip("\0 ")
    return found
