"""Unix sockets for the same user of the same machine: their mode, their path, who is at the other end."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["connect_local", "is_own_user", "listen_local"]

_LONGEST = 100  # bytes of a path: AF_UNIX takes 104 on macOS, 108 on Linux
_DESCRIPTORS = "/proc/self/fd"


@contextmanager
def _reachable(path: str) -> Iterator[str]:
    """Give a path that AF_UNIX takes: a long one by way of its folder's descriptor. Raises `OSError`."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    if not os.path.isdir(_DESCRIPTORS):
        raise OSError(f"the path is longer than a socket's may be, {_LONGEST} bytes")
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"{_DESCRIPTORS}/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


def listen_local(path: str) -> socket.socket:
    """Listen at `path` for this user alone, whatever the umask; a socket that lies there is replaced.

    For who knows that nobody else listens there. Raises `OSError`, also where something else lies there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(17, "something else has this name", path)
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(OSError):
            os.fchmod(listener.fileno(), 0o600)  # Linux: what is made by `bind` has this mode from the start
        with _reachable(path) as reachable:
            listener.bind(reachable)
            os.chmod(reachable, 0o600)
        listener.listen(8)  # not before: nobody else has come in meanwhile
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_local(path: str, timeout: float) -> socket.socket:
    """Connect to `path`; every call of the socket waits at most `timeout` seconds. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with _reachable(path) as reachable:
            connection.connect(reachable)
    except BaseException:
        connection.close()
        raise
    return connection


def is_own_user(connection: socket.socket) -> bool:
    """Tell whether who is at the other end is this user or root; True where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the mode of the socket has to do
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return user in (0, os.geteuid())
