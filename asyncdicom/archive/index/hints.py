"""Hints that there is new work, from one process of an archive to the others: who has one need not look.

They are notifications of the server (NOTIFY), on a connection of their own. A hint may be lost, with the
connection or behind a pooler that gives each transaction another one: then work is found when the others look
for it. Hints are sent after the commit that they are about, and not within it: the server lets those who
commit a notification wait for one another, syncs and all.
"""

from __future__ import annotations

import hashlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine

from asyncdicom.telemetry.log import Log

__all__ = ["Hear", "Hints", "SharedHints"]

_LOG = Log("asyncdicom.archive")

Urgency = Mapping[str, int]
Hear = Callable[[Urgency | None], None]
"""Told of work for some destinations, with the priority of the most urgent; None: perhaps for any."""

_BETWEEN = 0.05  # seconds between two hints of a process: what comes meanwhile goes together
_LONGEST = 7000  # bytes: the server takes 8,000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds until a connection is tried again
_ENDING = 10.0  # seconds that an end waits for the thread, which may wait for the server
_ANY = ""

_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""One that needs no descriptor of its own, so that it waits also where the system has none left."""


class Hints:
    """Those of a process that is alone: there are none."""

    def start(self, hear: Hear) -> None:
        """Have `hear` called, in a thread, with each hint of another process."""

    def send(self, urgency: Urgency | None) -> None:
        """Let the other processes know of work that is committed. For any thread; never waits or raises."""

    def close(self) -> None:
        """Hear and send no more. Blocks, for a moment."""


class SharedHints(Hints):
    """Those of a process among several: a thread and a connection, which is made again when it is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: dict[str, int] | None = {}  # what the next hint says; None: perhaps any
        self._is_ending = False
        self._thread: threading.Thread | None = None
        self.is_listening = threading.Event()
        """Hints of others come."""

    def start(self, hear: Hear) -> None:
        """See `Hints`."""
        self._hear = hear
        self._ours, self._theirs = socket.socketpair()  # a byte comes by it when there is something to do
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="asyncdicom-hints", daemon=True)
        self._thread.start()

    def send(self, urgency: Urgency | None) -> None:
        """See `Hints`."""
        if self._thread is None or urgency == {}:
            return
        with self._lock:
            if urgency is None:
                self._waiting = None
            elif self._waiting is not None:
                for name, priority in urgency.items():
                    self._waiting[name] = min(priority, self._waiting.get(name, priority))
        self._wake()

    def _wake(self) -> None:
        with suppress(OSError):  # it is full: then it is awake
            self._theirs.send(b"\0")

    def close(self) -> None:
        """See `Hints`."""
        if self._thread is None:
            return
        self._is_ending = True
        self._wake()
        self._thread.join(_ENDING)
        self._thread = None
        self._ours.close()
        self._theirs.close()

    # the thread

    def _run(self) -> None:
        pause, is_first = _FIRST_PAUSE, True
        while not self._is_ending:
            try:
                connection = self._connect()
            except Exception as error:
                _LOG.info("there are no hints of work from other processes: %s", type(error).__name__)
            else:
                pause = _FIRST_PAUSE
                self.is_listening.set()
                if not is_first:
                    self._hear(None)  # who knows what was told meanwhile
                is_first = False
                try:
                    self._serve(connection)
                except Exception as error:
                    _LOG.info("the connection for hints of work is lost: %s", type(error).__name__)
                self.is_listening.clear()
                with suppress(Exception):
                    connection.close()
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _connect(self) -> Any:
        fairy = self._engine.raw_connection()
        connection: Any = fairy.driver_connection
        fairy.detach()  # it is ours to close, and the pool has room for another one instead
        try:
            connection.execute("SET synchronous_commit = off")
            (schema,) = connection.execute("SELECT current_schema()").fetchone()
            self._channel = "asyncdicom_" + hashlib.sha256(str(schema).encode()).hexdigest()[:16]
            connection.add_notify_handler(self._take)
            connection.execute(f"LISTEN {self._channel}")
            self._own = connection.info.backend_pid
        except BaseException:
            connection.close()
            raise
        return connection

    def _serve(self, connection: Any) -> None:
        """Hear and send until the end, or until the connection is lost, which raises."""
        earliest = 0.0
        while not self._is_ending:
            wait = max(earliest - time.monotonic(), 0.0) if self._waiting != {} else None
            ready = _readable(wait, connection, self._ours)
            if self._ours.fileno() in ready:
                self._forget_bytes()
            if connection.fileno() in ready:
                connection.execute("SELECT 1")  # what has come is handed over
            if self._waiting != {} and time.monotonic() >= earliest:
                with self._lock:
                    urgency, self._waiting = self._waiting, {}
                connection.execute("SELECT pg_notify(%s, %s)", (self._channel, _text_of(urgency)))
                earliest = time.monotonic() + _BETWEEN

    def _take(self, notification: Any) -> None:
        if notification.pid != self._own:
            self._hear(_urgency_of(notification.payload))

    def _forget_bytes(self) -> None:
        with suppress(OSError):
            self._ours.recv(1 << 12)

    def _sleep(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        until = time.monotonic() + seconds
        while not self._is_ending and (left := until - time.monotonic()) > 0:
            try:
                _readable(left, self._ours)
            except (OSError, ValueError):
                return  # it is closed
            self._forget_bytes()


def _readable(seconds: float | None, *files: Any) -> set[int]:
    """Wait until something can be read, or for so long; gives the descriptors of what can be.

    Not by `select`, which takes no descriptor above 1,023: a server with many associations has those.
    """
    with _Selector() as waiting:
        for file in files:
            waiting.register(file, selectors.EVENT_READ)
        return {key.fd for key, _ in waiting.select(seconds)}


def _text_of(urgency: Urgency | None) -> str:
    if urgency is None:
        return _ANY
    text = json.dumps(urgency)
    return text if len(text) <= _LONGEST else _ANY


def _urgency_of(text: str) -> Urgency | None:
    """Give what a hint says; what cannot be read, from whomever it is, may mean anything."""
    try:
        found = json.loads(text)
        return {str(name): int(priority) for name, priority in found.items()}
    except (ValueError, TypeError, AttributeError):
        return None
