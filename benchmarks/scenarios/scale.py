"""Durable ingest past one process: processes and workers on one PostgreSQL, and Orthanc on the same one."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Medians, Scenario, Target
from benchmarks.measure import Sample, sample
from benchmarks.peers import orthanc, several
from benchmarks.peers.tools import ARCHIVE
from benchmarks.processes import Running, Worker

if TYPE_CHECKING:
    from helpers.postgres import Server

_SIZE = 39 << 10
_ASSOCIATIONS = 64
_CORES = len(os.sched_getaffinity(0))
_SENDERS = max(1, _CORES // 2)
"""Processes that send: with more cores one of them would be what is measured."""
_APART = 1 << 40
_PATIENCE = 100.0
"""Seconds until a round has ended, or the one that is measured hangs."""

_ONE, _TWO, _FOUR = "asyncdicom, 1 process", "asyncdicom, 2 processes", "asyncdicom, 4 processes"
_SQLITE = "asyncdicom, 1 process, SQLite"
_ORTHANC, _ORTHANC_FEW = "Orthanc, PostgreSQL", "Orthanc, PostgreSQL, 8 associations"
_ORTHANC_SQLITE = "Orthanc, SQLite"

Archives = Callable[[ExitStack], list[Running]]
Database = Callable[[ExitStack], "Server"]


def _send(
    senders: Sequence[Worker], archives: Sequence[Running], database: Server, *, count: int, associations: int
) -> Sample:
    """Have each sender send its part at the same time; CPU of archives and database is measured from here."""
    first, parts = time.time_ns(), len(senders)
    pids = [each.pid for each in archives]
    cpu, cpu_database = several.cpu_seconds_of(pids), several.cpu_seconds_of([database.pid])
    for number, sender in enumerate(senders):
        sender.begin(
            "send_copies",
            port=[each.port for each in archives],
            count=count // parts,
            size=_SIZE,
            associations=associations // parts,
            receiver_pid=pids[0],
            ae_title=ARCHIVE,
            first=first + number * _APART,
            own_studies=True,
        )
    results = [sender.end(_PATIENCE) for sender in senders]
    cpu = several.cpu_seconds_of(pids) - cpu
    cpu_database = several.cpu_seconds_of([database.pid]) - cpu_database
    sent = count // parts * parts
    cpu_sender = sum(each["cpu_us_per_op_sender"] * each["operations"] for each in results) / 1e6
    seconds = max(each["seconds"] for each in results)
    return sample(seconds, sent, sent * _SIZE, cpu_sender, cpu) | {
        "ops_per_cpu_s": sent / cpu,
        "cpu_us_per_op_database": cpu_database / sent * 1e6,
    }


def _start(
    bench: Bench, database: Database, archives: Archives, count: int, associations: int, stack: ExitStack
) -> Measure:
    running, server = archives(stack), database(stack)
    senders = [bench.worker(stack, "ours") for _ in range(_SENDERS)]
    measure = partial(_send, senders, running, server, associations=associations)
    measure(count=associations * 2)
    return partial(measure, count=count)


def _ours(
    bench: Bench, database: Database, processes: int, workers: int, in_postgres: bool, stack: ExitStack
) -> list[Running]:
    folder = bench.folder(stack, disk=True)
    index = database(stack).url() if in_postgres else ""
    return [stack.enter_context(several.qrscp(folder, index, processes)) for _ in range(workers)]


def _orthanc(bench: Bench, database: Database, in_postgres: bool, stack: ExitStack) -> list[Running]:
    more = {"StoreMD5ForAttachments": False}
    if in_postgres:
        more |= orthanc.in_postgres(database(stack).database())
    folder = bench.folder(stack, disk=True)
    return [stack.enter_context(orthanc.running(folder, _ASSOCIATIONS, **more))]


def database_of(bench: Bench) -> Database:
    """Give what starts the one server of a scenario when the first of its contenders asks for it."""

    @functools.cache
    def started(stack: ExitStack) -> Server:
        return stack.enter_context(several.database(Path(bench.disk)))

    return started


def _count(bench: Bench) -> int:
    count: int = bench.pick(4000, 256)
    return count


def _few(bench: Bench) -> int:
    """Tell how many the slower ones get; the rates do not depend on it."""
    return min(384, _count(bench))


def _contender(
    bench: Bench,
    database: Database,
    name: str,
    processes: int = 1,
    workers: int = 1,
    in_postgres: bool = True,
) -> Contender:
    archives = partial(_ours, bench, database, processes, workers, in_postgres)
    start = partial(_start, bench, database, archives, _count(bench), _ASSOCIATIONS)
    what = "asyncdicom qrscp" if workers == 1 else f"{workers} asyncdicom qrscp"
    return Contender(name, "asyncdicom", what, start, durability="power")


def _another(
    bench: Bench, database: Database, name: str, in_postgres: bool, associations: int = _ASSOCIATIONS
) -> Contender:
    archives = partial(_orthanc, bench, database, in_postgres)
    start = partial(_start, bench, database, archives, _few(bench), associations)
    promise = "power: file, row" if in_postgres else "power: file"
    return Contender(name, "asyncdicom", "Orthanc", start, durability=promise)


def _processes(bench: Bench) -> Sequence[Contender]:
    database = database_of(bench)
    return [
        _contender(bench, database, _ONE),
        _contender(bench, database, _TWO, 2),
        _contender(bench, database, _FOUR, 4),
        _contender(bench, database, _SQLITE, in_postgres=False),
        _another(bench, database, _ORTHANC, True),
        _another(bench, database, _ORTHANC_FEW, True, 8),
        _another(bench, database, _ORTHANC_SQLITE, False),
    ]


def _name_of(workers: int) -> str:
    return f"asyncdicom, {workers} worker{'s' if workers > 1 else ''}"


def _workers(bench: Bench) -> Sequence[Contender]:
    database = database_of(bench)
    return [_contender(bench, database, _name_of(workers), workers=workers) for workers in (1, 2, 3, 4)]


def _speed_up(one: str, many: str, cores: int, medians: Medians) -> float:
    """Divide the rates, where there are cores for it: fewer are full with one process and who sends to it."""
    if cores > _CORES:
        raise KeyError(f"there are only {_CORES} cores")
    return medians.ratio("ops_per_s", many, one)


def _kept(one: str, many: str, medians: Medians) -> float:
    return medians.ratio("ops_per_cpu_s", many, one)


_COLUMNS = (
    Column("ops_per_s", "objects/s"),
    Column("ops_per_cpu_s", "objects/CPU s of the archive"),
    Column("cpu_us_per_op_receiver", "archive CPU us/object", ".0f", True),
    Column("cpu_us_per_op_database", "PostgreSQL", ".0f", True),
    Column("cpu_us_per_op_sender", "senders", ".0f", True),
)


def _note(bench: Bench, more: str) -> str:
    senders = f"{_SENDERS} sender{'s' if _SENDERS > 1 else ''}"
    return (
        f"{_count(bench)} objects a round from {senders} on {_ASSOCIATIONS} associations, each with its "
        "own study; CPU of the archive is that of all its processes, the one that accepts included; "
        f"PostgreSQL's is beside it{more}"
    )


SCENARIOS = (
    Scenario(
        "processes",
        "39 KiB objects into one archive with 1, 2 and 4 processes, index in PostgreSQL",
        _COLUMNS,
        _processes,
        (
            Target("on 4 cores: 2 processes at least 1.7 x one", partial(_speed_up, _ONE, _TWO, 4), 1.7),
            Target(
                "2 processes: objects per CPU second at least 0.85 of those of one",
                partial(_kept, _ONE, _TWO),
                0.85,
            ),
            Target(
                "1 process at least 3 x Orthanc on the same PostgreSQL",
                lambda medians: min(
                    medians.ratio("ops_per_s", _ONE, each) for each in (_ORTHANC, _ORTHANC_FEW)
                ),
                3.0,
            ),
        ),
        (
            Headline(
                "durable ingest, PostgreSQL", _ONE, "ops_per_s", (_ORTHANC, _ORTHANC_FEW, _ORTHANC_SQLITE)
            ),
        ),
        rounds=5,
        quick_rounds=1,
        note=lambda bench: _note(
            bench,
            f"; Orthanc gets {_few(bench)}, with its best settings: SyncStorageArea, no MD5, TCP_NODELAY=1, "
            f"IndexConnectionsCount {orthanc.CONNECTIONS}; it does not sync the names of its files, nor its "
            "SQLite",
        ),
    ),
    Scenario(
        "workers",
        "39 KiB objects into one archive with 1 to 4 workers, each on a port of its own",
        _COLUMNS,
        _workers,
        (
            Target(
                "on 4 cores: 2 workers at least 1.7 x one",
                partial(_speed_up, _name_of(1), _name_of(2), 4),
                1.7,
            ),
            Target(
                "2 workers: objects per CPU second at least 0.85 of those of one",
                partial(_kept, _name_of(1), _name_of(2)),
                0.85,
            ),
        ),
        rounds=5,
        quick_rounds=1,
        note=lambda bench: _note(bench, "; associations go to the workers in turn"),
    ),
)
