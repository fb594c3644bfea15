"""Associations in memory: they are what they are over sockets, and time passes when a test says so."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import pytest

from asyncdicom import (
    STUDY_ROOT,
    AssociationAborted,
    AssociationClosed,
    AssociationPool,
    AssociationTimeout,
    BytesSource,
    Client,
    Request,
    Status,
    Timeouts,
    associate,
    serve,
)
from asyncdicom.net.disk import Batch
from asyncdicom.net.memory import MemoryNetwork
from asyncdicom.net.networks import networks

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
LARGE = BytesSource(CT, "1.2.3", EXPLICIT, bytes(8) + b"\x08\x00\x05\x00" * 500_000)
SMALL = BytesSource(CT, "1.2.3", EXPLICIT, bytes(8))
KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
NOW = Timeouts(drain=0.0)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryNetwork]:
    def no_socket(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made")

    with MemoryNetwork() as network:
        monkeypatch.setattr(socket.socket, "bind", no_socket)
        monkeypatch.setattr(socket.socket, "connect", no_socket)
        yield network


def at(network: MemoryNetwork, port: int = 11112) -> str:
    return f"TEST@{network.host}:{port}"


async def taken(request: Request) -> Status:
    async for _ in request.data.batches():
        pass
    return Status.SUCCESS


async def until_it_is(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 60)


async def test_an_association_is_what_it_is_elsewhere(network: MemoryNetwork) -> None:
    sizes = []

    async def keep(request: Request) -> Status:
        sizes.append(len(await request.data.read(10_000_000)))
        return Status.SUCCESS

    async def one(request: Request) -> AsyncIterator[dict[str, str]]:
        yield {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}

    async with serve(at(network, 0), c_store=keep, c_find=one, access=["ME"]) as server:
        assert (server.host, server.port) == (network.host, 11112)
        async with associate(at(network), calling_ae_title="ME", contexts=[CT, STUDY_ROOT]) as association:
            assert association.peer == ("127.0.0.1", 11112)
            assert (await association.c_store(LARGE)).status == 0
            (match,) = await association.c_find(KEYS)
            assert match.StudyInstanceUID == "1.2"
        async with Client(at(network), calling_ae_title="ME") as client:
            await client.echo()
        async with AssociationPool(at(network), calling_ae_title="ME", size=2, contexts=[CT]) as pool:
            assert {r.status for r in await asyncio.gather(*(pool.c_store(SMALL) for _ in range(5)))} == {0}
    assert sizes[0] == len(LARGE.data)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_ports_are_taken_and_free(network: MemoryNetwork) -> None:
    with pytest.raises(AssociationClosed, match="refused"):
        await associate(at(network))
    async with serve(at(network, 0)) as one, serve(at(network, 0)) as other:
        assert {one.port, other.port} == {11112, 11113}
        with pytest.raises(OSError, match="is in use"):
            await serve(at(network))
    with pytest.raises(AssociationClosed, match="refused"):
        await associate(at(network))


async def test_the_name_ends_with_the_network() -> None:
    with MemoryNetwork() as network:
        assert networks.get(network.host) is network
        network.advance(1)  # nobody has used it
    assert networks.get(network.host) is None


async def test_there_is_no_tls(network: MemoryNetwork) -> None:
    import ssl

    async with serve(at(network, 0)):
        with pytest.raises(AssociationClosed, match="no TLS"):
            await associate(at(network), ssl=ssl.create_default_context())


async def test_a_slow_reader_holds_the_writer_back(network: MemoryNetwork) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    class Many(BytesSource):
        async def open(self) -> AsyncGenerator[Batch, None]:
            for _ in range(40):
                yield [bytes(1 << 20)]

    source = Many(CT, "1.2.3", EXPLICIT, b"")

    async def slow(request: Request) -> Status:
        begun.set()
        await go_on.wait()
        return await taken(request)

    async with serve(at(network, 0), c_store=slow), associate(at(network), contexts=[CT]) as association:
        storing = asyncio.create_task(association.c_store(source))
        await until_it_is(begun)
        for _ in range(1000):
            await asyncio.sleep(0)
        on_the_way = sum(end._waiting for end in network._ends)
        assert 0 < on_the_way < 4 << 20
        go_on.set()
        assert (await storing).status == 0


@pytest.mark.parametrize("which", ["dimse", "idle"])
async def test_time_passes_when_it_is_told_to(network: MemoryNetwork, which: str) -> None:
    begun = asyncio.Event()

    async def never(request: Request) -> Status:
        begun.set()
        await asyncio.Event().wait()
        return Status.SUCCESS

    timeouts = Timeouts(dimse=3600, idle=7200, drain=0)
    async with serve(at(network, 0), c_store=never, timeouts=timeouts) as server:
        association = await associate(at(network), contexts=[CT], timeouts=timeouts)
        if which == "dimse":
            storing = asyncio.create_task(association.c_store(SMALL))
            await until_it_is(begun)
            network.advance(3599)
            await asyncio.sleep(0.01)
            assert not storing.done()
            network.advance(2)
            with pytest.raises(AssociationTimeout):
                await storing
        else:
            network.advance(7201)
            while server.associations:
                await asyncio.sleep(0.001)
        await association.abort()


async def test_a_deadline_of_a_handler_is_by_this_clock(network: MemoryNetwork) -> None:
    begun = asyncio.Event()
    cancelled: list[int] = []

    async def stubborn(request: Request) -> Status:
        begun.set()
        while len(cancelled) < 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
        await asyncio.Event().wait()
        return Status.SUCCESS

    timeouts = Timeouts(handler_deadline=600, cancel=100, drain=0)
    async with serve(at(network, 0), c_store=stubborn, timeouts=timeouts):
        patient = Timeouts(dimse=3600)
        association = await associate(at(network), contexts=[CT], timeouts=patient)
        storing = asyncio.create_task(association.c_store(SMALL))
        await until_it_is(begun)
        network.advance(601)
        while not cancelled:
            await asyncio.sleep(0)
        network.advance(101)
        assert (await storing).status.is_failure
        await association.abort()


async def test_what_is_held_arrives_later(network: MemoryNetwork) -> None:
    async with serve(at(network, 0)), associate(at(network)) as association:
        network.hold()
        echo = asyncio.create_task(association.c_echo())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not echo.done()
        network.go_on()
        assert (await echo).status == 0


async def test_a_connection_is_cut(network: MemoryNetwork) -> None:
    ended: list[str] = []

    async def waits(request: Request) -> Status:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("handler")
        return Status.SUCCESS

    async with serve(at(network, 0), c_store=waits) as server:
        association = await associate(at(network), contexts=[CT])
        storing = asyncio.create_task(association.c_store(SMALL))
        while not server.associations:
            await asyncio.sleep(0)
        network.hold()
        network.cut()
        network.go_on()
        with pytest.raises(AssociationClosed):
            await storing
        while server.associations:
            await asyncio.sleep(0)
    assert network._ends == []


async def test_an_abort_on_either_side(network: MemoryNetwork) -> None:
    begun = asyncio.Event()

    async def aborts(request: Request) -> Status:
        await request.association.abort()
        return Status.SUCCESS

    async def waits(request: Request) -> AsyncIterator[dict[str, str]]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield {}

    ended = asyncio.Event()
    async with serve(at(network, 0), c_store=aborts, c_find=waits):
        association = await associate(at(network), contexts=[CT, STUDY_ROOT])
        with pytest.raises(AssociationAborted):
            await association.c_store(SMALL)
        association = await associate(at(network), contexts=[CT, STUDY_ROOT])
        finding = asyncio.create_task(association.c_find(KEYS).__aenter__())
        await finding
        await until_it_is(begun)
        await association.abort()
        await until_it_is(ended)


async def test_leaving_a_query_cancels_it(network: MemoryNetwork) -> None:
    cancelled = asyncio.Event()

    async def many(request: Request) -> AsyncIterator[dict[str, str]]:
        try:
            for number in range(1_000_000):
                yield {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"1.{number}"}
        finally:
            cancelled.set()

    async with serve(at(network, 0), c_find=many), associate(at(network), contexts=[STUDY_ROOT]) as peer:
        async with peer.c_find(KEYS) as matches:
            async for _ in matches:
                break
        await until_it_is(cancelled)


async def test_a_peer_that_only_connects(network: MemoryNetwork) -> None:
    """A raw end: what it sees of the server's time-out, of an abort, and of writing to what is closed."""

    class Raw(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.block, self.received, self.lost = bytearray(4), b"", asyncio.Event()
            self.error: Exception | None = None

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.block

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.block[:nbytes]

        def connection_lost(self, exc: Exception | None) -> None:
            self.error = exc
            self.lost.set()

    async with serve(at(network, 0), timeouts=Timeouts(artim=30, drain=0)):
        silent = Raw()
        end, _ = await network.loop().create_connection(lambda: silent, network.host, 11112)
        await asyncio.sleep(0)
        network.advance(31)
        await until_it_is(silent.lost)
        assert (silent.received, silent.error, end.is_closing()) == (b"", None, True)
        end.close()
        stranger = Raw()
        end, _ = await network.loop().create_connection(lambda: stranger, network.host, 11112)
        end.write(b"GET / HTTP/1.0\r\n\r\n")
        end.write(b"")
        while len(stranger.received) < 10:
            await asyncio.sleep(0)
        assert stranger.received[0] == 7, "an A-ABORT, and then it waits for the peer to close (PS3.8 Sta13)"
        network.advance(6)
        await until_it_is(stranger.lost)
        hasty = Raw()
        end, _ = await network.loop().create_connection(lambda: hasty, network.host, 11112)
        assert (end.is_reading(), end.get_write_buffer_size()) == (True, 0)
        end.write(b"\x01\x00")
        end.abort()
        await until_it_is(hasty.lost)
        end.write(b"\x01")


async def test_nothing_is_left_of_a_network() -> None:
    with MemoryNetwork() as network:
        async with serve(at(network, 0)), associate(at(network)) as association:
            await association.c_echo()
        assert network._ends == []
        assert network._loop is not None
        loop = network._loop
    del network
    gc.collect()
    assert loop.timers == {}
