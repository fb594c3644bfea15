"""Instances in a bucket: what is acknowledged is in it, and what the store fails with is told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import Bucket, bucket
from helpers.postgres import Server
from localbucket import UPLOAD_META, UPLOADS_DIR  # type: ignore[import-untyped] # it has no types

from asyncdicom.archive import Archive, ArchiveError, entering
from asyncdicom.archive.arrival import Outcome
from asyncdicom.archive.backup import Backup
from asyncdicom.archive.blobs import mover, new_object, object_store
from asyncdicom.archive.blobs.object_store import PART, ObjectStore, place_of
from asyncdicom.archive.blobs.read_object import ReadObject
from asyncdicom.archive.maintenance import verify
from asyncdicom.archive.scrub import Scrub
from asyncdicom.exceptions import DataSetError

BUSY = 0xA700
CONFLICT = 0xB007


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket(tmp_path / "store") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(new_object, "_PAUSE", 0.0)
        yield made


def opened(store: Bucket, folder: Path, **options: Any) -> Archive:
    options = {"durability": "none", "sweep": False, **options}
    return Archive(folder, blobs=store.url, **options)


@pytest.fixture
async def archive(store: Bucket, tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(store, tmp_path / "archive") as made:
        yield made


async def content(archive: Archive, uid: str) -> bytes:
    found = await archive.instances({"SOPInstanceUID": uid})
    [instance] = [each async for each in found]
    assert instance is not None
    async with aclosing(found.source(instance).open()) as batches:
        pieces: list[bytes] = [bytes(view) async for batch in batches for view in batch]
    return b"".join(pieces)


async def left(store: Bucket, number: int, below: str = "objects") -> list[str]:
    """The keys, when there are so many: who refuses one does not wait until its object is gone."""
    while len(keys := store.keys(below)) != number:
        await asyncio.sleep(0.01)
    return keys


async def states(archive: Archive) -> list[str]:
    return [each.state for each in await archive.read(lambda: list(archive.care.verify(lambda size: None)))]


def large(tools: Any, size: int = 3 * PART, **keywords: Any) -> bytes:
    made: bytes = tools.data_set(PixelData=os.urandom(size), **keywords)
    return made


async def test_what_is_stored_is_in_the_bucket_and_is_given_back(
    archive: Archive, store: Bucket, tools: Any
) -> None:
    data = tools.data_set()
    assert await tools.store(archive, data) == 0x0000
    [key] = store.keys()
    assert store.file(key).read_bytes().endswith(data)
    assert await content(archive, "1.2.3.1.1.1") == data
    assert await states(archive) == ["as its row says"]
    assert await tools.store(archive, data) == 0x0000  # again
    assert await left(store, 1) == [key]
    assert not (Path(archive.directory) / "objects").exists()


@pytest.mark.parametrize("size", [1 << 18, PART - 100_000, PART + (1 << 19), 3 * PART])
async def test_large_ones_are_sent_while_they_come(
    archive: Archive, store: Bucket, tools: Any, size: int
) -> None:
    data = large(tools, size)
    assert await tools.store(archive, data, 1 << 18) == 0x0000
    assert (store.asked["POST"] > 0) == (size > PART)
    assert await content(archive, "1.2.3.1.1.1") == data
    assert await states(archive) == ["as its row says"]


async def broken_off(archive: Archive, tools: Any, data: bytes, then: Callable[[], Awaitable[None]]) -> Any:
    async def some() -> AsyncIterator[list[memoryview]]:
        for start in range(0, 2 * PART, 1 << 18):
            yield [memoryview(data)[start : start + (1 << 18)]]
        await then()
        for start in range(2 * PART, len(data), 1 << 18):
            yield [memoryview(data)[start : start + (1 << 18)]]

    return await archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid="1.2.3.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        batches=some(),
    )


def uploads(store: Bucket) -> list[Path]:
    """Those that the store knows: a part that is on its way while they are given up may leave its folder."""
    return list((store.folder.parent / UPLOADS_DIR).glob(f"*/{UPLOAD_META}"))


async def test_what_breaks_off_leaves_nothing(store: Bucket, tmp_path: Path, tools: Any) -> None:
    async def break_off() -> None:
        assert len(uploads(store)) == 1
        raise ConnectionResetError

    async with opened(store, tmp_path / "archive") as archive:
        with pytest.raises(ConnectionResetError):
            await broken_off(archive, tools, large(tools), break_off)
    assert store.keys() == uploads(store) == []


async def test_an_archive_closes_while_a_large_one_comes(store: Bucket, tmp_path: Path, tools: Any) -> None:
    archive = opened(store, tmp_path / "archive")
    await archive.open()
    answer = await broken_off(archive, tools, large(tools), archive.close)
    assert (answer.outcome, answer.comment) == (Outcome.NO_ROOM, "the archive is closed")
    assert store.keys() == uploads(store) == []
    async with archive:  # it is opened again
        assert await tools.store(archive, tools.data_set()) == 0x0000


async def test_what_is_on_its_way_is_answered_before_the_end(
    store: Bucket, tmp_path: Path, tools: Any
) -> None:
    came, may_go = threading.Event(), threading.Event()

    def wait(method: str, key: str) -> str:
        if key.startswith("objects/"):
            came.set()
            assert may_go.wait(60)
        return ""

    async with opened(store, tmp_path / "archive") as archive:
        store.fault = wait
        answer = asyncio.ensure_future(tools.stored(archive, tools.data_set()))
        assert await asyncio.to_thread(came.wait, 60)
        closing = asyncio.ensure_future(archive.close())
        await asyncio.sleep(0.05)
        may_go.set()
        await closing
    assert (await answer).outcome in (Outcome.STORED, Outcome.NO_ROOM)
    async with opened(store, tmp_path / "archive") as archive:
        await archive.reindex()
        assert (await archive.counts())["instance"] == len(store.keys())


# what the store fails with


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("403", "the object store answered 403"),
        ("503", "the object store answered 503 SlowDown"),
        ("drop", "the object store cannot be reached"),
    ],
)
@pytest.mark.parametrize("size", [100, 2 * PART])
async def test_who_cannot_be_stored_is_told_why(
    archive: Archive,
    store: Bucket,
    tools: Any,
    fault: str,
    told: str,
    size: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.fault = lambda method, key: fault if method in ("PUT", "POST") else ""
    answer = await tools.stored(archive, large(tools, size), 1 << 18)
    assert (answer.outcome, answer.comment) == (Outcome.NO_ROOM, told)
    assert archive.happened["store_failures"] > 0
    assert told in caplog.text
    assert "wJalrXUtnFEMI" not in caplog.text
    assert "AKIDEXAMPLE" not in caplog.text
    store.fault = lambda method, key: ""
    assert await tools.store(archive, tools.data_set()) == 0x0000
    assert len(await left(store, 1)) == 1


@pytest.mark.parametrize("fault", ["503", "lose", "drop"])
async def test_a_put_that_failed_is_made_again_under_another_key(
    archive: Archive, store: Bucket, tools: Any, fault: str
) -> None:
    tried: list[str] = []

    def first(method: str, key: str) -> str:
        if method == "PUT":
            tried.append(key)
        return fault if method == "PUT" and len(tried) == 1 else ""

    store.fault = first
    data = tools.data_set()
    assert await tools.store(archive, data) == 0x0000
    assert len(set(tried)) == 2
    # What was done and not answered is there twice, until a sweep removes the one that has no row.
    assert set(store.keys()) == (set(tried) if fault == "lose" else {tried[1]})
    assert await content(archive, "1.2.3.1.1.1") == data
    swept = await archive.reindex()
    assert (swept.copies, swept.indexed, store.keys()) == (int(fault == "lose"), 0, [tried[1]])


async def test_a_store_that_does_not_answer_costs_its_time_out(
    store: Bucket, tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "REQUEST", 0.5)
    async with opened(store, tmp_path / "archive") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        hanging = ["first"]
        store.fault = lambda method, key: "hang" if method == "PUT" and hanging else ""
        waiting = asyncio.ensure_future(tools.stored(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")))
        await asyncio.sleep(0)
        assert await states(archive) == ["as its row says"]  # who reads does not wait
        answer = await waiting
        assert (answer.outcome, answer.comment) == (
            Outcome.NO_ROOM,
            "the object store did not answer in 0.5 s",
        )
        hanging.clear()
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")) == 0x0000


async def test_who_reads_is_told_why_he_cannot(archive: Archive, store: Bucket, tools: Any) -> None:
    assert await tools.store(archive, tools.data_set()) == 0x0000
    store.fault = lambda method, key: "403"
    with pytest.raises(OSError, match="the object store answered 403"):
        await content(archive, "1.2.3.1.1.1")
    assert await states(archive) == ["not readable (the object store answered 403)"]
    store.fault = lambda method, key: ""
    [key] = store.keys()
    store.file(key).write_bytes(store.file(key).read_bytes()[:-1] + b"\0")
    assert await states(archive) == ["damaged"]
    store.file(key).unlink()
    assert await states(archive) == ["missing"]
    with pytest.raises(FileNotFoundError):
        await content(archive, "1.2.3.1.1.1")
    assert await tools.store(archive, tools.data_set()) == 0x0000  # it heals
    assert await states(archive) == ["as its row says"]


async def test_no_bucket_no_archive(store: Bucket, tmp_path: Path, tools: Any) -> None:
    async with opened(store, tmp_path / "archive") as archive:
        store.folder.rename(store.folder.with_name("another"))
        answer = await tools.stored(archive, tools.data_set())
        assert answer.comment == "the bucket does not exist"
    with pytest.raises(ArchiveError, match=r"the blobs of .* cannot be used: the bucket does not exist"):
        await opened(store, tmp_path / "archive").open()


# other than a folder


async def test_conflicts_are_put_into_quarantine(archive: Archive, store: Bucket, tools: Any) -> None:
    first, other = tools.data_set(), tools.data_set(PatientName="OTHER")
    assert await tools.store(archive, first) == 0x0000
    assert await tools.store(archive, other) == CONFLICT
    assert await tools.store(archive, other) == CONFLICT
    [key] = await left(store, 1)
    [aside] = store.keys("quarantine")
    assert store.file(key).read_bytes().endswith(first)
    assert store.file(aside).read_bytes().endswith(other)
    swept = await archive.reindex()
    assert not swept.told()
    await archive.upkeep(archive.care.quarantine.accept, aside.partition("/")[2][:8])
    [key] = store.keys()
    [aside] = store.keys("quarantine")
    assert store.file(key).read_bytes().endswith(other)
    assert store.file(aside).read_bytes().endswith(first)
    await archive.upkeep(archive.care.quarantine.purge, aside.partition("/")[2][:8])
    assert store.keys("quarantine") == []
    assert (await archive.reindex()).told() == ""


async def test_a_conflict_that_cannot_be_moved_is_refused(
    archive: Archive, store: Bucket, tools: Any
) -> None:
    assert await tools.store(archive, tools.data_set()) == 0x0000
    store.fault = lambda method, key: "403" if key.startswith("quarantine/") else ""
    answer = await tools.stored(archive, tools.data_set(PatientName="OTHER"))
    assert answer.comment == "the object store answered 403"
    assert len(await left(store, 1)) == 1
    assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")) == 0x0000


async def test_what_is_deleted_is_gone(archive: Archive, store: Bucket, tools: Any) -> None:
    assert await tools.store(archive, tools.data_set()) == 0x0000
    deleted = await archive.delete("STUDY", "1.2.3.1")
    assert (deleted.instances, store.keys()) == (1, [])


async def test_objects_without_a_row_are_indexed_again(store: Bucket, tmp_path: Path, tools: Any) -> None:
    small, big = tools.data_set(), large(tools, SOPInstanceUID="1.2.3.1.1.2")
    folder = tmp_path / "archive"
    async with opened(store, folder) as archive:
        assert await tools.store(archive, small) == 0x0000
        assert await tools.store(archive, big, 1 << 18) == 0x0000
    for path in folder.glob("index.sqlite*"):
        path.unlink()
    store.file("objects/note.txt").write_bytes(b"a note")
    async with opened(store, folder) as archive:
        swept = await archive.reindex()
        assert (await archive.counts())["instance"] == 2
        assert swept.foreign == 1
        assert await content(archive, "1.2.3.1.1.2") == big
        one = store.file(store.keys()[0])
        one.with_name("0" * 32 + ".dcm").write_bytes(one.read_bytes()[:-3])  # cut off, whoever did it
        swept = await archive.reindex()
        assert (swept.set_aside, store.keys("lost")) == (1, ["lost/" + "0" * 32])
        assert (await archive.read(archive.care.stat))["lost"] == 1


# whose it is


async def test_a_bucket_belongs_to_one_archive(store: Bucket, tmp_path: Path, tools: Any) -> None:
    async with opened(store, tmp_path / "one") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
    with pytest.raises(ArchiveError, match=r"belongs to archive .*, whose folder this is not"):
        await opened(store, tmp_path / "two").open()
    async with Archive(tmp_path / "three", durability="none"):
        pass
    with pytest.raises(ArchiveError, match="belongs to another archive"):
        await opened(store, tmp_path / "three").open()
    with pytest.raises(ArchiveError, match=r"the instances of .* are in s3: say where"):
        await Archive(tmp_path / "one").open()
    # The folder is lost: as the message says.
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "archive.json").write_bytes(store.file("archive.json").read_bytes())
    async with opened(store, tmp_path / "four") as archive:
        await archive.reindex()
        assert (await archive.counts())["instance"] == 1
    store.file("archive.json").write_text(json.dumps([]))
    with pytest.raises(ArchiveError, match="is damaged"):
        await opened(store, tmp_path / "four").open()


async def test_instances_of_the_folder_are_not_left_behind(store: Bucket, tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path / "archive", durability="none") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
    with pytest.raises(ArchiveError, match="has instances of its own: with ack = spool"):
        await opened(store, tmp_path / "archive").open()


@pytest.mark.parametrize(
    "url",
    ["s3:///x", "s3://a", "http://bucket/x", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://b?x=1"],
)
def test_a_url_that_names_no_bucket(tmp_path: Path, url: str) -> None:
    with pytest.raises(ArchiveError, match="a bucket is named s3://bucket") as caught:
        Archive(tmp_path, blobs=url)
    assert "secret" not in str(caught.value)
    assert str(place_of("s3://bucket")) == "s3://bucket"


def test_images_leave_in_the_clear_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    with pytest.raises(ArchiveError, match="in the clear"):
        Archive(tmp_path, blobs="s3://bucket")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    Archive(tmp_path, blobs="s3://bucket")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(ArchiveError, match="AWS_CA_BUNDLE"):
        Archive(tmp_path, blobs="s3://bucket")


async def test_what_another_process_may_be_storing_is_left_alone(
    store: Bucket, tmp_path: Path, postgres: Server, tools: Any
) -> None:
    async with opened(store, tmp_path / "archive", index=postgres.url()) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        one = store.file(store.keys()[0])
        one.with_name("0" * 32 + ".dcm").write_bytes(one.read_bytes())
        store.file("quarantine").mkdir()
        store.file("quarantine/note").write_bytes(b"")
        store.file("quarantine/" + "0" * 32 + ".dcm").write_bytes(one.read_bytes())
        swept = await archive.reindex()
        assert (swept.copies, swept.foreign, swept.missing) == (0, 1, 0)
        for path in store.folder.rglob("*.dcm"):
            os.utime(path, (0, 0))
        swept = await archive.reindex(dry_run=True)
        assert (swept.found, swept.copies, len(store.keys())) == (2, 0, 2)
        swept = await archive.reindex()
        assert (swept.found, swept.copies, len(store.keys())) == (0, 2, 1)


async def test_a_sweep_of_another_process_that_was_too_early_takes_nothing_away(
    archive: Archive, store: Bucket, tools: Any
) -> None:
    """It has indexed an object whose own process is about to."""
    swept: list[Any] = []
    submit = archive._ingest.submit

    def sweep_then(arrival: Any) -> None:
        swept.append(archive.care.sweep())
        submit(arrival)

    def first_the_sweep(arrival: Any) -> None:
        archive._blobs.give_back(arrival.file.name, failed=False)  # as if it were another's
        archive._ingest.submit = submit  # type: ignore[method-assign]
        sweep.submit(sweep_then, arrival)

    with ThreadPoolExecutor(1) as sweep:
        archive._ingest.submit = first_the_sweep  # type: ignore[method-assign]
        data = tools.data_set()
        assert await tools.store(archive, data) == 0x0000
    assert swept[0].indexed == 1
    assert await content(archive, "1.2.3.1.1.1") == data
    assert len(store.keys()) == 1


# ack = spool


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "objects").rglob("*.dcm"))


async def moved(store: Bucket, folder: Path, number: int) -> None:
    """Wait until so many objects are in the bucket, and no file is left."""
    while len(store.keys()) != number or files(folder):
        await asyncio.sleep(0.01)


async def test_who_spools_has_the_folder_for_himself(
    store: Bucket, tmp_path: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spooled, no other process would find: neither one that spools nor one that does not."""
    monkeypatch.setattr(entering, "_PATIENCE", 0.3)
    url = postgres.url()
    async with opened(store, tmp_path, index=url, ack="spool"):
        with pytest.raises(ArchiveError, match="with ack = spool only one may be"):
            await opened(store, tmp_path, index=url, ack="spool").open()
        with pytest.raises(ArchiveError, match="which has it for itself"):
            await opened(store, tmp_path, index=url).open()
    async with opened(store, tmp_path, index=url), opened(store, tmp_path, index=url):
        with pytest.raises(ArchiveError, match="with ack = spool only one may be"):
            await opened(store, tmp_path, index=url, ack="spool").open()


