"""The archive's configuration file (TOML), and the AE titles that it knows.

ae_title = "ARCHIVE"
host = "0.0.0.0"
port = 104
data = "/var/lib/archive"
networks = ["10.0.0.0/16"]       # nobody else may connect
proxies = ["10.0.0.1"]           # say who calls (PROXY protocol, version 2)
relational = ["OLDVIEWER"]       # may leave out the keys of upper levels

[tls]                            # as +tls KEY CERT +cf FILE --crl FILE
key = "archive.key"
certificate = "archive.pem"
trusted = ["hospital-ca.pem"]    # callers have to show a certificate
crl = ["hospital-ca.crl"]

[peers]
WORKSTATION = "10.0.0.7:11112"   # may call, and is a C-MOVE destination, by TLS if we have it
CT1 = ""                         # may call

[peers.CT2]                      # any of `access.Peer` and `destination.Destination`
networks = ["10.0.3.0/24"]
services = ["echo", "store"]

[peers.OLD]
address = "10.0.0.9:104"
tls = false                      # in the clear; true or a table like [tls]: by TLS, also if we have none

[limits]                         # any of `Limits`; "off" is None
maximum_associations = 500

[timeouts]                       # any of `Timeouts`
idle = "off"

[[retention]]                    # any of `archive.retention.RetentionRule`: what all of it is true of, goes
days = 365
calling = ["CT1"]

The tables `destinations` and `routes` make a gateway of it: they are read by `gateway.config`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from asyncdicom.access import AccessPolicy, Peer, check_grant
from asyncdicom.address import Address, check_ae_title
from asyncdicom.cli.alarms import WebhookOptions
from asyncdicom.destination import Destination
from asyncdicom.options import Limits, Timeouts
from asyncdicom.toml_lines import Key, line_of

if TYPE_CHECKING:
    from asyncdicom.archive.retention import RetentionRule
    from asyncdicom.net.tls_files import TlsFiles

__all__ = ["ConfigError", "parse_peer", "read_config", "secured"]

_LISTS = ("networks", "denied_networks", "proxies", "certificates")
_TLS: dict[str, type] = {"key": str, "certificate": str, "trusted": list, "crl": list, "verify": bool}

# Key -> the type of its value.
_KEYS: dict[str, type] = {
    "ae_title": str,
    "host": str,
    "port": int,
    "data": str,
    "relational": list,
    "durability": str,
    "index": str,
    "processes": int,
    "blobs": str,
    "ack": str,
    "on_conflict": str,
    "on_mismatch": str,
    "incomplete": str,
    "minimum_free": int,
    "scrub": int,
    "quarantine_limit": int,
    "existing": bool,
    "gateway": str,
    "commitment": bool,
    "worklist": str,
    "http": str,
    "strict": bool,
    "log_file": str,
    "log_level": str,
    "log_format": str,
    **dict.fromkeys(_LISTS, list),
    "tls": dict,
    "peers": dict,
    "limits": dict,
    "timeouts": dict,
    "webhook": dict,
    "retention": list,
    "keep": float,
    "destinations": dict,
    "routes": list,
}
_OF_GATEWAY = ("destinations", "routes")  # tables that its own reader reads
_OF_PEER = ("networks", "certificates", "services", "move_destinations")
_SECONDS = ("connect_timeout", "acse_timeout", "dimse_timeout", "release_timeout")
_PEER_KEYS: dict[str, type | tuple[type, ...]] = {
    "address": str,
    **dict.fromkeys(_OF_PEER, list),
    "tls": (bool, dict),
    "server_hostname": str,
    "calling_ae_title": str,
    "called_ae_title": str,
    "maximum_associations": int,
    "associations": int,
    "operations_invoked": int,
    **dict.fromkeys(_SECONDS, (int, float)),
}


_NUMBER_OR_OFF = (int, float, str)
_WEBHOOK: dict[str, type | tuple[type, ...]] = {
    "url": str,
    "headers": dict,
    "trusted": str,
    **dict.fromkeys(("down", "oldest", "failed", "unrouted", "disk"), _NUMBER_OR_OFF),
    **dict.fromkeys(("repeat", "interval", "timeout"), (int, float)),
}

_T = TypeVar("_T")


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


class _WrongError(ValueError):
    """Something is wrong with a key."""

    def __init__(self, message: str, key: Key) -> None:
        super().__init__(message)
        self.key = key


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a configuration file; ``access`` holds what `access.AccessPolicy` takes of it.

    ``tls`` is the table of that name, ``peer_tls`` what peers say of TLS (see `secured`), ``certificates_at``
    where certificates of callers are asked for; ``limits`` and ``timeouts`` are `Limits` and `Timeouts`;
    ``place_of`` gives the file and line of a key; ``has_gateway``: the file has tables of a gateway.
    Raises `ConfigError`, which names file and line.
    """
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
        config = tomllib.loads(text)
        understood = _understood(config)
        understood["place_of"] = place_of = partial(_place, where, text)
        asked = _asks_for_certificates(understood["access"])
        understood["certificates_at"] = None if asked is None else place_of(asked)
        return understood
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{where}:{line}: it is not UTF-8, as TOML has to be") from None
    except _WrongError as error:
        raise ConfigError(f"{_place(where, text, error.key)}: {error}") from None
    except (ValueError, RecursionError) as error:  # of TOML
        found = _LINE.search(str(error))
        line = int(found[1]) if found and found[1] else max(len(text.splitlines()), 1)
        raise ConfigError(f"{where}:{line}: {_LINE.sub('', str(error))}") from None


