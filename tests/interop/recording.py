"""What goes over connections, recorded by a proxy, as a capture file: that needs no right to capture."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from interop.peers import PATIENCE

_PCAP = struct.pack("<LHHiLLL", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, 101)  # 101: packets begin with IP
_SEGMENT = 32768
_SYN, _PUSH, _ACK = 0x02, 0x08, 0x10
DICOM_PORT = 104
"""The server's port in the capture, whatever it was."""


class Recording:
    """Connections, each a list of what either side has sent, in order: (is from the client, bytes)."""

    def __init__(self) -> None:
        self.connections: list[list[tuple[bool, bytes]]] = []

    @asynccontextmanager
    async def proxy(self, target: int, port: int = 0) -> AsyncIterator[int]:
        """Listen on a port for connections to another one; gives the port."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            said: list[tuple[bool, bytes]] = []
            self.connections.append(said)
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(
                _carry(reader, far_writer, said, is_client=True),
                _carry(far_reader, writer, said, is_client=False),
            )

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)

    def write(self, path: Path) -> None:
        """Write a capture file."""
        with path.open("wb") as file:
            file.write(_PCAP)
            packets = (
                packet for n, said in enumerate(self.connections) for packet in _packets(40001 + n, said)
            )
            for number, packet in enumerate(packets):
                file.write(
                    struct.pack("<LLLL", number // 1000, number % 1000 * 1000, len(packet), len(packet))
                )
                file.write(packet)


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    said: list[tuple[bool, bytes]],
    *,
    is_client: bool,
) -> None:
    try:
        while data := await reader.read(65536):
            said.append((is_client, data))
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


def _packets(client: int, said: list[tuple[bool, bytes]]) -> list[bytes]:
    ports = {True: client, False: DICOM_PORT}
    sent = {True: 1, False: 1}  # the next sequence number of either side
    packets: list[bytes] = []

    def packet(side: bool, flags: int, data: bytes = b"") -> None:
        number = 0 if flags & _SYN else sent[side]
        acknowledged = sent[not side] if flags & _ACK else 0
        ends = struct.pack(">HHLL", ports[side], ports[not side], number, acknowledged)
        tcp = ends + struct.pack(">BBHHH", 5 << 4, flags, 0xFFFF, 0, 0) + data
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0)
        packets.append(head + bytes([127, 0, 0, 1]) * 2 + tcp)
        sent[side] += len(data)

    packet(True, _SYN)
    packet(False, _SYN | _ACK)
    packet(True, _ACK)
    for side, data in said:
        for start in range(0, len(data), _SEGMENT):
            packet(side, _PUSH | _ACK, data[start : start + _SEGMENT])
            packet(not side, _ACK)
    return packets
