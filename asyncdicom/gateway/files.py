"""What the rules see of an instance in a file. It blocks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from asyncdicom.archive.blobs.base import Reading
from asyncdicom.archive.index.chosen import ChosenInstance
from asyncdicom.archive.index.deliveries import Claimed
from asyncdicom.data.elements import Element
from asyncdicom.data.scanner import Scanner
from asyncdicom.gateway.facts import Facts
from asyncdicom.services.storage import file_source

__all__ = ["facts_of_blob", "facts_of_file"]

_PIECE = 65536


def facts_of_file(path: str | os.PathLike[str], tags: frozenset[int], origin: Facts) -> Facts:
    """Read what rules that look at these elements see of a DICOM file; `origin`: who would have sent it.

    Raises `DataSetError` for what is no DICOM file, OSError for one that cannot be read.
    """
    source = file_source(path)
    return replace(
        origin,
        sop_class=source.sop_class_uid,
        transfer_syntax=source.transfer_syntax_uid,
        size=source.length,
        elements=_elements_of_file(path, source.offset, Scanner(source.transfer_syntax_uid, tags)),
    )


def facts_of_blob(blob: Reading, claimed: Claimed | ChosenInstance, tags: frozenset[int]) -> Facts:
    """Read what rules that look at these elements see of an instance in the archive, and close its blob.

    Of who has sent it the calling AE title is known. Raises as `facts_of_file`.
    """
    with closing(blob):
        left = claimed.data_set_offset or 0
        while left and (head := blob.read(left)):
            left -= len(head)
        return Facts(
            calling=claimed.calling_ae_title or "",
            sop_class=claimed.sop_class_uid or "",
            transfer_syntax=claimed.transfer_syntax_uid or "",
            size=claimed.data_set_length or 0,
            elements=_elements(blob.read, Scanner(claimed.transfer_syntax_uid or "", tags)),
        )


def _elements_of_file(path: str | os.PathLike[str], offset: int, scanner: Scanner) -> dict[int, Element]:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return _elements(file.read, scanner)


def _elements(read: Callable[[int], bytes], scanner: Scanner) -> dict[int, Element]:
    while piece := read(_PIECE):
        if scanner.feed(memoryview(piece)):
            break
    return scanner.found
