"""What ties a folder, its index and its disk together: one ID, and a number that grows with every start.

Both are in the file ``archive.json`` and in the index. The index gets the new number first, then the file: so
a crash between the two leaves the index one ahead, and an index that is behind is an older copy.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from asyncdicom.archive.blobs.base import FOLDER, Blobs
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.file_calls import FileCalls

__all__ = [
    "BLOBS_VARIABLE",
    "INDEX_VARIABLE",
    "MARKER",
    "RESTORING",
    "Marker",
    "check_in_folder",
    "check_place",
    "next_marker",
    "no_archive",
    "read_marker",
    "write_marker",
]

MARKER = "archive.json"
RESTORING = "restoring"
"""The folder that is there while a backup is put back."""

INDEX_VARIABLE = "ASYNCDICOM_INDEX"
BLOBS_VARIABLE = "ASYNCDICOM_BLOBS"
"""The environment variables with the URLs of index and blobs, for tools that take no option for them."""

SQLITE = "sqlite"
"""The engine whose index is a file of the folder, and is not named in the marker."""

_MAXIMUM_SIZE = 65536
_LOOKED_AT = 200  # entries of a foreign folder that are looked at for DICOM files


class Marker(NamedTuple):
    """The archive's ID (hexadecimal), how many times it was started, and what has its index and its blobs."""

    archive_id: str
    generation: int
    engine: str = SQLITE
    blobs: str = FOLDER


def read_marker(root: str, calls: FileCalls) -> Marker | None:
    """Read the marker of a folder; None if there is none. Raises `ArchiveError` for a damaged one."""
    path = os.path.join(root, MARKER)
    if calls.look(path) is None:
        return None
    descriptor = calls.open_to_read(path)
    try:
        text = calls.read(descriptor, _MAXIMUM_SIZE)
    finally:
        calls.close(descriptor)
    try:
        values = json.loads(text)
        marker = Marker(
            values["archive_id"],
            values.get("generation", 0),  # that of a bucket has none
            str(values.get("index", SQLITE)),
            str(values.get("blobs", FOLDER)),
        )
        if re.fullmatch(r"[0-9a-f]{32}", marker.archive_id) and type(marker.generation) is int:
            return marker
    except (ValueError, KeyError, TypeError):
        pass
    raise ArchiveError(
        f"{path} is damaged: it says which archive this is. If the folder is right, remove that file; "
        "the next start writes it anew from the index"
    )


def write_marker(root: str, marker: Marker, calls: FileCalls, *, sync: bool) -> None:
    """Write the marker; a crash leaves the old or the new one. The root is to be synced."""
    values: dict[str, object] = {"archive_id": marker.archive_id, "generation": marker.generation}
    if marker.engine != SQLITE:
        values["index"] = marker.engine
    if marker.blobs != FOLDER:
        values["blobs"] = marker.blobs
    text = json.dumps(values).encode() + b"\n"
    calls.replace(os.path.join(root, MARKER), text, sync=sync)


def no_archive(root: str) -> ArchiveError:
    """Make the error for a folder that has to hold an archive, and holds none."""
    return ArchiveError(f"there is no archive in {root}: is its disk mounted?")


def check_in_folder(root: str, marker: Marker | None) -> None:
    """Raise `ArchiveError` for an archive whose instances are not in its folder."""
    if marker is not None and marker.blobs != FOLDER:
        raise ArchiveError(
            f"the instances of {root} are in {marker.blobs}: say where, with --blobs or {BLOBS_VARIABLE}"
        )


def check_place(
    blobs: Blobs, calls: FileCalls, marker: Marker | None, *, existing: bool, kind: str = SQLITE
) -> str:
    """Look at the archive's folder before anything is made in it; gives what is worth telling, or nothing.

    ``kind``: the engine that has the index. Raises `ArchiveError` where a disk seems not to be mounted or
    another engine has the index, something else the blobs, and, if the archive has to be an ``existing``
    one, where there is none.
    """
    folders = blobs.root
    root = folders.below_root("").rstrip(os.sep) or os.sep
    for name in ("objects", "quarantine", "lost"):
        path = folders.below_root(name)
        found = calls.look(path)
        if found is not None and not folders.is_folder(path):
            raise ArchiveError(
                f"{path} is a link or no folder: the archive keeps its files on one disk; put "
                "the folder there, or mount its disk there"
            )
    names = set(calls.names(root))
    if RESTORING in names:
        raise ArchiveError(f"the restore of a backup into {root} has not come to its end: run it again")
    _check_blobs(root, blobs, marker)
    has_index, has_objects = "index.sqlite" in names, blobs.has_objects()
    if marker is None and not has_index and not has_objects:
        if existing:
            raise no_archive(root)
        return _foreign(root, names - {"objects", "quarantine", "lost"}, calls)
    if kind != SQLITE:
        return _other_index(root, marker, has_index)
    if marker is not None and marker.engine != SQLITE:
        raise ArchiveError(
            f"the index of {root} is in {marker.engine}: say where, with --index or {INDEX_VARIABLE}; to "
            f"have a new one built from the files, remove {os.path.join(root, MARKER)}"
        )
    if not has_index:
        return (
            f"the index in {root} is missing, so it is built again from the files; "
            "if you have a copy of index.sqlite, stop and put it back first: it is faster"
        )
    return ""


