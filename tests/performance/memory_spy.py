"""Where bytes are: what the kernel has filled, what it is given, and whether both are the same memory.

Nothing is assumed about the code in between. Bytes come from the kernel through `Transport.get_buffer`
and the read calls of `os`; they go to it through the event loop's transport and the write calls of `os`.
Whatever it is given at another address than it was put at was copied.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterable
from typing import Any

import pytest

from asyncdicom.net.transport import Transport


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def location(buffer: Any) -> range:
    """The addresses of a bytes-like object."""
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(found), 0)
    start, length = found.start or 0, found.length
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return range(start, start + length)


class Given:
    """What went one way: bytes that lie where the kernel had put them, and buffers that do not."""

    def __init__(self) -> None:
        self.in_place = 0
        self.elsewhere: list[int] = []


class MemorySpy:
    """Watches all associations of the process as long as a test runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = Given()
        self.written = Given()
        # Objects, not only addresses: as long as they live nothing else can be where they are.
        self._filled: dict[int, tuple[object, range]] = {}
        self._watch_reading(monkeypatch)
        self._watch_writing(monkeypatch)

    def _fill(self, block: object) -> None:
        if id(block) not in self._filled:
            self._filled[id(block)] = (block, location(block))

    def give(self, given: Given, buffers: Iterable[Any]) -> None:
        """See where these buffers are."""
        for buffer in buffers:
            found = location(buffer)
            blocks = (block for _, block in self._filled.values())
            if any(block.start <= found.start and found.stop <= block.stop for block in blocks):
                given.in_place += len(found)
            else:
                given.elsewhere.append(len(found))

    def _watch_reading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def get_buffer(transport: Transport, size: int, original: Any = Transport.get_buffer) -> memoryview:
            view: memoryview = original(transport, size)
            self._fill(view.obj)
            return view

        def into(file: int, buffers: Any, *more: Any, original: Any = os.preadv) -> int:
            for buffer in buffers:
                self._fill(memoryview(buffer).obj)
            return int(original(file, buffers, *more))

        def new(file: int, length: int, *more: Any, original: Any = os.pread) -> bytes:
            data: bytes = original(file, length, *more)
            self._fill(data)
            return data

        monkeypatch.setattr(Transport, "get_buffer", get_buffer)
        monkeypatch.setattr(os, "preadv", into)
        monkeypatch.setattr(os, "readv", lambda *args, original=os.readv: into(*args, original=original))
        monkeypatch.setattr(os, "pread", new)

    def _watch_writing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def gather(file: int, buffers: Any, *more: Any, original: Any) -> int:
            self.give(self.written, buffers)
            count: int = original(file, buffers, *more)
            assert count == sum(map(len, buffers)), "a short write would be counted twice"
            return count

        def watch(name: str, *, is_list: bool) -> None:
            call = getattr(os, name)

            def watched(file: int, data: Any, *more: Any) -> int:
                buffers = data if is_list else [data]
                self.give(self.written, buffers)
                count: int = call(file, data, *more)
                assert count == sum(map(len, buffers)), "a short write would be counted twice"
                return count

            monkeypatch.setattr(os, name, watched)

        for name in ("write", "pwrite", "writev", "pwritev"):
            watch(name, is_list=name.endswith("v"))

        def connection_made(
            receiver: Transport, transport: asyncio.Transport, original: Any = Transport.connection_made
        ) -> None:
            original(receiver, _SpiedTransport(transport, self))

        monkeypatch.setattr(Transport, "connection_made", connection_made)


class _SpiedTransport:
    """The event loop's transport, seen through."""

    def __init__(self, transport: asyncio.Transport, spy: MemorySpy) -> None:
        self._transport = transport
        self._spy = spy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, buffer: Any) -> None:
        self.writelines([buffer])

    def writelines(self, buffers: Iterable[Any]) -> None:
        buffers = list(buffers)
        self._spy.give(self._spy.sent, buffers)
        self._transport.writelines(buffers)
