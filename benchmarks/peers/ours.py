"""asyncdicom, in a worker: senders, receivers, and what asks and answers."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import statistics
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from asyncdicom import (
    STORAGE,
    STUDY_ROOT,
    Association,
    BytesSource,
    FileSource,
    Limits,
    PresentationContext,
    Request,
    Server,
    Source,
    Status,
    Timeouts,
    associate,
    file_source,
    retrieval_contexts,
    serve,
    storage_contexts,
)
from benchmarks import identifiers, instances
from benchmarks.measure import Measurement, Sample

_servers: list[Server] = []  # they live as long as the worker
_open: list[Association] = []

_FIND = PresentationContext(STUDY_ROOT.find, (instances.EXPLICIT,))
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_UID = b"2.25.1%029d"


def _peer(port: int) -> str:
    return f"RECEIVER@127.0.0.1:{port}"


async def _serve(**options: Any) -> int:
    server = await serve("RECEIVER@127.0.0.1:0", timeouts=Timeouts(idle=None), **options)
    _servers.append(server)
    return server.port


def _checked(status: Status) -> None:
    if not status.is_success:
        raise RuntimeError(f"the answer was {status}")


# C-STORE


async def receive(directory: str | None, maximum_length: int = 131072, **limits: int) -> int:
    """Receive into files (None: read everything and drop it); gives the port."""
    numbers = itertools.count()

    async def to_file(request: Request) -> Status:
        await request.data.save(f"{directory}/{next(numbers):07}.dcm")
        return Status.SUCCESS

    async def to_nowhere(request: Request) -> Status:
        async for _ in request.data.batches():
            pass
        return Status.SUCCESS

    handler = to_file if directory is not None else to_nowhere
    given = Limits(maximum_length=maximum_length, **limits)
    return await _serve(c_store=handler, limits=given, unknown_storage=True)


async def send(
    port: int, folders: list[str], receiver_pid: int, operations: int = 1, ae_title: str = "RECEIVER"
) -> Sample:
    """Send all files of some folders on one association, `operations` of them outstanding at a time."""
    sources = _mixed([[file_source(path) for path in instances.files(folder)] for folder in folders])
    size = sum(source.length for source in sources)
    async with associate(
        f"{ae_title}@127.0.0.1:{port}",
        contexts=storage_contexts(sources),
        limits=Limits(operations_invoked=operations),
    ) as association:
        if association.operations_invoked != operations:
            raise RuntimeError(
                f"the peer allows {association.operations_invoked} operations, not {operations}"
            )
        with Measurement(receiver_pid) as it:
            await _store_all(association, iter(sources), operations)
    return it.sample(len(sources), size)


def _mixed(folders: list[list[FileSource]]) -> list[FileSource]:
    """Spread the few large ones evenly among the many small ones."""
    placed = [(index / len(folder), source) for folder in folders for index, source in enumerate(folder)]
    return [source for _, source in sorted(placed, key=itemgetter(0))]


async def _store_all(association: Association, sources: Iterator[Source], operations: int) -> None:
    async def work() -> None:
        for source in sources:
            _checked((await association.c_store(source)).status)

    if operations == 1:
        await work()
    else:
        await asyncio.gather(*(work() for _ in range(operations)))


class Generated:
    """An instance that exists only while it is sent: `size` bytes of pixel data in fragments of 1 MiB.

    More than 4 GiB fit only in encapsulated pixel data (PS3.5 A.4).
    """

    sop_class_uid = instances.CT
    transfer_syntax_uid = _JPEG_BASELINE

    def __init__(self, size: int, number: int) -> None:
        self.sop_instance_uid = (_UID % number).decode()
        self._fragments = size >> 20
        self._head = identifiers.head(self.sop_class_uid, self.sop_instance_uid)

    async def open(self) -> AsyncGenerator[list[bytes], None]:
        """See `asyncdicom.Source`."""
        fragment = os.urandom(1 << 20)
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(fragment))
        pixel_data = struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF)
        offset_table = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
        yield [self._head, pixel_data, offset_table]
        for _ in range(self._fragments):
            yield [item, fragment]
        yield [struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)]

    def at_hand(self) -> None:
        """See `asyncdicom.Source`."""


async def send_generated(port: int, size: int, receiver_pid: int) -> Sample:
    """Send one instance of any size that no file holds."""
    source = Generated(size, time.time_ns())
    contexts = [PresentationContext(source.sop_class_uid, (source.transfer_syntax_uid,))]
    async with associate(_peer(port), contexts=contexts, timeouts=Timeouts(dimse=600.0)) as association:
        with Measurement(receiver_pid) as it:
            _checked((await association.c_store(source)).status)
    return it.sample(1, size)


async def forward(port: int) -> int:
    """Be a gateway: what comes in goes out on another association while it comes."""

    async def pass_on(request: Request) -> Status:
        context = PresentationContext(request.affected_sop_class_uid, (request.transfer_syntax_uid,))
        async with associate(_peer(port), contexts=[context], timeouts=Timeouts(dimse=600.0)) as association:
            return (await association.c_store(request.data)).status

    return await _serve(c_store=pass_on, unknown_storage=True)


class Template:
    """A small instance in memory of which copies with other UIDs are sent."""

    def __init__(self, size: int, study: int | None = None) -> None:
        own = () if study is None else (f"2.25.3{study:029}", f"2.25.4{study:029}")
        self._head, self._tail = identifiers.template(instances.CT, size, *own)

    def source(self, number: int) -> BytesSource:
        """Give a copy with its own SOP Instance UID."""
        uid = _UID % number
        data = b"".join((self._head, uid, self._tail))
        return BytesSource(instances.CT, uid.decode(), instances.EXPLICIT, data)


async def send_copies(
    port: int | list[int],
    count: int,
    size: int,
    associations: int,
    receiver_pid: int,
    ae_title: str = "RECEIVER",
    first: int | None = None,
    own_studies: bool = False,
) -> Sample:
    """Send new small instances over several associations, on each one operation at a time.

    With several ports, one association after another goes to each in turn. Several senders need numbers that
    are far apart (`first`); with `own_studies` each association has a study of its own, else all have one.
    """
    first = time.time_ns() if first is None else first
    templates = [Template(size, first + number if own_studies else None) for number in range(associations)]
    numbers = iter(range(first, first + count))
    ports = itertools.cycle(port if isinstance(port, list) else [port])
    addresses = [f"{ae_title}@127.0.0.1:{next(ports)}" for _ in range(associations)]
    opened = [await associate(address, contexts=copy_contexts()) for address in addresses]

    async def work(association: Association, template: Template) -> None:
        for number in numbers:
            _checked((await association.c_store(template.source(number))).status)

    try:
        with Measurement(receiver_pid) as it:
            await asyncio.gather(*map(work, opened, templates))
    finally:
        await asyncio.gather(*(association.release() for association in opened))
    return it.sample(count, count * size)


def copy_contexts() -> list[PresentationContext]:
    return [PresentationContext(instances.CT, (instances.EXPLICIT,))]


# C-GET


async def fetch(port: int, study: str, directory: str, receiver_pid: int) -> Sample:
    """Retrieve the one instance of a study into a file."""

    async def to_file(request: Request) -> Status:
        await request.data.save(f"{directory}/{request.affected_sop_instance_uid}")
        return Status.SUCCESS

    contexts: list[Any] = [STUDY_ROOT, *retrieval_contexts([(instances.CT, instances.EXPLICIT)])]
    identifier = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
    async with associate(
        _peer(port), contexts=contexts, c_store=to_file, timeouts=Timeouts(dimse=600.0)
    ) as association:
        with Measurement(receiver_pid) as it:
            result = await association.c_get(identifier)
    if result.completed != 1:
        raise RuntimeError(f"the answer was {result}")
    return it.sample(1, instances.size_of(directory))


# C-ECHO


async def answer_echo() -> int:
    """Answer C-ECHO; gives the port."""
    return await _serve()


async def echo(port: int, count: int, receiver_pid: int) -> Sample:
    """Send C-ECHO requests one after another."""
    async with associate(_peer(port)) as association:
        with Measurement(receiver_pid) as it:
            for _ in range(count):
                _checked((await association.c_echo()).status)
    return it.sample(count)


# C-FIND


async def answer_find(matches: int, encoded: bool) -> int:
    """Answer each C-FIND with so many matches, as encoded bytes or as pydicom Datasets."""

    async def find(request: Request) -> AsyncIterator[Any]:
        for number in range(matches):
            yield identifiers.match(number) if encoded else identifiers.dataset(number)

    return await _serve(c_find=find)


async def find(port: int, ae_title: str, matches: int, times: int, receiver_pid: int) -> Sample:
    """Ask for everything, so many times, and count what comes."""
    count = 0
    address = f"{ae_title}@127.0.0.1:{port}"
    async with associate(address, contexts=[_FIND]) as association:
        with Measurement(receiver_pid) as it:
            for _ in range(times):
                async with association.c_find(identifiers.query(), raw=True) as found:
                    async for _match in found:
                        count += 1
    if count != matches * times:
        raise RuntimeError(f"{count} matches came, not {matches * times}")
    return it.sample(count)


async def cancel(port: int, ae_title: str, times: int, receiver_pid: int) -> Sample:
    """Ask for everything, leave after 100 matches, and time how long it takes until it has ended."""
    seconds = []
    address = f"{ae_title}@127.0.0.1:{port}"
    async with associate(address, contexts=[_FIND]) as association:
        with Measurement(receiver_pid) as it:
            for _ in range(times):
                async with association.c_find(identifiers.query(), raw=True) as found:
                    left = 100
                    async for _match in found:
                        left -= 1
                        if not left:
                            break
                    start = time.perf_counter()
                seconds.append(time.perf_counter() - start)
    return it.sample(times) | {
        "cancel_ms": statistics.median(seconds) * 1e3,
        "slowest_cancel_ms": max(seconds) * 1e3,
    }


async def find_latency(port: int, identifiers_hex: list[str], receiver_pid: int) -> Sample:
    """Send one C-FIND after another and time each."""
    seconds = []
    async with associate(_peer(port), contexts=[_FIND]) as association:
        with Measurement(receiver_pid) as it:
            for identifier in identifiers_hex:
                start = time.perf_counter()
                found = await association.c_find(bytes.fromhex(identifier), raw=True)
                seconds.append(time.perf_counter() - start)
                if len(found) != 1:
                    raise RuntimeError(f"{len(found)} matches came, not 1")
    seconds.sort()
    at = len(seconds) - 1
    return it.sample(len(seconds)) | {
        "find_p50_ms": seconds[at // 2] * 1e3,
        "find_p99_ms": seconds[round(at * 0.99)] * 1e3,
    }


# Associations


def allow_descriptors(count: int) -> int:
    """Raise the limit on open files as far as needed and possible; gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


