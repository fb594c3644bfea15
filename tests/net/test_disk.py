"""When file calls are made in the event loop, and when in threads."""

from __future__ import annotations

import threading

import pytest

from asyncdicom.net.disk import Disk


class Machine:
    """A clock, and how often the thread slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0
        self.disk = Disk(lambda: self.now, lambda: self.slept)

    def interrupted(self) -> int:
        """A call that takes long because other processes run."""
        self.now += 0.010
        return threading.get_ident()

    def slow(self) -> int:
        """A call that waits for the disk."""
        self.slept += 1
        return self.interrupted()

    def quick(self) -> int:
        return threading.get_ident()


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def test_calls_are_made_in_the_event_loop_while_the_disk_is_quick(machine: Machine) -> None:
    for _ in range(100):
        assert await machine.disk.call(machine.quick) == threading.get_ident()


async def test_to_be_interrupted_is_not_to_be_slow(machine: Machine) -> None:
    for _ in range(100):
        assert await machine.disk.call(machine.interrupted) == threading.get_ident()


async def test_a_slow_disk_gets_threads_from_the_second_call_on(machine: Machine) -> None:
    await machine.disk.call(machine.slow)
    assert machine.disk.is_quick, "it may have been interrupted"
    await machine.disk.call(machine.quick)
    await machine.disk.call(machine.slow)
    assert not machine.disk.is_quick
    assert await machine.disk.call(machine.quick) != threading.get_ident()


async def test_it_is_tried_again_later_and_later(machine: Machine) -> None:
    await machine.disk.call(machine.slow)
    for ban in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        await machine.disk.call(machine.slow)
        began = machine.now
        machine.now = began + ban - 0.001
        assert not machine.disk.is_quick
        machine.now = began + ban
        assert machine.disk.is_quick


async def test_a_disk_that_is_quick_again_begins_anew(machine: Machine) -> None:
    for _ in range(4):
        await machine.disk.call(machine.slow)
        machine.now += 60
    for _ in range(16):
        await machine.disk.call(machine.quick)
    await machine.disk.call(machine.slow)
    assert machine.disk.is_quick
    await machine.disk.call(machine.slow)
    machine.now += 1.0
    assert machine.disk.is_quick


async def test_what_goes_wrong_is_raised(machine: Machine) -> None:
    def full() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await machine.disk.call(full)
