"""How instances are sent must not depend on whether somebody watches."""

from __future__ import annotations

import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cli.running import write_instance

from asyncdicom import Association, Request, Source, associate, file_source, serve
from asyncdicom.cli.sending import Watched
from asyncdicom.net.disk import Disk
from asyncdicom.net.sources import is_repeatable

CT = "1.2.840.10008.5.1.4.1.1.2"
FILES = ("sources.py", "disk.py")  # of net/: how an instance gets out of its file


async def calls_of(association: Association, source: Source) -> Counter[str]:
    """Send it, and count the calls of each function on its way."""
    calls: Counter[str] = Counter()

    def profile(frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and Path(code.co_filename).parts[-2:] in {("net", name) for name in FILES}:
            calls[code.co_qualname] += 1

    sys.setprofile(profile)
    try:
        assert (await association.c_store(source)).status == 0
    finally:
        sys.setprofile(None)
    return calls


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


@pytest.mark.parametrize("size", [100, 40_000, 600_000])
async def test_a_progress_bar_does_not_change_how_a_file_is_sent(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncdicom.net.disk._SLOW", math.inf)  # a busy machine must not change the way,
    monkeypatch.setattr("asyncdicom.net.sources._read", Disk())  # nor must what ran before
    length = len(write_instance(tmp_path / "one.dcm", CT, "1.2.3", size))
    source = file_source(tmp_path / "one.dcm")
    told: list[int] = []
    async with (
        serve("SCP@127.0.0.1:0", c_store=on_store) as server,
        associate(f"SCP@127.0.0.1:{server.port}", contexts=[CT]) as association,
    ):
        plain = await calls_of(association, source)
        watched = await calls_of(association, Watched(source, told.append))
    assert watched == plain
    assert plain["FileSource.at_hand"] == 1
    assert bool(plain["FileSource.open"]) == (size > 500_000), "a small file is read without a generator"
    assert sum(told) == length


async def test_what_is_read_twice_is_told_once(tmp_path: Path) -> None:
    """A long file that has to be re-encoded is looked through before it is sent."""
    length = len(write_instance(tmp_path / "one.dcm", CT, "1.2.3", 600_000))
    told: list[int] = []
    watched = Watched(file_source(tmp_path / "one.dcm"), told.append)
    assert is_repeatable(watched)
    for _ in range(2):
        async for _ in watched.open():
            pass
    assert sum(told) == length
