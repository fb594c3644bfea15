"""`--processes N`: one process accepts connections and hands them to the others, and sees that these run.

There is no DICOM in it. A connection goes to the process that has the fewest; what a limit allows is counted
here for all of them. A process that ends by itself is started again, a little later each time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from asyncdicom.address import Address
from asyncdicom.cli.state import counted
from asyncdicom.net.handing import HandedListener, Handing, Packet, handing_pair
from asyncdicom.net.listener import Acceptor, bind
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import reopen_logs

__all__ = ["WORKER_VARIABLE", "Place", "Shares", "Supervisor", "Worker"]

log = Log("asyncdicom.cli")

WORKER_VARIABLE = "ASYNCDICOM_WORKER"
"""The environment variable that tells a process that it is one of several: descriptor, number, place."""

_WAITING = 1024  # connections that wait for a process that takes them
_HANGING = 2.0  # seconds that a process may take to take a connection
_AT_ONCE = 3  # signals to stop: the last one ends the processes at once
_TOLD_TOGETHER = 200  # senders in a packet
_STEADY = 60.0  # seconds after which a process counts as one that runs
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds until one that has ended is started again


class Shares:
    """What all processes have together, of what a limit is on."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._held: dict[tuple[object, int], list[str]] = {}

    def take(self, who: object, number: int, keys: Sequence[Sequence[Any]]) -> str | None:
        """Take a share, by its number, of each key; gives the key that is used up, if one is."""
        for key, limit in keys:
            if self._used[key] >= limit:
                return str(key)
        self._held[who, number] = [str(key) for key, _ in keys]
        self._used.update(self._held[who, number])
        return None

    def give_back(self, who: object, number: int) -> None:
        """Give a share back."""
        for key in self._held.pop((who, number), ()):
            self._used[key] -= 1
            if not self._used[key]:
                del self._used[key]

    def forget(self, who: object) -> None:
        """Take back all that somebody has who is gone."""
        for holder, number in list(self._held):
            if holder is who:
                self.give_back(who, number)


class Worker:
    """One of the processes."""

    def __init__(
        self,
        number: int,
        process: subprocess.Popen[bytes],
        handing: Handing,
        replaces: Worker | None = None,
    ) -> None:
        self.number = number
        self.replaces = replaces
        """The one that is to end when this one is ready."""
        self.is_replaced = False
        self.counted: Counter[tuple[str, ...]] = Counter()
        """What it has counted, as far as it has told."""
        self.process = process
        self.handing = handing
        self.ready: Packet | None = None
        """What it has said when it was ready."""
        self.open: set[int] = set()
        """The connections that it has."""
        self.untaken: dict[int, tuple[float, socket.socket]] = {}
        """Those of them that it has not taken yet: since when, and what is left of them here."""
        self.began = time.monotonic()
        self.is_leaving = False
        self.is_to_reload = False
        """SIGHUP came before it was ready: by itself the signal would end it."""

    def hangs(self, now: float) -> bool:
        """Whether it has not taken a connection that it was handed a while ago."""
        oldest = next(iter(self.untaken.values()), None)
        return oldest is not None and now - oldest[0] > _HANGING

    @property
    def takes(self) -> bool:
        """Whether it takes connections."""
        return self.ready is not None and not self.is_leaving and not self.is_replaced


