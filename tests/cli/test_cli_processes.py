"""What several processes of a server have together: shares of limits, and sums of what each counts."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

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
    processes = [worker.process for worker in supervisor.workers.values()]
    for _ in range(2):
        supervisor._stop(signal.SIGTERM)
        await asyncio.sleep(0)
        assert not running.done()
    supervisor._stop(signal.SIGTERM)
    assert await running == 128 + signal.SIGKILL
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2
