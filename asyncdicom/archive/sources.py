"""What can be stored: a file, its bytes, a Dataset, anything that C-STORE could send."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from io import BytesIO
from typing import TYPE_CHECKING, cast

from asyncdicom.exceptions import DataSetError
from asyncdicom.net.sources import BytesSource, Source
from asyncdicom.services.storage import look_into, open_file
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["batches_of", "source_of"]

_HEAD = 1 << 17  # bytes in which the UIDs are looked for


async def source_of(instance: str | os.PathLike[str] | bytes | Source | Dataset) -> Source:
    """Give the source of what is to be stored. Raises `DataSetError` and ``OSError``."""
    if isinstance(instance, (str, os.PathLike)):
        return await open_file(instance)
    if isinstance(instance, (bytes, bytearray, memoryview)):
        return _source_of_bytes(bytes(instance))
    if hasattr(instance, "open"):
        return instance
    if not hasattr(instance, "walk"):
        raise TypeError(f"files, bytes, sources and datasets can be stored, not {instance!r:.100}")
    return _source_of_dataset(cast("Dataset", instance))


def _source_of_bytes(content: bytes) -> BytesSource:
    meta = look_into(content[:_HEAD], BytesIO(content))
    if not meta.sop_class_uid or not meta.sop_instance_uid:
        raise DataSetError("no SOP Class UID or no SOP Instance UID")
    data = memoryview(content)[meta.offset :]
    return BytesSource(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, data)


def _source_of_dataset(dataset: Dataset) -> BytesSource:
    from asyncdicom.dataset import encode, transfer_syntax_of

    uids = [str(dataset.get(keyword, "")) for keyword in ("SOPClassUID", "SOPInstanceUID")]
    syntax = transfer_syntax_of(dataset) or EXPLICIT_VR_LITTLE_ENDIAN
    return BytesSource(uids[0], uids[1], syntax, encode(dataset, syntax))


async def batches_of(source: Source) -> AsyncGenerator[list[memoryview], None]:
    """Give the data set of a source, as views."""
    async with aclosing(source.open()) as batches:
        async for batch in batches:
            yield [memoryview(buffer) for buffer in batch]
