"""What `asyncdicom cluster demo` runs: PostgreSQL, processes that serve, and HAProxy before them."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click

from asyncdicom.address import Address
from asyncdicom.cli.config import read_config
from asyncdicom.cli.haproxy import configuration
from asyncdicom.cli.output import json_text
from asyncdicom.cli.own_postgres import OwnPostgres
from asyncdicom.cli.parts import Part, PartFailed, run_once
from asyncdicom.cli.run import FAILED, INTERRUPTED, OK, complain
from asyncdicom.net.listener import bind

__all__ = ["Wanted", "run_cluster"]

_AE_TITLE, _HOST = "ARCHIVE", "127.0.0.1"
_TO_BIN = 0o711  # the mode of a folder that others may pass through, but not list


class Wanted(NamedTuple):
    """What was asked for: `folder` has the archive and the database, `temporary` what goes with the end."""

    folder: Path
    temporary: Path
    port: int
    workers: int
    haproxy: bool
    as_json: bool


async def run_cluster(name: str, wanted: Wanted) -> int:
    """Run it until SIGTERM, SIGHUP or SIGINT, and give the exit code; a second signal ends it at once.

    `name`: of the tool, for its messages.
    """
    gc.enable()
    loop = asyncio.get_running_loop()
    cluster = _Cluster(wanted)
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(code: int) -> None:
        if stopped.done():
            cluster.kill()
        else:
            stopped.set_result(code)

    for number, code in ((signal.SIGTERM, OK), (signal.SIGHUP, OK), (signal.SIGINT, INTERRUPTED)):
        loop.add_signal_handler(number, stop, code)
    running = asyncio.ensure_future(cluster.run())
    try:
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    except (PartFailed, LookupError) as error:
        if not stopped.done():
            return complain(name, str(error), FAILED)
    finally:
        await cluster.end()
    return stopped.result()


class _Cluster:
    """The parts, in the order in which they start: each needs those before it."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._parts: list[Part] = []
        self._nodes: list[_Node] = []
        self._sockets: list[socket.socket] = []
        self._haproxy = _find_haproxy() if wanted.haproxy else None
        self._config = wanted.temporary / "archive.toml"

    async def run(self) -> None:
        """Start all, say so, and keep them running until it is cancelled.

        Raises `PartFailed` and LookupError where one cannot be started, OSError where it cannot listen.
        """
        if self._haproxy is not None:
            self._sockets = await bind(Address("", _HOST, self._wanted.port), reuse_port=False)
        database = await self._start_postgres()
        self._write_config(database)
        await self._start_nodes()
        if self._haproxy is not None:
            await self._start_haproxy(self._haproxy)
        self._tell(database)
        await _all_of([part.keep for part in self._parts])

    async def _start_postgres(self) -> OwnPostgres:
        wanted = self._wanted
        wanted.folder.mkdir(parents=True, exist_ok=True)
        own = OwnPostgres.in_folder(wanted.folder / "postgres", wanted.temporary / "socket")
        if own.user is not None:  # who has to get to its folders
            wanted.temporary.chmod(_TO_BIN)
        if own.is_new:
            by = "" if own.user is None else f" (as {own.user.pw_name}, for PostgreSQL does not run as root)"
            await run_once(f"initdb{by}", own.initdb(), own.as_user)
        part = Part(
            "PostgreSQL",
            own.postgres,
            log_to=wanted.folder / "postgres.log",
            ends_by=signal.SIGINT,  # sessions are cut, and what is committed is written
            killed_by=signal.SIGQUIT,
            **own.as_user,
        )
        self._parts.append(part)

        async def is_ready() -> bool:
            asking = await asyncio.create_subprocess_exec(*own.is_ready())
            return await asking.wait() == 0

        await part.start(is_ready)
        return own

    def _write_config(self, database: OwnPostgres) -> None:
        """Write the configuration of a node; behind HAProxy it is told who calls."""
        values: dict[str, Any] = {
            "ae_title": _AE_TITLE,
            "host": _HOST,
            "data": str(self._wanted.folder / "archive"),
            "index": database.url,
        }
        if self._haproxy is not None:
            values["proxies"] = [_HOST]
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
        self._config.write_text(f"# Made by asyncdicom cluster demo.\n{''.join(lines)}")

    async def _start_nodes(self) -> None:
        """Start the processes that serve: the first one makes the tables, so the others wait for it."""
        several = self._wanted.workers
        if self._haproxy is None:
            self._nodes = [_Node("qrscp", self._config, self._wanted.port, several)]
        else:
            self._nodes = [_Node(f"worker {number}", self._config, 0, 1) for number in range(1, several + 1)]
        self._parts += [node.part for node in self._nodes]
        first, *others = self._nodes
        await first.start()
        await _all_of([node.start for node in others])

    async def _start_haproxy(self, program: str) -> None:
        """Start HAProxy on the socket that we hold: who calls while it is started again waits."""
        admin = self._wanted.temporary / "haproxy.sock"
        written = self._wanted.temporary / "haproxy.cfg"
        listener = self._sockets[0]
        written.write_text(
            configuration(
                read_config(self._config),
                [f"{_HOST}:{node.port}" for node in self._nodes],
                f"fd@{listener.fileno()}",
                str(admin),
                made_from=str(self._config),
            )
        )
        part = Part(
            "HAProxy",
            lambda: (program, "-db", "-f", str(written)),
            log_to=self._wanted.folder / "haproxy.log",
            ends_by=signal.SIGUSR1,  # it ends when no connection is left
            pass_fds=(listener.fileno(),),
        )
        self._parts.append(part)

        async def is_ready() -> bool:
            return admin.exists()

        await part.start(is_ready)

    def _tell(self, database: OwnPostgres) -> None:
        listener = self._sockets[0] if self._sockets else None
        port = self._nodes[0].port if listener is None else listener.getsockname()[1]
        told = {
            "ae_title": _AE_TITLE,
            "host": _HOST,
            "port": port,
            "data": str(self._wanted.folder / "archive"),
            "index": database.url,
            "haproxy": listener is not None,
            "parts": {part.name: part.pid for part in self._parts},
            "http": [node.http for node in self._nodes],
        }
        if self._wanted.as_json:
            print(json_text(told), flush=True)
            return
        before = "HAProxy before " if listener is not None else ""
        peer = f"{_AE_TITLE}@{_HOST}:{port}"
        number = self._wanted.workers
        workers = f"{number} worker{'s' if number > 1 else ''}"
        click.secho(f"{peer}: {before}{workers}, one archive", bold=True)
        for title, lines in _next(peer, database, told).items():
            click.echo(f"\n{title}")
            for line in lines:
                click.secho(f"    {line}", fg="green")
        click.echo(f"\nCtrl-C ends all of it{'' if self._is_kept else ', and removes what was stored'}.")
        sys.stdout.flush()

    @property
    def _is_kept(self) -> bool:
        return self._wanted.folder != self._wanted.temporary

    async def end(self) -> None:
        """End all: no more calls, then what is under way, and the database when nobody needs it."""
        for listener in self._sockets:
            listener.close()
        for part in self._parts:
            if part.name == "HAProxy":
                part.tell_to_end()
        nodes = [node.part for node in self._nodes]
        for part in nodes:
            part.tell_to_end()
        await _all_of([part.ended for part in nodes])
        for part in reversed([part for part in self._parts if part not in nodes]):
            if part.name == "HAProxy":
                part.kill()
            part.tell_to_end()
            await part.ended()

    def kill(self) -> None:
        """End all at once."""
        for part in self._parts:
            part.kill()


