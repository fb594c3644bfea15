"""Bad neighbours: ``python -m endurance.hostile HOST PORT COUNT``, until its input ends; then one JSON line.

COUNT connections at once, in seven ways and from 100 addresses; one that is closed comes again in 5 to 10 s.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from helpers.archive_process import CONTEXTS, SERIES, STUDY
from helpers.peer import message

from asyncdicom.data.elements import encode
from asyncdicom.dimse.messages import Command, CommandField, Priority
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT
from asyncdicom.ul.negotiation import propose

ADDRESSES = [f"192.0.2.{last}" for last in range(100, 200)]
GET_RQ = Command(
    CommandField.C_GET_RQ,
    message_id=1,
    affected_sop_class_uid=STUDY_ROOT.get,
    priority=Priority.MEDIUM,
    has_data_set=True,
)
KEYS = {
    (0x00080018, "UI"): "\\".join(f"{SERIES}.{number}" for number in range(1, 51)),
    (0x00080052, "CS"): "IMAGE",
    (0x0020000D, "UI"): STUDY,
    (0x0020000E, "UI"): SERIES,
}
MUCH = encode([(*tag, value.encode()) for tag, value in KEYS.items()], EXPLICIT_VR_LITTLE_ENDIAN)
CLIENT_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)  # less than it says
ANSWERS = {2: "accepted", 3: "rejected", 7: "aborted", 0x15: "TLS alert"}

counts: Counter[str] = Counter()


def request(calling: str) -> bytes:
    return propose(
        CONTEXTS,
        called_ae_title="ARCHIVE",
        calling_ae_title=calling,
        operations_invoked=1,
        maximum_length=16384,
    ).encode()


class Connection:
    """A socket that is read only when its owner wants to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def read(self) -> bytes:
        return await self.loop.sock_recv(self.sock, 65536)

    async def until_closed(self) -> None:
        while await self.read():
            pass

    async def associate(self, calling: str) -> bool:
        await self.send(request(calling))
        answer = await self.read()
        counts[ANSWERS.get(answer[0], "other") if answer else "closed"] += 1
        return answer[:1] == b"\2"


async def connects(connection: Connection) -> None:
    """And says nothing."""


async def drips(connection: Connection) -> None:
    for byte in request("DRIP"):
        await connection.send(bytes((byte,)))
        await asyncio.sleep(2)


async def claims(connection: Connection) -> None:
    """An A-ASSOCIATE-RQ of 4 GiB."""
    await connection.send(bytes.fromhex("0100ffffffff"))


async def stalls_in_tls(connection: Connection) -> None:
    await connection.send(CLIENT_HELLO)


async def stops_reading(connection: Connection) -> None:
    """Has more sent to it (C-GET) than the kernels keep, and takes nothing of it."""
    if await connection.associate("DEAF"):
        await connection.send(message(5, GET_RQ, MUCH))
        await asyncio.Event().wait()


async def occupies(connection: Connection) -> None:
    """Associations that do nothing, by ever other AE titles."""
    await connection.associate(f"FLOOD{random.randrange(100)}")


async def stalls_in_a_pdu(connection: Connection) -> None:
    if await connection.associate("STALL"):
        await connection.send(bytes.fromhex("040000010000 0000fffc 0100") + bytes(100))


WAYS: tuple[Callable[[Connection], Awaitable[None]], ...] = (
    *(connects, drips, claims, stalls_in_tls, stops_reading, occupies, stalls_in_a_pdu),
)


async def neighbour(number: int, where: tuple[str, int]) -> None:
    way = WAYS[number % len(WAYS)]
    await asyncio.sleep(random.random() * 2)
    while True:
        with socket.socket() as sock:
            sock.setblocking(False)
            try:
                sock.bind((ADDRESSES[number % len(ADDRESSES)], 0))
                await asyncio.get_running_loop().sock_connect(sock, where)
                counts["connections"] += 1
                connection = Connection(sock)
                await way(connection)
                await connection.until_closed()
                counts["closed"] += 1
            except OSError:
                counts["reset"] += 1
        await asyncio.sleep(5 + 5 * random.random())


async def main(host: str, port: int, count: int) -> None:
    tasks = [asyncio.ensure_future(neighbour(number, (host, port))) for number in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(json.dumps(counts))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