_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")


def _place(file: str, text: str, key: Key) -> str:
    line = line_of(text, key)
    return f"{file}:{line}" if line else file


def _understood(config: dict[str, Any]) -> dict[str, Any]:
    has_gateway = [name for name in _OF_GATEWAY if config.pop(name, None) is not None]
    config["retention"] = _retention(config.pop("retention", []), config.pop("keep", None))
    _check({key: value for key, value in config.items() if key != "retention"}, _KEYS, ())
    if has_gateway and "gateway" in config:
        raise _WrongError(f"gateway names a file, and {has_gateway[0]} are here, too", ("gateway",))
    if has_gateway:
        config["has_gateway"] = True
    _check_tls(config.get("tls", {}), ("tls",))
    if "tls" in config and "certificate" not in config["tls"]:
        raise _WrongError('tls: a server needs a certificate: certificate = "FILE", key = "FILE"', ("tls",))
    config["limits"] = _options(Limits, config, "limits")
    config["timeouts"] = _options(Timeouts, config, "timeouts")
    _check(config.get("webhook", {}), _WEBHOOK, ("webhook",))
    if "webhook" in config:
        config["webhook"] = _options(WebhookOptions, config, "webhook")
    peers, peer_tls = {}, {}
    for title, entry in config.pop("peers", {}).items():
        if isinstance(entry, dict) and "tls" in entry:
            peer_tls[title] = entry["tls"]
        peers[title] = _peer(title, entry)
    lists = {key: config.pop(key) for key in _LISTS if key in config}
    for key, value in lists.items():
        try:
            AccessPolicy(**{key: value})
        except ValueError as error:
            raise _WrongError(f"{key}: {error}", (key,)) from None
    config["access"] = lists | {"peers": peers}
    config["peer_tls"] = peer_tls
    return config


def _retention(tables: Any, keep: Any) -> tuple[RetentionRule, ...]:
    if keep is None and not tables:
        return ()
    from asyncdicom.archive.retention import RetentionError, RetentionRule, parse_retention

    try:
        rules = parse_retention(tables)
    except RetentionError as error:
        raise _WrongError(str(error), error.key) from None
    if keep is None:
        return rules
    if type(keep) not in (int, float):
        raise _WrongError("keep is a number of days", ("keep",))
    try:
        return (*rules, RetentionRule(days=keep, only="delivered", name=f"keep = {keep}"))
    except ValueError as error:
        raise _WrongError(f"keep: {error}", ("keep",)) from None


def _asks_for_certificates(access: dict[str, Any]) -> tuple[str, ...] | None:
    keys: list[tuple[str, ...]] = [("certificates",)] if "certificates" in access else []
    keys += [("peers", title, "certificates") for title, p in access["peers"].items() if p.certificates]
    return keys[0] if keys else None


def _check(table: dict[str, Any], keys: dict[str, Any], where: tuple[str, ...]) -> None:
    """Raise `_WrongError` for keys that there are not, and for values of the wrong type."""
    start = "".join(f"{part}." for part in where[:-1]) + f"{where[-1]}: " if where else ""
    for key, value in table.items():
        if key not in keys:
            raise _WrongError(f"{start}unknown key {key!r}{_meant(key, keys, where)}", (*where, key))
        kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise _WrongError(f"{start}{key} must be of type {names}", (*where, key))
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise _WrongError(f"{start}{key} must be a list of texts", (*where, key))


