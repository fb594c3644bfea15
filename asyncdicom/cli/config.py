"""The archive's configuration file (TOML), and the AE titles that it knows.

ae_title = "ARCHIVE"
host = "0.0.0.0"
port = 104
data = "/var/lib/archive"
networks = ["10.0.0.0/16"]       # nobody else may connect

[peers]
WORKSTATION = "10.0.0.7:11112"   # may call, and is a C-MOVE destination
CT1 = ""                         # may call

[peers.CT2]                      # any of `access.Peer`
networks = ["10.0.3.0/24"]
services = ["echo", "store"]

[limits]                         # any of `Limits`; "off" is None
maximum_associations = 500

[timeouts]                       # any of `Timeouts`
idle = "off"
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

from asyncdicom.access import Peer, check_grant
from asyncdicom.address import Address, check_ae_title
from asyncdicom.options import Limits, Timeouts

__all__ = ["ConfigError", "parse_peer", "read_config"]

_LISTS = ("networks", "denied_networks", "certificates")

# Key -> the type of its value.
_KEYS: dict[str, type] = {
    "ae_title": str,
    "host": str,
    "port": int,
    "data": str,
    "durability": str,
    "on_conflict": str,
    "minimum_free": int,
    "strict": bool,
    "log_file": str,
    "log_format": str,
    **dict.fromkeys(_LISTS, list),
    "peers": dict,
    "limits": dict,
    "timeouts": dict,
}
_PEER_KEYS: dict[str, type] = {
    "address": str,
    "networks": list,
    "certificates": list,
    "services": list,
    "move_destinations": list,
}


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a configuration file; ``access`` holds what `access.AccessPolicy` takes of it.

    ``limits`` and ``timeouts`` are `Limits` and `Timeouts`. Raises `ConfigError`.
    """
    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
        _check(config, _KEYS)
        config["limits"] = Limits(**_fields(config.get("limits", {})))
        config["timeouts"] = Timeouts(**_fields(config.get("timeouts", {})))
        peers = {title: _peer(title, entry) for title, entry in config.pop("peers", {}).items()}
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None
    config["access"] = {key: config.pop(key) for key in _LISTS if key in config} | {"peers": peers}
    return config


def _check(table: dict[str, Any], keys: dict[str, type]) -> None:
    for key, value in table.items():
        if key not in keys:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(keys)}")
        if type(value) is not keys[key]:
            raise ValueError(f"{key} must be of type {keys[key].__name__}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ValueError(f"{key} must be a list of texts")


def _fields(table: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == "off" else value for name, value in table.items()}


def _peer(ae_title: str, entry: object) -> Peer:
    try:
        if isinstance(entry, str):
            return parse_peer(ae_title, entry)
        if not isinstance(entry, dict):
            raise ValueError('write "host:port", "" for a peer that only calls, or a table')
        _check(entry, _PEER_KEYS)
        address = entry.pop("address", "")
        peer = parse_peer(ae_title, address, **entry)
        check_grant(peer.grant)
        return peer
    except ValueError as error:
        raise ValueError(f"peers.{ae_title}: {error}") from None


def parse_peer(ae_title: str, where: str, **limits: list[str]) -> Peer:
    """Make a `Peer` of an AE title and the "host:port" where it listens ("": it is no destination).

    Raises ValueError.
    """
    title = check_ae_title(ae_title)
    return Peer(Address.parse(f"{title}@{where}") if where else None, **limits)
