"""Files that are in memory are read without any wait; others are not touched."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.net import cached

DATA = os.urandom(300_001)


@pytest.fixture
def memory(tmp_path: Path) -> cached.Memory:
    found = cached.memory_of(str(tmp_path))
    if found is None:
        pytest.skip("this system cannot be asked what is in memory")
    return found


@pytest.fixture
def path(tmp_path: Path, memory: cached.Memory) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def forget(path: Path, position: int = 0, length: int = 0) -> None:
    """Let the system forget what is in a file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)
        view = bytearray(1)
        if os.preadv(descriptor, [view], position, os.RWF_NOWAIT):
            pytest.skip("this file system is in memory")
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(("length", "position"), [(0, 0), (1, 0), (39, 100), (300_001, 0), (1, 300_000)])
def test_what_is_in_memory_is_read(memory: cached.Memory, path: Path, length: int, position: int) -> None:
    assert memory.read(path, length, position) == DATA[position : position + length]
    assert memory.read(str(path), length, position) == DATA[position : position + length]


@pytest.mark.parametrize(("length", "position"), [(2, 300_000), (300_002, 0), (1, 1 << 40)])
def test_what_the_file_does_not_have_is_not_read(
    memory: cached.Memory, path: Path, length: int, position: int
) -> None:
    assert memory.read(path, length, position) is None


def test_what_is_not_in_memory_is_not_waited_for(memory: cached.Memory, path: Path) -> None:
    forget(path)
    assert memory.read(path, len(DATA), 0) is None
    path.read_bytes()
    assert memory.read(path, len(DATA), 0) == DATA


def test_a_part_in_memory_is_not_enough(memory: cached.Memory, path: Path) -> None:
    forget(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
    os.pread(descriptor, 4096, 0)
    os.close(descriptor)
    assert memory.read(path, 4096, 0) == DATA[:4096]
    assert memory.read(path, len(DATA), 0) is None
    file = memory.open(path)
    assert file is not None
    # The kernel would want to read what follows, too.
    assert not memory.read_into(file, bytearray(4096), 0, len(DATA))
    os.close(file)


@pytest.mark.parametrize("name", ["missing", "a/b", "file\0more"])
def test_what_cannot_be_opened_is_for_others_to_tell(memory: cached.Memory, path: Path, name: str) -> None:
    assert memory.open(path.parent / name) is None
    assert memory.read(path.parent / name, 1, 0) is None


def test_a_folder_is_not_read(memory: cached.Memory, path: Path) -> None:
    assert memory.read(path.parent, 1, 0) is None


def test_no_descriptor_is_left(memory: cached.Memory, path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for length in (1, len(DATA) + 1):
        memory.read(path, length, 0)
    cached.memory_of(str(path.parent))
    assert opened() == before


def test_reading_leaves_no_trace_in_the_file(memory: cached.Memory, path: Path) -> None:
    """To note when it was read first may have to wait for the disk."""
    os.utime(path, ns=(10**9, 10**18))
    assert memory.read(path, 1, 0)
    assert path.stat().st_atime_ns == 10**9


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (cached, "_NO_WAIT", 0),
        (cached, "_MACHINES", ()),
        (cached, "_OPENAT2", 100_000),  # which no kernel has
        (os, "O_TMPFILE", 1 << 30),
    ],
)
def test_systems_that_cannot_be_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: object
) -> None:
    monkeypatch.setattr(module, name, value)
    assert cached.memory_of(str(path.parent)) is None


def test_a_file_system_that_always_waits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", refuse)
    assert cached.memory_of(str(path.parent)) is None


def test_a_kernel_that_cannot_count_is_asked_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 6.5: what does not wait reads nothing from the disk there."""
    monkeypatch.setattr(cached, "_CACHESTAT", 100_000)
    memory = cached.memory_of(str(path.parent))
    assert memory is not None
    assert memory.read(path, len(DATA), 0) == DATA


def test_another_ones_file_is_for_threads(
    memory: cached.Memory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an owner may read without a trace."""
    if os.getuid():
        pytest.skip("only root can give a file away")
    path.chmod(0o644)
    path.parent.chmod(0o755)
    monkeypatch.chdir(path.parent)
    os.seteuid(65534)
    try:
        assert memory.open("file") is None
        os.close(os.open("file", os.O_RDONLY))
    finally:
        os.seteuid(0)


def test_nothing_works_where_there_is_no_folder(tmp_path: Path) -> None:
    assert cached.memory_of(str(tmp_path / "missing")) is None


@pytest.mark.skipif(
    platform.system() != "Linux" or not os.access("/proc", os.R_OK), reason="a file system that reads anew"
)
def test_a_file_system_that_cannot_say_so() -> None:
    assert cached.memory_of("/proc/self") is None
