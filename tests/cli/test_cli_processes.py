"""What several processes of a server have together: shares of limits, and sums of what each counts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.address import Address
from asyncdicom.cli.several import summed
from asyncdicom.cli.state import counted
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
    is_late = bool(ending)
    connection.sendall(b"late" if is_late else b"%d" % place.number)
    connection.close()
    if is_late:
        place.listener.close()
        break
"""

# One that is told by a file what to do at its start, tells who it is, and ends when it is asked to.
_RENEWED = """
import os, select, signal, sys
from pathlib import Path
from asyncdicom.cli.supervisor import Place
place = Place.found()
if Path(sys.argv[1]).exists():
    sys.exit(3)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
place.tell_ready(str(os.getpid()))
while not ending and not place.listener.is_over:
    select.select([place.listener], [], [], 0.05)
    try:
        connection, _ = place.listener.accept()
    except OSError:
        continue
    connection.sendall(b"%d" % os.getpid())
    connection.close()
place.listener.close()
senders = [{"calling": f"MODALITY{n:08}", "instances": 1, "last": 1.7e9} for n in range(2000)]
place.tell_counted({"events": {"stored": 5, "none": 0}, "commands_failed": 1, "senders": senders})
"""


@contextlib.asynccontextmanager
async def supervised(
    program: str, *arguments: str, number: int = 2
) -> AsyncIterator[tuple[Supervisor, asyncio.Future[int]]]:
    command = [sys.executable, "-c", program, *arguments]
    supervisor = Supervisor(command, number, Address("", "127.0.0.1", 0))
    running = asyncio.ensure_future(supervisor.run())
    try:
        await supervisor.up.wait()
        yield supervisor, running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], object]) -> None:
    """Wait as long as it takes to start a process."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


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
        "senders": [{"calling": "CT1", "instances": number, "last": 5.0 if number == 1 else None}],
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
    assert both["senders"] == [{"calling": "CT1", "instances": 3, "last": 5.0}]
    assert (both["ready"], both["why_not"]) == (True, [])
    assert summed([_state(1, ready=False)])["why_not"] == ["because"]


async def test_a_third_signal_ends_processes_that_do_not_end() -> None:
    """As one that was stopped (SIGSTOP), or in which nothing runs: the others end by themselves."""
    supervisor = Supervisor([sys.executable, "-c", _STUBBORN], 2, Address("", "127.0.0.1", 0))
    running = asyncio.ensure_future(supervisor.run())
    await supervisor.up.wait()
    processes = [worker.process for worker in supervisor.workers]
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
        answers = []
        with contextlib.suppress(OSError):  # nobody is left who accepts
            while True:
                answers.append(await answered(supervisor))
        assert answers.count(b"late") == 2, "each has left after that"
        assert await running == 0


async def test_at_an_interrupt_nobody_is_accepted_any_more() -> None:
    async with supervised(_ANSWERING.format(is_strange=False, does="")) as (supervisor, running):
        supervisor._stop(signal.SIGINT)
        with pytest.raises(ConnectionRefusedError):
            await answered(supervisor)
        assert await running == 128 + signal.SIGINT


async def test_processes_are_started_anew_one_after_another(tmp_path: Path) -> None:
    """Whoever calls meanwhile is answered; what the former ones have counted is kept."""
    async with supervised(_RENEWED, str(tmp_path / "fails")) as (supervisor, _):
        former = {each.process.pid for each in supervisor.workers}
        supervisor.renew()
        most = 0
        while former & {each.process.pid for each in supervisor._all()}:
            most = max(most, len(supervisor.workers))
            assert await answered(supervisor)
        assert most == 3
        assert len(supervisor.workers) == 2
        assert sorted(each.number for each in supervisor.workers) == [0, 1]
        senders: dict[tuple[str, ...], int] = {
            ("senders", f"MODALITY{n:08}"): 2 for n in range(2000)
        }  # more than one packet takes
        kept: dict[tuple[str, ...], int] = {("events", "stored"): 10, ("commands_failed",): 2, **senders}
        assert supervisor.counted == kept


async def test_one_that_cannot_be_started_anew_leaves_the_former(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(_RENEWED, str(tmp_path / "fails")) as (supervisor, running):
        former = list(supervisor.workers)
        (tmp_path / "fails").touch()
        supervisor.renew()
        await until(lambda: "the former goes on" in caplog.text)
        assert supervisor.workers == former
        assert await answered(supervisor)
        supervisor._stop(signal.SIGTERM)
        assert await running == 0
        supervisor.renew()
        assert not supervisor.workers


async def test_one_that_ends_while_it_is_started_anew_is_not_started_twice(tmp_path: Path) -> None:
    async with supervised(_RENEWED, str(tmp_path / "fails"), number=1) as (supervisor, _):
        [former] = supervisor.workers
        supervisor.renew()
        supervisor.renew()
        former.process.kill()
        await until(lambda: former not in supervisor._all())
        await until(lambda: any(each.takes for each in supervisor.workers))
        assert await answered(supervisor)
        assert len(supervisor.workers) == 1


def test_what_is_counted_is_kept_of_those_that_have_ended() -> None:
    total = counted(_state(1)) + counted(_state(2)) + counted(_state(4))
    both = summed([_state(1), _state(2)], total)
    assert both["associations"] == {"open": 3, "limit": 8}
    assert both["operations"] == [{"operation": "C-STORE", "outcome": "success", "number": 7}]
    assert (both["events"], both["commands_failed"], both["processes"]) == ({"stored": 7}, 7, 2)
    assert both["archive"] == {"instance": 5, "conflicts": 7}
    assert both["destinations"] == [{"destination": "PACS", "under_way": 3, "delivered_since_start": 3}]
    assert both["senders"] == [{"calling": "CT1", "instances": 7, "last": 5.0}]
    assert summed([_state(1)], Counter({("webhook", "sent"): 3}))["webhook"] == {"sent": 3}
