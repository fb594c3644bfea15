"""Fixtures for all tests: every coroutine test runs on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.net.tls_sessions import SESSIONS
from asyncdicom.windows import WINDOWS

# A shell lets what it runs in the background ignore Ctrl-C, and what that starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules that tests share: with this their assertions hold as well where Python runs with -O.
pytest.register_assert_rewrite("helpers", "cli", "data", "endurance", "interop", "performance")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        factories["uvloop"] = _new_uvloop
    return factories


def _new_uvloop() -> asyncio.AbstractEventLoop:
    """Make a loop in which a test that waits for ever comes to an end.

    When its time is over a signal raises, and uvloop logs what a signal raises, and goes on.
    """
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    loop.set_exception_handler(_end_by_outcome)
    return loop


def _end_by_outcome(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), pytest.fail.Exception):
        for task in asyncio.all_tasks(loop):
            task.cancel()


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """What one test learns of a peer holds for no other, which may have the same port."""
    WINDOWS.clear()
    SESSIONS.clear()


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    """The data folder of pydicom, read as a folder: its look-up helpers may try to download."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files"
