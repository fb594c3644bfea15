"""Limits are compared with the descriptors that there are."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator

import pytest

from asyncdicom import Limits, serve
from asyncdicom.net.descriptors import fitting, missing_descriptors, raise_limit


@pytest.fixture
def few() -> Iterator[None]:
    """1,024 descriptors, as most systems give them; more are to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few")
async def test_a_server_says_that_they_are_too_few(caplog: pytest.LogCaptureFixture) -> None:
    async with serve("SCP@127.0.0.1:0"):
        pass
    assert "may open 1024 files and sockets, its limits need 2712: raise RLIMIT_NOFILE" in caplog.text
    caplog.clear()
    async with serve("SCP@127.0.0.1:0", limits=fitting(Limits())):
        pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("few")
def test_the_soft_limit_is_raised() -> None:
    raise_limit(Limits())
    assert missing_descriptors(Limits()) is None
    raise_limit(Limits(maximum_associations=10**9))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


@pytest.mark.usefixtures("few")
def test_else_there_are_fewer_associations() -> None:
    fitted = fitting(Limits())
    assert missing_descriptors(fitted) is None
    assert fitted.maximum_associations == 1024 - 100 - 100 - 204
    assert fitting(Limits(maximum_associations=10)).maximum_associations == 10
