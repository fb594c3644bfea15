"""A PostgreSQL server of our own: in a temporary folder, on a Unix socket, and gone with the tests.

PostgreSQL does not run as root: then it runs as the user of Debian's package, or as nobody.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from asyncdicom.cli.own_postgres import find_programs, user_of_server

_NUMBERS = itertools.count(1)
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # a power cut is none of what the tests make
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "deadlock_timeout": "200ms",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of the server's programs, if they are here and can be run."""
    try:
        user_of_server()
    except LookupError:
        return None
    return find_programs()


class Server:
    """A server that runs, until `stop`."""

    def __init__(
        self, programs: Path, folder: Path, user: Any, settings: Mapping[str, str] = _SETTINGS
    ) -> None:
        self._programs = programs
        self._folder = folder
        self._user = user
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process whose children are all others of the server."""
        assert self._process is not None
        return self._process.pid

    def initialise(self) -> None:
        options = ["--encoding=UTF8", "--locale=C", "--no-sync", "--auth=trust", "--username=asyncdicom"]
        command = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), *options]
        subprocess.run(command, **self._as_user(), check=True, timeout=100, stdout=subprocess.DEVNULL)

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self._folder}
        ids = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return {"cwd": self._folder, **ids}

    def start(self) -> None:
        command = [
            str(self._programs / "postgres"),
            "-D",
            str(self._folder / "data"),
            "-k",
            str(self._folder),
        ]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        if shutil.which("setpriv"):  # it is gone with the tests, however these end
            command = ["setpriv", "--pdeathsig", "INT", "--", *command]
        self._process = subprocess.Popen(command, **self._as_user(), stderr=subprocess.DEVNULL)
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self._folder)]
        for _ in range(600):
            if subprocess.run(ready, timeout=100).returncode == 0:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        self.kill()
        raise RuntimeError("PostgreSQL did not start")

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: sessions are cut, and what is committed is written."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash does, with all its processes."""
        self.stop(signal.SIGQUIT)

    def kill_9(self) -> None:
        """End all its processes as the kernel does that has no memory left: nothing more is written."""
        pid = self.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.stop(signal.SIGKILL)
        while any(_runs(each) for each in children):  # a new one waits for the memory of the old one
            time.sleep(0.01)

    @property
    def has_ended(self) -> bool:
        """Whether it is not there any more, though nobody has stopped it."""
        return self._process is not None and self._process.poll() is not None

    def url(self, schema: str = "") -> str:
        """The URL of an index that is empty still; `schema`: of an earlier one."""
        schema = schema or f"index_{os.getpid()}_{next(_NUMBERS)}"
        self.run(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        options = quote(f"-c search_path={schema}")
        return f"postgresql://asyncdicom@/postgres?host={quote(str(self._folder), safe='')}&options={options}"

    def database(self) -> str:
        """A new database, as libpq takes it, for a program that asks for one of its own."""
        name = f"database_{os.getpid()}_{next(_NUMBERS)}"
        self.run(f"CREATE DATABASE {name}")
        return f"host={self._folder} user=asyncdicom dbname={name}"

    def run(self, sql: str) -> str:
        """Run SQL by the server's own tool, and give what it says."""
        command = [str(self._programs / "psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", str(self._folder)]
        command += ["-U", "asyncdicom", "-d", "postgres", "-c", sql]
        done = subprocess.run(command, check=True, timeout=100, capture_output=True, text=True)
        return done.stdout.strip()


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def server(settings: Mapping[str, str] = _SETTINGS, where: str | Path = "/tmp") -> Iterator[Server]:
    """A server for as long as the block lasts, in a folder `where`. Raises `RuntimeError` if it cannot be."""
    found = programs()
    if found is None:
        raise RuntimeError("PostgreSQL's server is not here")
    user = user_of_server()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=where))  # the path of a socket has to be short
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        made = Server(found, folder, user, settings)
        made.initialise()
        made.start()
        try:
            yield made
        finally:
            made.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
