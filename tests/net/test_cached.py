"""Files that are in memory are read without any wait; others are not touched."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.net import cached

DATA = os.urandom(300_001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    if not cached.works_on(str(tmp_path)):
        pytest.skip("this system cannot be asked what is in memory")
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
def test_what_is_in_memory_is_read(path: Path, length: int, position: int) -> None:
    assert cached.read_cached(path, length, position) == DATA[position : position + length]
    assert cached.read_cached(str(path), length, position) == DATA[position : position + length]


@pytest.mark.parametrize(("length", "position"), [(2, 300_000), (300_002, 0), (1, 1 << 40)])
def test_what_the_file_does_not_have_is_not_read(path: Path, length: int, position: int) -> None:
    assert cached.read_cached(path, length, position) is None


def test_what_is_not_in_memory_is_not_waited_for(path: Path) -> None:
    forget(path)
    assert cached.read_cached(path, len(DATA), 0) is None
    path.read_bytes()
    assert cached.read_cached(path, len(DATA), 0) == DATA


def test_a_part_in_memory_is_not_enough(path: Path) -> None:
    forget(path)
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
    os.pread(descriptor, 4096, 0)
    os.close(descriptor)
    assert cached.read_cached(path, 4096, 0) == DATA[:4096]
    assert cached.read_cached(path, len(DATA), 0) is None


@pytest.mark.parametrize("name", ["missing", "a/b", "file\0more"])
def test_what_cannot_be_opened_is_for_others_to_tell(path: Path, name: str) -> None:
    assert cached.open_cached(path.parent / name) is None
    assert cached.read_cached(path.parent / name, 1, 0) is None


def test_a_folder_is_not_read(path: Path) -> None:
    assert cached.read_cached(path.parent, 1, 0) is None


def test_no_descriptor_is_left(path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for length in (1, len(DATA) + 1):
        cached.read_cached(path, length, 0)
    cached.works_on(str(path.parent))
    assert opened() == before


def test_reading_leaves_no_trace_in_the_file(path: Path) -> None:
    """To note when it was read first may have to wait for the disk."""
    os.utime(path, ns=(10**9, 10**18))
    assert cached.read_cached(path, 1, 0)
    assert path.stat().st_atime_ns == 10**9


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(cached, "_IS_KNOWN", False), (os, "O_TMPFILE", 1 << 30), (cached, "open_cached", lambda path: None)],
)
def test_systems_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: object
) -> None:
    monkeypatch.setattr(module, name, value, raising=False)
    assert not cached.works_on(str(tmp_path))


def test_nothing_works_where_there_is_no_folder(tmp_path: Path) -> None:
    assert not cached.works_on(str(tmp_path / "missing"))


@pytest.mark.skipif(
    platform.system() != "Linux" or not os.access("/proc", os.R_OK), reason="a file system that reads anew"
)
def test_a_file_system_that_cannot_say_so() -> None:
    assert not cached.works_on("/proc/self")
    assert cached.read_cached("/proc/self/stat", 1, 0) is None


def test_a_system_without_the_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "_call", None)
    assert cached.open_cached(path) is None
