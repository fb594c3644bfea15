"""When the webhook tells an operator something: made of the state of the process, with time as an argument.

What is told has names of destinations and numbers, and never what a peer has said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Alarms", "Message", "WebhookOptions"]

_MIB = 1 << 20
_QUIET = 600.0  # seconds from one alarm to the next of its kind: what comes and goes at a limit tells no more
_UNREADY = 30.0  # seconds for which disk or index have to fail
_DOWN = ("open", "half-open")
_ON_PURPOSE = ("paused", "outside hours")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch  # RFC 9110 5.6.2
_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?#][!-~]*)?").fullmatch

State = Mapping[str, Any]
Key = tuple[str, str]
"""What it is about: the kind of alarm, and the destination ("": none)."""


@dataclass(frozen=True)
class WebhookOptions:
    """Whom to tell, and of what; None turns an alarm off. Raises ValueError for what makes no sense."""

    url: str = ""
    """Where a POST with a JSON object goes. https: the certificate is verified."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """More header fields, for instance Authorization."""

    trusted: str | None = None
    """A file with certificates to trust instead of those of the system."""

    down: float | None = 300.0
    """Seconds for which a destination has to be down."""

    oldest: float | None = 3600.0
    """Seconds for which a delivery is owed, to a destination that is neither paused nor outside its hours."""

    failed: int | None = 1
    """Deliveries to one destination that were given up."""

    unrouted: int | None = 1
    """Instances that no rule fits."""

    disk: int | None = 0
    """MiB of the archive's disk that are free; also when nothing can be stored, whatever is free."""

    repeat: float = 14400.0
    """Seconds after which it is told again that something lasts."""

    interval: float = 10.0
    """Seconds between two looks."""

    timeout: float = 10.0
    """Seconds for the receiver to answer."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not _is_url(self.url):  # it may have a secret: it is not shown
            raise ValueError('url is where to POST to: "https://host/path", without a user')
        if not isinstance(self.headers, Mapping):
            raise ValueError('headers is a table: { Authorization = "Bearer ..." }')
        for name, value in self.headers.items():
            if not (
                _HEADER_NAME(name) and isinstance(value, str) and value.isprintable() and value.isascii()
            ):
                raise ValueError(f"headers: {name!r} has to be a name and a text of printable ASCII")
        if self.trusted is not None and not isinstance(self.trusted, str):
            raise ValueError("trusted is a file with certificates")
        for name in ("down", "oldest", "failed", "unrouted", "disk"):
            value = getattr(self, name)
            if value is not None and not _is_number(value, 0):
                raise ValueError(f'{name} is a number, or "off", not {value!r}')
        for name in ("repeat", "interval", "timeout"):
            if not _is_number(getattr(self, name), 0.01):
                raise ValueError(f"{name} is a number of seconds, not {getattr(self, name)!r}")


def _is_url(text: str) -> bool:
    """Whether it has a host and a port that can be called."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        return bool(_URL(text) and host.encode("idna")) and port != 0
    except ValueError:
        return False


def _is_number(value: object, least: float) -> bool:
    return type(value) in (int, float) and least <= value < float("inf")  # type: ignore[operator]


class Message(NamedTuple):
    """What is told: `is_over` when it has ended."""

    alarm: str
    destination: str
    value: float
    is_over: bool
    text: str


class _Found(NamedTuple):
    value: float
    text: str
    patience: float = 0.0  # seconds for which it has to last


class Alarms:
    """Remembers what was told, so that it is told once, when it lasts, and when it is over."""

    def __init__(self, options: WebhookOptions) -> None:
        self._options = options
        self._since: dict[Key, float] = {}
        self._told: dict[Key, float] = {}
        self._last: dict[Key, float] = {}  # when it was last told that it has begun, also if it is over

    def look(self, state: State, now: float) -> list[Message]:
        """Give what is to be told; `now` in seconds, of a clock that is never put back.

        What the state says nothing about, because the index could not be read, stays as it was.
        """
        found = dict(self._found(state))
        known = {"disk"} if "disk" in state else set()
        if "destinations" in state:
            known |= {"destination down", "delivery failed", "delivery old", "unrouted"}
        messages: list[Message] = []
        for key in [key for key in self._since if key not in found and key[0] in known]:
            del self._since[key]
            if self._told.pop(key, None) is not None:
                what = " ".join(part for part in key if part)
                messages.append(Message(*key, 0, True, f"{what}: it is over"))
        for key, (value, text, patience) in found.items():
            since = self._since.setdefault(key, now)
            told = self._told.get(key)
            quiet = self._options.repeat if told is not None else min(_QUIET, self._options.repeat)
            if now - since >= patience and now - self._last.get(key, float("-inf")) >= quiet:
                self._told[key] = self._last[key] = now
                messages.append(Message(*key, value, False, text))
        return messages

    def _found(self, state: State) -> Iterator[tuple[Key, _Found]]:
        options = self._options
        for each in state.get("destinations", ()):
            yield from self._of_destination(each)
        unrouted = state.get("unrouted", 0)
        if options.unrouted is not None and unrouted >= max(options.unrouted, 1):
            yield ("unrouted", ""), _Found(unrouted, f"{unrouted} instances fit no rule and are kept")
        disk = state.get("disk")
        if options.disk is not None and disk and (disk["is_short"] or disk["free"] < options.disk * _MIB):
            more = ": C-STORE is answered with 0xA700" if disk["is_short"] else ""
            text = f"{disk['free'] // _MIB} MiB of the archive's disk are free{more}"
            yield ("disk", ""), _Found(disk["free"], text)
        elif options.disk is not None and not (state.get("ready", True) or state.get("is_stopping")):
            free = disk["free"] if disk else 0
            text = f"nothing can be stored: {'; '.join(state['why_not'])}"
            yield ("disk", ""), _Found(free, text, _UNREADY)

    def _of_destination(self, each: State) -> Iterator[tuple[Key, _Found]]:
        options, name = self._options, each["destination"]
        if options.down is not None and each["state"] in _DOWN:
            failures = each["failures_in_a_row"]
            text = f"nothing can be sent to {name}: {failures} failures in a row; what it is owed is kept"
            yield ("destination down", name), _Found(failures, text, options.down)
        if options.failed is not None and each["failed"] >= max(options.failed, 1):
            text = f"{each['failed']} deliveries to {name} are given up: asyncdicom route retry tries again"
            yield ("delivery failed", name), _Found(each["failed"], text)
        age = each["oldest_seconds"]
        if options.oldest is not None and age > options.oldest and each["state"] not in _ON_PURPOSE:
            yield ("delivery old", name), _Found(age, f"{name} is owed something for {age:.0f} seconds")
