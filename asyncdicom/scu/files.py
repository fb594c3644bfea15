"""Which files to send, and what is in them; what lies beside them on a CD is left out."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import NamedTuple

from asyncdicom.exceptions import DataSetError
from asyncdicom.net.sources import FileSource, Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services.storage import file_source
from asyncdicom.telemetry.log import Log

__all__ = ["Read", "find_files", "read_heads"]

log = Log("asyncdicom.scu")

_AT_ONCE = 64
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"  # of a DICOMDIR
_ENDINGS = (".dcm", ".dicom", ".ima")
# How data sets begin that have no preamble: with group 0002 or 0008, of either byte order.
_GROUPS = (b"\x02\0", b"\0\x02", b"\x08\0", b"\0\x08")


class Read(NamedTuple):
    """What became of files: those to send, and how many of those in folders are no instances."""

    sources: list[Source]
    skipped: int


def find_files(arguments: Iterable[str]) -> Iterator[str]:
    """Give the files among `arguments`, and all files in the folders among them, sorted."""
    for argument in arguments:
        if os.path.isdir(argument):
            for folder, folders, names in os.walk(argument):
                folders.sort()
                yield from (os.path.join(folder, name) for name in sorted(names))
        else:
            yield argument


async def read_heads(
    paths: Iterable[str],
    unreadable: Callable[[str, str], Awaitable[None]],
    *,
    named: Iterable[str] = (),
    strict: bool = False,
) -> Read:
    """Read the head of each file (in a thread); calls `unreadable` for what is not a DICOM file.

    `named`: the files that were asked for by their names. Of the others, a DICOMDIR and what is plainly no
    DICOM file are skipped, unless `strict`.
    """
    kept = set() if strict else set(named)
    skipped = 0
    paths = list(await in_thread(file_threads(), list, paths))
    sources: list[Source] = []
    for start in range(0, len(paths), _AT_ONCE):
        for path, found in await in_thread(file_threads(), _read, paths[start : start + _AT_ONCE]):
            if not strict and path not in kept and _is_no_instance(found):
                skipped += 1
                log.info("%s: skipped, it is no instance", path)
            elif isinstance(found, _Unreadable):
                await unreadable(path, found.why)
            else:
                sources.append(found)
    return Read(sources, skipped)


def _read(paths: list[str]) -> list[tuple[str, FileSource | _Unreadable]]:
    found: list[tuple[str, FileSource | _Unreadable]] = []
    for path in paths:
        try:
            found.append((path, file_source(path)))
        except DataSetError as error:
            why = str(error).removeprefix(f"{path}: ")
            found.append((path, _Unreadable(why, is_other=_is_something_else(path))))
        except OSError as error:
            found.append((path, _Unreadable(error.strerror or str(error), is_other=_is_no_file(path))))
    return found


class _Unreadable(NamedTuple):
    """Why a file cannot be sent; `is_other`: it is plainly no DICOM file."""

    why: str
    is_other: bool


def _is_no_instance(found: FileSource | _Unreadable) -> bool:
    if isinstance(found, _Unreadable):
        return found.is_other
    return found.sop_class_uid == _MEDIA_STORAGE_DIRECTORY


def _is_no_file(path: str) -> bool:
    """Whether it is a socket, a pipe or a device, as the folder of a running archive has them."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _is_something_else(path: str) -> bool:
    """Whether a file that cannot be read as DICOM neither says that it is, nor looks like a bare data set."""
    if _is_no_file(path):
        return True
    if path.lower().endswith(_ENDINGS) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] != b"DICM" and head[:2] not in _GROUPS