def _check_blobs(root: str, blobs: Blobs, marker: Marker | None) -> None:
    if blobs.kind != FOLDER and not blobs.is_spool and blobs.root.has_files():
        raise ArchiveError(
            f"{root} has instances of its own: with ack = spool they are moved to {blobs.objects}; go on "
            "without it when there are none left here"
        )
    if blobs.kind == FOLDER:
        check_in_folder(root, marker)


def _other_index(root: str, marker: Marker | None, has_file: bool) -> str:
    if has_file and (marker is None or marker.engine == SQLITE):
        return (
            f"{root} had its index in index.sqlite: from now on the database has it, and what it lacks is "
            "indexed from the files; deliveries that are still owed are in index.sqlite alone"
        )
    return ""


def _foreign(root: str, names: set[str], calls: FileCalls) -> str:
    for path in _some_files(root, sorted(names), calls):
        if _is_dicom(path, calls):
            return (
                f"{root} holds DICOM files that are not the archive's: they are left alone and not found by "
                f"queries; to import them: asyncdicom archive {root} import FOLDER"
            )
    return ""


def _some_files(root: str, names: list[str], calls: FileCalls) -> list[str]:
    waiting, files = [os.path.join(root, name) for name in names[:_LOOKED_AT]], []
    looked = 0
    while waiting and looked < _LOOKED_AT:
        path = waiting.pop(0)
        looked += 1
        found = calls.look(path)
        if found is None:
            continue
        if found.st_mode & 0o170000 == 0o040000:
            waiting += [os.path.join(path, name) for name in _list(path, calls)[:_LOOKED_AT]]
        else:
            files.append(path)
    return files


def _list(path: str, calls: FileCalls) -> Sequence[str]:
    try:
        return calls.names(path)
    except OSError:
        return []


def _is_dicom(path: str, calls: FileCalls) -> bool:
    try:
        descriptor = calls.open_to_read(path)
    except OSError:
        return False
    try:
        return calls.read(descriptor, 132)[128:] == b"DICM"
    except OSError:
        return False
    finally:
        calls.close(descriptor)


def next_marker(
    root: str,
    marker: Marker | None,
    index: Marker | None,
    has_rows: bool,
    *,
    kind: str = SQLITE,
    label: str = "",
) -> tuple[Marker, str]:
    """Give the marker of this start from those of folder and index, and what is worth telling about them.

    ``kind`` and ``label``: the engine that has the index, and what people call the index. Raises
    `ArchiveError` if it is that of another archive.
    """
    told = ""
    if marker is not None and index is not None:
        if marker.archive_id != index.archive_id:
            raise ArchiveError(
                f"index.sqlite in {root} belongs to another archive ({index.archive_id}, the folder is "
                f"{marker.archive_id}): put the right one there, or have it built again from the files: "
                f"asyncdicom archive {root} reindex"
                if kind == SQLITE
                else f"{label} has the index of another archive ({index.archive_id}, the folder {root} is "
                f"{marker.archive_id}): name the right database, or an empty one"
            )
        if index.generation < marker.generation:
            told = (
                f"the index in {root} is an older copy (start {index.generation}, the folder has seen "
                f"{marker.generation}): what was stored since is indexed again from the files now"
            )
        elif index.generation > marker.generation + 1:
            told = (
                f"the files in {root} are an older copy (start {marker.generation}, the index has seen "
                f"{index.generation}): asyncdicom archive {root} verify tells which files are missing"
            )
    elif marker is not None:
        what = "older than the folder's marker" if has_rows else "empty, and the folder was an archive before"
        told = f"the index in {root} is {what}: what it lacks is indexed again from the files now"
    elif index is not None:
        told = f"{root}/{MARKER} was missing and is written anew"
    known = marker or index
    generation = max((each.generation for each in (marker, index) if each is not None), default=0) + 1
    archive_id = known.archive_id if known is not None else uuid.uuid4().hex
    return Marker(archive_id, generation, kind), told