class _Node:
    """A process that serves, or `qrscp --processes` with several of them; it keeps its ports."""

    def __init__(self, name: str, config: Path, port: int, processes: int) -> None:
        self.port = port
        self.http = 0
        self._config = config
        self._processes = processes
        # All of it ends: nobody has to go on elsewhere.
        self.part = Part(name, self._command, ends_by=signal.SIGINT)

    def _command(self) -> Sequence[str]:
        options = ("--port", str(self.port), "--http", f"{_HOST}:{self.http}", "--json")
        several = ("--processes", str(self._processes)) if self._processes > 1 else ()
        words = ("qrscp", "--config", str(self._config), *options, *several)
        return (sys.executable, "-m", "asyncdicom", *words)

    async def start(self) -> None:
        await self.part.start()
        told = json.loads(self.part.line)
        self.port, self.http = told["port"], told["http"]


async def _all_of(works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Await all of them; the first failure is raised when each has ended or was cancelled."""
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _find_haproxy() -> str | None:
    """Give HAProxy's path: Debian keeps it where only root looks."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def _next(peer: str, database: OwnPostgres, told: dict[str, Any]) -> dict[str, list[str]]:
    """What to type next, by what it is for."""
    kill = [f"kill -9 {pid}      # {name}" for name, pid in told["parts"].items()]
    return {
        "In another terminal:": [
            f"asyncdicom echoscu {peer}",
            "asyncdicom samples images",
            f"asyncdicom storescu {peer} images",
            f"asyncdicom findscu {peer} -k QueryRetrieveLevel=STUDY -k PatientName -k StudyDescription",
            f"asyncdicom bench {peer} --associations 8",
        ],
        "What it does:": [
            *(f"curl http://{_HOST}:{port}/metrics" for port in told["http"]),
            f"asyncdicom top {told['data']}",
            f"psql -h {database.socket} -U asyncdicom postgres",
        ],
        "What becomes of a part that dies:": kill,
    }
