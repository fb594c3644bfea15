"""The configuration of a gateway (TOML): where it sends to, and by which rules.

[destinations.PACS]
address = "PACS@10.0.0.5:104"
maximum_associations = 4          # and other options of `destination.Destination`
operations_invoked = 8
rate = 50                         # and other options of `sender.SenderOptions`
hours = ["mon-fri 19:00-06:00", "sat-sun 00:00-24:00"]
time_zone = "Europe/Berlin"
on_duplicate = "changed"          # what comes again is sent if changed; "resend": each time; "skip": never
check_before = "cfind"            # what it has already is not sent: it is asked by C-FIND
pass_calling_ae_title = true      # call it by the AE title of whoever has sent the instance
pass_move_originator = true       # forward (0000,1030) and (0000,1031) of the C-STORE request that came
mode = "stream"                   # see `streaming`
keep_open = 30                    # seconds that associations are kept when nothing comes
also_delivered = [0x0111]         # statuses by which it says that it has the instance
not_delivered = [0xB007]          # warnings by which it says that it has not
tls = { trusted = ["ca.pem"] }    # fields of `TlsFiles`; true: as we are called; false: in the clear

[destinations.RESEARCH]           # a folder of files; the options of `sender.SenderOptions` hold, too
folder = "/srv/research/{PatientID}/{StudyInstanceUID}"

[[routes]]                        # see `rules`
when = { calling = "CT*" }
to = ["PACS"]
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from inspect import iscoroutinefunction
from ssl import SSLContext
from typing import Any
from zoneinfo import ZoneInfo

from asyncdicom.archive.index.work import ON_DUPLICATE
from asyncdicom.destination import TIMEOUTS, Destination
from asyncdicom.gateway.folder import FolderTemplate, parse_template
from asyncdicom.gateway.rules import RouteFunction, RuleError, Rules, parse_rules
from asyncdicom.gateway.schedule import Schedule
from asyncdicom.gateway.sender import SenderOptions
from asyncdicom.net.tls_files import TlsFiles
from asyncdicom.toml_lines import Key, line_of

__all__ = ["GatewayConfig", "GatewayConfigError", "GatewayDestination", "parse_gateway", "read_gateway"]

FUNCTIONS = "asyncdicom.routes"
"""The group of entry points that rules find functions in."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_CALLED = (
    "address", "server_hostname", "calling_ae_title", "called_ae_title", "maximum_associations",
    "operations_invoked", *TIMEOUTS,
)  # fmt: skip
_WORDS = {"on_duplicate": ON_DUPLICATE, "check_before": ("cfind",), "mode": ("store", "stream")}
_PASSES = ("pass_calling_ae_title", "pass_move_originator")
_NOT_FOR_FOLDERS = (
    *_CALLED, "tls", "also_delivered", "not_delivered", "keep_open", "group_by", "check_before", "mode",
    *_PASSES,
)  # fmt: skip
_TABLES = ("destinations", "routes")
_NEAR = 0.75  # so like one of them is a slip of the pen, and not a table of somebody else such as retention
_LARGEST = 1 << 53  # which a float still has to the last digit
_NUMBER = (int, float)
_SENT: dict[str, Any] = {
    "rate": _NUMBER,
    "bandwidth": _NUMBER,
    "ordered": bool,
    "group_by": str,
    "object_attempts": int,
    "give_up_after": _NUMBER,
    "failures": int,
    "first_pause": _NUMBER,
    "longest_pause": _NUMBER,
}
_KEYS: dict[str, Any] = {
    **dict.fromkeys(("address", "server_hostname", "calling_ae_title", "called_ae_title"), str),
    **dict.fromkeys(("maximum_associations", "operations_invoked"), int),
    **dict.fromkeys(TIMEOUTS, _NUMBER),
    **_SENT,
    "keep_open": _NUMBER,
    "on_duplicate": str,
    "check_before": str,
    "mode": str,
    "pass_calling_ae_title": bool,
    "pass_move_originator": bool,
    "folder": str,
    "hours": (list, str),
    "time_zone": str,
    "also_delivered": list,
    "not_delivered": list,
    "tls": (bool, dict),
}
_TLS: dict[str, Any] = {"key": str, "certificate": str, "trusted": list, "crl": list, "verify": bool}


class GatewayConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


class _WrongError(ValueError):
    def __init__(self, message: str, key: Key) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class GatewayDestination:
    """A destination: its name in the rules, how it is called, and how it is sent to."""

    name: str
    destination: Destination | FolderTemplate
    options: SenderOptions
    also_delivered: frozenset[int] = frozenset()
    not_delivered: frozenset[int] = frozenset()
    on_duplicate: str = "changed"
    """What is done with an instance that comes again: one of `ON_DUPLICATE`."""

    check_before: str = ""
    """"cfind": the destination is asked before, and what it has is not sent."""

    pass_calling_ae_title: bool = False
    """Whether it is called by the AE title of whoever has sent the instance."""

    pass_move_originator: bool = False
    """Whether Move Originator AE title and Message ID are forwarded (PS3.7 9.1.1.1)."""

    mode: str = "store"
    """"store": what is sent to it was stored before; "stream": see `streaming`."""

    keep_open: float = 30.0
    """Seconds that associations are kept while there is nothing to send."""

    @property
    def lanes(self) -> int:
        """How many groups are sent beside each other, with `group_by`."""
        return self.destination.maximum_associations if isinstance(self.destination, Destination) else 1


