"""Sockets of this machine's user alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from asyncdicom.net import local
from asyncdicom.net.local import connect_local, is_own_user, listen_local


@pytest.mark.parametrize("length", [0, 200])
def test_who_connects_is_known(tmp_path: Path, length: int) -> None:
    """Also where the path is longer than a socket's may be."""
    folder = tmp_path / ("f" * length if length else "folder")
    folder.mkdir()
    with listen_local(str(folder / "control")) as listening:
        assert stat.S_IMODE(os.stat(folder / "control").st_mode) == 0o600
        with connect_local(str(folder / "control"), 5.0) as ours:
            listening.setblocking(True)
            theirs, _ = listening.accept()
            with theirs:
                assert is_own_user(theirs)
                assert ours.gettimeout() == 5.0


def test_a_socket_that_lies_there_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "control"
    listen_local(str(path)).close()
    listen_local(str(path)).close()
    path.unlink()
    path.write_bytes(b"something")
    with pytest.raises(FileExistsError):
        listen_local(str(path))
    assert path.read_bytes() == b"something"


def test_nobody_listens(tmp_path: Path) -> None:
    listen_local(str(tmp_path / "control")).close()
    with pytest.raises(OSError, match="refused"):
        connect_local(str(tmp_path / "control"), 1.0)


def test_a_long_path_where_the_system_does_not_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_DESCRIPTORS", str(tmp_path / "nothing"))
    folder = tmp_path / ("f" * 200)
    folder.mkdir()
    with pytest.raises(OSError, match="longer than a socket's may be"):
        listen_local(str(folder / "control"))


def test_a_system_that_does_not_tell_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_own_user(theirs)
