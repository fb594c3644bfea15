"""Archives with an index in PostgreSQL: the server of the database, and `qrscp` with several processes."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import tools
from benchmarks.processes import (
    ROOT,
    BenchmarkError,
    Missing,
    Running,
    cpu_seconds_with_children,
    free_port,
    server,
)

if TYPE_CHECKING:
    from helpers.postgres import Server

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "logging_collector": "off",
}
"""All else is as shipped: `fsync`, `full_page_writes` and `synchronous_commit` are on."""
_PATIENCE = 60.0


@contextmanager
def database(disk: Path) -> Iterator[Server]:
    """Run a PostgreSQL server whose data is on the same disk as a folder."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from helpers import postgres

    if postgres.programs() is None:
        raise Missing("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    with postgres.server(_SETTINGS, _beside(disk)) as made:
        yield made


def _beside(disk: Path) -> Path:
    """Give a folder on that disk that others can get into, with a path as short as a socket needs."""
    usual = Path(tempfile.gettempdir())
    return usual if usual.stat().st_dev == disk.stat().st_dev else disk.parent


@contextmanager
def qrscp(folder: Path, index: str, processes: int = 1, **destinations: int) -> Iterator[Running]:
    """Run our archive in a folder, with so many processes, until the end of the block; no index: SQLite.

    Others may have the same folder and index. What it stores is not compared with its digest meanwhile: the
    contenders of a scenario are up together, and it would be the others that pay.
    """
    port = free_port()
    command = tools.Ours().archive(port, folder / "archive", destinations)
    command += ["--processes", str(processes), "--scrub", "0", *(["--index", index] if index else [])]
    # Whoever accepts ends the others: killed before it has, it would leave them behind.
    with server(command, port, env=tools.environment(), cwd=folder, patience=_PATIENCE) as pid:
        _wait_until_ready(folder / f"{Path(command[0]).name}-{port}.log", port)
        yield Running(pid, port)


def _wait_until_ready(log: Path, port: int) -> None:
    """Wait for the line that tells its address: then all of its processes take connections."""
    deadline = time.monotonic() + _PATIENCE
    while f":{port}" not in (text := log.read_text("utf-8", "replace")):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"qrscp is not ready: {text[-500:]}")
        time.sleep(0.05)


def cpu_seconds_of(pids: list[int]) -> float:
    """Give the user + system time of some processes and their children."""
    return sum(map(cpu_seconds_with_children, pids))