async def open_many(port: int, count: int, contexts: int, store: bool) -> float:
    """Open associations with `contexts` x 3 transfer syntaxes proposed, store once on each, and keep them."""
    syntaxes = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")
    proposed = [PresentationContext(uid, syntaxes) for uid in _some_storage(contexts)]
    template = Template(2048)
    base = time.time_ns()
    start = time.perf_counter()
    for first in range(0, count, 50):
        group = await asyncio.gather(
            *(associate(_peer(port), contexts=proposed) for _ in range(min(50, count - first)))
        )
        _open.extend(group)
        if store:
            for number, association in enumerate(group):
                _checked((await association.c_store(template.source(base + first + number))).status)
    return time.perf_counter() - start


def _some_storage(count: int) -> list[str]:
    return [instances.CT, *[uid for uid in STORAGE if uid != instances.CT]][:count]


async def close_many() -> None:
    """Abort what `open_many` opened."""
    for association in _open:
        await association.abort()
    _open.clear()


async def open_and_release(port: int, count: int, at_once: int, receiver_pid: int) -> Sample:
    """Open associations and release them again, `at_once` at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for _ in numbers:
            async with associate(_peer(port)):
                pass

    with Measurement(receiver_pid) as it:
        await asyncio.gather(*(work() for _ in range(at_once)))
    return it.sample(count)


async def store_at_once(port: int, count: int, each: int, size: int, receiver_pid: int) -> Sample:
    """Have many associations store `each` instances at the same time, and time each of them."""
    template = Template(size)
    base = time.time_ns()
    opened: list[Association] = []
    for first in range(0, count, 50):
        group = (associate(_peer(port), contexts=copy_contexts()) for _ in range(min(50, count - first)))
        opened.extend(await asyncio.gather(*group))

    async def work(index: int) -> float:
        for number in range(each):
            source = template.source(base + index * each + number)
            _checked((await opened[index].c_store(source, timeout=300.0)).status)
        return time.perf_counter()

    start = time.perf_counter()
    with Measurement(receiver_pid) as it:
        done = sorted(end - start for end in await asyncio.gather(*map(work, range(count))))
    await asyncio.gather(*(association.release() for association in opened))
    return it.sample(count * each, count * each * size) | {
        "median_s": done[len(done) // 2],
        "slowest_s": done[-1],
        "slowest_by_median": done[-1] / done[len(done) // 2],
    }


def path_of_package() -> str:
    """Tell which asyncdicom is measured."""
    import asyncdicom

    return str(Path(asyncdicom.__file__).parent)
