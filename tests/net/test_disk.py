"""File calls: where they are made, and what every platform has to do by them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.net import disk
from asyncdicom.net.disk import Disk, write_all


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


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_write_all_writes_all(buffers: list[bytes]) -> None:
    reader, writer = os.pipe()
    try:
        write_all(writer, buffers)
        os.close(writer)
        with open(reader, "rb", closefd=False) as file:
            assert file.read() == b"".join(buffers)
    finally:
        os.close(reader)


def test_write_all_goes_on_after_a_short_write() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    got = bytearray()

    def read() -> None:
        while piece := os.read(reader, 7919):
            got.extend(piece)

    thread = threading.Thread(target=read)
    thread.start()
    buffers = [bytes([number % 251]) * (number * 37 % 5000) for number in range(3000)]
    write_all(writer, buffers)
    os.close(writer)
    thread.join()
    os.close(reader)
    assert got == b"".join(buffers)


# what a platform may lack

PLATFORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "Linux": {},
    "macOS before 11": {"_HAS_PREADV": ("preadv",)},
    "Windows": {"_HAS_WRITEV": ("writev",), "_HAS_PREAD": ("pread", "pwrite"), "_HAS_PREADV": ("preadv",)},
}
CALLS = ("write", "writev", "pwrite", "read", "pread", "preadv")


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system that lacks some calls."""
    for flag, names in PLATFORMS[request.param].items():
        monkeypatch.setattr(disk, flag, False)
        for name in names:
            monkeypatch.delattr(os, name)
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("platform")
def test_what_is_written_can_be_read(file: int) -> None:
    buffers = [b"", *(bytes([number % 251]) * (number % 7) for number in range(3000)), b""]
    whole = b"".join(buffers)
    write_all(file, [b""] * 2000)
    write_all(file, buffers)
    assert disk.read_at(file, len(whole), 0) == whole
    assert disk.read_at(file, 100, 17) == whole[17:117]
    view = memoryview(bytearray(200))
    disk.read_into(file, view, 33)
    assert view == whole[33:233]


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("position", [2, 6, 20])
def test_less_than_asked_for_is_an_error(file: int, position: int) -> None:
    write_all(file, [b"abcdef"])
    with pytest.raises(EOFError):
        disk.read_at(file, 10, position)
    with pytest.raises(EOFError):
        disk.read_into(file, memoryview(bytearray(10)), position)
    assert disk.read_at(file, 0, position) == b""
    disk.read_into(file, memoryview(bytearray()), position)


@pytest.mark.usefixtures("platform")
def test_writing_over_something_does_not_move_where_it_goes_on(file: int) -> None:
    write_all(file, [b"abcdef"])
    disk.write_at(file, b"XY", 1)
    write_all(file, [b"g"])
    assert disk.read_at(file, 7, 0) == b"aXYdefg"
    disk.sync_data(file)


@pytest.mark.usefixtures("platform")
def test_a_system_that_takes_and_gives_little_at_once(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {name: getattr(os, name) for name in CALLS if hasattr(os, name)}
    little = {
        "write": lambda fd, data: calls["write"](fd, bytes(data)[:3]),
        "pwrite": lambda fd, data, position: calls["pwrite"](fd, bytes(data)[:3], position),
        "writev": lambda fd, buffers: calls["write"](fd, b"".join(buffers)[:3]),
        "read": lambda fd, length: calls["read"](fd, min(length, 3)),
        "pread": lambda fd, length, position: calls["pread"](fd, min(length, 3), position),
        "preadv": lambda fd, views, position: calls["preadv"](fd, [views[0][:3]], position),
    }
    for name in calls:
        monkeypatch.setattr(os, name, little[name])
    write_all(file, [b"abcd", b"", b"efghijk"])
    disk.write_at(file, b"DEFGH", 3)
    assert disk.read_at(file, 11, 0) == b"abcDEFGHijk"
    view = memoryview(bytearray(10))
    disk.read_into(file, view, 1)
    assert view == b"bcDEFGHijk"
