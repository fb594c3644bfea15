"""kill -9 between a PUT and its commit, and around both: no row without object, nothing acknowledged lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import lives
from helpers.archive_process import LONG, long_test
from helpers.buckets import Bucket, bucket
from helpers.index_asking import ask

from asyncdicom.archive import Archive

LIVES = int(os.environ.get("ASYNCDICOM_LONG_LIVES", "1000")) if LONG else 8
PLACES = ("put", "before the commit", "after the commit", "any time")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket(tmp_path / "store") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


class Lives:
    """The process that lives are forked off; `acknowledged` is what they have said Success to."""

    def __init__(self, store: Bucket, folder: Path, options: dict[str, Any]) -> None:
        self.store = store
        self.folder = folder
        self.options = options
        self.acknowledged: set[str] = set()
        self.ends: Counter[tuple[str, int]] = Counter()
        self._process = subprocess.Popen(
            [sys.executable, lives.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )

    def live(self, place: str, number: int, instances: list[tuple[str, int]]) -> None:
        """Let one live, and die at the n-th time that it comes to a place; all of it is compared then."""
        process = 0
        left = number

        def kill() -> None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

        def fault(method: str, key: str) -> str:
            nonlocal left
            if not key.startswith("objects/") or method not in ("PUT", "POST"):
                return ""
            left -= 1
            if not left and place == "any time":
                kill()
            return "lose" if not left and place == "put" else ""

        self.store.fault, self.store.lost = fault, kill
        wanted = {
            "folder": str(self.folder),
            "blobs": self.store.url,
            "options": self.options,
            "place": place,
            "number": number,
            "instances": instances,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            word, _, value = line.strip().partition(" ")
            if word == "process":
                process = int(value)
            elif word == "kept":
                self.acknowledged.add(value)
            elif word == "end":
                self.ends[place, int(value)] += 1
                break
        self.store.fault = lambda method, key: ""
        self.compare()

    def compare(self) -> None:
        rows = dict(ask(self.folder, "SELECT sop_instance_uid, file FROM instance"))
        here = self.folder / "objects"
        there = {path.relative_to(here).as_posix() for path in here.rglob("*.dcm")}  # with ack = spool
        keys = self.store.keys()
        there |= {key.removeprefix("objects/") for key in keys}
        assert set(rows.values()) <= there, "no row without an object"
        assert self.acknowledged <= set(rows), "nothing acknowledged is lost"

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


@long_test
@pytest.mark.parametrize("ack", ["object", "spool"])
async def test_no_row_without_an_object(store: Bucket, tmp_path: Path, ack: str) -> None:
    chance = random.Random(14)
    folder = tmp_path / "archive"
    all_of_them = Lives(store, folder, {"sweep": False, "ack": ack})
    try:
        for life in range(LIVES):
            sizes = [chance.choice((300, 3000, 300_000)) for _ in range(6)]
            if life % 5 == 4:
                sizes.append(6 << 20)  # in parts
            instances = [(f"1.2.3.1.1.{life}.{number}", size) for number, size in enumerate(sizes)]
            # The first time for sure: a group of them may be one commit.
            number = 1 if life < len(PLACES) else chance.randint(1, 3)
            all_of_them.live(PLACES[life % len(PLACES)], number, instances)
    finally:
        all_of_them.close()
    assert {place for place, end in all_of_them.ends if end == -signal.SIGKILL} == set(PLACES)
    async with Archive(folder, blobs=store.url, ack=ack, durability="none", sweep=False, scrub=0) as archive:
        swept = await archive.reindex()
        assert (swept.failed, swept.missing) == (0, 0)
        # A file may be whole but for the digest in its head when its process dies; an object never is.
        assert swept.set_aside == 0 or ack == "spool"
        found = await archive.read(lambda: list(archive.care.verify(lambda size: None)))
        while any((folder / "objects").rglob("*.dcm")):
            await asyncio.sleep(0.01)  # until it is moved
    assert {each.state for each in found} == {"as its row says"}
    assert all_of_them.acknowledged <= {each.sop_instance_uid for each in found}
    assert len(store.keys()) == len(found), "each object has its row now"
