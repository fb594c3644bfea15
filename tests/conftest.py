"""Fixtures for all tests: every coroutine test runs on uvloop and on asyncio's own loop."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

LOOPS = ["asyncio"] if sys.platform == "win32" else ["asyncio", "uvloop"]


@pytest.fixture(params=LOOPS)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    if request.param == "uvloop":
        import uvloop

        return uvloop.EventLoopPolicy()
    return asyncio.DefaultEventLoopPolicy()


@pytest.fixture(scope="session")
def pydicom_files() -> Path:
    """The data folder of pydicom, read as a folder: its look-up helpers may try to download."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files"