def _meant(key: str, keys: dict[str, Any], where: tuple[str, ...]) -> str:
    """Say which key may have been meant: one of this table, or the same one in another table."""
    known = f"nown are {', '.join(keys)}"
    near = difflib.get_close_matches(key, keys, 1)
    if near:
        return f"; did you mean {near[0]}? K{known}"
    tables = {"tls": _TLS, "limits": _names(Limits), "timeouts": _names(Timeouts)}
    tables |= {"webhook": _WEBHOOK, "": _KEYS}
    for table, others in tables.items():
        other = difflib.get_close_matches(key, others, 1, cutoff=0.8)
        if other and where != (table,):
            place = f"in [{table}]" if table else "at the beginning of the file, above the first table"
            return f"; did you mean {other[0]} {place}? K{known}"
    return f"; k{known}"


def _names(kind: type) -> list[str]:
    return list(kind.__annotations__)


def _options(kind: type[_T], config: dict[str, Any], name: str) -> _T:
    table = config.get(name, {})
    try:
        return kind(**{key: None if value == "off" else value for key, value in table.items()})
    except (TypeError, ValueError) as error:
        key = next((key for key in table if key in str(error)), "")
        raise _WrongError(str(error), (name, key)) from None


def _check_tls(table: dict[str, Any], where: tuple[str, ...]) -> None:
    _check(table, _TLS, where)
    if "key" in table and "certificate" not in table:
        raise _WrongError(f"{'.'.join(where)}: a key needs its certificate", (*where, "key"))


def _fields(table: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == "off" else value for name, value in table.items()}


def _peer(ae_title: str, entry: object) -> Peer:
    where = ("peers", ae_title)
    try:
        if isinstance(entry, str):
            return parse_peer(ae_title, entry)
        if not isinstance(entry, dict):
            raise ValueError('write "host:port", "" for a peer that only calls, or a table')
        _check(entry, _PEER_KEYS, where)
        if isinstance(entry.get("tls"), dict):
            _check_tls(entry["tls"], (*where, "tls"))
        return _made(ae_title, entry)
    except _WrongError:
        raise
    except ValueError as error:
        raise _WrongError(f"peers.{ae_title}: {error}", (*where, _culprit(ae_title, entry))) from None


def _culprit(ae_title: str, entry: object) -> str:
    """Find the key of a peer's table that is wrong by itself: what checks it does not tell."""
    table = entry if isinstance(entry, dict) else {}
    for key, value in table.items():
        alone = {"address": "host:1"} if key not in (*_OF_PEER, "address", "tls") else {}
        try:
            _made(ae_title, alone | {key: value})
        except ValueError:
            return str(key)
    return ""


def _made(ae_title: str, table: dict[str, Any]) -> Peer:
    limits = {key: table[key] for key in _OF_PEER if key in table}
    called = {key: table[key] for key in table if key not in (*_OF_PEER, "address", "tls")}
    for key in _SECONDS:
        if key in called:
            if not called[key] >= 0:  # nan is not, either
                raise ValueError(f"{key} is a number of seconds, or 0 for ever, not {called[key]}")
            called[key] = called[key] or None  # 0 is "for ever", as in the options of the tools
    if table.get("tls") is False:
        called["plain"] = True
    if not table.get("address") and (called or "tls" in table):
        raise ValueError(f"{', '.join(called) or 'tls'} is for C-MOVE to it, which needs its address")
    peer = parse_peer(ae_title, table.get("address", ""), called, **limits)
    check_grant(peer.grant)
    return peer


def parse_peer(ae_title: str, where: str, called: dict[str, Any] | None = None, **limits: list[str]) -> Peer:
    """Make a `Peer` of an AE title and the "host:port" where it listens ("": it is no destination).

    `called`: options of its `Destination`. Raises ValueError.
    """
    title = check_ae_title(ae_title)
    if not where:
        return Peer(None, **limits)
    return Peer(Destination(Address.parse(f"{title}@{where}"), **(called or {})), **limits)


def secured(peers: dict[str, Peer], peer_tls: dict[str, Any], ours: TlsFiles) -> dict[str, Peer]:
    """Give the destinations that say how they are called by TLS their contexts.

    `ours`: what they get where they say nothing else: our certificate, and whom we trust. Raises ValueError.
    """
    for title, tls in peer_tls.items():
        peer = peers[title]
        if tls is False or peer.destination is None:
            continue
        own: dict[str, Any] = {} if tls is True else tls
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        files = replace(ours, **values)
        if "certificate" in own and "key" not in own:
            files = replace(files, key=None)
        if not files.verify:
            files = replace(files, crl=())
        try:
            peer.destination = replace(peer.destination, ssl=files.client())
        except ValueError as error:
            raise ValueError(f"peers.{title}: {error}") from None
    return peers
