"""The processes that a scenario starts: workers that are told what to do, and commands. All are ended."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class BenchmarkError(Exception):
    """A peer did not do what it was told; the message says which and why."""


class Missing(Exception):
    """A peer is not installed."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that cannot outlive this one."""
    return subprocess.Popen(command, start_new_session=True, preexec_fn=_die_with_parent, **options)


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Within: what is started stays on this core (0 or 1), if there are two.

    Two processes that wait for each other are else put on one core or on two, as chance has it, and the
    rates differ by a factor of two.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


RECEIVER, SENDER = 0, 1


def end(process: subprocess.Popen[bytes], patience: float = 3.0) -> None:
    """End a process and whatever it forked."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


class Worker:
    """A Python process that stays warm and runs the functions of one module when it is told to.

    `checkout`: where the code is that it runs; another one than this may be older.
    """

    def __init__(self, module: str, *, loop: str = "uvloop", checkout: Path = ROOT) -> None:
        self.module = module
        self._process = spawn(
            [sys.executable, "-m", "benchmarks.worker", module, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,  # where Python looks for modules first
        )
        self.pid = self._process.pid
        self._received = b""

    def call(self, function: str, *, timeout: float = 900.0, **arguments: Any) -> Any:
        """Run a function of the module there, and give what it returns."""
        self.begin(function, **arguments)
        return self.end(timeout)

    def begin(self, function: str, **arguments: Any) -> None:
        """Have a function run; `end` gives its result."""
        line = json.dumps({"call": function, "arguments": arguments}, default=str).encode() + b"\n"
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def end(self, timeout: float = 900.0) -> Any:
        """Wait for the function that `begin` started."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._received:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BenchmarkError(f"{self.module} did not answer within {timeout:.0f} s")
            received = os.read(descriptor, 1 << 16)
            if not received:
                raise BenchmarkError(f"{self.module} ended with exit code {self._process.wait(3)}")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise BenchmarkError(f"{self.module}: {reply['error']}")
        return reply["result"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()  # a worker ends at the end of its input
            self._process.wait(3)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        end(self._process)
        self._process.stdout.close()


@contextmanager
def server(
    command: Sequence[str], port: int, *, env: Mapping[str, str], cwd: Path, patience: float = 3.0
) -> Iterator[int]:
    """Run a server until the end of the block, which begins when it listens; gives its process ID.

    After SIGTERM it has `patience` seconds to end.
    """
    log = cwd / f"{Path(command[0]).name}-{port}.log"
    with log.open("wb") as output:
        process = spawn(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(env), cwd=cwd
        )
    try:
        deadline = time.monotonic() + 20
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(
                    f"{command[0]} does not listen: {log.read_text('utf-8', 'replace')[-500:]}"
                )
            time.sleep(0.01)
        yield process.pid
    finally:
        end(process, patience)


class Running(NamedTuple):
    """A server that runs: its process ID and port."""

    pid: int
    port: int


class Usage(NamedTuple):
    """What a command took, from its start to its end, in seconds."""

    wall: float
    cpu: float


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 900.0,
    may_fail: bool = False,
) -> Usage:
    """Run a command to its end."""
    with (cwd / "command.log").open("wb") as output:
        start = time.perf_counter()
        process = spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd)
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            killer.cancel()
            if process.returncode is None:
                end(process)
    if process.returncode and not may_fail:
        text = (cwd / "command.log").read_text("utf-8", "replace").strip()
        raise BenchmarkError(f"{' '.join(command[:4])} ... ended with {process.returncode}: {text[-500:]}")
    return Usage(wall, usage.ru_utime + usage.ru_stime)


def free_port() -> int:
    """Give a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port, without connecting to it."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


# What the kernel knows about a process.


def cpu_seconds(pid: int) -> float:
    """Give user + system time of a process, all threads, those that have ended too (nanosecond clock)."""
    return time.clock_gettime(
        ((-pid - 1) << 3) | 2
    )  # CPUCLOCK_SCHED of the process: see clock_getcpuclockid(3)


def cpu_seconds_with_children(pid: int) -> float:
    """The same, with the children: those that live, and those that were waited for (1/100 s)."""
    while True:
        total = cpu_seconds(pid)
        fields = _stat(pid)
        total += _ticks(fields[13:15])
        try:
            return total + sum(map(_cpu_seconds_of_child, _children(pid)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # one was waited for meanwhile: it counts among those now


def _cpu_seconds_of_child(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except OSError:  # a zombie has no clock any more
        return _ticks(_stat(pid)[11:13])


def _ticks(fields: Sequence[str]) -> float:
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def anonymous_memory(pid: int) -> int:
    """Give RssAnon in bytes: memory that is neither a file's nor shared."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError("the kernel does not tell RssAnon")


class PeakMemory:
    """Watches the RssAnon of a process from outside: ``with PeakMemory(pid) as peak: ...; peak.rise``."""

    def __init__(self, pid: int, interval: float = 0.02) -> None:
        self._pid = pid
        self._interval = interval
        self._before = self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._peak = max(self._peak, anonymous_memory(self._pid))

    @property
    def rise(self) -> int:
        """How far it has risen, in bytes."""
        return self._peak - self._before

    def __enter__(self) -> Self:
        self._before = self._peak = anonymous_memory(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
