"""What keeps files, as the archive sees it: blobs at places."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.finished import finished

from asyncdicom.archive.blobs.base import Blobs, State
from asyncdicom.archive.blobs.compare import compare_blobs
from asyncdicom.archive.blobs.folder import FolderBlobs
from asyncdicom.archive.file_calls import FileCalls
from asyncdicom.data.likeness import Likeness

HEADER = bytes(20) + bytes(16)  # it ends with the place of the digest


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    made = FolderBlobs(str(tmp_path), FileCalls(), sync=True)
    made.prepare()
    return made


def kept(blobs: Blobs, data: bytes) -> str:
    """The name of a blob with a data set."""
    blob = blobs.new(HEADER)
    blob.write([memoryview(data)], last=True)
    finished(blob)
    blob.keep()
    assert (blob.offset, blob.length) == (len(HEADER), len(data))
    return blob.name


def row(data: bytes, digest: str) -> SimpleNamespace:
    return SimpleNamespace(data_set_offset=len(HEADER), data_set_length=len(data), digest=digest)


def content(blobs: Blobs, path: str) -> bytes:
    with closing(blobs.read(path)) as blob:
        pieces = list(iter(lambda: blob.read(7), b""))
        blob.sync()
    return b"".join(pieces)


def test_a_blob_is_new_written_kept_and_listed(blobs: FolderBlobs) -> None:
    blob = blobs.new(HEADER)
    assert blob.name == ""
    blob.write([memoryview(b"abc")])
    assert blobs.is_receiving(blob.name)
    blob.write([memoryview(b"def")], last=True)
    finished(blob)
    blob.keep()
    assert not blobs.is_receiving(blob.name)
    [folder, quarantine] = blobs.all_folders()
    assert blobs.names_in(folder) == ([os.path.basename(blob.name)], 0)
    assert (blobs.names_in(quarantine), blobs.has_quarantined()) == (([], 0), False)
    path = blobs.path(blob.name)
    assert content(blobs, path) == bytes(20) + bytes.fromhex(blob.digest) + b"abcdef"
    assert (blobs.size(path), blobs.is_there(path)) == (42, True)
    assert blobs.look_at(path, row(b"abcdef", blob.digest)) is State.SOUND
    assert blobs.look_at(path, row(b"abcdef", "another")) is State.DAMAGED


def test_what_is_discarded_is_gone(blobs: FolderBlobs) -> None:
    blob = blobs.new(HEADER)
    blob.write([memoryview(b"abc")])
    blob.discard()
    assert not blobs.is_there(blob.path)
    assert blobs.size(blob.path) is None
    assert blobs.look_at(blob.path, row(b"abc", "")) is State.MISSING
    blobs.remove(blob.path)  # once more is no error


async def test_a_range_is_opened_to_be_sent(blobs: FolderBlobs) -> None:
    path = blobs.path(kept(blobs, b"the data set"))
    source = blobs.source(
        path, sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2",
        offset=len(HEADER) + 4, length=4,
    )  # fmt: skip
    sent = [bytes(buffer) async for batch in source.open() for buffer in batch]
    assert b"".join(sent)[:4] == b"data"


def test_places_change_and_nothing_is_replaced(blobs: FolderBlobs) -> None:
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
    assert blobs.can_move_to_quarantine()


def test_a_place_that_is_seen_twice(blobs: FolderBlobs, tmp_path: Path) -> None:
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
