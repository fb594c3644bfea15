"""The link of the scenario `distance`: a round trip is one, order is kept, and nothing is held without bound.

Time is an argument of `Line`, so delays and rates are exact here; sockets show the rest.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.link import END, RESET, Bucket, End, Line, Link

# Time is given: `Line` and `Bucket`


def test_what_is_put_arrives_half_a_round_trip_later_and_not_before() -> None:
    line = Line(0.025, Bucket())
    line.put(b"one", 10.0)
    assert line.next_arrival() == 10.025
    assert line.take(10.0249) == []
    assert line.take(10.025) == [b"one"]
    assert line.next_arrival() is None


def test_an_acknowledgement_takes_the_other_half() -> None:
    line = Line(0.025, Bucket())
    line.put(b"one", 10.0)
    line.take(10.025)
    assert line.unacknowledged(10.0499) == 3
    assert line.unacknowledged(10.0501) == 0


def test_what_does_not_arrive_is_not_acknowledged() -> None:
    line = Line(0.025, Bucket())
    line.put(b"one", 10.0)
    assert line.unacknowledged(99.0) == 3


def test_a_connection_that_is_not_open_yet_delays_what_is_put() -> None:
    line = Line(0.025, Bucket(), opens=10.05)
    line.put(b"one", 10.0)
    assert line.next_arrival() == pytest.approx(10.075)


@given(st.lists(st.tuples(st.binary(max_size=9), st.floats(0, 1)), max_size=30), st.floats(1, 1e6))
def test_order_is_kept_at_any_rate_and_nothing_is_lost(puts: list[tuple[bytes, float]], rate: float) -> None:
    line, now, sent = Line(0.1, Bucket(rate)), 0.0, []
    taken: list[bytes | bytearray] = []
    for data, pause in puts:
        now += pause
        line.put(data, now)
        sent.append(data)
        taken += line.take(now)
    while (due := line.next_arrival()) is not None:
        taken += line.take(due)
    assert taken == sent


@pytest.mark.parametrize("size", [100, 65536, 262144])
def test_the_rate_is_kept_within_5_percent(size: int) -> None:
    """Also by two connections together, which share it."""
    rate, bucket = 25e6, Bucket(25e6)
    lines = [Line(0.1, bucket), Line(0.1, bucket)]
    count = int(rate / size)  # a second's worth
    for number in range(count):
        lines[number % 2].put(bytes(size), 0.0)
    end = max(line._on_the_way[-1][0] for line in lines) - 0.1
    assert end == pytest.approx(count * size / rate, rel=0.05)


def test_a_pause_saves_no_more_than_a_burst() -> None:
    bucket = Bucket(1000.0, burst=100)
    assert bucket.leaves(1000, 0.0) == pytest.approx(0.9)
    assert bucket.leaves(1000, 1000.0) == pytest.approx(1000.9)


# Sockets: `Link`


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Conversation) -> AsyncIterator[int]:
    """A server; gives its port, and in the end waits until all connections have ended."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=65536)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await asyncio.wait_for(asyncio.gather(*tasks), 20)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader, writer
    writer.transport.abort()


async def test_a_question_and_its_answer_take_at_least_two_round_trips_with_the_connection() -> None:
    async with serving(echo) as port, Link(port, rtt=0.05) as link:
        start = asyncio.get_running_loop().time()
        async with connected(link.port) as (reader, writer):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            assert asyncio.get_running_loop().time() - start >= 0.1 - 0.002  # uvloop's clock has milliseconds
            writer.write_eof()
            assert await reader.read() == b""


async def test_many_connections_keep_their_order_and_their_end() -> None:
    async def talk(port: int, number: int) -> None:
        sent = random.Random(number).randbytes(300_000)
        async with connected(port) as (reader, writer):
            writer.write(sent)
            writer.write_eof()
            assert await reader.read(-1) == sent

    async with serving(echo) as port, Link(port, rtt=0.01, rate=500e6, window=100_000) as link:
        await asyncio.gather(*(talk(link.port, number) for number in range(20)))


async def test_an_end_that_is_told_twice_arrives_once() -> None:
    """uvloop tells it again when reading is paused and resumed behind it."""
    line = Line(0.0, Bucket())
    end = End(line, 1 << 20)
    assert end.eof_received()
    assert end.eof_received()
    assert [data is END for data in line.take(float("inf"))] == [True]


async def test_a_reader_that_does_not_read_stops_the_sender() -> None:
    is_over = asyncio.Event()

    async def read_nothing(*_: object) -> None:
        await is_over.wait()

    async with serving(read_nothing) as port, Link(port, rtt=0.0, window=1 << 20) as link:
        async with connected(link.port) as (_, writer):
            writer.transport.set_write_buffer_limits(0)
            taken = 0
            while taken < 256 << 20:
                writer.write(bytes(1 << 20))
                try:
                    await asyncio.wait_for(writer.drain(), 0.3)
                except TimeoutError:
                    break
                taken += 1 << 20
        is_over.set()
    assert taken < 64 << 20  # the window, one read more, and what the kernel holds for two connections


async def test_a_reset_is_one_at_the_other_side() -> None:
    ended: list[ConnectionError | bytes] = []
    has_ended = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            ended.append(await reader.read(-1))
        except ConnectionError as error:
            ended.append(error)
        has_ended.set()

    async with serving(listen) as port, Link(port, rtt=0.01) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.wait_for(has_ended.wait(), 20)
    assert isinstance(ended[0], ConnectionError)


async def test_where_nobody_listens_the_connection_ends() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        async with Link(unused.getsockname()[1], rtt=0.0) as link, connected(link.port) as (reader, _):
            assert await reader.read(1) == b""


def test_the_two_ends_of_a_stream_are_told_apart() -> None:
    line = Line(0.0, Bucket())
    line.put(RESET, 0.0)
    line.put(END, 0.0)
    first, second = line.take(0.0)
    assert first is RESET
    assert second is END
