"""Peers by name: one file says where they are."""

from __future__ import annotations

import os

import click

from asyncdicom.address import Address

__all__ = ["find_peer", "peers_file", "read_peers"]


def peers_file() -> str:
    """Where the names stand: `$ASYNCDICOM_PEERS`, or asyncdicom/peers.toml in the user's configuration."""
    named = os.environ.get("ASYNCDICOM_PEERS")
    if named:
        return named
    folder = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return os.path.join(folder or os.path.expanduser("~/.config"), "asyncdicom", "peers.toml")


def read_peers() -> dict[str, Address]:
    """Give the peers by their names; none if there is no such file. Raises ``click.UsageError``."""
    path = peers_file()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: {error}") from None
    import tomllib

    from asyncdicom.toml_lines import line_of

    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{path}: {error}") from None
    peers = {}
    for name, value in content.items():
        try:
            if not isinstance(value, str):
                raise ValueError(f'a peer is written {name} = "AET@host:port"')
            if not name or any(mark in name for mark in "@: "):
                raise ValueError(f"{name!r} is no name: without @, colon and space")
            peers[name] = Address.parse(value)
        except ValueError as error:
            raise click.UsageError(f"{path}:{line_of(text, (name,)) or 1}: {error}") from None
    return peers


def find_peer(text: str) -> Address | None:
    """Give the peer that has this name, if it may be one."""
    return None if "@" in text or ":" in text else read_peers().get(text)
