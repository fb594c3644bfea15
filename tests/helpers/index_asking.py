"""The index of a test's archive, whichever engine has it: asked beside it, lost, copied and put back.

What is changed here is changed while nothing serves the archive, but by `ask`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from helpers.postgres import programs

URLS: dict[str, str] = {}
"""The databases of the test that runs, by the folder of the archive."""

NEW: list[Callable[[], str]] = []
"""What makes a database, if the indexes of the test that runs are in some."""

_FILE = "index.sqlite"
_DUMP = "index.sql"


def database_of(folder: str | Path) -> str | None:
    """Give the URL of the database that has the index of an archive, made if need be; None: a file has it."""
    folder = os.path.abspath(folder)
    if NEW and folder not in URLS:
        URLS[folder] = NEW[-1]()
    return URLS.get(folder)


def _url(folder: str | Path) -> str | None:
    return URLS.get(os.path.abspath(folder))


def ask(folder: str | Path, sql: str) -> list[Any]:
    """Run a statement, and give its rows; none where there is no index yet."""
    url = _url(folder)
    if url is None:
        if not Path(folder, _FILE).exists():
            return []
        with closing(sqlite3.connect(Path(folder, _FILE))) as connection:
            found = connection.execute(sql).fetchall()
            connection.commit()
            return found
    import psycopg

    with psycopg.connect(url, autocommit=True) as asked:
        try:
            done = asked.execute(sql.encode())
            return done.fetchall() if done.description else []
        except psycopg.errors.UndefinedTable:
            return []


def tables_of(folder: Path) -> set[str]:
    """Give the names of its tables."""
    is_file = _url(folder) is None
    in_file = "SELECT name FROM sqlite_master WHERE type = 'table'"
    in_database = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
    return {name for (name,) in ask(folder, in_file if is_file else in_database)}


def lose_index(folder: Path) -> None:
    """It is gone: the file with what belongs to it, or all that was in the database."""
    if _url(folder) is None:
        for path in folder.glob(f"{_FILE}*"):
            path.unlink()
    else:
        schema = _schema(folder)
        ask(folder, f"DROP SCHEMA {schema} CASCADE")
        ask(folder, f"CREATE SCHEMA {schema}")


def copy_index(folder: Path, into: Path) -> None:
    """Keep it as it is now in another folder: a copy of the file, or a dump."""
    into.mkdir(parents=True, exist_ok=True)
    if _url(folder) is None:
        shutil.copy(folder / _FILE, into)
    else:
        options = ["--schema", _schema(folder), "--no-owner", "-f", str(into / _DUMP)]
        _run(folder, "pg_dump", *options)


def put_index_back(folder: Path, copy: Path) -> None:
    """What `copy_index` has kept takes the place of what is there."""
    if _url(folder) is None:
        lose_index(folder)
        shutil.copy(copy / _FILE, folder)
    else:
        ask(folder, f"DROP SCHEMA {_schema(folder)} CASCADE")
        _run(folder, "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", str(copy / _DUMP))


def refuse(folder: Path, what: str, table: str, where: str = "") -> None:
    """Let a kind of statement on a table fail, for rows of which a condition holds."""
    when = f"WHEN ({where})" if where else ""
    if _url(folder) is None:
        ask(folder, f"CREATE TRIGGER no BEFORE {what} ON {table} {when} BEGIN SELECT RAISE(ABORT, 'no'); END")
        return
    failing = "BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END"
    ask(
        folder,
        f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ {failing} $$; "
        f"CREATE TRIGGER no BEFORE {what} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION no()",
    )


def refuse_no_more(folder: Path, table: str) -> None:
    """Undo `refuse`."""
    in_database = f"DROP TRIGGER no ON {table}; DROP FUNCTION no"
    ask(folder, "DROP TRIGGER no" if _url(folder) is None else in_database)


def _schema(folder: Path) -> str:
    return unquote(_url(folder) or "").partition("search_path=")[2]


def _run(folder: Path, program: str, *options: str) -> None:
    place = programs()
    command = [str(place / program) if place else program, "-d", _url(folder) or "", *options]
    subprocess.run(command, check=True, timeout=100, stdout=subprocess.DEVNULL)
