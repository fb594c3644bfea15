"""The archive's configuration file (TOML), and the AE titles that it knows.

ae_title = "ARCHIVE"
host = "0.0.0.0"
port = 104
data = "/var/lib/archive"
networks = ["10.0.0.0/16"]       # nobody else may connect

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
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from asyncdicom.access import Peer, check_grant
from asyncdicom.address import Address, check_ae_title
from asyncdicom.cli.toml_lines import line_of
from asyncdicom.destination import Destination
from asyncdicom.options import Limits, Timeouts

if TYPE_CHECKING:
    from asyncdicom.net.tls_files import TlsFiles

__all__ = ["ConfigError", "parse_peer", "read_config", "secured"]

_LISTS = ("networks", "denied_networks", "certificates")
_TLS: dict[str, type] = {"key": str, "certificate": str, "trusted": list, "crl": list, "verify": bool}

# Key -> the type of its value.
_KEYS: dict[str, type] = {
    "ae_title": str,
    "host": str,
    "port": int,
    "data": str,
    "durability": str,
    "on_conflict": str,
    "minimum_free": int,
    "scrub": int,
    "maximum_quarantined": int,
    "strict": bool,
    "log_file": str,
    "log_format": str,
    **dict.fromkeys(_LISTS, list),
    "tls": dict,
    "peers": dict,
    "limits": dict,
    "timeouts": dict,
}
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
    "operations_invoked": int,
    **dict.fromkeys(_SECONDS, (int, float)),
}


_T = TypeVar("_T")


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


class _WrongError(ValueError):
    """Something is wrong with a key."""

    def __init__(self, message: str, key: tuple[str, ...]) -> None:
        super().__init__(message)
        self.key = key


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a configuration file; ``access`` holds what `access.AccessPolicy` takes of it.

    ``tls`` is the table of that name, ``peer_tls`` what peers say of TLS (see `secured`), ``certificates_at``
    where certificates of callers are asked for; ``limits`` and ``timeouts`` are `Limits` and `Timeouts`.
    Raises `ConfigError`, which names file and line.
    """
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        config = tomllib.loads(text)
        understood = _understood(config)
        understood["certificates_at"] = _asks_for_certificates(text, where, understood["access"])
        return understood
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except _WrongError as error:
        line = line_of(text, error.key)
        raise ConfigError(f"{where}:{line}: {error}" if line else f"{where}: {error}") from None
    except ValueError as error:  # of TOML, which tells the line
        raise ConfigError(f"{where}: {error}") from None


def _understood(config: dict[str, Any]) -> dict[str, Any]:
    _check(config, _KEYS, ())
    _check_tls(config.get("tls", {}), ("tls",))
    if "tls" in config and "certificate" not in config["tls"]:
        raise _WrongError('tls: a server needs a certificate: certificate = "FILE", key = "FILE"', ("tls",))
    config["limits"] = _options(Limits, config, "limits")
    config["timeouts"] = _options(Timeouts, config, "timeouts")
    peers, peer_tls = {}, {}
    for title, entry in config.pop("peers", {}).items():
        if isinstance(entry, dict) and "tls" in entry:
            peer_tls[title] = entry["tls"]
        peers[title] = _peer(title, entry)
    config["access"] = {key: config.pop(key) for key in _LISTS if key in config} | {"peers": peers}
    config["peer_tls"] = peer_tls
    return config


def _asks_for_certificates(text: str, where: str, access: dict[str, Any]) -> str | None:
    keys: list[tuple[str, ...]] = [("certificates",)] if "certificates" in access else []
    keys += [("peers", title, "certificates") for title, p in access["peers"].items() if p.certificates]
    return f"{where}:{line_of(text, keys[0])}" if keys else None


def _check(table: dict[str, Any], keys: dict[str, Any], where: tuple[str, ...]) -> None:
    """Raise `_WrongError` for keys that there are not, and for values of the wrong type."""
    start = "".join(f"{part}." for part in where[:-1]) + f"{where[-1]}: " if where else ""
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            meant = f"; did you mean {near[0]}? Known are" if near else "; known are"
            known = ", ".join(keys)
            raise _WrongError(f"{start}unknown key {key!r}{meant} {known}", (*where, key))
        kinds = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise _WrongError(f"{start}{key} must be of type {names}", (*where, key))
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise _WrongError(f"{start}{key} must be a list of texts", (*where, key))


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
        limits = {key: entry[key] for key in _OF_PEER if key in entry}
        called = {key: entry[key] for key in entry if key not in (*_OF_PEER, "address", "tls")}
        for key in _SECONDS:
            if key in called:
                called[key] = called[key] or None  # 0 is "for ever", as in the options of the tools
        if entry.get("tls") is False:
            called["plain"] = True
        if not entry.get("address") and (called or "tls" in entry):
            raise ValueError(f"{', '.join(called) or 'tls'} is for C-MOVE to it, which needs its address")
        peer = parse_peer(ae_title, entry.get("address", ""), called, **limits)
        check_grant(peer.grant)
        return peer
    except _WrongError:
        raise
    except ValueError as error:
        raise _WrongError(f"peers.{ae_title}: {error}", where) from None


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
