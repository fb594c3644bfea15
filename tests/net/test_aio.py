"""Files that are synced together."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.net import aio


@pytest.fixture
def together(tmp_path: Path) -> Iterator[aio.Aio]:
    if not aio.works_on(str(tmp_path)):
        pytest.skip("this system has no AIO for this file system")
    made = aio.Aio(8)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open(tmp_path / str(number), os.O_WRONLY | os.O_CREAT) for number in range(3)]
    opened.append(os.open(tmp_path, os.O_RDONLY))
    yield opened
    for descriptor in opened:
        os.close(descriptor)


def test_files_and_folders_are_synced_by_one_call(together: aio.Aio, files: list[int]) -> None:
    for _ in range(3):  # it is used again
        assert together.sync(files[:3], files[3:]) == [None] * 4
    assert together.sync([]) == []


def test_each_is_told_what_failed_for_it(together: aio.Aio, files: list[int]) -> None:
    reading, writing = os.pipe()  # which cannot be synced
    os.close(reading)
    bad = [files[0], writing, files[1], 1 << 20, files[2]]
    errors = together.sync(bad, files[3:])
    os.close(writing)
    assert [error and error.errno for error in errors] == [None, errno.EINVAL, None, errno.EBADF, None, None]


class Kernel:
    """Says what it is told to say, then what the real one says."""

    def __init__(self, together: aio.Aio, *says: tuple[int, int]) -> None:
        self._call, self._says = together._call, list(says)
        self._get_events = together._get_events
        together._call = self  # type: ignore[assignment]

    def __call__(self, number: ctypes.c_long, *arguments: Any) -> Any:
        if number is self._get_events and self._says:
            result, error = self._says.pop(0)
            ctypes.set_errno(error)
            return result
        return self._call(number, *arguments)


def test_a_signal_does_not_end_the_wait(together: aio.Aio, files: list[int]) -> None:
    Kernel(together, (-1, errno.EINTR), (0, 0))
    assert together.sync(files[:3], files[3:]) == [None] * 4


def test_what_cannot_be_waited_for_failed(together: aio.Aio, files: list[int]) -> None:
    Kernel(together, (-1, errno.EINVAL))
    with pytest.raises(OSError, match="Invalid") as raised:
        together.sync(files[:3])
    assert raised.value.errno == errno.EINVAL
    # Results that come late are nobody's: from then on each is synced on its own.
    assert together._submit_all(1) == 0
    errors = together.sync([files[0], 1 << 20], files[3:])
    assert [error and error.errno for error in errors] == [None, errno.EBADF, None]


def test_the_kernel_tells_what_a_sync_failed_with(together: aio.Aio, files: list[int]) -> None:
    together._events[0].result = -errno.EIO
    together._events[0].data = 1
    Kernel(together, (1, 0), (2, 0))
    errors = together.sync(files[:3])
    assert [error and error.errno for error in errors] == [None, errno.EIO, None]


def test_a_system_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        aio.Aio(1)
    assert not aio.works_on(str(tmp_path))


def test_a_system_that_has_none_left(together: aio.Aio) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        aio.Aio(0)