async def test_what_is_spooled_is_moved_and_found_wherever_it_is(
    store: Bucket, tmp_path: Path, tools: Any
) -> None:
    small, big = tools.data_set(), large(tools, SOPInstanceUID="1.2.3.1.1.2")
    folder = tmp_path / "archive"
    store.fault = lambda method, key: (
        "503" if method in ("PUT", "POST") and key.startswith("objects/") else ""
    )
    async with opened(store, folder, ack="spool") as archive:
        assert await tools.store(archive, small) == 0x0000
        assert await tools.store(archive, big, 1 << 18) == 0x0000
        assert (len(files(folder)), store.keys()) == (2, [])
        assert (await archive.read(archive.care.stat))["waiting"] == 2
        for _ in range(2):
            assert await content(archive, "1.2.3.1.1.1") == small
            assert await content(archive, "1.2.3.1.1.2") == big
            assert await states(archive) == ["as its row says"] * 2
            assert (await archive.reindex()).told() == ""
            store.fault = lambda method, key: ""
            await moved(store, folder, 2)
        assert (await archive.read(archive.care.stat))["waiting"] == 0
        assert await tools.store(archive, small) == 0x0000  # again
        await archive.delete("IMAGE", "1.2.3.1.1.2")
        await moved(store, folder, 1)
    async with opened(store, folder) as archive:
        assert await content(archive, "1.2.3.1.1.1") == small


