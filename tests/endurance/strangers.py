"""Strangers from other addresses: ``python -m endurance.strangers``, in a network of its own.

It prints what was counted: peers on loopback are not limited, so the server and they have other addresses.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
from ipaddress import IPv6Address

from endurance.neighbours import HOST, make_network
from endurance.target import server_options
from helpers.peer import Peer

from asyncdicom import serve
from asyncdicom.exceptions import AssociationError

NETWORK = "2001:db8::"
_SIOCSIFADDR = 0x8916
_LOOPBACK = 1  # the index of the interface


def add_address(text: str) -> None:
    with socket.socket(socket.AF_INET6) as sock:
        fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("16sIi", IPv6Address(text).packed, 64, _LOOPBACK))


async def associated(source: str, where: tuple[str, int], calling: str) -> Peer | None:
    """An association from that address, if it is accepted."""
    sock = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, where)
    peer = Peer(*await asyncio.open_connection(sock=sock))
    try:
        await peer.associate(called="ARCHIVE", calling=calling)
    except (AssertionError, AssociationError):
        await peer.close()
        return None
    return peer


async def under_a_known_title() -> int:
    """How many associations of a modality are rejected, after a stranger has taken its AE title?"""
    limits = {"maximum_associations_per_ae_title": 4}
    async with serve(f"ARCHIVE@{HOST}:0", access=["MODALITY"], **server_options(limits, None)) as server:
        where = (HOST, server.port)
        strangers = [await associated("192.0.2.66", where, "MODALITY") for _ in range(4)]
        modality = await associated("192.0.2.2", where, "MODALITY")
        for peer in (*strangers, modality):
            if peer is not None:
                await peer.close()
    return modality is None


async def of_one_network() -> int:
    """How many associations more than those of one address does one /64 get?"""
    limits = {"maximum_associations_per_address": 4}
    async with serve(f"ARCHIVE@[{NETWORK}1]:0", **server_options(limits, None)) as server:
        where = (f"{NETWORK}1", server.port)
        peers = [await associated(f"{NETWORK}{number}", where, f"S{number}") for number in range(2, 14)]
        for peer in peers:
            if peer is not None:
                await peer.close()
    return max(sum(peer is not None for peer in peers) - 4, 0)


async def main() -> None:
    make_network()
    for number in range(1, 14):
        add_address(f"{NETWORK}{number}")
    counts = {"modality rejected": await under_a_known_title(), "beyond the limit": await of_one_network()}
    print(json.dumps(counts))


if __name__ == "__main__":
    asyncio.run(main())