@dataclass(frozen=True)
class GatewayConfig:
    """What a gateway does."""

    destinations: Mapping[str, GatewayDestination]
    rules: Rules = field(repr=False)


def read_gateway(
    path: str | os.PathLike[str],
    functions: Mapping[str, RouteFunction] | None = None,
    ours: TlsFiles | None = None,
) -> GatewayConfig:
    """Read the configuration of a gateway. Raises `GatewayConfigError`, which names file and line.

    `functions`: those that rules may name, besides entry points of installed packages (group
    `asyncdicom.routes`). `ours`: our certificate and whom we trust, if we are called by
    TLS: then destinations are, too, unless they say otherwise. Other tables than `destinations` and `routes`
    are left to others, unless their names are nearly these.
    """
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8, as TOML has to be"
        raise GatewayConfigError(f"{where}: {reason}") from None
    return parse_gateway(text, where, functions, ours)


def parse_gateway(
    text: str,
    where: str = "gateway.toml",
    functions: Mapping[str, RouteFunction] | None = None,
    ours: TlsFiles | None = None,
) -> GatewayConfig:
    """Understand the text of a configuration; `where` is the name of its file. As `read_gateway`."""
    try:
        tables = tomllib.loads(text)
        _check_names(tables)
        destinations = _destinations(tables.get("destinations", {}), ours)
        routes = tables.get("routes", [])
        if not isinstance(routes, list):
            raise _WrongError("routes are tables in an order: [[routes]]", ("routes",))
        own = functions or {}
        rules = parse_rules(routes, destinations, {**_installed(routes, own), **own})
        _check_groups(rules, destinations)
        _check_streams(rules, destinations)
        return GatewayConfig(destinations, rules)
    except (_WrongError, RuleError) as error:
        line = line_of(text, error.key)
        raise GatewayConfigError(f"{where}:{line}: {error}" if line else f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:  # of TOML
        raise GatewayConfigError(f"{where}: {error}") from None


def _installed(routes: Iterable[Any], known: Collection[str]) -> dict[str, RouteFunction]:
    """Give the functions that rules name, and that installed packages have as entry points of `FUNCTIONS`."""
    found: dict[str, RouteFunction] = {}
    for number, table in enumerate(routes):
        name = table.get("function") if isinstance(table, dict) else None
        if not isinstance(name, str) or name in known:
            continue
        for entry in entry_points(group=FUNCTIONS, name=name):
            try:
                function = entry.load()
            except Exception as error:  # of whoever has written it
                why = f"{entry.value} cannot be imported: {type(error).__name__}: {error}"
                raise _WrongError(f"function {name!r}: {why}", ("routes", number, "function")) from None
            if not callable(function) or iscoroutinefunction(function):
                why = f"{entry.value} is no function, or a coroutine function: it is called in a thread"
                raise _WrongError(f"function {name!r}: {why}", ("routes", number, "function"))
            found[name] = function
    return found


def _check_names(tables: Mapping[str, Any]) -> None:
    """Refuse what looks like a slip of the pen: tables of other names are for others."""
    for name in tables:
        near = difflib.get_close_matches(name, _TABLES, 1, _NEAR)
        if near and name not in _TABLES:
            raise _WrongError(f"unknown table {name!r}; did you mean {near[0]}?", (name,))


def _check_groups(rules: Rules, destinations: Mapping[str, GatewayDestination]) -> None:
    for name in sorted({name for group in rules.groups for name in group}):
        if destinations[name].options.ordered:
            raise _WrongError(
                f"{name} is ordered and in a first_of: there is no order over several destinations",
                ("destinations", name, "ordered"),
            )


def _check_streams(rules: Rules, destinations: Mapping[str, GatewayDestination]) -> None:
    for name, each in destinations.items():
        if each.mode == "stream" and rules.names_condition("size"):
            raise _WrongError(
                f'{name} has mode = "stream", and a rule looks at size, which nobody knows before the end',
                ("destinations", name, "mode"),
            )
        if each.mode == "stream" and each.check_before:
            raise _WrongError(
                f'{name}: mode = "stream" and check_before exclude each other', ("destinations", name, "mode")
            )


def _destinations(tables: object, ours: TlsFiles | None) -> dict[str, GatewayDestination]:
    if not isinstance(tables, dict):
        raise _WrongError("destinations are tables: [destinations.NAME]", ("destinations",))
    return {name: _destination(name, table, ours) for name, table in tables.items()}


def _destination(name: str, table: object, ours: TlsFiles | None) -> GatewayDestination:
    where: Key = ("destinations", name)
    if not _NAME(name):
        raise _WrongError(f"{name!r} is no name: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'", where)
    if not isinstance(table, dict) or ("address" in table) == ("folder" in table):
        raise _WrongError(
            f'{name}: a destination has an address: address = "AET@host:port"; or a folder', where
        )
    _check(table, where)
    try:
        concurrency = SenderOptions.concurrency
        destination: Destination | FolderTemplate
        if "folder" in table:
            destination = _folder(table, where)
        else:
            called = {key: table[key] for key in _CALLED if key in table}
            called |= {key: None for key in TIMEOUTS if table.get(key) == 0}  # for ever, as of peers
            tls = table.get("tls")
            destination = Destination(**called, ssl=_context(tls, ours, where), plain=tls is False)
            concurrency = destination.maximum_associations * destination.window
        schedule = _schedule(table, where)
        options = SenderOptions(
            concurrency=concurrency,
            schedule=schedule,
            **{key: table[key] for key in _SENT if key in table},
        )
        keep_open = table.get("keep_open", GatewayDestination.keep_open)
        if not 0 <= keep_open < float("inf"):
            raise ValueError(f"keep_open is a number of seconds, not {keep_open}")
        delivered = _statuses(table, where, "also_delivered", 1, 0xFFFF)
        warnings = _statuses(table, where, "not_delivered", 0xB000, 0xBFFF)
        return GatewayDestination(
            name,
            destination,
            options,
            delivered,
            warnings,
            keep_open=keep_open,
            **_chosen(table, where),
        )
    except _WrongError:
        raise
    except ValueError as error:
        key = next((key for key in table if key in str(error)), "")
        raise _WrongError(f"{name}: {error}", (*where, key) if key else where) from None


def _chosen(table: Mapping[str, Any], where: Key) -> dict[str, Any]:
    """Give the options that need no more understanding, those that are there."""
    for key, words in _WORDS.items():
        if key in table and table[key] not in words:
            raise _WrongError(f"{key} is one of {', '.join(words)}, not {table[key]!r}", (*where, key))
    if table.get("pass_calling_ae_title") and "calling_ae_title" in table:
        raise _WrongError(
            "calling_ae_title and pass_calling_ae_title exclude each other", (*where, "pass_calling_ae_title")
        )
    return {key: table[key] for key in (*_WORDS, *_PASSES) if key in table}


def _folder(table: Mapping[str, Any], where: Key) -> FolderTemplate:
    for key in _NOT_FOR_FOLDERS:
        if key in table:
            raise _WrongError(f"{key} is for destinations that are called, not for folders", (*where, key))
    try:
        return parse_template(table["folder"])
    except ValueError as error:
        raise _WrongError(f"folder: {error}", (*where, "folder")) from None


def _check(table: Mapping[str, Any], where: Key, keys: Mapping[str, Any] = _KEYS) -> None:
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise _WrongError(f"unknown key {key!r}{meant}; known are {', '.join(keys)}", (*where, key))
        kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise _WrongError(f"{key} must be of type {names}", (*where, key))
        if type(value) is int and not -_LARGEST <= value <= _LARGEST:
            raise _WrongError(f"{key} is too large a number", (*where, key))


def _context(tls: Any, ours: TlsFiles | None, where: Key) -> SSLContext | None:
    """Make what a destination is called by; None is in the clear."""
    if tls is False or (tls is None and ours is None):
        return None
    own: dict[str, Any] = tls if isinstance(tls, dict) else {}
    _check(own, (*where, "tls"), _TLS)
    if not all(isinstance(file, str) for key in ("trusted", "crl") for file in own.get(key, [])):
        raise _WrongError("trusted and crl are lists of files", (*where, "tls"))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
    if "key" in own and "certificate" not in own:
        raise _WrongError("tls: a key needs its certificate", (*where, "tls"))
    if "certificate" in own:
        values.setdefault("key", None)
    try:
        return replace(ours or TlsFiles(), **values).client()
    except ValueError as error:
        raise _WrongError(str(error), (*where, "tls")) from None


def _schedule(table: Mapping[str, Any], where: Key) -> Schedule:
    value = table.get("hours", [])
    windows = [value] if isinstance(value, str) else value
    if not all(isinstance(window, str) for window in windows):
        raise _WrongError("hours is a list of texts", (*where, "hours"))
    zone = _zone(table, where)
    try:
        return Schedule(windows, zone)
    except ValueError as error:
        raise _WrongError(f"hours: {error}", (*where, "hours")) from None


def _zone(table: Mapping[str, Any], where: Key) -> ZoneInfo:
    name = table.get("time_zone", "UTC")
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise _WrongError(
            f'there is no time zone {name!r} here; write "Europe/Berlin"', (*where, "time_zone")
        ) from None


def _statuses(table: Mapping[str, Any], where: Key, key: str, first: int, last: int) -> frozenset[int]:
    statuses = table.get(key, [])
    if not all(type(status) is int and first <= status <= last for status in statuses):
        between = f"from 0x{first:04X} to 0x{last:04X}"
        raise _WrongError(
            f"{key} is a list of statuses {between}: [0x{max(first, 0x0111):04X}]", (*where, key)
        )
    return frozenset(statuses)
