"""Which files to send, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from asyncdicom.exceptions import DataSetError
from asyncdicom.net.sources import FileSource, Source
from asyncdicom.net.threads import file_threads, in_thread
from asyncdicom.services.storage import file_source

__all__ = ["find_files", "read_heads"]

_AT_ONCE = 64


def find_files(arguments: Iterable[str]) -> Iterator[Path]:
    """Give the files among `arguments`, and all files in the folders among them, sorted."""
    for argument in arguments:
        if os.path.isdir(argument):
            for folder, folders, names in os.walk(argument):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        else:
            yield Path(argument)


async def read_heads(paths: Iterable[Path], unreadable: Callable[[Path, str], None]) -> list[Source]:
    """Read the head of each file (in a thread); calls `unreadable` for what is not a DICOM file."""
    paths = list(await in_thread(file_threads(), list, paths))
    sources: list[Source] = []
    for start in range(0, len(paths), _AT_ONCE):
        for path, found in await in_thread(file_threads(), _read, paths[start : start + _AT_ONCE]):
            if isinstance(found, str):
                unreadable(path, found)
            else:
                sources.append(found)
    return sources


def _read(paths: list[Path]) -> list[tuple[Path, FileSource | str]]:
    found: list[tuple[Path, FileSource | str]] = []
    for path in paths:
        try:
            found.append((path, file_source(path)))
        except DataSetError as error:
            found.append((path, str(error).removeprefix(f"{path}: ")))
        except OSError as error:
            found.append((path, error.strerror or str(error)))
    return found
