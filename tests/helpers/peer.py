"""A DICOM peer made by hand: it sends what a test tells it to, right or wrong, and shows what it got.

Both ends of the library are tested against it where another `asyncdicom` would behave too well.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from asyncdicom import BytesSource, Limits, PresentationContext
from asyncdicom.dimse.command import encode_element, join_elements
from asyncdicom.dimse.messages import Command, CommandField, Priority, decode, encode
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT,
    VERIFICATION,
    new_uid,
)
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, answer, propose
from asyncdicom.ul.pdu import A_ABORT, AAssociateAC, AAssociateRJ, AAssociateRQ, decode_pdu

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
EOF = (0, b"")
ABORTED_BY_USER = (A_ABORT, bytes.fromhex("00000000"))
RELEASED = (5, bytes(4))  # an A-RELEASE-RQ, as `Peer.pdu` gives it
RELEASE_RQ = bytes.fromhex("0500 00000004 00000000")
RELEASE_RP = bytes.fromhex("0600 00000004 00000000")
ABORT = bytes.fromhex("0700 00000004 00000000")
PATIENCE = 5.0  # a test that waits longer has failed


def encode_elements(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A Command Set of any elements, right or wrong."""
    return join_elements([encode_element(tag, value) for tag, value in elements])


def aborted(source: int, reason: int) -> tuple[int, bytes]:
    return A_ABORT, bytes((0, 0, source, reason))


# requests


def echo_rq(message_id: int = 1) -> Command:
    return Command(CommandField.C_ECHO_RQ, message_id=message_id, affected_sop_class_uid=VERIFICATION)


def store_rq(message_id: int = 1, uid: str = "1.2.3", sop_class: str = CT) -> Command:
    return Command(
        CommandField.C_STORE_RQ,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=uid,
        priority=Priority.MEDIUM,
        has_data_set=True,
    )


def find_rq(message_id: int = 1) -> Command:
    return Command(
        CommandField.C_FIND_RQ,
        message_id=message_id,
        affected_sop_class_uid=STUDY_ROOT.find,
        priority=Priority.MEDIUM,
        has_data_set=True,
    )


def cancel_rq(message_id: int = 1) -> Command:
    return Command(CommandField.C_CANCEL_RQ, message_id_being_responded_to=message_id)


