"""A script that a test runs has the index and the instances of its archives where the test has them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helpers.buckets import BUCKETS
from helpers.index_asking import NEW

from asyncdicom.archive import Archive

_DATABASE, _BUCKET = "TEST_DATABASE", "TEST_BUCKET"


def environment() -> Mapping[str, str]:
    """What the script is to be given."""
    places = {_DATABASE: NEW[-1]()} if NEW else {}
    places |= {_BUCKET: BUCKETS[-1].url} if BUCKETS else {}
    return os.environ | places | {"PYTHONPATH": os.pathsep.join(sys.path)}


def places_of(folder: Path) -> dict[str, Any]:
    """Give, in the script, the options of an archive; the name of its folder is that of no other."""
    options: dict[str, Any] = {}
    if url := os.environ.get(_DATABASE):
        import psycopg

        options["index"] = f"{url}_{folder.name}"
        with psycopg.connect(url, autocommit=True) as made:
            schema = options["index"].partition("search_path%3D")[2]
            made.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}".encode())
    if bucket := os.environ.get(_BUCKET):
        options["blobs"] = f"{bucket}/{folder.name}"
    return options


def before_each_statement(archive: Archive, call: Callable[[object], object]) -> None:
    """Make a call, in the script, before each statement that the writer of the index gives its driver."""
    connection = archive._ingest._writer._fairy.driver_connection
    if archive._index.is_shared:
        from asyncdicom.archive.index.postgres_driver import Cursor

        run = Cursor._run

        def counted(cursor: Cursor, *arguments: Any) -> None:
            if cursor._connection is connection:
                call(arguments)
            run(cursor, *arguments)

        Cursor._run = counted  # type: ignore[method-assign, assignment]
    else:
        connection.set_trace_callback(call)
