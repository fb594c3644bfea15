from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.finished import finished

from asyncdicom.archive.blobs import folders as folders_module
from asyncdicom.archive.blobs.files import InstanceFile
from asyncdicom.archive.blobs.folders import Folders
from asyncdicom.archive.file_calls import FileCalls

HEADER = b"HEADER" + bytes(16)  # the place of the digest


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(str(tmp_path), FileCalls(), sync=True)
    made.prepare()
    return made


def test_an_object_is_header_then_data_set(folders: Folders) -> None:
    file = InstanceFile(folders, FileCalls(), HEADER, sync=True)
    file.write([memoryview(b"abc"), memoryview(b""), memoryview(b"def")])
    file.write([memoryview(b"ghi")])
    finished(file)
    assert (
        Path(file.path).read_bytes() == b"HEADER" + hashlib.sha256(b"abcdefghi").digest()[:16] + b"abcdefghi"
    )
    assert (file.offset, file.length) == (22, 9)
    assert file.digest == hashlib.sha256(b"abcdefghi").hexdigest()[:32]
    assert stat.S_IMODE(os.stat(file.path).st_mode) & 0o037 == 0


def test_more_pieces_than_one_call_takes(folders: Folders) -> None:
    file = InstanceFile(folders, FileCalls(), bytes(16), sync=False)
    file.write([memoryview(bytes([n % 256])) for n in range(5000)])
    finished(file)
    assert Path(file.path).read_bytes()[16:] == bytes(n % 256 for n in range(5000))


def test_short_writes_are_continued(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    writev, write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda fd, views: write(fd, bytes(b"".join(views))[:5]))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    assert writev is not os.writev
    file = InstanceFile(folders, FileCalls(), HEADER, sync=False)
    file.write([memoryview(b"abc"), memoryview(b""), memoryview(b"defghijkl")])
    finished(file)
    content = Path(file.path).read_bytes()
    assert (content[:6], content[22:]) == (b"HEADER", b"abcdefghijkl")


def test_nothing_is_there_before_the_first_write(folders: Folders) -> None:
    file = InstanceFile(folders, FileCalls(), HEADER, sync=False)
    file.discard()
    assert list(Path(folders.objects).iterdir()) == []


def test_discard_closes_and_removes(folders: Folders) -> None:
    class Calls(FileCalls):
        closed: list[int] = []  # noqa: RUF012

        def close(self, descriptor: int) -> None:
            self.closed.append(descriptor)
            super().close(descriptor)

    calls = Calls()
    file = InstanceFile(folders, calls, HEADER, sync=False)
    file.write([memoryview(b"abc")])
    assert folders.is_receiving(file.name)
    file.discard()
    assert not Path(file.path).exists()
    assert len(calls.closed) == 1
    assert not folders.is_receiving(file.name)
    file.discard()
    assert len(calls.closed) == 1


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        FileCalls().create(str(tmp_path / "link"))
    assert not (tmp_path / "elsewhere").exists()


def test_names_are_random_and_share_a_folder_for_a_while(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folders, "FILES_PER_FOLDER", 10)
    names = [folders.take_name() for _ in range(25)]
    assert len(set(names)) == 25
    assert [len({name.rpartition("/")[0] for name in names[i : i + 10]}) for i in (0, 10, 20)] == [1, 1, 1]
    assert all(len(name) == len("ab/cd/") + 32 + len(".dcm") for name in names)


def test_after_a_failure_the_next_file_goes_to_another_folder(folders: Folders) -> None:
    first = folders.take_name()
    os.rmdir(folders.path(first).rpartition("/")[0])
    folders.give_back(first, failed=True)
    assert Path(folders.path(folders.take_name())).parent.is_dir()


def test_a_folder_whose_sync_failed_is_not_chosen_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once(FileCalls):
        failing = False

        def sync_directory(self, path: str) -> None:
            if self.failing:
                self.failing = False
                raise OSError(errno.EIO, "sync failed")

    calls = Once()
    folders = Folders(str(tmp_path), calls, sync=True)
    folders.prepare()
    chance = iter(["aa", *["aa"] * 5, "bb", "cc"])
    monkeypatch.setattr(folders_module, "secrets", SimpleNamespace(token_hex=lambda size: next(chance)))
    calls.failing = True
    with pytest.raises(OSError, match="sync failed"):
        folders.take_name()
    assert folders.take_name().startswith("bb/cc/")


def test_new_folders_are_synced_from_the_inside_of_their_parents(tmp_path: Path) -> None:
    calls: list[tuple[str, str]] = []

    class Recording(FileCalls):
        def make_directory(self, path: str) -> bool:
            made = super().make_directory(path)
            calls.append(("make", os.path.relpath(path, tmp_path)))
            return made

        def sync_directory(self, path: str) -> None:
            super().sync_directory(path)
            calls.append(("sync", os.path.relpath(path, tmp_path)))

    folders = Folders(str(tmp_path), Recording(), sync=True)
    folders.prepare()
    folders.sync_root()
    assert calls[:5] == [
        ("make", "."),
        ("make", "objects"),
        ("make", "quarantine"),
        ("sync", "."),
        ("sync", ".."),
    ]
    assert set(calls[5:]) <= {("sync", "../" * depth + "..") for depth in range(1, 20)}  # on the way to it
    calls.clear()
    name = folders.take_name()
    outer, inner, _ = name.split("/")
    assert calls == [
        ("make", f"objects/{outer}"),
        ("sync", "objects"),
        ("make", f"objects/{outer}/{inner}"),
        ("sync", f"objects/{outer}"),
    ]


def test_many_threads_get_many_names(folders: Folders) -> None:
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.extend(folders.take_name() for _ in range(300)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 2400


def test_one_process_at_a_time(tmp_path: Path) -> None:
    calls: Any = FileCalls()
    descriptor = calls.lock_directory(str(tmp_path))
    with pytest.raises(BlockingIOError):
        calls.lock_directory(str(tmp_path))
    calls.close(descriptor)
    calls.close(calls.lock_directory(str(tmp_path)))
