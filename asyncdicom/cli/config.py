"""The archive's configuration file (TOML), and the AE titles that it knows.

ae_title = "ARCHIVE"
host = "0.0.0.0"
port = 104
data = "/var/lib/archive"

[peers]
WORKSTATION = "10.0.0.7:11112"   # may call, and is a C-MOVE destination
CT1 = ""                         # may call
"""

from __future__ import annotations

import os
import tomllib
from typing import Any

from asyncdicom.address import Address, check_ae_title

__all__ = ["ConfigError", "parse_peer", "read_config"]

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
    "max_associations": int,
    "peers": dict,
}


class ConfigError(ValueError):
    """The configuration is wrong; the message says where and what would be right."""


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a configuration file; ``peers`` becomes a dict of AE title -> `Address` or None.

    Raises `ConfigError`.
    """
    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None
    for key, value in config.items():
        if key not in _KEYS:
            raise ConfigError(f"{os.fspath(path)}: unknown key {key!r}; known are {', '.join(_KEYS)}")
        if type(value) is not _KEYS[key]:
            raise ConfigError(f"{os.fspath(path)}: {key} must be of type {_KEYS[key].__name__}")
    peers = [_peer(os.fspath(path), title, where) for title, where in config.get("peers", {}).items()]
    config["peers"] = dict(peers)
    return config


def _peer(path: str, ae_title: str, where: object) -> tuple[str, Address | None]:
    if not isinstance(where, str):
        raise ConfigError(f'{path}: peers.{ae_title} must be "host:port", or "" for a peer that only calls')
    try:
        title = check_ae_title(ae_title)
        return title, Address.parse(f"{title}@{where}") if where else None
    except ValueError as error:
        raise ConfigError(f"{path}: peers.{ae_title}: {error}") from None


def parse_peer(text: str) -> tuple[str, Address | None]:
    """Understand ``AET=host:port`` (``AET`` alone: it may call, but is no destination)."""
    title, _, where = text.partition("=")
    try:
        title = check_ae_title(title)
        return title, Address.parse(f"{title}@{where}") if where else None
    except ValueError as error:
        raise ConfigError(f"--peer {text}: {error}; write it as AET=host:port") from None
