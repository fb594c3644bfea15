"""The same against moto, whose S3 others wrote: a process of its own, real HTTP on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from asyncdicom.archive import Archive
from asyncdicom.archive.blobs.object_store import PART, ObjectStore, place_of

CONFLICT = 0xB007
_WHERE = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", "from moto.server import main; main()", "-p", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        yield next(found[1] for line in lines if (found := _WHERE.search(line)) is not None)
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


@pytest.fixture
def url(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of its own."""
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"images-{os.urandom(4).hex()}"
    with urlopen(Request(f"{endpoint}/{name}", method="PUT")):
        pass  # obstore makes no buckets
    return f"s3://{name}/below"


async def test_stored_found_verified_deleted(url: str, tmp_path: Path, tools: Any) -> None:
    small = tools.data_set()
    big = tools.data_set(SOPInstanceUID="1.2.3.1.1.2", PixelData=os.urandom(2 * PART))
    async with Archive(tmp_path, blobs=url, durability="none", sweep=False, scrub=0) as archive:
        assert await tools.store(archive, small) == 0x0000
        assert await tools.store(archive, big, 1 << 18) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == CONFLICT
        found = await archive.read(lambda: list(archive.care.verify(lambda size: None)))
        assert [each.state for each in found] == ["as its row says"] * 3
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    async with Archive(tmp_path, blobs=url, durability="none", sweep=False, scrub=0) as archive:
        swept = await archive.reindex()
        assert (swept.indexed, swept.quarantined, swept.failed) == (2, 1, 0)
        deleted = await archive.delete("STUDY", "1.2.3.1")
        assert deleted.instances == 2
        assert (await archive.reindex()).told() == ""


def test_its_calls_are_what_others_do(url: str) -> None:
    store = ObjectStore(place_of(url))
    store.create("a/b", b"some bytes")
    with pytest.raises(FileExistsError):
        store.create("a/b", b"others")
    assert [bytes(store.read("a/b", start, 4)[0]) for start in (0, 8, 10, 99)] == [b"some", b"es", b"", b""]
    with pytest.raises(FileNotFoundError):
        store.read("a/c", 0, 4)
    with pytest.raises(FileNotFoundError):
        store.copy("a/c", "a/d")
    store.copy("a/b", "a/d")
    assert [(each.key, each.size) for page in store.keys("a/") for each in page] == [("a/b", 10), ("a/d", 10)]
    store.remove("a/b")
    store.remove("a/b")
    assert (store.size("a/b"), store.size("a/d")) == (None, 10)
