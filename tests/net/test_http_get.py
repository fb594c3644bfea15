"""Pages for machines: what is answered, and what a client may cost."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from helpers.get_page import ask

from asyncdicom.net.http_get import Answer, Pages

BUSY = HTTPStatus.SERVICE_UNAVAILABLE


async def well() -> Answer:
    return Answer(b"ok\n")


async def not_ready() -> Answer:
    return Answer(b"no\n", BUSY)


async def broken() -> Answer:
    raise KeyError("broken")


PAGES = {"/healthz": well, "/readyz": not_ready, "/broken": broken}


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1", "200 OK", b"ok\n"),
        (b"GET /healthz?x=1 HTTP/1.0", "200 OK", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1", "200 OK", b""),
        (b"GET /readyz HTTP/1.1", "503 Service Unavailable", b"no\n"),
        (b"GET /broken HTTP/1.1", "500 Internal Server Error", b"Internal Server Error; the log says why\n"),
        (b"GET / HTTP/1.1", "404 Not Found", b"Not Found; there are /healthz, /readyz, /broken\n"),
        (b"POST /healthz HTTP/1.1", "405 Method Not Allowed", b"Method Not Allowed\n"),
        (b"\xff\x00 \x01", "400 Bad Request", b"Bad Request\n"),
        (b"", "400 Bad Request", b"Bad Request\n"),
        (b"GET /healthz", "400 Bad Request", b"Bad Request\n"),
    ],
)
async def test_what_is_answered(request_line: bytes, status: str, body: bytes) -> None:
    async with Pages("127.0.0.1", 0, PAGES) as pages:
        said, fields, content = await ask(pages.port, request_line + b"\r\nHost: x\r\n\r\n")
    assert said == f"HTTP/1.1 {status}"
    assert content == body
    assert int(fields["Content-Length"]) == (3 if b"HEAD" in request_line else len(body))
    assert fields["Connection"] == "close"
    assert ("Allow" in fields) == status.startswith("405")


async def test_a_request_without_an_end_is_refused() -> None:
    async with Pages("127.0.0.1", 0, PAGES) as pages:
        status, _, _ = await ask(pages.port, b"GET / HTTP/1.1\r\nA: " + b"x" * 9000)
        assert status == "HTTP/1.1 431 Request Header Fields Too Large"


async def test_who_says_nothing_is_closed_and_keeps_nobody_out() -> None:
    async with Pages("127.0.0.1", 0, PAGES, patience=0.05, connections=2) as pages:
        assert await ask(pages.port, b"GET") == ("", {}, b"")
    async with Pages("127.0.0.1", 0, PAGES, connections=2) as pages:
        silent = [await asyncio.open_connection("127.0.0.1", pages.port) for _ in range(5)]
        status, _, _ = await ask(pages.port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
        for reader, writer in silent[:4]:
            async with asyncio.timeout(30):
                assert await reader.read() == b""
            writer.close()
        silent[4][1].close()


async def test_who_has_asked_gets_his_answer_though_others_come() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Answer:
        asked.set()
        await go_on.wait()
        return Answer(b"slow\n")

    async with Pages("127.0.0.1", 0, {"/slow": slow}, connections=2) as pages:
        first = asyncio.ensure_future(ask(pages.port, b"GET /slow HTTP/1.1\r\n\r\n"))
        await asked.wait()
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", pages.port)
            status, _, _ = await ask(pages.port, b"GET / HTTP/1.1\r\n\r\n")
            assert status == "HTTP/1.1 404 Not Found"
            writer.close()
        go_on.set()
        assert (await first)[2] == b"slow\n"
    async with Pages("127.0.0.1", 0, {"/slow": slow}, connections=1) as pages:  # all have asked
        asked.clear()
        go_on.clear()
        first = asyncio.ensure_future(ask(pages.port, b"GET /slow HTTP/1.1\r\n\r\n"))
        await asked.wait()
        second = asyncio.ensure_future(ask(pages.port, b"GET /slow HTTP/1.1\r\n\r\n"))
        assert (await first)[2] == b""
        go_on.set()
        assert (await second)[2] == b"slow\n"


async def test_who_goes_away_or_stays_at_the_end_costs_nothing() -> None:
    async with Pages("127.0.0.1", 0, PAGES) as pages:
        _, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(b"GET /heal")
        writer.close()
        reader, stays = await asyncio.open_connection("127.0.0.1", pages.port)
        status, _, _ = await ask(pages.port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    stays.close()


async def test_who_takes_no_answer_is_closed() -> None:
    async def large() -> Answer:
        return Answer(bytes(64 << 20))

    async with Pages("127.0.0.1", 0, {"/large": large}, patience=0.2) as pages:
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port, limit=64)
        writer.write(b"GET /large HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(30):
            assert await reader.readexactly(8) == b"HTTP/1.1"
            while pages._connections:
                await asyncio.sleep(0.01)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(64 << 20)
        writer.close()
