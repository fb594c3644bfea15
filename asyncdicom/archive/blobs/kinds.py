"""Which blobs an archive has: those of its folder, or those of a bucket."""

from __future__ import annotations

from collections.abc import Callable

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.file_calls import FileCalls

__all__ = ["ACKS", "open_blobs"]

ACKS = ("object", "spool")
"""Where an instance is that was acknowledged: in the bucket, or in the folder at first."""


def open_blobs(
    directory: str,
    url: str | None,
    calls: FileCalls,
    *,
    sync: bool,
    ack: str,
    is_shared: bool,
    on_failure: Callable[[], None],
) -> Blobs:
    """Give the blobs of a folder, or those at a URL; `on_failure` is told when a store fails.

    `ack`: "object", or "spool" to receive into the folder and to move what is there to the bucket afterwards.
    `is_shared`: other processes may have the same archive.

    Raises `ArchiveError` for a URL that names no bucket, and without what speaks to one.
    """
    if ack not in ACKS:
        raise ValueError(f"ack must be one of {', '.join(ACKS)}, not {ack!r}")
    if url is None:
        return FolderBlobs(directory, calls, sync=sync)
    from asyncdicom.archive.blobs.object_store import place_of  # who has no bucket does not load it
    from asyncdicom.archive.blobs.s3 import S3Blobs

    folder = FolderBlobs(directory, calls, sync=sync)
    bucket = S3Blobs(place_of(url), folder, is_shared=is_shared, on_failure=on_failure)
    if ack == "object":
        return bucket
    from asyncdicom.archive.blobs.spool import SpoolBlobs

    return SpoolBlobs(folder, bucket)
