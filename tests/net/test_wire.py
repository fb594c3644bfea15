"""Malformed input as a peer on TCP sees the reaction: framing, fragments, command sets, transport.

The decoders have their own tests; here it is about the A-ABORT that leaves, the connection that closes,
and the server that lives on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from struct import pack
from typing import Any

import pytest
from helpers.peer import (
    ABORT,
    ABORTED_BY_USER,
    CT,
    EOF,
    IDENTIFIER,
    STUDY_CONTEXTS,
    Peer,
    aborted,
    cancel_rq,
    echo_rq,
    encode_elements,
    eventually,
    find_rq,
    fragments,
    message,
    store_rq,
)

from asyncdicom import VERIFICATION, Limits, Request, Server, associate, serve
from asyncdicom.dimse.messages import Command, CommandField, encode
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import PresentationContext, propose

STORE = 3
FIND = 5
MAXIMUM = 16384


@pytest.fixture
async def server(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Server]:
    caplog.set_level(logging.ERROR)

    async def on_store(request: Request) -> int:
        await request.data.read()
        return 0

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        yield IDENTIFIER
        await asyncio.Event().wait()

    async with serve(
        "SCP@127.0.0.1:0", c_store=on_store, c_find=on_find, limits=Limits(maximum_length=MAXIMUM)
    ) as server:
        yield server
        async with associate(f"SCP@127.0.0.1:{server.port}") as association:
            assert (await association.c_echo()).status == 0, "the server lives on"
        await eventually(lambda: not server.associations and not server._waiting)
    assert not [record for record in caplog.records if record.exc_info], "a peer's fault is no fault of ours"


@pytest.fixture
async def peer(server: Server) -> AsyncIterator[Peer]:
    async with await Peer.connect(server.port) as peer:
        await peer.associate([VERIFICATION, CT, *STUDY_CONTEXTS], window=4)
        yield peer


def request() -> bytes:
    contexts = [PresentationContext(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))]
    return propose(contexts, called_ae_title="SCP", calling_ae_title="PEER").encode()


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return pack(">IBB", len(data) + 2, context_id, control) + data


def pdu(*pdvs: bytes, pdu_type: int = 4) -> bytes:
    body = b"".join(pdvs)
    return pack(">BxI", pdu_type, len(body)) + body


# before an association

BEFORE: dict[str, tuple[bytes, tuple[int, bytes]]] = {
    "P-01 HTTP": (b"GET / HTTP/1.1\r\n", aborted(0, 0)),
    "P-01 TLS": (bytes.fromhex("16030102000100"), aborted(0, 0)),
    "P-04 empty A-ASSOCIATE-RQ": (bytes.fromhex("010000000000"), aborted(0, 0)),
    "P-04 short A-ASSOCIATE-RQ": (bytes.fromhex("010000000043") + bytes(67), aborted(0, 0)),
    "P-05 4 GiB A-ASSOCIATE-RQ": (bytes.fromhex("0100ffffffff"), aborted(0, 0)),
    "A-10 A-ASSOCIATE-AC": (b"\x02" + request()[1:], aborted(0, 0)),
    "A-10 A-ASSOCIATE-RJ": (bytes.fromhex("0300 00000004 00010101"), aborted(0, 0)),
    "P-DATA": (fragments(1, True, encode(echo_rq())), aborted(0, 0)),
    "A-RELEASE-RQ": (bytes.fromhex("0500 00000004 00000000"), aborted(0, 0)),
    "A-ABORT": (ABORT, EOF),
    "A-05 wrong protocol version": (request()[:6] + b"\0\2" + request()[8:], (3, bytes((0, 1, 2, 2)))),
}


@pytest.mark.parametrize("case", BEFORE)
async def test_before_an_association(server: Server, case: str) -> None:
    sent, answer = BEFORE[case]
    async with await Peer.connect(server.port) as peer:
        peer.write(sent)
        assert await peer.pdu() == answer


@pytest.mark.parametrize("ending", [b"", bytes.fromhex("0500 00000004 00000000")])
async def test_p_16_data_that_does_not_wait_for_the_acceptance(server: Server, ending: bytes) -> None:
    async with await Peer.connect(server.port) as peer:
        peer.write(request() + message(1, echo_rq()) + ending)
        assert await peer.pdu() == aborted(2, 2)


# in an association: what is sent, and the (source, reason) of the A-ABORT that comes back


def changed(encoded: bytes, element: str, other: str) -> bytes:
    """A Command Set with one element, as it is encoded, replaced."""
    assert bytes.fromhex(element) in encoded
    return encoded.replace(bytes.fromhex(element), bytes.fromhex(other))


COMMAND_FIELD = "00000001 02000000 3000"
MESSAGE_ID = "00001001 02000000 0100"
ECHO = encode(echo_rq())
STRAY = message(1, Command(CommandField.C_ECHO_RSP, message_id_being_responded_to=9, status=0))
STORE_RQ = encode(store_rq())
WHILE: dict[str, tuple[bytes, tuple[int, int]]] = {
    "P-02 type 0": (bytes.fromhex("000000000004"), (2, 1)),
    "P-02 type 8": (bytes.fromhex("080000000004"), (2, 1)),
    "P-06 longer than announced": (pack(">BxI", 4, MAXIMUM + 1), (2, 6)),
    "P-06 4 GiB": (bytes.fromhex("0400ffffffff"), (2, 6)),
    "P-07 empty P-DATA-TF": (pdu(), (2, 6)),
    "P-08 A-RELEASE-RQ of 5": (bytes.fromhex("0500 00000005 0000000000"), (2, 6)),
    "A-09 second A-ASSOCIATE-RQ": (request(), (2, 2)),
    "A-RELEASE-RP": (bytes.fromhex("0600 00000004 00000000"), (2, 2)),
    "V-02 PDV of length 0": (pdu(pack(">IBB", 0, 1, 3)), (2, 6)),
    "V-02 PDV of length 1": (pdu(pack(">IBB", 1, 1, 3)), (2, 6)),
    "V-03 PDV longer than its PDU": (pdu(pack(">IBB", 0xFFFFFFFF, 1, 3)), (2, 6)),
    "V-04 lengths that do not add up": (pdu(pdv(1, 3, ECHO), b"\0\0"), (2, 6)),
    "V-05 unknown context": (message(99, echo_rq()), (2, 6)),
    "V-05 rejected context": (message(7, echo_rq()), (2, 6)),
    "V-07 data set before a command": (fragments(STORE, False, bytes(10)), (2, 5)),
    "V-08 command where a data set is due": (message(STORE, store_rq()) + message(1, echo_rq()), (2, 5)),
    "V-09 context changes": (
        fragments(STORE, True, STORE_RQ) + fragments(1, False, bytes(10)),
        (2, 6),
    ),
    "V-13 empty fragments": (pdu(pdv(1, 1, b"")) * 1100, (2, 6)),
    "V-14 endless command": (pdu(pdv(1, 1, bytes(16000))) * 5, (2, 6)),
    "V-15 data set of a C-ECHO": (message(1, echo_rq()) + fragments(1, False, bytes(10)), (2, 5)),
    "C-01 element too long": (fragments(1, True, ECHO[:-2]), (2, 6)),
    "C-05 no Command Field": (fragments(1, True, encode_elements([(0x00000110, b"\1\0")])), (2, 6)),
    "C-05 unknown Command Field": (
        fragments(1, True, changed(ECHO, COMMAND_FIELD, "00000001 02000000 7777")),
        (2, 6),
    ),
    "C-07 short Message ID": (
        fragments(1, True, changed(ECHO, MESSAGE_ID, "00001001 01000000 01")),
        (2, 6),
    ),
    "C-15 endless C-CANCEL": (message(FIND, cancel_rq(99)) * 1100, (2, 6)),
    "C-06 endless responses": (STRAY * 1100, (2, 6)),
}  # fmt: skip


@pytest.mark.parametrize("case", WHILE)
async def test_in_an_association(peer: Peer, case: str) -> None:
    sent, reaction = WHILE[case]
    peer.write(sent)
    while (answer := await peer.pdu())[0] == 4:
        pass
    assert answer == aborted(*reaction)


async def test_what_follows_the_fault_is_not_taken(peer: Peer) -> None:
    peer.write(bytes.fromhex("080000000004"), message(1, echo_rq()))
    assert await peer.pdu() == aborted(2, 1)
    peer.write(bytes(100))
    await peer.writer.drain()


async def test_p_15_bytes_after_the_end_are_ignored_and_bounded(peer: Peer) -> None:
    peer.write(bytes.fromhex("080000000004"))
    assert await peer.pdu() == aborted(2, 1)
    with_more = bytes(64_000)
    try:
        for _ in range(100):
            peer.write(with_more)
            await peer.writer.drain()
    except ConnectionError:
        pass  # cut off
    assert await peer.pdu() == EOF


# what is tolerated

TOLERATED: dict[str, bytes] = {
    "P-03 reserved byte": b"\x04\x01" + fragments(1, True, ECHO)[2:],
    "V-06 unused control bits": pdu(pdv(1, 0xFF, ECHO)),
    "V-12 odd fragments": pdu(pdv(1, 1, ECHO[:3])) + pdu(pdv(1, 1, ECHO[3:8])) + pdu(pdv(1, 3, ECHO[8:])),
    "V-13 a few empty fragments": pdu(pdv(1, 1, b"")) * 10 + pdu(pdv(1, 1, ECHO)) + pdu(pdv(1, 3, b"")),
    "V-19 fragments of two bytes": fragments(1, True, ECHO, size=2),
    "two PDVs in a PDU": pdu(pdv(1, 1, ECHO[:20]), pdv(1, 3, ECHO[20:])),
    "C-02 other group": fragments(1, True, ECHO + bytes.fromhex("0800 0500 02000000 3131")),
    "C-03 no group length": fragments(1, True, ECHO[12:]),
    "C-03 wrong group length": fragments(1, True, ECHO[:8] + b"\x99\0\0\0" + ECHO[12:]),
    "C-14 C-CANCEL of nothing": message(FIND, cancel_rq(7)) + message(1, echo_rq()),
    "C-06 a stray response": STRAY + message(1, echo_rq()),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLERATED)
async def test_what_is_tolerated(peer: Peer, case: str) -> None:
    peer.write(TOLERATED[case])
    response = await peer.message()
    assert response.command.status == 0
    assert response.command.message_id_being_responded_to == 1


async def test_v_11_command_and_data_set_in_one_pdu(peer: Peer) -> None:
    peer.write(pdu(pdv(STORE, 3, STORE_RQ), pdv(STORE, 2, bytes(100))))
    assert (await peer.message()).command.status == 0


async def test_v_10_two_messages_in_one_pdu(peer: Peer) -> None:
    peer.write(pdu(pdv(1, 3, encode(echo_rq(1))), pdv(1, 3, encode(echo_rq(2)))))
    assert [(await peer.message()).command.message_id_being_responded_to for _ in range(2)] == [1, 2]


async def test_p_13_any_split_is_the_same(peer: Peer) -> None:
    stream = message(STORE, store_rq(1), bytes(500)) + message(1, echo_rq(2))
    for byte in stream:
        peer.write(bytes([byte]))
        await peer.writer.drain()
    assert {(await peer.message()).command.message_id_being_responded_to for _ in range(2)} == {1, 2}


async def test_c_19_a_few_more_operations_than_negotiated_wait_their_turn_more_are_refused(
    server: Server,
) -> None:
    async with await Peer.connect(server.port) as peer:
        await peer.associate(STUDY_CONTEXTS, window=1)
        for message_id in (1, 2):
            peer.send(1, find_rq(message_id), IDENTIFIER)
        assert {(await peer.message()).command.message_id_being_responded_to for _ in range(2)} == {1, 2}
        peer.send(1, find_rq(3), IDENTIFIER)
        assert await peer.pdu() == aborted(2, 5)


@pytest.mark.parametrize("uid", ["", "1.2 3", "../../etc/passwd", "1.2*", "1\\2", "1." + "2" * 63])
async def test_c_10_an_instance_that_cannot_be_named(peer: Peer, uid: str) -> None:
    elements: list[tuple[int, bytes]] = [
        (0x00000002, CT.encode() + b"\0"),
        (0x00000100, b"\1\0"),
        (0x00000110, b"\1\0"),
        (0x00000700, b"\0\0"),
        (0x00000800, b"\1\0"),
        (0x00001000, uid.encode() + b"\0" * (len(uid) % 2)),
    ]
    peer.write(fragments(STORE, True, encode_elements(elements)), fragments(STORE, False, bytes(100)))
    response = await peer.message()
    assert response.command.status == 0x0117
    peer.send(1, echo_rq(1))
    assert (await peer.message()).command.status == 0


@pytest.mark.parametrize("uid", ["1..2", "1.2.03.4", "1.2.a-b", "2" * 64])
async def test_an_instance_whose_uid_breaks_the_rules_is_taken(peer: Peer, uid: str) -> None:
    command = store_rq()
    command.affected_sop_instance_uid = uid
    peer.write(fragments(STORE, True, encode(command)), fragments(STORE, False, bytes(100)))
    assert (await peer.message()).command.status == 0


async def test_c_09_a_priority_that_is_none(peer: Peer) -> None:
    raw = changed(encode(store_rq()), "00000007 02000000 0000", "00000007 02000000 0700")
    peer.write(fragments(STORE, True, raw), fragments(STORE, False, bytes(100)))
    assert (await peer.message()).command.status == 0


async def test_a_violation_reaches_the_handlers_of_that_association_only(server: Server) -> None:
    async with associate(f"SCP@127.0.0.1:{server.port}") as bystander:
        for sent, _ in list(WHILE.values())[:10]:
            async with await Peer.connect(server.port) as peer:
                await peer.associate([VERIFICATION, CT, *STUDY_CONTEXTS], window=4)
                peer.send(FIND, find_rq(), IDENTIFIER)
                await peer.message()
                peer.write(sent)
                assert (await peer.pdu())[0] == 7
            assert (await bystander.c_echo()).status == 0


# the transport


@pytest.mark.parametrize("how", ["reset", "close", "half close"])
async def test_t_01_the_connection_ends_at_any_byte(server: Server, how: str) -> None:
    stream = message(STORE, store_rq(1), bytes(300))
    for cut in range(0, len(stream), 17):
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION, CT])
            peer.write(stream[:cut])
            if how == "reset":
                peer.reset()
            elif how == "half close":
                peer.writer.write_eof()
                assert await peer.pdu() in (EOF, ABORTED_BY_USER)


async def test_ten_thousand_bytes_of_every_value_crash_nothing(server: Server) -> None:
    import random

    rng = random.Random(1)
    for _ in range(40):
        async with await Peer.connect(server.port) as peer:
            await peer.associate([VERIFICATION, CT])
            good = bytearray(message(STORE, store_rq(1), bytes(200)) + message(1, echo_rq(2)))
            for _ in range(3):
                good[rng.randrange(len(good))] = rng.randrange(256)
            peer.write(bytes(good))
            peer.writer.write_eof()
            answer: Any = None
            while answer != EOF:
                answer = await peer.pdu()
