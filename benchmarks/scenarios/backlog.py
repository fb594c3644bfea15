"""A gateway that owes very much to a destination that was down for long, and what others notice of it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.harness import Bench, Column, Contender, Measure, Scenario, Target
from benchmarks.measure import Sample, sample
from benchmarks.peers.tools import environment
from benchmarks.processes import (
    Running,
    Worker,
    anonymous_memory,
    cpu_seconds,
    end,
    free_port,
    is_listening,
    run,
    spawn,
)

_WITH, _WITHOUT = "with the backlog", "without"
_GATEWAY, _POOL = "asyncdicom gateway", "AssociationPool"
_UP, _DOWN = "UP", "DOWN"
_SIZE = 39 << 10
_FILES = 1000
_SENDERS = 4
_ASSOCIATIONS, _OPERATIONS = 4, 16  # of a destination, unless its table says otherwise
_TOML = """
ae_title = "GATE"
host = "127.0.0.1"
port = {port}
data = "{directory}"
durability = "power"
strict = false
http = "127.0.0.1:{http}"
log_level = "warn"

[destinations.UP]
address = "UP@127.0.0.1:{up}"

[destinations.DOWN]
address = "DOWN@127.0.0.1:{down}"

[[routes]]
when = {{}}
to = {to}
"""


def _total(bench: Bench) -> int:
    total: int = bench.backlog or bench.pick(1_000_000, 20_000)
    return total


def _caught_up(bench: Bench) -> int:
    return min(100_000, _total(bench) // 2)


def _filled(bench: Bench) -> Path:
    """Give an archive that owes so much to DOWN; it is made once in a run, and copied."""
    total = _total(bench)
    folder = bench.disk / f"backlog-{total}"
    if not folder.exists():
        bench.report(f"{bench.progress}{total} deliveries are enqueued: some minutes for a million")
        files = min(_FILES, total)
        with ExitStack() as stack:
            bench.worker(stack, "backlog").call(
                "fill",
                timeout=3600.0,
                directory=folder,
                destination=_DOWN,
                files=files,
                revisions=total // files,
                size=_SIZE,
            )
    return folder


class Gateway:
    """`asyncdicom serve` as a process of its own, which can be killed and started again.

    `to`: where everything is sent; UP takes it, and listens on the port `up`. Nobody listens for DOWN.
    """

    def __init__(
        self,
        bench: Bench,
        stack: ExitStack,
        *,
        with_backlog: bool,
        up: int,
        to: Sequence[str] = (_UP, _DOWN),
    ) -> None:
        self.folder = bench.folder(stack, disk=True)
        self.archive = self.folder / "archive"
        if with_backlog:
            shutil.copytree(_filled(bench), self.archive)
        self.port, self.http, self.down = free_port(), free_port(), free_port()
        text = _TOML.format(
            directory=self.archive,
            port=self.port,
            http=self.http,
            up=up,
            down=self.down,
            to=json.dumps(list(to)),
        )
        (self.folder / "gate.toml").write_text(text)
        stack.callback(self.kill)
        self.start()

    def start(self) -> float:
        """Start it, and wait until it listens; gives when it was started."""
        command = [sys.executable, "-m", "asyncdicom", "serve", "gate.toml"]
        log = (self.folder / "serve.log").open("ab")
        start = time.perf_counter()
        with log:
            self._process = spawn(command, stdout=log, stderr=log, env=environment(), cwd=self.folder)
        self._wait_for(self.port, start)
        return start

    def _wait_for(self, port: int, start: float) -> None:
        while not is_listening(port):
            if self._process.poll() is not None or time.perf_counter() - start > 120:
                text = (self.folder / "serve.log").read_text("utf-8", "replace")
                raise OSError(f"the gateway does not listen: {text[-500:]}")
            time.sleep(0.002)

    def wait_for_metrics(self) -> None:
        """Wait until they can be asked for."""
        self._wait_for(self.http, time.perf_counter())

    @property
    def running(self) -> Running:
        return Running(self._process.pid, self.port)

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        end(self._process)

    def latencies(self, around: Worker, count: int, size: int, associations: int) -> Sample:
        """Have `around`, which is also the destination UP, send, and note when each object is there."""
        found: Sample = around.call(
            "latencies",
            port=self.port,
            http=self.http,
            count=count,
            size=size,
            associations=associations,
            receiver_pid=self.running.pid,
            through=_UP,
        )
        return found

    def say(self, what: str) -> None:
        """Say something about DOWN, as an operator does."""
        command = [sys.executable, "-m", "asyncdicom", "route", what, str(self.archive), _DOWN]
        run(command, cwd=self.folder, env=environment())


# how late the others are


def _start_latency(bench: Bench, with_backlog: bool, count: int, stack: ExitStack) -> Measure:
    around = bench.worker(stack, "backlog")
    gateway = Gateway(bench, stack, with_backlog=with_backlog, up=around.call("receive", name=_UP))

    def measure(count: int = count) -> Sample:
        found = gateway.latencies(around, count, _SIZE, _SENDERS)
        return found | {"rss_mib": anonymous_memory(gateway.running.pid) / (1 << 20)}

    gateway.wait_for_metrics()
    measure(4 * _SENDERS)
    return measure


def _latency_contenders(bench: Bench) -> Sequence[Contender]:
    count: int = bench.pick(500, 50)
    return [
        Contender(
            name,
            "asyncdicom",
            "gateway, one destination down",
            partial(_start_latency, bench, name == _WITH, count),
            durability="power",
        )
        for name in (_WITHOUT, _WITH)
    ]


_LATENCY = Scenario(
    "backlog",
    f"39 KiB objects through a gateway to one destination, while a very great many wait for another: "
    f"{_SENDERS} senders",
    (
        Column("p50_ms", "p50 ms, in to out", ".2f", True),
        Column("p99_ms", "p99 ms", ".2f", True),
        Column("ops_per_s", "objects/s"),
        Column("cpu_us_per_op_receiver", "gateway CPU us/object", ".0f", True),
        Column("scrape_ms", "slowest /metrics ms", ".0f", True),
        Column("rss_mib", "RssAnon MiB", ".1f", True),
    ),
    _latency_contenders,
    (
        Target(
            "p50 latency at most 1.25 x that without a backlog",
            lambda medians: medians.ratio("p50_ms", _WITH, _WITHOUT),
            at_most=1.25,
        ),
        Target(
            "RssAnon at most 32 MiB more",
            lambda medians: medians(_WITH, "rss_mib") - medians(_WITHOUT, "rss_mib"),
            at_most=32.0,
        ),
    ),
    rounds=9,
    quick_rounds=3,
    note=lambda bench: (
        f"{_total(bench)} deliveries wait for a destination that is down in both rows, "
        f"{bench.pick(500, 50)} objects a round; /metrics is asked for each second"
    ),
)


# how soon it is back


def _start_restart(bench: Bench, with_backlog: bool, stack: ExitStack) -> Measure:
    around = bench.worker(stack, "backlog")
    gateway = Gateway(bench, stack, with_backlog=with_backlog, up=around.call("receive", name=_UP))

    def measure() -> Sample:
        gateway.kill()
        start = gateway.start()
        around.call("echo", port=gateway.port)
        seconds = time.perf_counter() - start
        return sample(seconds, 1, 0, 0.0, cpu_seconds(gateway.running.pid))

    return measure


_RESTART = Scenario(
    "backlog-restart",
    "a gateway that was killed is started again: until it answers C-ECHO",
    (
        Column("seconds", "seconds", ".2f", True),
        Column("cpu_us_per_op_receiver", "CPU us", ".0f", True),
    ),
    lambda bench: [
        Contender(
            name,
            "-",
            "gateway, one destination down",
            partial(_start_restart, bench, name == _WITH),
            durability="power",
        )
        for name in (_WITHOUT, _WITH)
    ],
    (
        Target(
            "it serves within 2 s",
            lambda medians: medians(_WITH, "seconds"),
            at_most=2.0,
        ),
    ),
    rounds=5,
    quick_rounds=3,
    note=lambda bench: (
        f"{_total(bench)} deliveries wait; from the start of the interpreter, in a process that "
        "SIGKILL has ended before"
    ),
)


# how fast it catches up


class _CatchUp:
    """A gateway whose destination is back, and who sends the same without one; both to the same peer."""

    def __init__(self, bench: Bench, stack: ExitStack, count: int) -> None:
        self._count = count
        self._peer = bench.worker(stack, "backlog")
        self._pool = bench.worker(stack, "backlog")
        up = bench.worker(stack, "backlog")
        self._gateway = Gateway(bench, stack, with_backlog=True, up=up.call("receive", name=_UP))
        self._gateway.say("pause")
        self._port = self._peer.call("receive", name=_DOWN, port=self._gateway.down)

    def gateway(self) -> Sample:
        """Have the gateway send, and stop it when enough has come."""
        self._peer.begin("arrivals", name=_DOWN, count=self._count)
        cpu = cpu_seconds(self._gateway.running.pid)
        before = anonymous_memory(self._gateway.running.pid)
        self._gateway.say("resume")
        seconds: float = self._peer.end()
        rise = anonymous_memory(self._gateway.running.pid) - before
        cpu = cpu_seconds(self._gateway.running.pid) - cpu
        self._gateway.say("pause")
        self._peer.call("quiet", name=_DOWN)
        found = sample(seconds, self._count, self._count * _SIZE, cpu, 0.0)
        return found | {"rise_mib": rise / (1 << 20)}

    def pool(self) -> Sample:
        """Have a pool send as many."""
        self._peer.begin("arrivals", name=_DOWN, count=self._count)
        sent: Sample = self._pool.call(
            "send_files",
            port=self._port,
            directory=self._gateway.archive,
            count=self._count,
            size=_ASSOCIATIONS,
            operations=_OPERATIONS,
            receiver_pid=self._peer.pid,
            ae_title=_DOWN,
        )
        seconds: float = self._peer.end()
        cpu = sent["cpu_us_per_op_sender"] * self._count / 1e6
        return sample(seconds, self._count, self._count * _SIZE, cpu, 0.0)


def _catch_up_contenders(bench: Bench) -> Sequence[Contender]:
    rounds: int = bench.rounds or bench.pick(_CATCH_UP.rounds, _CATCH_UP.quick_rounds)
    count = _caught_up(bench) // (rounds + 1)  # one round does not count
    made: list[_CatchUp] = []

    def start(name: str, stack: ExitStack) -> Measure:
        if not made:
            made.append(_CatchUp(bench, stack, count))
        return made[0].gateway if name == _GATEWAY else made[0].pool

    return [
        Contender(name, name, "asyncdicom, to nowhere", partial(start, name)) for name in (_GATEWAY, _POOL)
    ]


_CATCH_UP = Scenario(
    "backlog-catch-up",
    "39 KiB objects that waited are sent when their destination is back, beside a pool that sends the same",
    (
        Column("ops_per_s", "objects/s"),
        Column("mb_per_s", "MB/s", ".1f"),
        Column("cpu_us_per_op_sender", "sender CPU us/object", ".0f", True),
        Column("rise_mib", "RssAnon, MiB more", ".1f", True),
    ),
    _catch_up_contenders,
    (
        Target(
            "at least 0.7 of AssociationPool",
            lambda medians: medians.ratio("ops_per_s", _GATEWAY, _POOL),
            0.7,
        ),
    ),
    rounds=5,
    quick_rounds=2,
    note=lambda bench: (
        f"the first {_caught_up(bench)} of {_total(bench)}, in parts between which the pool "
        f"sends as many; {_ASSOCIATIONS} associations of {_OPERATIONS} operations both; from the first "
        "arrival of a part to the last"
    ),
)

SCENARIOS = (_LATENCY, _RESTART, _CATCH_UP)