class Supervisor:
    """Starts so many processes by a command, and hands them the connections to an address."""

    def __init__(self, command: Sequence[str], number: int, address: Address) -> None:
        self._command = list(command)
        self._number = number
        self._address = address
        self.up = asyncio.Event()
        """All processes have been ready."""
        self.first: Packet = {}
        """What the first one has said then."""
        self.workers: list[Worker] = []
        self.counted: Counter[tuple[str, ...]] = Counter()
        """What those have counted that have ended."""
        self._to_renew: deque[Worker] = deque()
        self._dying: set[Worker] = set()  # what they say is heard no more, and their exit code not known yet
        self.shares = Shares()
        self._connections = 0
        self._waiting: deque[socket.socket] = deque()
        self._acceptors: list[Acceptor] = []
        self._where: tuple[Any, ...] = ()
        self._pauses: dict[int, float] = {}
        self._code: int | None = None
        self.is_stopping = False
        self._signals = 0  # to stop
        self._ended: asyncio.Future[int]

    async def run(self) -> int:
        """Run until a signal ends it, and give the exit code: that of the processes.

        SIGTERM and SIGINT let each process finish what is under way, SIGHUP has each read its files again,
        and SIGUSR2 starts them anew, one after another. One that ends before all were ready ends it all.
        Raises ``OSError`` if it cannot listen.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        sockets = await bind(self._address, reuse_port=False)
        self._where = sockets[0].getsockname()
        self._acceptors = [Acceptor(each, self._take) for each in sockets]
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self.renew)
        try:
            self._start(0)
            return await self._ended
        finally:
            self.is_stopping = True
            self._accept_no_more()
            for worker in self.workers:
                self._hear_no_more(worker)
            for worker in self._all():
                worker.process.kill()
                worker.process.wait()

    # processes

    def _start(self, number: int, *, is_again: bool = False, replaces: Worker | None = None) -> None:
        ours, theirs = handing_pair()
        place = "|".join(map(str, self._where[:2]))
        # The first one, and each that comes again, looks for what one that died has left.
        sweeps = int((number == 0 and replaces is None) or is_again)
        try:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, WORKER_VARIABLE: f"{theirs.fileno()}|{number}|{sweeps}|{place}"},
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the supervisor, who tells them
            )
        except OSError as error:
            ours.close()
            log.error("process %d cannot be started: %s", number, error.strerror)
            if replaces is None:
                self._start_later(number)
            return
        finally:
            theirs.close()
        worker = Worker(number, process, Handing(ours), replaces)
        self.workers.append(worker)
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)

    def _hear(self, worker: Worker) -> None:
        try:
            packet = worker.handing.hear()
        except BlockingIOError:
            return
        except OSError:
            packet = None
        if packet is None:
            self._lost(worker)
        elif "ready" in packet:
            self._is_ready(worker, packet["ready"])
        elif "taken" in packet:
            worker.untaken.pop(packet["taken"])[1].close()
            self._hand_waiting()
        elif "closed" in packet:
            worker.open.discard(packet["closed"])
        elif "back" in packet:
            self.shares.give_back(worker, packet["back"])
        elif "counted" in packet:
            worker.counted |= counted(packet["counted"])
        elif "share" in packet:
            exceeded = self.shares.take(worker, packet["share"], packet["keys"])
            with suppress(OSError):
                worker.handing.tell({"share": packet["share"], "exceeded": exceeded})
        else:
            self._leaves(worker)

    def _is_ready(self, worker: Worker, ready: Packet) -> None:
        worker.ready = ready
        if worker.is_to_reload:
            _tell(worker, signal.SIGHUP)
        if not self.up.is_set():
            self.first = self.first or ready
            for number in range(len(self.workers), self._number):
                self._start(number)
            if all(each.ready is not None for each in self.workers):
                self.up.set()
        if worker.replaces in self.workers:
            worker.replaces.is_replaced = True
            _tell(worker.replaces, signal.SIGTERM)
        self._hand_waiting()

    def _leaves(self, worker: Worker) -> None:
        """It takes no more connections: others are handed what it has not taken."""
        worker.is_leaving = True
        untaken, worker.untaken = worker.untaken, {}
        for number, (_, connection) in untaken.items():
            worker.open.discard(number)
            self._take(connection, "a connection that a process has not taken")
        if self.is_stopping and not any(each.takes for each in self.workers):
            self._accept_no_more()

    def _lost(self, worker: Worker) -> None:
        """A process has ended, or has closed its end, which it does when it ends."""
        self._hear_no_more(worker)
        self.shares.forget(worker)
        self._leaves(worker)
        self.counted += worker.counted
        self.workers.remove(worker)
        self._dying.add(worker)
        asyncio.get_running_loop().run_in_executor(None, worker.process.wait).add_done_callback(
            lambda code: self._has_ended(worker, code.result())
        )

    def _hear_no_more(self, worker: Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.handing.end)
        worker.handing.close()

    def _has_ended(self, worker: Worker, code: int) -> None:
        self._dying.discard(worker)
        if self.is_stopping or not self.up.is_set():
            self._code = max(self._code or 0, _exit_code(code, worker))
            if not self.is_stopping:
                log.error("process %d has ended with %d before it was ready", worker.number, code)
                self._code = self._code or 1
                self._stop(signal.SIGTERM)
            self._end_if_all_have(self._code)
            return
        if self._is_made_up_for(worker, code):
            self._renew_next()
            return
        if time.monotonic() - worker.began >= _STEADY:
            self._pauses.pop(worker.number, None)
        what = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with {code}"
        log.error("process %d (pid %d) %s: it is started again", worker.number, worker.process.pid, what)
        self._start_later(worker.number)

    def _is_made_up_for(self, worker: Worker, code: int) -> bool:
        """Whether a process that has ended is, or was, replaced by another one."""
        if worker.replaces in self.workers and worker.ready is None:
            self._to_renew.clear()
            log.error("process %d, started anew, has ended with %d: the former goes on", worker.number, code)
            return True
        if any(each.replaces is worker for each in self.workers):
            return True
        return worker.is_replaced

    def renew(self) -> None:
        """Start each process anew, one after another: a new one is ready before an old one drains."""
        if not self.up.is_set():
            return
        is_under_way = any(each.replaces in self.workers for each in self.workers)
        self._to_renew = deque(each for each in self.workers if each.takes)
        log.info("SIGUSR2: %d processes are started anew", len(self._to_renew))
        if not is_under_way:
            self._renew_next()

    def _renew_next(self) -> None:
        while self._to_renew and not self.is_stopping:
            worker = self._to_renew.popleft()
            if worker.takes and worker in self.workers:
                self._start(worker.number, replaces=worker)
                return

    def _start_later(self, number: int) -> None:
        pause = self._pauses.get(number, 0.0)
        self._pauses[number] = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)

        def start() -> None:
            if not self.is_stopping:
                self._start(number, is_again=True)

        asyncio.get_running_loop().call_later(pause, start)

    def _stop(self, number: int) -> None:
        """Let the processes finish; a second signal is passed on, a third one ends them.

        At SIGTERM they may go on taking connections for a while (`Server.drain`), and as long as one does,
        connections are accepted. Each process ends itself in time (`serve_until_stopped`), unless it is
        stopped, or nothing in it runs.
        """
        self._signals += 1
        self.is_stopping = True
        if number != signal.SIGTERM or not any(each.takes for each in self.workers):
            self._accept_no_more()
        for worker in self._all():
            _tell(worker, number if self._signals < _AT_ONCE else signal.SIGKILL)
        self._end_if_all_have(self._code or 0)

    def _accept_no_more(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        while self._waiting:
            self._waiting.popleft().close()

    def _all(self) -> list[Worker]:
        """Give the processes that are there, also those that are about to end."""
        return [*self.workers, *self._dying]

    def _end_if_all_have(self, code: int) -> None:
        if not self._all() and not self._ended.done():
            self._ended.set_result(code)

    def reload(self) -> None:
        """Have each process read its files again, and open its log files anew."""
        reopen_logs()
        for worker in self.workers:
            if worker.ready is None:
                worker.is_to_reload = True
            else:
                _tell(worker, signal.SIGHUP)

    # connections

    def _take(self, connection: socket.socket, host: str) -> None:
        """Hand a connection to a process, or keep it until there is one."""
        if self._hand(connection):
            return
        if len(self._waiting) < _WAITING and not self.is_stopping:
            self._waiting.append(connection)
            return
        log.warning("%s: a connection is closed: no process takes it", host, fields={"address": host})
        connection.close()

    def _hand_waiting(self) -> None:
        while self._waiting and self._hand(self._waiting[0]):
            self._waiting.popleft()

    def _hand(self, connection: socket.socket) -> bool:
        """Hand a connection to the process that has the fewest; to one that hangs, only if all do."""
        self._connections += 1
        now = time.monotonic()
        for worker in sorted(self.workers, key=lambda each: (each.hangs(now), len(each.open))):
            if not worker.takes or (self.is_stopping and worker.hangs(now)):
                continue
            try:
                worker.handing.hand(connection, self._connections)
            except OSError:
                continue  # it is full, or has just gone
            worker.open.add(self._connections)
            worker.untaken[self._connections] = (now, connection)
            return True
        return False


def _tell(worker: Worker, number: int) -> None:
    with suppress(ProcessLookupError):
        worker.process.send_signal(number)


def _exit_code(code: int, worker: Worker) -> int:
    """Give the exit code for that of a process: SIGTERM may have ended one that did not serve yet."""
    if code == -signal.SIGTERM and worker.ready is None:
        return 0
    return code if code >= 0 else 128 - code


class Place(NamedTuple):
    """What a process is told that is one of several."""

    listener: HandedListener
    number: int
    sweeps: bool
    """Whether it looks for what one has left that died."""

    @classmethod
    def found(cls) -> Place | None:
        """Give it, if this process was started by a `Supervisor`; once."""
        text = os.environ.pop(WORKER_VARIABLE, None)
        if text is None:
            return None
        descriptor, number, sweeps, host, port = text.split("|")
        listener = HandedListener(int(descriptor), (host, int(port)))
        listener.on_end = lambda: os.kill(os.getpid(), signal.SIGTERM)
        return cls(listener, int(number), sweeps == "1")

    def tell_counted(self, counts: Packet) -> None:
        """Say at the end what this process has counted (`Observer.counts`); a packet has a longest length."""
        senders = [each for each in counts.get("senders", ()) if each["instances"]]
        self.listener.tell({"counted": {**counts, "senders": []}})
        for first in range(0, len(senders), _TOLD_TOGETHER):
            self.listener.tell({"counted": {"senders": senders[first : first + _TOLD_TOGETHER]}})

    def tell_ready(self, line: str) -> None:
        """Say that it serves, and what it would print."""
        self.listener.tell({"ready": {"line": line}})
