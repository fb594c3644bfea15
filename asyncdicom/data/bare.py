"""Data sets of which no File Meta Information tells the transfer syntax: what can be said of them safely."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from asyncdicom.data.elements import likely_syntax
from asyncdicom.data.inflation import Buffer
from asyncdicom.data.part10 import FileMeta
from asyncdicom.data.scanner import Scanner
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import is_usable_uid, name_of

__all__ = ["examine"]

_SOP_CLASS_UID, _SOP_INSTANCE_UID, _PIXEL_DATA = 0x00080016, 0x00080018, 0x7FE00010
_WANTED = frozenset({_SOP_CLASS_UID, _SOP_INSTANCE_UID, _PIXEL_DATA})


def examine(pieces: Iterable[Buffer], offset: int) -> FileMeta:
    """Find the transfer syntax and the UIDs of a data set, by going through it to its end.

    `offset`: where it begins in its file. Raises `DataSetError` where anything is left to doubt: it does not
    end where its last element does, its Pixel Data is compressed, or a UID is missing.
    """
    pieces = iter(pieces)
    first = next(pieces, b"")
    transfer_syntax_uid = likely_syntax(first)
    if transfer_syntax_uid is None:
        raise DataSetError("it does not begin as a data set does")
    scanner = Scanner(transfer_syntax_uid, _WANTED, maximum_value=64, whole=True)
    try:
        for piece in chain((first,), pieces):
            scanner.feed(piece)
        found = scanner.finish()
    except DataSetError as error:
        raise DataSetError(f"as {name_of(transfer_syntax_uid)}: {error}") from None
    if _PIXEL_DATA in scanner.undefined:
        raise DataSetError("its Pixel Data is compressed, and nothing tells how")
    uids = [
        found[tag].value.decode("latin-1").rstrip("\0 ") if tag in found else ""
        for tag in (_SOP_CLASS_UID, _SOP_INSTANCE_UID)
    ]
    if not all(map(is_usable_uid, uids)):
        raise DataSetError("no SOP Class UID or no SOP Instance UID")
    return FileMeta(uids[0], uids[1], transfer_syntax_uid, offset)
