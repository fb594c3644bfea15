"""The archive of asyncdicom, in a worker."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from asyncdicom import Timeouts
from asyncdicom.archive import Archive, FileCalls
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.index.base import Changes, FileEntry, Insertion
from asyncdicom.archive.index.record import Record
from asyncdicom.archive.index.sqlite import Index
from asyncdicom.archive.index.writer import Writer
from asyncdicom.data.elements import Element
from asyncdicom.running import collected_seldom
from benchmarks import identifiers, instances
from benchmarks.measure import Sample, sample

_kept: list[object] = []  # what lives as long as the worker

_BATCH = 1000


async def serve(directory: str, durability: str) -> int:
    """Open an archive and serve it, as `asyncdicom qrscp` does; gives the port."""
    archive = Archive(directory, durability=durability)
    await archive.open()
    server = await serve_archive(archive, "RECEIVER@127.0.0.1:0", timeouts=Timeouts(idle=None))
    seldom = collected_seldom()
    seldom.__enter__()
    _kept.extend((archive, server, seldom))
    return server.port


def fill(directory: str, count: int, one_series: bool) -> Sample:
    """Index `count` instances that have no files, in transactions of 1,000, and time the last of them."""
    os.makedirs(directory, exist_ok=True)
    index = Index(directory, durability="none", readers=1, calls=FileCalls())
    writer = index.writer()
    start, timed = time.perf_counter(), 0
    try:
        for first in range(0, count, _BATCH):
            if first == max(0, count - 10 * _BATCH):
                start, timed = time.perf_counter(), count - first
            changes = _changes(range(first, min(first + _BATCH, count)), one_series)
            writer.change(partial(Writer.apply, changes=changes))
    finally:
        elapsed = time.perf_counter() - start
        writer.close()
        index.close()
    return {"insert_us": elapsed / timed * 1e6}


def _changes(numbers: range, one_series: bool) -> Changes:
    return Changes(
        [
            Insertion(
                Record(_elements(number, one_series), little_endian=True),
                FileEntry(
                    instances.EXPLICIT, f"{number:08x}.dcm", 300, 40000, f"{number:032x}", 0, "BENCHMARK"
                ),
            )
            for number in numbers
        ]
    )


def _elements(number: int, one_series: bool) -> dict[int, Element]:
    patient = 0 if one_series else number // identifiers.SERIES_SIZE
    study = identifiers.STUDY if one_series else f"2.25.3{patient:029}"
    series = identifiers.SERIES if one_series else f"2.25.4{patient:029}"
    found = (
        (0x00080016, "UI", instances.CT),
        (0x00080018, "UI", identifiers.instance_uid(number)),
        (0x00080020, "DA", "20240101"),
        (0x00080050, "SH", f"A{patient}"),
        (0x00080060, "CS", "CT"),
        (0x00100010, "PN", f"Benchmark^{patient}"),
        (0x00100020, "LO", identifiers.patient_id(patient)),
        (0x0020000D, "UI", study),
        (0x0020000E, "UI", series),
        (0x00200013, "IS", str(number)),
    )
    return {tag: Element(tag, vr, value.encode()) for tag, vr, value in found}


def write_files(directory: str, count: int, size: int, threads: int, group: int) -> Sample:
    """The ceiling of the disk: some threads create, write and sync files, then their folder is synced."""
    data = os.urandom(size)
    # A new folder, and nothing is removed: without a journal ext4 does not use the inodes of removed files
    # again for minutes, and looking past them is slow.
    folder = Path(directory) / str(time.time_ns())
    folder.mkdir(parents=True)

    def write(number: int) -> None:
        descriptor = os.open(folder / f"{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        os.close(descriptor)

    entries = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with ThreadPoolExecutor(threads) as pool:
        start, cpu = time.perf_counter(), time.process_time()
        for first in range(0, count, group):
            list(pool.map(write, range(first, min(first + group, count))))
            os.fsync(entries)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    os.close(entries)
    return sample(seconds, count, count * size, 0.0, cpu)
