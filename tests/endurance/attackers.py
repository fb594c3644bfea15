"""Attackers: ``python -m endurance.attackers NAME PORT COUNT`` makes one attack and prints what it counted.

Each speaks by hand (`wire.Peer`): what a well-behaved requestor would never send.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from endurance.attack import PATIENCE, Counts
from helpers.archive_process import CT, SERIES, STUDY
from helpers.peer import IDENTIFIER, Message, Peer, echo_rq, find_rq, message, store_rq

from asyncdicom import PresentationContext
from asyncdicom.conformance import build
from asyncdicom.dimse.messages import Command, CommandField, Priority
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT,
    VERIFICATION,
)

ECHO, STORE, FIND, GET, MOVE, DEFLATED_STORE, DEFLATED_FIND = range(1, 15, 2)
CONTEXTS = [
    PresentationContext(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(STUDY_ROOT.find, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(STUDY_ROOT.get, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(STUDY_ROOT.move, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(CT, (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(STUDY_ROOT.find, (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,)),
]
IMAGE_LEVEL = [
    (0x00080052, b"IMAGE "),
    (0x0020000D, build.even(STUDY.encode())),
    (0x0020000E, build.even(SERIES.encode())),
]


async def opened(port: int, number: int = 0, **options: int) -> Peer:
    """A peer with an association; raises what `Peer.associate` raises, and leaves no connection then."""
    peer = await Peer.connect(port)
    try:
        await peer.associate(CONTEXTS, called="ARCHIVE", calling=f"BAD{number}", **options)
    except BaseException:
        await ended(peer)
        raise
    return peer


def identifier(*elements: tuple[int, bytes]) -> bytes:
    return b"".join(build.element(tag, value) for tag, value in sorted(elements))


async def until_the_end(peer: Peer, *, of: int = 1, patience: float = 8 * PATIENCE) -> int:
    """Read until so many final responses have come, or the association has ended; how many came."""
    finals = 0
    with suppress(TimeoutError, AssertionError, asyncio.IncompleteReadError):
        async with asyncio.timeout(patience):
            while finals < of:
                status = (await patient_message(peer)).command.status
                finals += status is not None and status not in (0xFF00, 0xFF01)
    return finals


async def patient_message(peer: Peer) -> Message:
    """Like `Peer.message`, which is less patient."""
    while True:
        try:
            return await peer.message()
        except TimeoutError:
            continue


async def drained(peer: Peer) -> None:
    with suppress(OSError):
        await peer.writer.drain()


async def ended(peer: Peer) -> None:
    peer.reset()
    await peer.close()


# one association, many messages


async def echoes(port: int, count: int) -> Counts:
    """Pipeline C-ECHO as fast as it goes, and take the answers."""
    peer = await opened(port, window=0)
    flood = b"".join(message(ECHO, echo_rq(number % 60_000 + 1)) for number in range(1000))

    async def read() -> None:
        tail = b""
        while not tail.endswith(build.RELEASE_RP) and (data := await peer.reader.read(1 << 20)):
            tail = (tail + data)[-len(build.RELEASE_RP) :]

    reading = asyncio.ensure_future(read())
    for _ in range(count // 1000):
        peer.write(flood)
        await drained(peer)
        await asyncio.sleep(0)
    peer.write(build.RELEASE_RQ)
    with suppress(TimeoutError, OSError):
        await asyncio.wait_for(reading, 8 * PATIENCE)
    await ended(peer)
    return {}


def one_byte_fragments(context_id: int, data: bytes) -> bytes:
    """A data set in PDUs full of PDVs of one byte each, the last of which is not sent."""
    pdvs = [build.pdv(context_id, build.DATA, data[at : at + 1]) for at in range(len(data))]
    return b"".join(build.p_data(*pdvs[at : at + 2000]) for at in range(0, len(pdvs), 2000))


async def one_byte_store(port: int, count: int) -> Counts:
    """A C-STORE whose handler reads nothing, in fragments of one byte."""
    peer = await opened(port)
    peer.write(message(STORE, store_rq()), one_byte_fragments(STORE, bytes(count)))
    with suppress(TimeoutError):
        await asyncio.wait_for(peer.writer.drain(), 2)
    await asyncio.sleep(0.5)
    await ended(peer)
    return {}


async def one_byte_find(port: int, count: int) -> Counts:
    """An identifier in fragments of one byte."""
    peer = await opened(port)
    peer.write(message(FIND, find_rq()), one_byte_fragments(FIND, bytes(count)))
    with suppress(TimeoutError):
        await asyncio.wait_for(peer.writer.drain(), 2)
    await asyncio.sleep(0.5)
    await ended(peer)
    return {}


async def same_message_id(port: int, count: int) -> Counts:
    """C-FINDs under a Message ID that is in use."""
    peer = await opened(port)
    for _ in range(count // 100):
        peer.write(100 * message(FIND, find_rq(1), IDENTIFIER))
        await drained(peer)
    await asyncio.sleep(0.5)
    await ended(peer)
    return {}


# identifiers


async def unknown_keys(port: int, count: int) -> Counts:
    """A C-FIND with so many keys that nobody knows, of which each match has one page full."""
    peer = await opened(port)
    keys = [(0x00110000 + (number >> 8 << 16) + 0x1000 + (number & 0xFF), b"") for number in range(count)]
    peer.send(FIND, find_rq(), identifier(*IMAGE_LEVEL, (0x00080018, b""), *keys))
    finals = await until_the_end(peer)
    await ended(peer)
    return {"answered": finals}


TEXTS = (0x00080090, 0x00081030, 0x00100010, 0x00100020, 0x00100021, 0x00102180, 0x00080050, 0x00200010)


async def shapes(port: int, count: int) -> Counts:
    """C-FINDs of ever other shapes: each has one more pattern in its keys than the last."""
    peer = await opened(port)
    finals = 0
    for number in range(count):
        value = build.even(b"\\".join(b"A%d*" % each for each in range(number % 40 + 20)), b" ")
        keys = [(tag, value) for bit, tag in enumerate(TEXTS) if not number // 40 >> bit & 1]
        peer.send(FIND, find_rq(number + 1), identifier((0x00080052, b"STUDY "), *keys))
        finals += await until_the_end(peer)
    await ended(peer)
    return {"answered": finals}


def deflated(elements: int) -> bytes:
    """A data set of so many empty elements, of 8 bytes each: about 1,000 times smaller."""
    empty = b"".join(build.explicit(0x00110000 + number, b"LO", b"") for number in range(0x1000, 0x1400))
    head = build.explicit(0x00080052, b"CS", b"STUDY ")
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    return build.even(compress.compress(head + empty * (elements >> 10)) + compress.flush())


async def deflated_identifier(port: int, count: int) -> Counts:
    """An identifier of so many empty elements, deflated."""
    peer = await opened(port)
    data = deflated(count)
    peer.write(message(DEFLATED_FIND, find_rq(), data))
    finals = await until_the_end(peer)
    await ended(peer)
    return {"answered": finals, "KiB sent": len(data) / 1024}


async def deflated_stores(port: int, count: int) -> Counts:
    """So many elements, deflated, in 16 C-STOREs at once."""
    data = deflated(count // 16)

    async def one(number: int) -> int:
        peer = await opened(port, number)
        peer.write(message(DEFLATED_STORE, store_rq(uid=f"1.2.3.{number}"), data))
        finals = await until_the_end(peer)
        await ended(peer)
        return finals

    return {"answered": sum(await asyncio.gather(*map(one, range(16)))), "KiB sent": len(data) / 1024}


# retrievals


def retrieve_rq(field: CommandField, sop_class: str, message_id: int = 1, **fields: str) -> Command:
    return Command(
        field,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        priority=Priority.MEDIUM,
        has_data_set=True,
        **fields,
    )


STUDY_LEVEL = identifier((0x00080052, b"STUDY "), (0x0020000D, build.even(STUDY.encode())))


async def gets_without_contexts(port: int, count: int) -> Counts:
    """So many C-GETs at once of whatever is there, none of which can be sent: no context fits."""

    async def one(number: int) -> int:
        peer = await Peer.connect(port)
        get = PresentationContext(STUDY_ROOT.get, (IMPLICIT_VR_LITTLE_ENDIAN,))
        await peer.associate([get], called="ARCHIVE", calling=f"BAD{number}")
        peer.send(1, retrieve_rq(CommandField.C_GET_RQ, STUDY_ROOT.get), STUDY_LEVEL)
        finals = await until_the_end(peer)
        await ended(peer)
        return finals

    return {"answered": sum(await asyncio.gather(*map(one, range(count))))}


async def gets(port: int, count: int) -> Counts:
    """So many C-GETs by a peer that takes everything and is no trouble."""
    for number in range(count):
        peer = await retrieving(port, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while (await peer.message()).command.command_field != CommandField.C_STORE_RQ:
                    pass
        await ended(peer)
    return {}


async def maximum_length_of_8(port: int, count: int) -> Counts:
    """C-GETs by peers that take PDUs of 8 bytes and read nothing."""
    peers = [await retrieving(port, number, maximum_length=8) for number in range(count)]
    for peer in peers:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(1)
    for peer in peers:
        await ended(peer)
    return {}


async def retrieving(port: int, number: int, maximum_length: int = 16384) -> Peer:
    """Has asked for whatever is there."""
    peer = await Peer.connect(port, receive_buffer=4096 if maximum_length == 8 else None)
    get = PresentationContext(STUDY_ROOT.get, (IMPLICIT_VR_LITTLE_ENDIAN,))
    ct = PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,), scp_role=True)
    await peer.associate([get, ct], called="ARCHIVE", calling=f"BAD{number}", maximum_length=maximum_length)
    peer.send(1, retrieve_rq(CommandField.C_GET_RQ, STUDY_ROOT.get), STUDY_LEVEL)
    return peer


async def moves(port: int, count: int) -> Counts:
    """So many associations with 16 C-MOVEs each."""

    async def one(number: int) -> None:
        peer = await opened(port, number, window=16)
        for message_id in range(1, 17):
            command = retrieve_rq(
                CommandField.C_MOVE_RQ, STUDY_ROOT.move, message_id, move_destination="DESTINATION"
            )
            peer.send(MOVE, command, STUDY_LEVEL)
        await until_the_end(peer, of=16, patience=2)
        await ended(peer)

    await asyncio.gather(*map(one, range(count)))
    return {}


# before an association


async def empty_items(port: int, count: int) -> Counts:
    """A-ASSOCIATE-RQs of 255 KiB of empty items, by a stranger."""
    unknown = build.item(0x60, b"") * 20_000
    syntaxes = build.proposed(1, build.abstract(build.VERIFICATION), build.transfer(b"") * 15_000)
    user = build.item(0x50, build.MAXIMUM_LENGTH + build.item(0x5F, b"") * 15_000)
    request = build.rq(build.APPLICATION, syntaxes, unknown, user)
    for _ in range(count):
        async with await Peer.connect(port) as peer:
            peer.write(named(request, b"ARCHIVE"))
            await peer.pdu()
    return {}


def named(request: bytes, called: bytes) -> bytes:
    return request.replace(build.CALLED, called.ljust(16)).replace(build.CALLING, b"STRANGER".ljust(16))


async def new_texts(port: int, count: int) -> Counts:
    """A-ASSOCIATE-RQs that are rejected, each with UIDs that nobody has seen before."""
    for number in range(count):
        async with await Peer.connect(port) as peer:
            uids = (build.abstract(b"1.2.%d.%d" % (number, each)) for each in range(127))
            contexts = (
                build.proposed(2 * each + 1, uid, build.transfer(build.IMPLICIT))
                for each, uid in enumerate(uids)
            )
            request = build.rq(build.APPLICATION, *contexts, build.USER)
            peer.write(named(request, b"WRONG"))
            await peer.pdu()
    return {}


# the index


def worst_pattern_keys() -> bytes:
    """An identifier with 64 of the patterns that take longest."""
    value = b"\\".join(b"*" + b"a" * 240 + b"%02d" % number for number in range(64))
    return identifier((0x00080052, b"STUDY "), (0x0020000D, b""), (0x00081030, build.even(value, b" ")))


async def patterns(port: int, count: int) -> Counts:
    """So many C-FINDs for the worst patterns by one peer that leaves after 2 seconds."""
    peer = await opened(port, window=16)
    for message_id in range(1, count + 1):
        peer.send(FIND, find_rq(message_id), worst_pattern_keys())
    finals = await until_the_end(peer, of=count, patience=2)
    await ended(peer)
    return {"answered": finals}


async def unread_queries(port: int, count: int) -> Counts:
    """So many queries of whatever is there, by peers that read nothing."""
    peers = []
    everything = identifier(*IMAGE_LEVEL, (0x00080018, b""), (0x00080016, b""), (0x00080008, b""))
    for number in range(count // 16):
        peer = await opened(port, number, window=16)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for message_id in range(1, 17):
            peer.send(FIND, find_rq(message_id), everything)
        peers.append(peer)
    await asyncio.sleep(2)
    for peer in peers:
        await ended(peer)
    return {}


ATTACKERS: dict[str, Callable[[int, int], Coroutine[Any, Any, Counts]]] = {
    attacker.__name__: attacker
    for attacker in (
        *(echoes, one_byte_store, one_byte_find, same_message_id, unknown_keys, shapes, deflated_identifier),
        *(deflated_stores, gets_without_contexts, maximum_length_of_8, gets, moves, empty_items, new_texts),
        *(patterns, unread_queries),
    )
}

if __name__ == "__main__":
    name, port, count = sys.argv[1:]
    print(json.dumps(asyncio.run(ATTACKERS[name](int(port), int(count)))))
