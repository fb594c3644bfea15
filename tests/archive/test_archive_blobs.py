"""What keeps files, as the archive sees it: blobs at places."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.buckets import bucket
from helpers.finished import finished

from asyncdicom.archive.blobs.base import Blobs, State
from asyncdicom.archive.blobs.compare import compare_blobs
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.blobs.header import header_of
from asyncdicom.archive.blobs.kinds import open_blobs
from asyncdicom.archive.blobs.spool import SpoolBlobs
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.data.likeness import Likeness
from asyncdicom.net.cached import Memory
from asyncdicom.net.sources import is_repeatable

HEADER = header_of("1.2", "1.3", "1.2.840.10008.1.2", None)  # it ends with the place of the digest


@pytest.fixture
def folder(tmp_path: Path) -> FolderBlobs:
    made = FolderBlobs(str(tmp_path), FileCalls(), sync=True)
    made.prepare()
    return made


@pytest.fixture(params=["folder", "bucket", "spool", "moved"])
def keeper(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Blobs]:
    """Each kind of what keeps blobs; "moved": spooled ones, in the bucket as soon as they are kept."""
    if request.param == "folder":
        made: Blobs = FolderBlobs(str(tmp_path), FileCalls(), sync=True)
        made.prepare()
        yield made
        return
    with bucket(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        made = open_blobs(
            str(tmp_path / "archive"), store.url, FileCalls(), sync=True,
            ack="object" if request.param == "bucket" else "spool",
            is_shared=False, on_failure=lambda: None,
        )  # fmt: skip
        made.root.prepare_root()
        made.prepare()
        if request.param == "moved":
            made.serve(lambda folder, names: set(names))
        yield made
        made.close()


def kept(blobs: Blobs, data: bytes) -> str:
    """The name of a blob with a data set."""
    blob = blobs.new(HEADER)
    blob.write([memoryview(data)], last=True)
    finished(blob)
    blob.keep()
    assert (blob.offset, blob.length) == (len(HEADER), len(data))
    if isinstance(blobs, SpoolBlobs) and blobs.mover.is_running:
        while blobs.local.is_there(blob.path):
            time.sleep(0.01)
    return blob.name


def row(data: bytes, digest: str) -> SimpleNamespace:
    return SimpleNamespace(data_set_offset=len(HEADER), data_set_length=len(data), digest=digest)


def content(blobs: Blobs, path: str) -> bytes:
    with closing(blobs.read(path)) as blob:
        pieces = list(iter(lambda: blob.read(7), b""))
        blob.sync()
    return b"".join(pieces)


def test_a_blob_is_new_written_kept_and_listed(keeper: Blobs) -> None:
    blobs = keeper
    assert not blobs.has_objects()
    blob = blobs.new(HEADER)
    assert blob.name == ""
    blob.write([memoryview(b"abc")])
    assert blobs.is_receiving(blob.name)
    blob.write([memoryview(b"def")], last=True)
    finished(blob)
    blob.keep()
    assert not blobs.is_receiving(blob.name)
    assert blobs.has_objects()
    [folder, quarantine] = blobs.all_folders()
    assert blobs.names_in(folder) == ([os.path.basename(blob.name)], 0)
    assert (blobs.names_in(quarantine), blobs.has_quarantined()) == (([], 0), False)
    assert blobs.is_folder(blobs.below_root(folder))
    assert not blobs.is_folder(blobs.below_root("objects/zz/zz"))
    assert (blobs.foreign_folders(), blobs.is_trusted(blob.name)) == (0, True)
    path = blobs.path(blob.name)
    blobs.sync(os.path.dirname(path))
    assert content(blobs, path) == HEADER[:-16] + bytes.fromhex(blob.digest) + b"abcdef"
    assert (blobs.size(path), blobs.is_there(path)) == (len(HEADER) + 6, True)
    assert blobs.look_at(path, row(b"abcdef", blob.digest)) is State.SOUND
    assert blobs.look_at(path, row(b"abcdef", "another")) is State.DAMAGED
    assert blobs.look_at(path, row(b"abc", blob.digest)) is State.DAMAGED


def test_what_is_discarded_is_gone(keeper: Blobs) -> None:
    blobs = keeper
    blobs.new(HEADER).discard()  # before anything came
    blob = blobs.new(HEADER)
    blob.write([memoryview(b"abc")])
    finished(blob)
    blob.discard()
    while blobs.is_there(blob.path):
        time.sleep(0.01)
    assert blobs.size(blob.path) is None
    assert blobs.look_at(blob.path, row(b"abc", "")) is State.MISSING
    blobs.remove(blob.path)  # once more is no error


async def test_a_range_is_opened_to_be_sent(keeper: Blobs) -> None:
    blobs = keeper
    path = blobs.path(kept(blobs, b"the data set"))
    source = blobs.source(
        path, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2",
        offset=len(HEADER) + 4, length=4,
    )  # fmt: skip
    assert source.at_hand() is None
    if hasattr(source, "read_ahead"):
        source.read_ahead()
    for _ in range(2):
        sent = [bytes(buffer) async for batch in source.open() for buffer in batch]
        assert b"".join(sent) == b"data"
    assert (getattr(source, "length", 0), is_repeatable(source)) == (4, True)
    blobs.remove(path)
    for place in (path, blobs.quarantine_path("0.dcm")):
        gone = blobs.source(
            place, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2", offset=0, length=4
        )
        with pytest.raises(FileNotFoundError):
            await anext(gone.open())


async def test_an_odd_deflated_data_set_is_made_even(keeper: Blobs) -> None:
    source = keeper.source(
        keeper.path(kept(keeper, b"abc")), sop_class_uid="1.2", sop_instance_uid="1.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1.99", offset=len(HEADER), length=3,
    )  # fmt: skip
    assert b"".join([bytes(each) async for batch in source.open() for each in batch]) == b"abc\0"


def test_places_change_and_nothing_is_replaced(keeper: Blobs) -> None:
    blobs = keeper
    path = blobs.path(kept(blobs, b"abc"))
    aside = blobs.move_to_quarantine(path)
    assert (blobs.is_there(path), blobs.has_quarantined()) == (False, True)
    blobs.move(aside, path)
    blobs.copy(path, aside)
    assert content(blobs, path) == content(blobs, aside)
    with pytest.raises(FileExistsError):
        blobs.copy(path, aside)
    with pytest.raises(FileNotFoundError):
        blobs.copy(blobs.path("ab/cd/none.dcm"), blobs.quarantine_path("none.dcm"))
    assert not blobs.is_other_name(path, [aside])  # two names of ours: each is a copy
    assert blobs.is_other_name(blobs.path(kept(blobs, b"abc")), [aside]) is False
    lost = blobs.set_aside(path)
    assert (blobs.count_lost(), os.path.basename(os.path.dirname(lost))) == (1, "lost")
    with pytest.raises(FileNotFoundError):
        blobs.set_aside(blobs.quarantine_path("none.dcm"))
    assert blobs.can_move_to_quarantine()
    blobs.remove(aside)
    with pytest.raises(FileNotFoundError):
        blobs.read(aside)
    with pytest.raises(FileNotFoundError):
        blobs.move(blobs.path("ab/cd/none.dcm"), blobs.quarantine_path("none.dcm"))
    with pytest.raises(FileNotFoundError):
        blobs.move(blobs.quarantine_path("none.dcm"), blobs.path("ab/cd/none.dcm"))


def test_a_place_that_is_seen_twice(folder: FolderBlobs, tmp_path: Path) -> None:
    blobs = folder
    path = blobs.path(kept(blobs, b"abc"))
    (tmp_path / "again").symlink_to(os.path.dirname(path))
    assert blobs.is_other_name(path, ["/none", str(tmp_path / "again" / os.path.basename(path))])


def test_two_disks_are_told(tmp_path: Path) -> None:
    class Crossing(FileCalls):
        def move(self, source: str, target: str) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    assert not FolderBlobs(str(tmp_path), Crossing(), sync=False).can_move_to_quarantine()


class _Losing(FileCalls):
    """Another thread takes a file away between the look at it and its opening."""

    def look(self, path: str) -> os.stat_result | None:
        found = super().look(path)
        if found is not None and path.endswith(self.lost):
            os.unlink(path)
        return found

    lost = "nothing"


def test_one_that_is_replaced_while_it_is_compared_is_different(tmp_path: Path) -> None:
    calls = _Losing()
    blobs = FolderBlobs(str(tmp_path), calls, sync=True)
    blobs.prepare()
    name, data = kept(blobs, b"abcdef"), b"abcdef"
    calls.lost = os.path.basename(name)
    arrival: Any = SimpleNamespace(file=SimpleNamespace(path=blobs.path(name), offset=len(HEADER)))
    stored: Any = row(data, "")
    assert compare_blobs(blobs, blobs.path(name), stored, arrival) is Likeness.DIFFERENT


@pytest.mark.parametrize("can", [True, False])
def test_a_blob_that_is_in_memory_is_sent_without_a_thread(tmp_path: Path, can: bool) -> None:
    """Where the file system can say what is: it is asked once, when the archive begins to serve."""

    class Asked(FileCalls):
        asked: list[str] = []  # noqa: RUF012

        def memory_of(self, path: str) -> Memory | None:
            self.asked.append(path)
            return super().memory_of(path) if can else None

    calls = Asked()
    if can and FileCalls().memory_of(str(tmp_path)) is None:
        pytest.skip("this system cannot be asked what is in memory")
    blobs = FolderBlobs(str(tmp_path), calls, sync=False)
    blobs.prepare()
    blobs.serve(lambda folder, names: set())
    assert calls.asked == [blobs.objects]
    new = blobs.new(HEADER)
    new.write([memoryview(b"abcd")], last=True)
    finished(new)
    source = blobs.source(
        new.path,
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        transfer_syntax_uid="1.2.840.10008.1.2",
        offset=new.offset,
        length=4,
    )
    assert source.at_hand() == (b"abcd" if can else None)