def instance(size: int = 1000, *, sop_class: str = CT, uid: str | None = None) -> BytesSource:
    """Something to store; nobody on the way looks at the bytes."""
    uid = uid or new_uid()
    filling = uid.encode().ljust(64, b".")
    data = (filling * (size // 64 + 1))[:size]
    return BytesSource(sop_class, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


ONE_AT_A_TIME = Limits(operations_invoked=1, operations_performed=1)
"""No operations window is proposed; so a peer that does not take the association is asked once only."""

IDENTIFIER = bytes.fromhex("0800520006000000") + b"STUDY "  # Implicit VR Little Endian
STUDY_CONTEXTS = [
    PresentationContext(uid, (IMPLICIT_VR_LITTLE_ENDIAN,))
    for uid in (STUDY_ROOT.find, STUDY_ROOT.move, STUDY_ROOT.get)
]


def fragments(context_id: int, is_command: bool, data: bytes, size: int = 16378) -> bytes:
    """One part of a message as P-DATA-TF PDUs."""
    parts = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    last = len(parts) - 1
    return b"".join(
        p_data_header(context_id, is_command, number == last, len(part)) + part
        for number, part in enumerate(parts)
    )


def message(context_id: int, command: Command, data: bytes | None = None) -> bytes:
    encoded = fragments(context_id, True, encode(command))
    return encoded if data is None else encoded + fragments(context_id, False, data)


class Message(NamedTuple):
    context_id: int
    command: Command
    data: bytes | None


class Peer:
    """One connection, on either side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.pdu_lengths: list[int] = []
        self._pdvs: list[tuple[int, bool, bool, bytes]] = []
        self.request: AAssociateRQ | None = None
        self.accepted: AAssociateAC | None = None

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int | None = None) -> Self:
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        except OSError:
            connection.close()
            raise
        return cls(*await asyncio.open_connection(sock=connection))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def reset(self) -> None:
        """Vanish."""
        self.writer.transport.abort()

    def cut(self) -> None:
        """Vanish by RST: a FIN would wait behind what is on its way to somebody who does not read."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def write(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    def send(self, context_id: int, command: Command, data: bytes | None = None) -> None:
        self.write(message(context_id, command, data))

    async def pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and its body."""
        async with asyncio.timeout(PATIENCE):
            try:
                header = await self.reader.readexactly(6)
                body = await self.reader.readexactly(int.from_bytes(header[2:], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                return EOF
        self.pdu_lengths.append(len(body))
        return header[0], body

    async def message(self) -> Message:
        """The next DIMSE message."""
        context_id, raw = await self._part(True)
        command = decode(raw)
        return Message(context_id, command, (await self._part(False))[1] if command.has_data_set else None)

    async def _part(self, expect_command: bool) -> tuple[int, bytes]:
        parts = []
        while True:
            while not self._pdvs:
                await self._read_pdvs()
            context_id, is_command, is_last, data = self._pdvs.pop(0)
            assert is_command == expect_command
            parts.append(data)
            if is_last:
                return context_id, b"".join(parts)

    async def _read_pdvs(self) -> None:
        pdu_type, body = await self.pdu()
        assert pdu_type == 4, f"P-DATA-TF expected, not {pdu_type}: {body.hex()}"
        while body:
            length = int.from_bytes(body[:4], "big")
            context_id, control = body[4], body[5]
            self._pdvs.append((context_id, bool(control & 1), bool(control & 2), body[6 : 4 + length]))
            body = body[4 + length :]

    async def associate(
        self,
        contexts: Iterable[str | PresentationContext] = (VERIFICATION, CT),
        *,
        called: str = "SCP",
        calling: str = "PEER",
        window: int = 1,
        maximum_length: int = 16384,
    ) -> AAssociateAC:
        """Be the requestor; context IDs are 1, 3, 5 ..."""
        request = propose(
            [
                c
                if isinstance(c, PresentationContext)
                else PresentationContext(c, (IMPLICIT_VR_LITTLE_ENDIAN,))
                for c in contexts
            ],
            called_ae_title=called,
            calling_ae_title=calling,
            operations_invoked=window,
            maximum_length=maximum_length,
        )
        self.write(request.encode())
        pdu_type, body = await self.pdu()
        assert pdu_type == 2, f"A-ASSOCIATE-AC expected, not {pdu_type}: {body.hex()}"
        accepted = decode_pdu(pdu_type, body)
        assert isinstance(accepted, AAssociateAC)
        return accepted

    async def accept(self, *, maximum_length: int = 16384, window: int = 1) -> AAssociateRQ:
        """Be the acceptor, of everything."""
        request = await self.requested()
        everything = {c.abstract_syntax: ANY_TRANSFER_SYNTAX for c in request.presentation_contexts}
        policy = Policy(
            everything,
            everything,
            maximum_length=maximum_length,
            operations_invoked=window,
            operations_performed=window,
        )
        verdict = answer(request, policy)
        assert not isinstance(verdict, AAssociateRJ)
        self.write(verdict[0].encode())
        return request

    async def requested(self) -> AAssociateRQ:
        pdu_type, body = await self.pdu()
        assert pdu_type == 1
        request = decode_pdu(pdu_type, body)
        assert isinstance(request, AAssociateRQ)
        return request


class Listener:
    """Waits for connections and gives them one after another."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[Peer] = []
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._arrived.put_nowait(peer)

    async def peer(self) -> Peer:
        async with asyncio.timeout(PATIENCE):
            return await self._arrived.get()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener._on_client, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        await asyncio.sleep(0.002)  # asyncio forgets to close what it accepts at this moment
        server.close()
        for peer in listener.peers:
            peer.reset()
            await peer.close()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition()`` holds: no longer than it takes, and not for ever."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.002)


def _open_files() -> Counter[str]:
    """What is open of what a test may forget: sockets and files (Linux only)."""
    found: Counter[str] = Counter()
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            kind = os.readlink(descriptor).partition(":")[0]
            if kind == "socket" or (kind.startswith("/") and not kind.startswith("/dev")):
                found[kind] += 1
    return found


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task, no socket and no file outlives a test."""
    tasks_before, files_before = asyncio.all_tasks(), _open_files()
    yield

    def left() -> list[object]:
        tasks = asyncio.all_tasks() - tasks_before - {asyncio.current_task()}
        return [*tasks, *(_open_files() - files_before)]

    for _ in range(500):
        if not left():
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"left behind: {left()}")
