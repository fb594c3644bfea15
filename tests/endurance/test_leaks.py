"""Associations that end in every way leave nothing behind: no descriptor, task, thread, object or memory.

Both ends run in this process, so neither may leak. All the ways are taken in turn, many at a time; after a
warm-up whatever is there is counted, and at the end it has to be the same.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import ssl
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from helpers.archive_process import CONTEXTS, CT, LONG, SERIES, STUDY, data_set, long_test
from helpers.peer import ABORT, Peer, cancel_rq, echo_rq, fragments, message, store_rq

from asyncdicom import STUDY_ROOT, VERIFICATION, AccessPolicy, BytesSource, Timeouts, associate
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.exceptions import AssociationError, AssociationRejected
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

ASSOCIATIONS = 100_000 if LONG else 500
AT_ONCE = 16
WARM_UP = 0.1
GROWTH = 16 << 20  # bytes of memory, in the long form
POOLS = (
    20  # descriptors and threads of pools that were not full before; each way is taken more often than that
)

DATA = data_set("1.2.3.1.1.1", 20_000)
INSTANCE = BytesSource(CT, "1.2.3.1.1.1", EXPLICIT_VR_LITTLE_ENDIAN, DATA)
KEYS = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}


class Servers(NamedTuple):
    port: int
    tls_port: int
    tls: ssl.SSLContext


def open_to(servers: Servers, **options: Any) -> Any:
    options = {"calling_ae_title": "GOOD", "contexts": CONTEXTS} | options
    return associate(f"ARCHIVE@127.0.0.1:{servers.port}", **options)


# the ways an association can go: of our requestor


async def stored(servers: Servers) -> None:
    async with open_to(servers) as association:
        assert (await association.c_store(INSTANCE)).status == 0
        assert (await association.c_echo()).status == 0


async def retrieved(servers: Servers) -> None:
    async def receive(request: Any) -> int:
        assert len(await request.data.read()) == len(DATA)
        return 0

    async with open_to(servers, c_store=receive) as association:
        await association.c_get({**KEYS, "SOPInstanceUID": "1.2.3.1.1.1"}, information_model=STUDY_ROOT)


async def query_left(servers: Servers) -> None:
    async with open_to(servers) as association:
        async with association.c_find({**KEYS, "SOPInstanceUID": ""}, information_model=STUDY_ROOT) as found:
            async for _ in found:
                break


async def rejected(servers: Servers) -> None:
    with suppress(AssociationRejected):
        await open_to(servers, calling_ae_title="STRANGER")
        raise AssertionError("not rejected")


async def aborted_by_us(servers: Servers) -> None:
    with suppress(KeyError):
        async with open_to(servers):
            raise KeyError


async def cancelled(servers: Servers) -> None:
    """At some await of opening, of a C-STORE, or of the release."""
    task = asyncio.ensure_future(stored(servers))
    for _ in range(next(_steps)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


_steps = itertools.cycle(range(0, 60, 7))


async def over_tls(servers: Servers) -> None:
    async with associate(
        f"ARCHIVE@127.0.0.1:{servers.tls_port}",
        calling_ae_title="GOOD",
        contexts=[VERIFICATION],
        ssl=servers.tls,
    ) as association:
        assert (await association.c_echo()).status == 0


async def tls_to_a_plain_port(servers: Servers) -> None:
    with suppress(AssociationError, OSError):
        await open_to(servers, ssl=servers.tls)
        raise AssertionError("no TLS was expected there")


async def plain_to_a_tls_port(servers: Servers) -> None:
    with suppress(AssociationError, OSError):
        await associate(f"ARCHIVE@127.0.0.1:{servers.tls_port}", contexts=[VERIFICATION])
        raise AssertionError("TLS was expected there")


# of peers made by hand


async def health_check(servers: Servers) -> None:
    await (await Peer.connect(servers.port)).close()


async def garbage(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        peer.write(b"GET / HTTP/1.1\r\n\r\n")
        await peer.pdu()


async def half_a_request(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        peer.write(bytes.fromhex("0100 000000ff 0001"))


async def echoed_by_hand(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        await peer.associate(CONTEXTS, called="ARCHIVE", calling="GOOD")
        peer.send(1, echo_rq())
        await peer.message()  # and closes without a release


async def half_a_store(peer: Peer) -> None:
    await peer.associate(CONTEXTS, called="ARCHIVE", calling="GOOD")
    data = fragments(3, False, data_set("1.2.3.1.1.2", 100_000))
    peer.write(message(3, store_rq(uid="1.2.3.1.1.2")) + data[:70_000])


async def aborted_by_the_peer(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        await half_a_store(peer)
        peer.write(ABORT)


async def aborted_inside_a_pdu(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        await half_a_store(peer)


async def reset(servers: Servers) -> None:
    peer = await Peer.connect(servers.port)
    await half_a_store(peer)
    await peer.writer.drain()
    peer.reset()
    await peer.close()


async def unexpected_data(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        await peer.associate(CONTEXTS, called="ARCHIVE", calling="GOOD")
        peer.write(fragments(99, False, bytes(100)))
        await peer.pdu()


async def cancelled_by_the_peer(servers: Servers) -> None:
    async with await Peer.connect(servers.port) as peer:
        await half_a_store(peer)
        peer.send(1, cancel_rq())


WAYS: tuple[Callable[[Servers], Awaitable[None]], ...] = (
    *(stored, retrieved, query_left, rejected, aborted_by_us, cancelled),
    *(over_tls, tls_to_a_plain_port, plain_to_a_tls_port),
    *(health_check, garbage, half_a_request, echoed_by_hand, aborted_by_the_peer),
    *(aborted_inside_a_pdu, reset, unexpected_data, cancelled_by_the_peer),
)


# what is there


class Census(NamedTuple):
    descriptors: int
    tasks: int
    threads: int
    objects: Counter[str]


def census() -> Census:
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    ours = {kind.__name__: n for kind, n in kinds.items() if str(kind.__module__).startswith("asyncdicom.")}
    descriptors = len(os.listdir("/proc/self/fd"))
    return Census(descriptors, len(asyncio.all_tasks()), threading.active_count(), Counter(ours))


def memory() -> int:
    """What this process has in memory, in bytes."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def go(servers: Servers, count: int, ways: Iterator[Callable[[Servers], Awaitable[None]]]) -> None:
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await next(ways)(servers)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def settled(others: int) -> Census:
    """The census when no association is left but those of other tests; deadlines say how long that takes."""
    for _ in range(40):
        found = census()
        if found.objects["Channel"] <= others:
            return found
        await asyncio.sleep(0.25)
    raise AssertionError(found)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@long_test
