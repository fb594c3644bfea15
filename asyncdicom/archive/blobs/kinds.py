"""Which blobs an archive has: those of its folder, or those of a bucket."""

from __future__ import annotations

from collections.abc import Callable

from asyncdicom.archive.blobs.base import Blobs
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.file_calls import FileCalls

__all__ = ["open_blobs"]


def open_blobs(
    directory: str,
    url: str | None,
    calls: FileCalls,
    *,
    sync: bool,
    is_shared: bool,
    on_failure: Callable[[], None],
) -> Blobs:
    """Give the blobs of a folder, or those at a URL; `on_failure` is told when a store fails.

    `is_shared`: other processes may have the same archive.

    Raises `ArchiveError` for a URL that names no bucket, and without what speaks to one.
    """
    if url is None:
        return FolderBlobs(directory, calls, sync=sync)
    from asyncdicom.archive.blobs.object_store import place_of  # who has no bucket does not load it
    from asyncdicom.archive.blobs.s3 import S3Blobs

    root = Folders(directory, calls, sync=sync)
    return S3Blobs(place_of(url), root, is_shared=is_shared, on_failure=on_failure)
