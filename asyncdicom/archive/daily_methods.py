"""What an operator asks of an archive every day: methods of the control channel; see `operations`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.errors import ArchiveError, reason
from asyncdicom.archive.index.matching import IdentifierError
from asyncdicom.archive.index.queries import QueriesClosed
from asyncdicom.archive.search import Match
from asyncdicom.archive.workers import Workers
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.exceptions import DataSetError
from asyncdicom.net.part_file import PartFile
from asyncdicom.net.sources import Source
from asyncdicom.net.threads import in_thread

__all__ = ["DAILY_METHODS"]

_Line = Mapping[str, Any]
_MOST_PATHS = 500
_TOGETHER = 100  # instances whose files are looked up at a time
_UNSAFE = re.compile(r"[^0-9A-Za-z.-]")


async def _find(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Give what matches `keys`, at most `limit`."""
    limit = arguments.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArchiveError("limit is a number")
    found = 0
    async with aclosing(_search(archive, arguments)) as matches:
        async for match in matches:
            found += 1
            yield match
            if found == limit:
                break
    yield {"found": found}


async def _search(archive: Archive, arguments: _Line, level: str = "") -> AsyncGenerator[Match, None]:
    keys = arguments.get("keys", {})
    level = level or arguments.get("level", "")
    if not isinstance(keys, dict) or not isinstance(level, str):
        raise ArchiveError("keys are keywords with what they are to be, level is a text")
    try:
        async with aclosing(archive.search(keys, level=level, peer="control")) as matches:
            async for match in matches:
                yield match
    except IdentifierError as error:
        raise ArchiveError(str(error)) from error
    except QueriesClosed as error:
        raise ArchiveError("the archive is being closed") from error


async def _export(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Write a file of each instance that matches `keys` below the folder `target`; see `_name`.

    What is there already is not replaced.
    """
    target = arguments.get("target")
    if not isinstance(target, str) or not os.path.isabs(target):
        raise ArchiveError("target is the path of a folder, from the root")
    counts = {"exported": 0, "there": 0, "failed": 0}
    thread = Workers(1, "asyncdicom-export")
    page: list[Match] = []
    try:
        async with aclosing(_search(archive, arguments, "IMAGE")) as matches:
            async for match in matches:
                page.append(match)
                if len(page) == _TOGETHER:
                    async with aclosing(_export_page(archive, thread, target, page, counts)) as lines:
                        async for line in lines:
                            yield line
                    page = []
        async with aclosing(_export_page(archive, thread, target, page, counts)) as lines:
            async for line in lines:
                yield line
    finally:
        thread.shutdown()
    yield counts


async def _export_page(
    archive: Archive, thread: Workers, target: str, page: list[Match], counts: dict[str, int]
) -> AsyncGenerator[_Line, None]:
    if not page:
        return
    names = {str(match["SOPInstanceUID"]): _name(target, match) for match in page}
    instances = await archive.instances({"SOPInstanceUID": list(names)}, peer="control")
    left = set(names)
    async for instance in instances:
        if instance is None or instance.sop_instance_uid not in left:
            continue
        left.discard(instance.sop_instance_uid)
        path = names[instance.sop_instance_uid]
        try:
            if await in_thread(thread, os.path.lexists, path):
                counts["there"] += 1
                continue
            source = await archive.assigned(instances.source(instance), peer="control")
            await _write(thread, source, path)
        except (OSError, DataSetError) as error:
            counts["failed"] += 1
            yield {"sop_instance_uid": instance.sop_instance_uid, "failed": _why(error)}
        else:
            counts["exported"] += 1
            yield {"exported_so_far": counts["exported"]}
    for uid in sorted(left):
        counts["failed"] += 1
        yield {"sop_instance_uid": uid, "failed": "it was removed meanwhile"}


async def _write(thread: Workers, source: Source, path: str) -> None:
    head = encode_file_meta(source.sop_class_uid, source.sop_instance_uid, source.transfer_syntax_uid)
    file = PartFile(path, head)
    try:
        async with aclosing(source.open()) as batches:
            async for batch in batches:
                await in_thread(thread, file.write, batch)
        await in_thread(thread, file.finish, [])
    except BaseException:
        await in_thread(thread, file.discard)
        raise


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, DataSetError) else reason(error)


def _name(target: str, match: Match) -> str:
    """Give where an instance is exported to: by its UIDs, so that no name of a patient is in a path."""
    uids = (match["StudyInstanceUID"], match["SeriesInstanceUID"], match["SOPInstanceUID"])
    study, series, instance = (_UNSAFE.sub("_", str(uid)).lstrip(".") or "_" for uid in uids)
    return os.path.join(target, study, series, f"{instance}.dcm")


async def _import(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Store the files `paths`, as if they were sent; gives what became of each one."""
    paths = arguments.get("paths")
    if not isinstance(paths, list) or not 0 < len(paths) <= _MOST_PATHS:
        raise ArchiveError(f"paths: a list of 1 to {_MOST_PATHS} paths")
    if not all(isinstance(path, str) and os.path.isabs(path) for path in paths):
        raise ArchiveError("paths are texts, from the root")
    for path in paths:
        try:
            stored = await archive.store(path)
        except (OSError, DataSetError) as error:
            yield {"path": path, "is_here": False, "told": _why(error).removeprefix(f"{path}: ")}
        else:
            told = stored.outcome.value + (f": {stored.comment}" if stored.comment else "")
            yield {"path": path, "is_here": stored.is_here, "told": told}
    yield {"imported_all": len(paths)}


async def _copy_index(archive: Archive, arguments: _Line) -> AsyncGenerator[_Line, None]:
    """Copy the whole index to a path that nothing is at: the beginning of a backup."""
    path = arguments.get("path")
    if not isinstance(path, str) or not os.path.isabs(path):
        raise ArchiveError("path is that of a file to be made, from the root")
    thread = Workers(1, "asyncdicom-copy")  # it takes seconds for a million instances
    try:
        await archive.called(thread, archive.care.copy_index, path)
    finally:
        thread.shutdown()
    yield {"copied": path}


DAILY_METHODS = {"find": _find, "export": _export, "import": _import, "copy index": _copy_index}
"""What can be asked, by name."""