async def test_nothing_is_left(tmp_path: Path) -> None:
    authority = trustme.CA()
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(secure)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    others = census().objects["Channel"]
    options: dict[str, Any] = {
        "access": AccessPolicy(called_ae_titles="ARCHIVE", peers=["GOOD"]),
        "timeouts": Timeouts(cancel=0.5),
    }
    async with (
        Archive(tmp_path, durability="none") as archive,
        serve_archive(archive, "ARCHIVE@127.0.0.1:0", **options) as plain,
        serve_archive(archive, "ARCHIVE@127.0.0.1:0", ssl=secure, **options) as encrypted,
    ):
        servers = Servers(plain.port, encrypted.port, client)
        await stored(servers)
        ways = itertools.cycle(WAYS)
        await go(servers, int(ASSOCIATIONS * WARM_UP), ways)
        before, grown = await settled(others), [memory()]
        for _ in range(10):
            await go(servers, int(ASSOCIATIONS * (1 - WARM_UP)) // 10, ways)
            grown.append(memory())
        after = await settled(others)
        assert after.objects - before.objects == Counter()
        assert after.tasks == before.tasks
        assert after.descriptors - before.descriptors < POOLS
        assert after.threads - before.threads < POOLS
        curve = ", ".join(f"{(size - grown[0]) / (1 << 20):+.1f}" for size in grown[1:])
        print(f"{ASSOCIATIONS} associations; descriptors, tasks, threads: {before[:3]}, then {after[:3]};")
        print(f"memory: {grown[0] >> 20} MiB, then {curve}")
        if LONG:
            assert grown[-1] - grown[0] <= GROWTH
