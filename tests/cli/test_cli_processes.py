"""What several processes of a server have together: shares of limits, and sums of what each counts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncdicom.address import Address
from asyncdicom.cli.several import summed
from asyncdicom.cli.supervisor import Shares, Supervisor

_STUBBORN = """
import signal, time
from asyncdicom.cli.supervisor import Place
signal.signal(signal.SIGTERM, signal.SIG_IGN)
place = Place.found()
place.tell_ready("{}")
time.sleep(600)
"""

# A process that answers connections with its number; the first one takes none, and does something else then.
_ANSWERING = """
import os, select, signal
from asyncdicom.cli.supervisor import Place
place = Place.found()
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
place.tell_ready("")
while not place.listener.is_over:
    select.select([place.listener], [], [], 0.05)
    if place.number == 0 and {is_strange}:
        if select.select([place.listener], [], [], 0)[0]:
            {does}
            break
        continue
    try:
        connection, _ = place.listener.accept()
    except OSError:
        continue
    connection.sendall(b"late" if ending else b"%d" % place.number)
    connection.close()
    if ending:
        place.listener.close()
        break
"""


@contextlib.asynccontextmanager
async def supervised(program: str, number: int = 2) -> AsyncIterator[tuple[Supervisor, asyncio.Future[int]]]:
    supervisor = Supervisor([sys.executable, "-c", program], number, Address("", "127.0.0.1", 0))
    running = asyncio.ensure_future(supervisor.run())
    try:
        await supervisor.up.wait()
        yield supervisor, running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def answered(supervisor: Supervisor) -> bytes:
    reader, writer = await asyncio.open_connection(*supervisor._where[:2])
    try:
        return await reader.read()
    finally:
        writer.close()


def test_shares_are_of_all_together() -> None:
    shares = Shares()
    one, other = object(), object()
    assert shares.take(one, 1, [("all", 3), ("address a", 2)]) is None
    assert shares.take(other, 1, [("all", 3), ("address a", 2)]) is None
    assert shares.take(other, 2, [("all", 3), ("address a", 2)]) == "address a"
    assert shares.take(other, 3, [("all", 3), ("address b", 2)]) is None
    assert shares.take(one, 2, [("all", 3)]) == "all"
    shares.give_back(other, 2)  # it was none
    shares.give_back(other, 3)
    assert shares.take(one, 2, [("all", 3), ("address b", 1)]) is None
    shares.forget(one)
    assert shares.take(other, 4, [("all", 2), ("address a", 2)]) is None
    shares.forget(other)
    assert shares._used == {}


def _state(number: int, *, ready: bool = True) -> dict[str, Any]:
    return {
        "associations": {"open": number, "limit": 8},
        "operations": [{"operation": "C-STORE", "outcome": "success", "number": number}],
        "events": {"stored": number},
        "delivery_events": {},
        "log": {"errors": 0},
        "commands_failed": number,
        "archive": {"instance": 5, "conflicts": number},
        "destinations": [{"destination": "PACS", "under_way": number, "delivered_since_start": 1}],
        "ready": ready,
        "why_not": [] if ready else ["because"],
    }


def test_what_each_counts_is_added() -> None:
    both = summed([_state(1, ready=False), _state(2)])
    assert both["associations"] == {"open": 3, "limit": 8}
    assert both["operations"] == [{"operation": "C-STORE", "outcome": "success", "number": 3}]
    assert (both["events"], both["commands_failed"], both["processes"]) == ({"stored": 3}, 3, 2)
    assert both["archive"] == {"instance": 5, "conflicts": 3}
    assert both["destinations"] == [{"destination": "PACS", "under_way": 3, "delivered_since_start": 2}]
    assert (both["ready"], both["why_not"]) == (True, [])
    assert summed([_state(1, ready=False)])["why_not"] == ["because"]


async def test_a_third_signal_ends_processes_that_do_not_end() -> None:
    """As one that was stopped (SIGSTOP), or in which nothing runs: the others end by themselves."""
    supervisor = Supervisor([sys.executable, "-c", _STUBBORN], 2, Address("", "127.0.0.1", 0))
    running = asyncio.ensure_future(supervisor.run())
    await supervisor.up.wait()
    processes = [worker.process for worker in supervisor.workers.values()]
    for _ in range(2):
        supervisor._stop(signal.SIGTERM)
        await asyncio.sleep(0)
        assert not running.done()
    supervisor._stop(signal.SIGTERM)
    assert await running == 128 + signal.SIGKILL
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("does", ["place.listener.close()", "os.kill(os.getpid(), signal.SIGKILL)"])
async def test_a_connection_that_one_has_not_taken_is_handed_to_another_one(does: str) -> None:
    """The caller sees nothing of that, whether the process ends or is killed."""
    async with supervised(_ANSWERING.format(is_strange=True, does=does)) as (supervisor, _):
        for _ in range(3):
            assert await answered(supervisor) == b"1"


async def test_connections_are_accepted_until_all_have_left() -> None:
    async with supervised(_ANSWERING.format(is_strange=False, does="")) as (supervisor, running):
        assert await answered(supervisor) in (b"0", b"1")
        supervisor._stop(signal.SIGTERM)
        answers = [await answered(supervisor) for _ in range(2)]
        assert b"late" in answers
        with contextlib.suppress(OSError):  # one may have been told later than it was asked
            while True:
                await answered(supervisor)
        assert await running == 0


async def test_at_an_interrupt_nobody_is_accepted_any_more() -> None:
    async with supervised(_ANSWERING.format(is_strange=False, does="")) as (supervisor, running):
        supervisor._stop(signal.SIGINT)
        with pytest.raises(ConnectionRefusedError):
            await answered(supervisor)
        assert await running == 128 + signal.SIGINT
