"""Archives that have stored the same files on the same disk are asked for them: C-FIND, C-GET and C-MOVE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from benchmarks import instances
from benchmarks.harness import Bench, Column, Contender, Headline, Measure, Scenario, Target
from benchmarks.peers import dcmtk, orthanc, several
from benchmarks.peers.retrieving import DESTINATION
from benchmarks.peers.tools import ARCHIVE
from benchmarks.processes import Running
from benchmarks.scenarios.scale import Database, database_of

_OURS, _OURS_SQLITE = "asyncdicom, PostgreSQL", "asyncdicom, SQLite"
_ORTHANC, _ORTHANC_SQLITE = "Orthanc, PostgreSQL", "Orthanc, SQLite"
_DCMQRSCP = "DCMTK dcmqrscp"
_JOBS = {
    "find": "C-FIND at the IMAGE level, a study after another",
    "get": "C-GET of a study after another",
    "move": "C-MOVE of a study after another to a destination that drops it",
}
_ALLOWED = {f"DicomAlwaysAllow{what}": True for what in ("Find", "Get", "Move")}

Archive = Callable[[int, ExitStack], Running]


class _Corpus(NamedTuple):
    """What is stored: so many studies with so many instances each."""

    studies: int
    each: int


def _corpus(bench: Bench) -> _Corpus:
    return _Corpus(*bench.pick((20, 50), (3, 4)))


def _start(bench: Bench, job: str, archive: Archive, stack: ExitStack) -> Measure:
    measure = _asking(bench, job, _running(bench, archive, stack), stack)
    measure()  # what is loaded by the first who asks is not measured
    return measure


def _running(bench: Bench, archive: Archive, stack: ExitStack) -> Running:
    """Start an archive that knows a destination, and store the corpus in it."""
    corpus = _corpus(bench)
    running = archive(bench.worker(stack, "retrieving").call("receive"), stack)
    folders = [str(bench.instances(instances.SMALL, corpus.each, study)) for study in range(corpus.studies)]
    with bench.worker(stack, "ours") as sender:
        sender.call("send", port=running.port, folders=folders, receiver_pid=running.pid, ae_title=ARCHIVE)
    return running


def _asking(bench: Bench, job: str, running: Running, stack: ExitStack) -> Measure:
    corpus = _corpus(bench)
    return partial(
        bench.worker(stack, "retrieving").call,
        "ask",
        job=job,
        port=running.port,
        ae_title=ARCHIVE,
        studies=_studies(corpus.studies),
        each=corpus.each,
        receiver_pid=running.pid,
    )


def _studies(count: int) -> list[dict[str, str]]:
    """Give what names the studies of the corpus, and the one series of each."""
    return [
        {
            "StudyInstanceUID": instances.study_uid(instances.SMALL, number),
            "SeriesInstanceUID": instances.series_uid(instances.SMALL, number),
        }
        for number in range(count)
    ]


def _ours(bench: Bench, database: Database | None, port: int, stack: ExitStack) -> Running:
    index = database(stack).url() if database is not None else ""
    folder = bench.folder(stack, disk=True)
    return stack.enter_context(several.qrscp(folder, index, **{DESTINATION: port}))


def _orthanc(bench: Bench, database: Database | None, port: int, stack: ExitStack) -> Running:
    more = {"DicomModalities": {DESTINATION: [DESTINATION, "127.0.0.1", port]}, **_ALLOWED}
    more["StorageAccessOnFind"] = "Never"
    if database is not None:
        more |= orthanc.in_postgres(database(stack).database())
    return stack.enter_context(orthanc.running(bench.folder(stack, disk=True), 4, **more))


def _dcmqrscp(bench: Bench, port: int, stack: ExitStack) -> Running:
    folder = bench.folder(stack, disk=True) / "dcmqrscp"
    return Running(*stack.enter_context(dcmtk.qrscp(folder, destinations={DESTINATION: port})))


def _contenders(job: str, bench: Bench) -> Sequence[Contender]:
    database = database_of(bench)

    def contender(name: str, what: str, archive: Archive, durability: str) -> Contender:
        return Contender(name, "asyncdicom", what, partial(_start, bench, job, archive), "both", durability)

    return [
        contender(_OURS, "asyncdicom qrscp", partial(_ours, bench, database), "power"),
        contender(_OURS_SQLITE, "asyncdicom qrscp", partial(_ours, bench, None), "power"),
        contender(_ORTHANC, "Orthanc", partial(_orthanc, bench, database), "power: file, row"),
        contender(_ORTHANC_SQLITE, "Orthanc", partial(_orthanc, bench, None), "power: file"),
        contender(_DCMQRSCP, "dcmqrscp", partial(_dcmqrscp, bench), "process"),
    ]


def _scenario(job: str, title: str) -> Scenario:
    return Scenario(
        f"archive-{job}",
        title,
        (
            Column("ops_per_s", "matches/s" if job == "find" else "objects/s"),
            Column("cpu_us_per_op_receiver", "archive CPU us each", ".0f", True),
            Column("cpu_us_per_op_sender", "requestor", ".0f", True),
        ),
        partial(_contenders, job),
        (
            Target(
                "at least 1 x Orthanc on the same PostgreSQL",
                lambda medians: medians.ratio("ops_per_s", _OURS, _ORTHANC),
                1.0,
            ),
            Target(
                "SQLite: at least 1 x dcmqrscp",
                lambda medians: medians.ratio("ops_per_s", _OURS_SQLITE, _DCMQRSCP),
                1.0,
            ),
        ),
        (
            Headline(f"{job.upper()}, PostgreSQL", _OURS, "ops_per_s", (_ORTHANC,)),
            Headline(f"{job.upper()}, SQLite", _OURS_SQLITE, "ops_per_s", (_ORTHANC_SQLITE, _DCMQRSCP)),
        ),
        rounds=7,
        quick_rounds=1,
        note=lambda bench: (
            "{} studies of {} instances of 39 KiB, on one association; durability is what was promised when "
            "they were stored".format(*_corpus(bench))
        ),
    )


SCENARIOS = tuple(_scenario(job, title) for job, title in _JOBS.items())
