"""Orthanc (Debian), with its index in SQLite or PostgreSQL: its file storage is synced, TCP_NODELAY is on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.tools import environment
from benchmarks.processes import Missing, Running, free_port, server


def settings(folder: Path, port: int, associations: int) -> dict[str, Any]:
    """Give the configuration of an Orthanc that takes so many associations at the same time."""
    return {
        "Name": "benchmark",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "SyncStorageArea": True,
        "HttpServerEnabled": False,
        "DicomAet": "RECEIVER",
        "DicomPort": port,
        "DicomThreadsCount": associations,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "Plugins": [],
    }


_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so")
CONNECTIONS = 1
"""To the database, as shipped. Transactions of this version are serializable, and repeated when they meet:
with 2, 4 and 8 connections it stores a half to a sixth of what it does with one."""


def in_postgres(database: str) -> dict[str, Any]:
    """Give the settings that put the index into a database, as libpq names it; files stay in the folder.

    Raises `Missing` if the plug-in is not installed. TransactionMode came with a later version of it.
    """
    if not _PLUGIN.exists():
        raise Missing("Orthanc's plug-in is not installed (Debian: apt-get install orthanc-postgresql)")
    index = {
        "EnableIndex": True,
        "EnableStorage": False,
        "ConnectionUri": database,
        "Lock": False,
        "IndexConnectionsCount": CONNECTIONS,
    }
    return {"Plugins": [str(_PLUGIN)], "PostgreSQL": index}


@contextmanager
def running(folder: Path, associations: int, **more: Any) -> Iterator[Running]:
    """Run it, with more settings."""
    command = shutil.which("Orthanc")
    if command is None:
        raise Missing("Orthanc is not installed (Debian: apt-get install orthanc)")
    port = free_port()
    (folder / "orthanc.json").write_text(json.dumps(settings(folder, port, associations) | more))
    with server([command, "orthanc.json"], port, env=environment(), cwd=folder) as pid:
        yield Running(pid, port)
