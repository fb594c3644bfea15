"""Several processes have one archive: with its index in PostgreSQL, and real processes where they die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import archive_worker
from helpers.archive_worker import instances
from helpers.postgres import Server, server

from asyncdicom.archive import Archive, ArchiveError
from asyncdicom.archive.index.postgres import PostgresIndex

WORKERS = 4


class Worker:
    """A process of `archive_worker`: what it has said, as it says it."""

    def __init__(self, folder: Path, url: str, *words: object) -> None:
        arguments = [str(folder), url, *map(str, words)]
        self.process = subprocess.Popen(
            [sys.executable, archive_worker.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stored: set[str] = set()
        self.refused: list[str] = []
        self.is_done = threading.Event()
        self.changed = threading.Condition()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.said = ""
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def _listen(self) -> None:
        if self.process.stderr is not None:
            self.said = self.process.stderr.read()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with self.changed:
                match line.split():
                    case [uid, "0"]:
                        self.stored.add(uid)
                    case [uid, _]:
                        self.refused.append(uid)
                    case ["stored"]:
                        self.is_done.set()
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, number: int) -> None:
        """Wait until so many were stored."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.stored) >= number, 100)

    def end(self) -> int:
        """Let it close; gives its exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        code = self.process.wait(100)
        self.kill()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        self._listening.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def workers(
    folder: Path, url: str, count: int, studies: int, number: int = WORKERS, durability: str = "process"
) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for n in range(number):
            started.append(Worker(folder, url, durability, n + 1, count, studies))
            stack.callback(started[-1].kill)
        yield started


def wanted(count: int, studies: int, numbers: range = range(1, WORKERS + 1)) -> set[str]:
    return {uid for n in numbers for uid, _, _ in instances(n, count, studies)}


def found(url: str, folder: Path) -> dict[str, Path]:
    """The instances that have a row, and their files."""
    index = PostgresIndex(url, durability="none", readers=1)
    with index._engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT sop_instance_uid, file FROM instance").all()
    index.close()
    return {uid: folder / "objects" / file for uid, file in rows}


def test_four_processes_share_an_archive(postgres: Server, tmp_path: Path, tools: Any) -> None:
    """No deadlock, nothing lost, nothing twice; each file has its row, and there are no more."""
    count, studies, folder, url = 160, 100, tmp_path / "archive", postgres.url()
    deadlocks = "SELECT sum(deadlocks) FROM pg_stat_database"
    before = postgres.run(deadlocks)
    with workers(folder, url, count, studies) as started:
        for each in started:
            assert each.is_done.wait(100), each.said
        codes = [each.end() for each in started]
    assert codes == [0] * WORKERS, [each.said for each in started]
    assert [each.refused for each in started] == [[]] * WORKERS
    expected = wanted(count, studies)
    rows = found(url, folder)
    assert set(rows) == expected
    assert set(rows.values()) == set(tools.files_below(folder))
    index = PostgresIndex(url, durability="none", readers=1)
    counts = index.upkeep.counts()
    index.close()
    assert (counts["patient"], counts["study"], counts["series"]) == (studies,) * 3
    assert postgres.run(deadlocks) == before
