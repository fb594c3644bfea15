"""What the rules see of an instance in a file. It blocks."""

from __future__ import annotations

import os
from dataclasses import replace

from asyncdicom.data.elements import Element
from asyncdicom.data.scanner import Scanner
from asyncdicom.gateway.facts import Facts
from asyncdicom.services.storage import file_source

__all__ = ["facts_of_file"]

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
        elements=_elements(path, source.offset, Scanner(source.transfer_syntax_uid, tags)),
    )


def _elements(path: str | os.PathLike[str], offset: int, scanner: Scanner) -> dict[int, Element]:
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while piece := file.read(_PIECE):
            if scanner.feed(memoryview(piece)):
                break
    return scanner.found
