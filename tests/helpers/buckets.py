"""A bucket of our own that speaks S3: on loopback, at a free port, in a folder, and gone with the test."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localbucket import S3Handler  # type: ignore[import-untyped] # it has no types

Fault = Callable[[str, str], str]
"""By method and key: "" (none), a status as "503", "lose" (done without an answer), "drop" or "hang"."""


PLACES: dict[str, Path] = {}
"""Where the objects of the archives of the test that runs lie, by their folders."""

BUCKETS: list[Bucket] = []
"""What has the instances of the test that runs, unless its folders have them."""


def files_in(folder: Path) -> Iterator[Path]:
    """The files below a folder; `Path.rglob` fails where a server removes an empty folder meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            yield Path(parent, name)


def bucket_of(folder: str | os.PathLike[str]) -> str | None:
    """Give the URL of where the instances of an archive are; None: in its folder."""
    if not BUCKETS:
        return None
    folder = os.path.abspath(folder)
    prefix = hashlib.sha256(folder.encode()).hexdigest()[:16]
    PLACES[folder] = BUCKETS[-1].file(prefix)
    return f"{BUCKETS[-1].url}/{prefix}"


def below(folder: Path) -> Path:
    """Where the files of an archive's folder, or of a folder in it, lie in truth."""
    for root, place in PLACES.items():
        if folder.is_relative_to(root):
            return place / folder.relative_to(root)
    return folder


def file_at(place: str) -> Path:
    """Give the file that lies at a place of the archive: a path, or the URL of an object."""
    if not place.startswith("s3://"):
        return Path(place)
    return BUCKETS[-1].folder.parent / place.removeprefix("s3://")


class Bucket:
    """A server and its one bucket; `objects` are its files, `fault` says what a request meets."""

    NAME = "bucket"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.NAME
        self.folder.mkdir(parents=True)
        self.asked: Counter[str] = Counter()
        self.fault: Fault = lambda method, key: ""
        self.lost: Callable[[], None] = lambda: None
        """Called when something was done, and its answer is about to be lost."""
        self.ending = threading.Event()
        handler = type("_Handler", (_Handler,), {"data_root": folder, "bucket": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"s3://{self.NAME}/images"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to get here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        }

    def keys(self, below: str = "objects") -> list[str]:
        """The keys below the prefix, of objects that are there."""
        root = self.folder / "images"
        found = (path.relative_to(root).as_posix() for path in files_in(root))
        return sorted(key for key in found if key.startswith(f"{below}/"))

    def file(self, key: str) -> Path:
        return self.folder / "images" / key

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error here."""


class _Handler(S3Handler):  # type: ignore[misc]
    bucket: Bucket
    wfile: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _dispatch(self, action: Any) -> None:
        key = self.path.partition("?")[0].removeprefix(f"/{Bucket.NAME}/images/")
        self.bucket.asked[self.command] += 1
        fault = self.bucket.fault(self.command, key)
        if fault == "hang":
            self.bucket.ending.wait(20)
        if fault in ("hang", "drop"):
            self._drop()
        elif fault == "lose":
            proper, self.wfile = self.wfile, open(os.devnull, "wb")  # noqa: SIM115
            try:
                super()._dispatch(action)
            finally:
                self.wfile.close()
                self.wfile = proper
            self.bucket.lost()
            self._drop()
        elif fault:
            self._read_body()
            body = b"<Error><Code>SlowDown</Code></Error>" if fault == "503" else b""
            self.send_response(int(fault))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        else:
            super()._dispatch(action)

    def _read_body(self) -> bytes:
        """Of what a sender that died in the middle has sent nothing is kept, as in any bucket."""
        body: bytes = super()._read_body()
        coded = "aws-chunked" in self.headers.get("Content-Encoding", "")
        length = self.headers.get("x-amz-decoded-content-length" if coded else "Content-Length")
        if length is not None and len(body) < int(length):
            raise ConnectionResetError("the body is not whole")
        return body

    def _drop(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    made = Bucket(folder)
    try:
        yield made
    finally:
        made.close()
