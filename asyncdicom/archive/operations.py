"""What an operator can ask of an open archive: the methods of the control channel, by name.

Each gives lines (mappings that JSON can hold), the last of which is its result. A tool gets the same lines
from a serving process as from an archive that it has opened itself. To stop one, close it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from asyncdicom.archive.archive import Archive
from asyncdicom.archive.aside import Quarantined
from asyncdicom.archive.daily_methods import DAILY_METHODS
from asyncdicom.archive.delete_methods import DELETE_METHODS
from asyncdicom.archive.errors import ArchiveError
from asyncdicom.archive.outbox_methods import OUTBOX_METHODS
from asyncdicom.archive.reassign_methods import REASSIGN_METHODS
from asyncdicom.archive.scrub import Pace
from asyncdicom.archive.workers import Workers

__all__ = ["METHODS", "Line", "Method"]

Line = Mapping[str, Any]
Method = Callable[[Archive, Mapping[str, Any]], AsyncGenerator[Line, None]]
_T = TypeVar("_T")

_MAXIMUM_NAMES = 1000
_TELLING = 1.0  # seconds between two lines of progress
_TOGETHER = 1000


async def _stat(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    yield await archive.read(archive.care.stat)


async def _reindex(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    sweeping = asyncio.ensure_future(archive.reindex(dry_run=arguments.get("dry_run") is True))
    try:
        while not sweeping.done():
            await asyncio.wait((sweeping,), timeout=_TELLING)
            yield {"indexed_so_far": archive.care.swept.indexed}
    finally:
        sweeping.cancel()
        await asyncio.wait((sweeping,))
    swept = sweeping.result()
    yield {**asdict(swept), "told": swept.told(), "counts": await archive.counts()}


async def _verify(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    """Gives what is missing or damaged, and from time to time how many files were looked at."""
    rate: Any = arguments.get("bytes_per_second")
    if rate is not None and (type(rate) is not int or rate < 1):
        raise ArchiveError("bytes_per_second is a number of bytes")
    ending = threading.Event()
    files = archive.care.verify(Pace(rate, ending))
    thread = Workers(1, "asyncdicom-verify")  # it may wait for long: not one of those that others wait for
    total = bad = 0
    try:
        while found := await archive.called(thread, _some, files, ending=ending):
            total += len(found)
            for each in found:
                if not each.is_sound:
                    bad += 1
                    yield {"sop_instance_uid": each.sop_instance_uid, "file": each.path, "state": each.state}
            yield {"verified_so_far": total}
    finally:
        ending.set()
        thread.shutdown()
    yield {"verified": total, "bad": bad}


def _some(each: Iterator[_T]) -> list[_T]:
    """Give the next ones of a second; none at the end. One at a time would cost a hop each."""
    found: list[_T] = []
    until = time.monotonic() + _TELLING
    for one in each:
        found.append(one)
        if len(found) >= _TOGETHER or time.monotonic() >= until:
            break
    return found


async def _list(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    pages = archive.care.quarantine.pages()
    total = size = 0
    nothing: list[Quarantined] = []
    while page := await archive.read(next, pages, nothing):
        for row in page:
            total += 1
            size += row.data_set_length
            yield {
                "name": row.file.removesuffix(".dcm"),
                "sop_instance_uid": row.sop_instance_uid,
                "sop_class_uid": row.sop_class_uid,
                "reason": row.reason,
                "received": row.received,
                "calling_ae_title": row.calling_ae_title,
                "size": row.data_set_length,
                "digest": row.digest,
            }
    yield {"quarantined": total, "size": size}


async def _accept(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    names = _names(arguments)
    for name in names:
        yield {"accepted": await archive.upkeep(archive.care.quarantine.accept, name)}
    yield {"accepted_all": len(names)}


async def _purge(archive: Archive, arguments: Mapping[str, Any]) -> AsyncGenerator[Line, None]:
    names = _names(arguments)
    for name in names:
        yield {"purged": (await archive.upkeep(archive.care.quarantine.purge, name)).sop_instance_uid}
    yield {"purged_all": len(names)}


def _names(arguments: Mapping[str, Any]) -> list[str]:
    names = arguments.get("names")
    if not isinstance(names, list) or not 0 < len(names) <= _MAXIMUM_NAMES:
        raise ArchiveError(f"names: a list of 1 to {_MAXIMUM_NAMES} names that `quarantine list` shows")
    if not all(isinstance(name, str) for name in names):
        raise ArchiveError("names are texts")
    return names


METHODS: dict[str, Method] = {
    "stat": _stat,
    "reindex": _reindex,
    "verify": _verify,
    "quarantine list": _list,
    "quarantine accept": _accept,
    "quarantine purge": _purge,
    **REASSIGN_METHODS,
    **DAILY_METHODS,
    **DELETE_METHODS,
    **OUTBOX_METHODS,
}
"""What can be asked, by name."""