async def test_conflicts_of_what_is_moved_are_aside_in_the_folder(
    store: Bucket, tmp_path: Path, tools: Any
) -> None:
    first, other = tools.data_set(), tools.data_set(PatientName="OTHER")
    folder = tmp_path / "archive"
    async with opened(store, folder, ack="spool") as archive:
        assert await tools.store(archive, first) == 0x0000
        await moved(store, folder, 1)
        assert await tools.store(archive, other) == CONFLICT
        [aside] = (folder / "quarantine").iterdir()
        await archive.upkeep(archive.care.quarantine.accept, aside.name[:8])
        while not store.keys() or not store.file(store.keys()[0]).read_bytes().endswith(other):
            await asyncio.sleep(0.01)
        await moved(store, folder, 1)
        [aside] = (folder / "quarantine").iterdir()
        assert aside.read_bytes().endswith(first)
        assert (await archive.reindex()).told() == ""


async def test_what_is_damaged_before_it_is_moved_stays_in_the_folder(
    store: Bucket, tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "archive"
    async with Archive(folder, durability="none") as archive:  # one that had its instances in its folder
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")) == 0x0000
    bad, good = files(folder)
    bad.write_bytes(bad.read_bytes()[:-1] + b"\0")
    async with opened(store, folder, ack="spool"):
        while good.exists():
            await asyncio.sleep(0.01)
    assert "is damaged: it stays here" in caplog.text
    assert (files(folder), len(store.keys())) == ([bad], 1)


async def test_what_was_moved_and_not_freed_is_freed(store: Bucket, tmp_path: Path, tools: Any) -> None:
    folder = tmp_path / "archive"
    async with Archive(folder, durability="none") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")) == 0x0000
    same, other = files(folder)
    for each in (same, other):
        at = store.file(each.relative_to(folder).as_posix())
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(each.read_bytes() if each is same else b"something else")
    async with opened(store, folder, ack="spool"):
        while same.exists():
            await asyncio.sleep(0.01)
    assert files(folder) == [other]


# what is rare


@pytest.fixture
def objects(store: Bucket) -> Iterator[ObjectStore]:
    made = ObjectStore(place_of(store.url))
    made.start()
    yield made
    made.stop()


def test_what_is_too_large_for_a_copy_of_the_store_is_copied_in_pieces(
    objects: ObjectStore, store: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(PART + 100)
    objects.create("a/1", data)
    monkeypatch.setattr(object_store, "_COPIED_BY_STORE", 1000)
    objects.copy("a/1", "b/1")
    assert store.file("b/1").read_bytes() == data
    with pytest.raises(FileNotFoundError):
        objects.copy("a/2", "b/2")


def test_an_object_that_becomes_shorter(objects: ObjectStore, store: Bucket) -> None:
    data = os.urandom(200_000)
    objects.create("a/1", data)
    reading = ReadObject(objects, "a/1")
    store.file("a/1").write_bytes(data[:100_000])
    pieces = [reading.read(1 << 16)]
    with pytest.raises(OSError, match="became shorter"):
        while piece := reading.read(1 << 16):
            pieces.append(piece)
    assert b"".join(pieces) == data[:100_000]
    reading.close()
    store.file("a/1").write_bytes(b"")
    assert ReadObject(objects, "a/1").read(10) == b""


async def test_an_object_that_is_shorter_than_its_row(archive: Archive, store: Bucket, tools: Any) -> None:
    assert await tools.store(archive, tools.data_set()) == 0x0000
    one = store.file(store.keys()[0])
    one.write_bytes(one.read_bytes()[:-2])
    with pytest.raises(DataSetError, match="is shorter than the index says"):
        await content(archive, "1.2.3.1.1.1")
    assert await states(archive) == ["damaged"]


async def test_the_scrub_takes_no_object_for_damaged_when_the_store_fails(
    store: Bucket,
    tmp_path: Path,
    tools: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Scrub.__init__, "__kwdefaults__", {"first": 0.3})
    async with opened(store, tmp_path / "archive", scrub=1 << 20) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        store.fault = lambda method, key: "503"
        while "the scrub waits for 600 s: the object store answered 503" not in caplog.text:
            await asyncio.sleep(0.01)
        store.fault = lambda method, key: ""
        told = await archive.read(archive.care.stat)
    assert (told["missing"], told["damaged"]) == (0, 0)


async def test_who_moves_to_the_bucket_tells_when_it_fails_and_when_it_does_not(
    store: Bucket,
    tmp_path: Path,
    tools: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mover, "_LOOK", 0.01)
    store.fault = lambda method, key: "403" if method == "PUT" and key.startswith("objects/") else ""
    async with opened(store, tmp_path / "archive", ack="spool") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        while "they stay here: the object store answered 403" not in caplog.text:
            await asyncio.sleep(0.01)
        store.fault = lambda method, key: ""
        await moved(store, tmp_path / "archive", 1)
        while "are moved to the bucket again" not in caplog.text:
            await asyncio.sleep(0.01)


def test_what_obstore_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="ack must be one of object, spool"):
        Archive(tmp_path, blobs="s3://bucket", ack="soon")
    monkeypatch.setenv("AWS_CHECKSUM_ALGORITHM", "nonsense")
    with pytest.raises(ArchiveError, match="obstore does not take what the environment says"):
        Archive(tmp_path, blobs="s3://bucket")
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ArchiveError, match=r"pip install asyncdicom\[s3\]"):
        Archive(tmp_path, blobs="s3://bucket")


def test_a_backup_and_a_verification_of_files_are_for_folders(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    marker = {"archive_id": "0" * 32, "generation": 1, "blobs": "s3"}
    (tmp_path / "archive" / "archive.json").write_text(json.dumps(marker))
    with pytest.raises(ArchiveError, match="are in s3: they are copied with what the store has"):
        Backup(str(tmp_path / "archive"), str(tmp_path / "copy"))
    with pytest.raises(ArchiveError, match="are in s3: say where"):
        next(verify(str(tmp_path / "archive")))
