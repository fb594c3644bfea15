"""The proxy passes on every byte, whatever it is, and ends with its connections."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asyncdicom import Address, BytesSource, Request, Status, associate, serve, storage_contexts
from asyncdicom.tracing.proxy import Proxy
from asyncdicom.tracing.recorder import Capture, Recorder
from asyncdicom.tracing.tap import Tap
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, new_uid

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CT = "1.2.840.10008.5.1.4.1.1.2"


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str, fields: dict[str, object]) -> None:
        assert fields["text"]
        self.lines.append(text)

    def has(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@asynccontextmanager
async def between(target: Address, told: Told, **options: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(Address("", "127.0.0.1", 0), target, Recorder(told), **options)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
    assert proxy.associations == 0


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[Address]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield Address("", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def test_an_association_passes_and_is_told() -> None:
    received = []

    async def c_store(request: Request) -> Status:
        received.append(await request.data.read())
        return Status.SUCCESS

    told, data = Told(), os.urandom(3 << 20)
    source = BytesSource(CT, new_uid(), EXPLICIT_VR_LITTLE_ENDIAN, data)
    async with serve("SCP@127.0.0.1:0", c_store=c_store) as server:
        async with between(Address("", "127.0.0.1", server.port), told, most=1) as proxy:
            contexts = storage_contexts([source])
            async with associate(f"SCP@127.0.0.1:{proxy.port}", contexts=contexts) as association:
                assert (await association.c_store(source)).status.is_success
            await proxy.serve_forever()
    assert received == [data]
    assert told.has("A-ASSOCIATE-RQ ASYNCDICOM calls SCP")
    assert told.has(f"data set of the C-STORE-RQ: {len(data)} bytes")
    assert told.has("C-STORE-RQ: 1 answers")
    assert not told.has("nonsense")


async def test_nonsense_passes_untouched_and_halves_are_closed_one_by_one() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        everything = await reader.read()  # to the end of the other half
        writer.write(everything[::-1])
        writer.close()

    told, sent = Told(), bytes(range(256)) * 10
    async with listening(talk) as target, between(target, told, most=1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent[::-1]
        writer.close()
        await proxy.serve_forever()
    assert told.has("nonsense: from the requestor: unrecognized PDU type 00H")
    assert told.has("the requestor closes")


async def test_who_is_reset_resets_the_other() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    told = Told()
    async with listening(talk) as target, between(target, told, most=1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(bytes(1000))
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        writer.transport.abort()
        await proxy.serve_forever()
    assert told.has("the connection is over")


async def test_a_target_that_is_down() -> None:
    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError

    async with listening(nobody) as gone:
        pass
    told = Told()
    async with between(gone, told, most=1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        writer.close()
        await proxy.serve_forever()
    assert told.has("the connection is over: ")


async def test_closing_breaks_off_what_there_is() -> None:
    arrived = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.transport.abort()

    told = Told()
    async with listening(talk) as target:
        async with between(target, told) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            await arrived.wait()
            assert proxy.associations == 1
            assert proxy.drain_timeout == 0
        writer.transport.abort()
    assert told.has("the connection is over: CancelledError")


async def test_no_more_than_it_was_told_to_take() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    told = Told()
    async with listening(talk) as target, between(target, told, most=1) as proxy:
        _, first = await asyncio.open_connection("127.0.0.1", proxy.port)
        while proxy.associations == 0:
            await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        first.close()
        await proxy.serve_forever()
    assert sum("connects to" in line for line in told.lines) == 1


# what is written


def test_a_capture_replaces_nothing_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcap"
    capture = Capture(str(path))
    capture.write(b"12")
    capture.close()
    capture.close()
    assert path.read_bytes()[24:] == b"12"
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        Capture(str(path))


def test_a_disk_that_is_full_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    capture = Capture(str(tmp_path / "wire.pcap"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        capture.write(bytes(4 << 20))
        capture.write(b"more")
        capture.flush()
        capture.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capture.failed
    assert sum("takes no more packets" in record.message for record in caplog.records) == 1


async def test_what_we_say_ourselves_is_seen_from_both_ends(tmp_path: Path) -> None:
    ours, theirs, messages = Told(), Told(), []
    capture = Capture(str(tmp_path / "ours.pcap"))
    tap = Tap(Recorder(ours, capture=capture), lambda direction, what: messages.append(direction))
    async with serve("SCP@127.0.0.1:0", trace=Tap(Recorder(theirs))) as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", trace=tap) as association:
            await association.c_echo()
    capture.close()
    for told in (ours, theirs):
        assert told.has("-> C-ECHO-RQ 1 Verification")
        assert told.has("<- C-ECHO-RSP 1 0x0000 (Success)")
        assert told.has("ended by A-RELEASE-RP")
        assert not told.has("nonsense")
    assert "sent" in messages
    assert (tmp_path / "ours.pcap").stat().st_size > 500


def test_a_fault_of_the_watcher_costs_the_watching_alone(caplog: pytest.LogCaptureFixture) -> None:
    def broken(text: str, fields: dict[str, object]) -> None:
        if "nonsense" in text:
            raise RuntimeError("no paper")

    watched = Recorder(broken).connection(("127.0.0.1", 1), ("127.0.0.1", 2))
    watched.passed(True, b"GET / HTTP/1.1")
    watched.passed(True, b"more")
    watched.held(True, 1.0)
    watched.ended()
    watched.ended()
    assert "the watching of a connection has failed" in caplog.text
