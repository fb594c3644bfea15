"""The webhook: a JSON object by POST for each alarm, from a thread that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

from asyncdicom.breaker import pause_after
from asyncdicom.cli.alarms import Alarms, Message, WebhookOptions
from asyncdicom.cli.state import State
from asyncdicom.telemetry.log import Log

__all__ = ["Webhook", "watching"]

log = Log("asyncdicom.cli")

_WAITING = 100  # messages; the oldest is dropped for a new one
_ATTEMPTS = 14  # in half an hour
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0  # seconds
_LAST_PATIENCE = 2.0  # seconds, at the end of the process
_LATER = (408, 425, 429)  # of the statuses 4xx those that may be another one later


class Webhook:
    """Tells messages, one after the other, as a context manager; `tell` never waits.

    What fails is tried again after 1, 2, 4 ... 300 seconds, for half an hour; a status 4xx says that there is
    no point in that. A redirection is a failure: it would lead elsewhere what was meant for one receiver.
    `source`: our AE title. Raises ValueError for certificates that cannot be read.
    """

    def __init__(self, options: WebhookOptions, source: str, *, first_pause: float = _FIRST_PAUSE) -> None:
        self.counts: Counter[str] = Counter()
        """Messages by what became of them: "sent", "failed", "dropped"; and attempts that were "retried"."""
        self._options = options
        self._source = source
        self._first_pause = first_pause
        self._opener = _opener(options)
        self._waiting: deque[bytes] = deque()
        self._turn = threading.Condition()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asyncdicom-webhook", daemon=True)

    async def __aenter__(self) -> Webhook:
        if self._options.url.startswith("http:"):
            log.warning("the webhook is called in the clear, without TLS")
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turn:
            self._is_over.set()
            self._turn.notify()
        await asyncio.to_thread(self._thread.join, _LAST_PATIENCE)
        if self._waiting:
            self.counts["dropped"] += len(self._waiting)
            log.warning("%d messages to the webhook were not sent: the process ends", len(self._waiting))

    def tell(self, message: Message) -> None:
        """Have a message sent."""
        body = {
            "alarm": message.alarm,
            "state": "over" if message.is_over else "raised",
            "destination": message.destination or None,
            "value": message.value,
            "text": f"{self._source}: {message.text}",
            "ae_title": self._source,
            "host": socket.gethostname(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._turn:
            if len(self._waiting) >= _WAITING:
                self._waiting.popleft()
                self.counts["dropped"] += 1
            self._waiting.append(json.dumps(body).encode())
            self._turn.notify()

    # in the thread

    def _run(self) -> None:
        while True:
            with self._turn:
                while not self._waiting and not self._is_over.is_set():
                    self._turn.wait()
                if self._is_over.is_set():
                    return
                body = self._waiting.popleft()
            self._send(body)

    def _send(self, body: bytes) -> None:
        why = ""
        for attempt in range(1, _ATTEMPTS + 1):
            why, is_final = self._attempt(body)
            if not why:
                self.counts["sent"] += 1
                return
            if is_final or attempt == _ATTEMPTS:
                break
            self.counts["retried"] += 1
            if self._is_over.wait(pause_after(attempt, self._first_pause, _LONGEST_PAUSE)):
                break
        self.counts["failed"] += 1
        log.error("the webhook did not take a message: %s", why)

    def _attempt(self, body: bytes) -> tuple[str, bool]:
        """Send once; gives what went wrong ("": nothing), and whether another attempt is of no use."""
        headers = {"Content-Type": "application/json", "User-Agent": "asyncdicom", **self._options.headers}
        try:
            request = Request(self._options.url, body, headers, method="POST")
            with self._opener.open(request, timeout=self._options.timeout):
                return "", True
        except HTTPError as error:
            error.close()
            return f"HTTP status {error.code}", error.code // 100 in (3, 4) and error.code not in _LATER
        except OSError as error:
            return str(error) or type(error).__name__, False
        except Exception as error:  # such as a proxy that makes no sense, whose password it may quote
            return type(error).__name__, False


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """Follow none."""


def _opener(options: WebhookOptions) -> OpenerDirector:
    try:
        context = ssl.create_default_context(cafile=options.trusted)
    except OSError as error:  # an SSLError is one
        why = error.strerror or str(error)
        raise ValueError(f"webhook.trusted: {options.trusted} has no certificates to trust: {why}") from None
    return build_opener(_NoRedirection, HTTPSHandler(context=context))


async def watching(
    state_of: Callable[[], Any], options: WebhookOptions, tell: Callable[[Message], None]
) -> None:
    """Look at the state from time to time, and tell what is to be told, until cancelled."""
    alarms, loop = Alarms(options), asyncio.get_running_loop()
    while True:
        try:
            state: State = await state_of()
            for message in alarms.look(state, loop.time()):
                tell(message)
        except Exception:
            log.exception("the webhook could not look at the state")
        await asyncio.sleep(options.interval)
