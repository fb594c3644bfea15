"""DCMTK: its command-line tools, run from here.

With ``nodelay`` the environment has TCP_NODELAY=1, which DCMTK reads; without, it is as it is shipped. The
time is that between two lines of the tool's own log, so that its start is not in it. For the same reason what
it takes to start and to look at all files, up to a connection that is refused, is taken off its CPU time.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import identifiers, instances
from benchmarks.measure import Sample, sample
from benchmarks.processes import (
    BenchmarkError,
    Missing,
    Usage,
    cpu_seconds,
    free_port,
    run,
    server,
)

_LOG = """\
log4cplus.rootLogger = ERROR
log4cplus.logger.dcmtk.apps.{tool} = INFO, F
log4cplus.logger.dcmtk.apps.{tool}.progress = ERROR
log4cplus.appender.F = log4cplus::FileAppender
log4cplus.appender.F.File = {log}
log4cplus.appender.F.ImmediateFlush = false
log4cplus.appender.F.layout = log4cplus::PatternLayout
log4cplus.appender.F.layout.ConversionPattern = %D{{%s %Q}} %m%n
"""

_QRSCP = """\
NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 16
HostTable BEGIN
{destinations}HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
QRSCP {database} RW (100, 1024mb) ANY
AETable END
"""


MOST_IN_INDEX = 4000
"""So many instances fit the index of dcmqrscp: beyond 32 MiB it complains at each access, and is slow."""


class Server(NamedTuple):
    """A server of DCMTK that runs."""

    pid: int
    port: int


def configuration(port: int, database: Path, destinations: Mapping[str, int] | None = None) -> str:
    """Write the configuration of dcmqrscp; destinations of C-MOVE are AE titles with their ports."""
    known = [f"{title} = ({title}, 127.0.0.1, {where})\n" for title, where in (destinations or {}).items()]
    return _QRSCP.format(port=port, database=database, destinations="".join(known))


@functools.cache
def version() -> str:
    """Give the version; `Missing` if DCMTK is not there (dcm4che has tools of the same names)."""
    for tool in ("storescu", "storescp", "echoscu", "dcmqrscp"):
        if shutil.which(tool) is None:
            raise Missing(f"DCMTK is not installed ({tool} is not there)")
    output = subprocess.run(
        ["storescu", "--version"], capture_output=True, text=True, timeout=20, check=False
    )
    first = output.stdout.partition("\n")[0]
    if "dcmtk" not in first:
        raise Missing("storescu is not DCMTK's")
    return first.strip("$ ")


def environment(nodelay: bool) -> dict[str, str]:
    """Give the environment of a tool."""
    plain = {name: value for name, value in os.environ.items() if name != "TCP_NODELAY"}
    return plain | ({"TCP_NODELAY": "1"} if nodelay else {})


@contextmanager
def storescp(folder: Path, *options: str, nodelay: bool) -> Iterator[Server]:
    """Run storescp; what it receives goes to ``folder/received``."""
    version()
    (folder / "received").mkdir(parents=True)
    port = free_port()
    command = ["storescp", "-ll", "fatal", *options, "-od", str(folder / "received"), str(port)]
    with server(command, port, env=environment(nodelay), cwd=folder) as pid:
        yield Server(pid, port)


def _timed(
    tool: str, arguments: list[str], folder: Path, begin: str, finish: str, nodelay: bool
) -> tuple[float, Usage]:
    folder.mkdir(parents=True, exist_ok=True)
    log, config = folder / f"{tool}.log", folder / f"{tool}.cfg"
    log.unlink(missing_ok=True)
    config.write_text(_LOG.format(tool=tool, log=log))
    usage = run([tool, "--log-config", str(config), *arguments], cwd=folder, env=environment(nodelay))
    started = ended = None
    for line in log.read_text("utf-8", "replace").splitlines():
        seconds, milliseconds, text = line.split(" ", 2)
        at = int(seconds) + float(milliseconds) / 1e3
        if started is None and text.startswith(begin):
            started = at
        if text.startswith(finish):
            ended = at
    if started is None or ended is None:
        raise BenchmarkError(f"{tool} did not log what it did")
    return ended - started, usage


class Sender:
    """storescu: sends all files of a folder on one association."""

    def __init__(self, work: Path, tiny: Path, *options: str, nodelay: bool) -> None:
        version()
        self._work = work
        self._tiny = tiny
        self._options = options
        self._nodelay = nodelay
        self._before: dict[str, float] = {}

    def _store(self, port: int, folder: Path | str) -> tuple[float, Usage]:
        arguments = [*self._options, "-aec", "RECEIVER", "+sd", "127.0.0.1", str(port), str(folder)]
        return _timed(
            "storescu", arguments, self._work, "Sending Store Request", "Received Store Resp", self._nodelay
        )

    def warm_up(self, port: int) -> None:
        """Send one tiny instance."""
        self._store(port, self._tiny)

    def _cpu_before(self, folder: Path | str) -> float:
        """See what it takes to start and to look at all files: nobody listens where it then calls."""
        if str(folder) not in self._before:
            command = ["storescu", *self._options, "+sd", "127.0.0.1", str(free_port()), str(folder)]
            runs = [run(command, cwd=self._work, env=environment(True), may_fail=True) for _ in range(3)]
            self._before[str(folder)] = min(usage.cpu for usage in runs)
        return self._before[str(folder)]

    def send(self, port: int, folder: Path | str, receiver_pid: int) -> Sample:
        """Send; the figures are as those of the others."""
        cpu_before = self._cpu_before(folder)
        before = cpu_seconds(receiver_pid)
        seconds, usage = self._store(port, folder)
        cpu_receiver = cpu_seconds(receiver_pid) - before
        count = len(instances.files(folder))
        cpu_sender = max(0.0, usage.cpu - cpu_before)
        return sample(seconds, count, instances.size_of(folder), cpu_sender, cpu_receiver)


def echo(port: int, count: int, receiver_pid: int, work: Path) -> Sample:
    """Send C-ECHO requests with echoscu, one after another."""

    def repeat(times: int) -> tuple[float, Usage]:
        arguments = ["--repeat", str(times), "127.0.0.1", str(port)]
        return _timed("echoscu", arguments, work, "Sending Echo Request", "Received Echo Resp", True)

    _, start_up = repeat(1)
    before = cpu_seconds(receiver_pid)
    seconds, usage = repeat(count)
    cpu_receiver = cpu_seconds(receiver_pid) - before
    return sample(seconds, count, 0, max(0.0, usage.cpu - start_up.cpu), cpu_receiver)


@contextmanager
def qrscp(folder: Path, matches: int = 0, destinations: Mapping[str, int] | None = None) -> Iterator[Server]:
    """Run dcmqrscp with one series of `matches` instances in its index; destinations are those of C-MOVE.

    It reads the whole index for each that is stored, so one is stored and its index record is
    repeated, each time with another SOP Instance UID of the same length.
    """
    version()
    database = folder / "database"
    database.mkdir(parents=True)
    port = free_port()
    config = folder / "dcmqrscp.cfg"
    config.write_text(configuration(port, database, destinations))
    command = ["dcmqrscp", "-ll", "fatal", "-c", str(config)]
    with server(command, port, env=environment(True), cwd=folder) as pid:
        if matches:
            _fill(
                database / "index.dat", ["storescu", "-aec", "QRSCP", "127.0.0.1", str(port)], folder, matches
            )
        yield Server(pid, port)


def _fill(index: Path, store: list[str], folder: Path, matches: int) -> None:
    first, second = _two_instances(folder)
    run([*store, str(first)], cwd=folder, env=environment(True))
    _repeat_record(index, _record_of(index, store, second, folder), matches)


def _two_instances(folder: Path) -> list[Path]:
    from pydicom import dcmread
    from pydicom.uid import UID

    paths = instances.files(instances.make(folder / "first", instances.TINY, 2))
    for number, path in enumerate(paths):
        dataset = dcmread(path)
        dataset.SOPInstanceUID = UID(identifiers.instance_uid(number))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.StudyInstanceUID = identifiers.STUDY
        dataset.SeriesInstanceUID = identifiers.SERIES
        dataset.save_as(path)
    return [Path(path) for path in paths]


def _record_of(index: Path, store: list[str], second: Path, folder: Path) -> tuple[bytes, bytes]:
    # One more instance shows how long a record is.
    one = index.read_bytes()
    run([*store, str(second)], cwd=folder, env=environment(True))
    two = index.read_bytes()
    length = len(two) - len(one)
    head = len(one) - length
    uid = identifiers.instance_uid(0).encode()
    if length <= 0 or one[head:].count(uid) != 1:
        raise BenchmarkError("this version of dcmqrscp has another kind of index")
    return one[:head], one[head:]


def _repeat_record(index: Path, parts: tuple[bytes, bytes], matches: int) -> None:
    head, record = parts
    uid = identifiers.instance_uid(0).encode()
    start = record.index(uid)
    before, after = record[:start], record[start + len(uid) :]
    with index.open("wb", buffering=1 << 20) as file:
        file.write(head)
        for number in range(matches):
            file.write(b"".join((before, identifiers.instance_uid(number).encode(), after)))
