"""Every combination of who asks, for what, from where, as which user and to where, against a plain reading.

The oracle below knows the hospital from the notes in `RULES` and nothing of the code: no networks are
calculated and no contexts negotiated. The server runs on a loop of the test's; a sample is played again over
real sockets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
from helpers.manual_loop import Listener, ManualLoop, Wire, settle
from helpers.peer import CT, IDENTIFIER, eventually, message
from helpers.peer import Peer as RawPeer

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AccessPolicy,
    Peer,
    PresentationContext,
    Request,
    Status,
    UserIdentity,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, decode
from asyncdicom.uid import IMPLICIT_VR_LITTLE_ENDIAN, MODALITY_WORKLIST_FIND
from asyncdicom.ul.negotiation import propose
from asyncdicom.ul.pdu import AAssociateAC, decode_pdu

# The hospital, as the server is told.


async def directory(request: Any, identity: UserIdentity | None) -> bool:
    if identity is not None and identity.primary == b"down":
        raise ConnectionError("the directory does not answer")
    return identity is not None and (identity.primary, identity.secondary) == (b"ana", b"secret")


POLICY = AccessPolicy(
    networks=["127.0.0.0/16", "127.5.0.0/24"],
    denied_networks=["127.0.9.0/24"],
    called_ae_titles=["ARCHIVE"],
    peers={
        "ROUTER": None,
        "CT1": Peer(networks="127.0.1.0/24", services=["echo", "store"]),
        "CT2": Peer(networks=["127.0.1.7", "127.0.2.7"], services="store"),
        "WS1": Peer(
            "127.0.0.1:1", networks="127.0.2.0/24", services=["find", "move"], move_destinations="WS1"
        ),
        "WS2": Peer("127.0.0.1:2", services=["echo", "get", "move"], move_destinations=["WS1", "GONE"]),
        "RIS": Peer(services=["worklist", "echo"]),
        "CLOSED": Peer(services=[]),
    },
    user_identity=directory,
)

# The hospital, as somebody would tell it: who, from which rooms, what, and where to.

ROOMS = {"ct": "127.0.1.7", "ward": "127.0.2.7", "guests": "127.0.9.9", "outside": "127.1.0.1"}
RULES = {
    "ROUTER": ("ct ward", "echo store find worklist get move", "WS1 WS2"),
    "CT1": ("ct", "echo store", ""),
    "CT2": ("ct ward", "store", ""),
    "WS1": ("ward", "find move", "WS1"),
    "WS2": ("ct ward", "echo get move", "WS1"),  # GONE is allowed, but nobody knows where it is
    "RIS": ("ct ward", "worklist echo", ""),
    "CLOSED": ("ct ward", "", ""),
    "STRANGER": ("", "", ""),
}
SERVICES = ("echo", "store", "find", "worklist", "get", "move")
USERS = {
    "nobody": None,
    "ana": UserIdentity(2, b"ana", b"secret"),
    "guesser": UserIdentity(2, b"ana", b"guess"),
    "down": UserIdentity(1, b"down"),
}
DESTINATIONS = ("WS1", "WS2", "GONE")


class Combination(NamedTuple):
    who: str
    service: str
    room: str
    user: str
    destination: str


ALL = [Combination(*found) for found in itertools.product(RULES, SERVICES, ROOMS, USERS, DESTINATIONS)]


def oracle(asked: Combination) -> str:
    rooms, services, destinations = (note.split() for note in RULES[asked.who])
    if asked.room not in ("ct", "ward"):
        return "closed"
    if asked.room not in rooms:
        return "1/1/3"
    if asked.user != "ana":
        return "1/1/1"
    if asked.service not in services:
        return "no context"
    if asked.service == "move" and asked.destination not in destinations:
        return "A801"
    return "performed"


# Asking.

IMPLICIT = (IMPLICIT_VR_LITTLE_ENDIAN,)
SYNTAX = {
    "echo": VERIFICATION,
    "store": CT,
    "find": STUDY_ROOT.find,
    "worklist": MODALITY_WORKLIST_FIND,
    "get": STUDY_ROOT.get,
    "move": STUDY_ROOT.move,
}
FIELD = {
    "echo": CommandField.C_ECHO_RQ,
    "store": CommandField.C_STORE_RQ,
    "find": CommandField.C_FIND_RQ,
    "worklist": CommandField.C_FIND_RQ,
    "get": CommandField.C_GET_RQ,
    "move": CommandField.C_MOVE_RQ,
}
ID = {service: 2 * number + 1 for number, service in enumerate(SERVICES)}
PERFORMED = 0xC123  # what our handlers answer: no other part of the library does


class Provider:
    """Handlers that count."""

    def __init__(self) -> None:
        self.calls = 0

    async def one(self, request: Request) -> int:
        self.calls += 1
        return PERFORMED

    async def find(self, request: Request) -> AsyncIterator[bytes]:
        self.calls += 1
        if request.message_id:
            return
        yield b""

    def options(self) -> dict[str, Any]:
        once = dict.fromkeys(("c_echo", "c_store", "c_get", "c_move"), self.one)
        return once | {"c_find": self.find, "contexts": list(SYNTAX.values()), "access": POLICY}


def rq(asked: Combination, called: str = "ARCHIVE") -> bytes:
    return propose(
        [PresentationContext(SYNTAX[service], IMPLICIT) for service in SERVICES],
        called_ae_title=called,
        calling_ae_title=asked.who,
        user_identity=USERS[asked.user],
    ).encode()


def command(asked: Combination, sop_class: str) -> Command:
    return Command(
        FIELD[asked.service],
        message_id=7,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid="1.2.3" if asked.service == "store" else None,
        move_destination=asked.destination if asked.service == "move" else None,
        priority=None if asked.service == "echo" else 0,
        has_data_set=asked.service != "echo",
    )


def operation(asked: Combination, on: str) -> bytes:
    return message(ID[on], command(asked, SYNTAX[on]), None if asked.service == "echo" else IDENTIFIER)


def rejection(pdu: tuple[int, bytes]) -> str:
    return "/".join(map(str, pdu[1][1:])) if pdu[0] == 3 else f"PDU {pdu[0]}"


def accepted(pdu: tuple[int, bytes]) -> dict[str, int]:
    decoded = decode_pdu(*pdu)
    assert isinstance(decoded, AAssociateAC)
    results = {context.context_id: context.result for context in decoded.presentation_contexts}
    return {service: results[ID[service]] for service in SERVICES}


def meaning(status: int | None) -> str:
    performed = (Status.SUCCESS, PERFORMED)
    return "performed" if status in performed else f"{status:04X}"


def pdus(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        end = 6 + int.from_bytes(data[2:6], "big")
        yield data[0], data[6:end]
        data = data[end:]


class Answer(NamedTuple):
    result: str
    contexts: dict[str, int] | None = None  # the result of each, if there was an association
    elsewhere: str | None = None  # the same request on the context of another service


async def ask(loop: ManualLoop, asked: Combination) -> Answer:
    wire = await loop.connect(ROOMS[asked.room])
    if not wire.is_open:
        assert not wire.sent, "not a byte for those that we do not talk to"
        return Answer("closed")
    wire.feed(rq(asked))
    await settle()
    (answered,) = pdus(bytes(wire.sent))
    if answered[0] != 2:
        wire.half_close()
        await settle()
        return Answer(rejection(answered))
    contexts = accepted(answered)
    result = "no context"
    if contexts[asked.service] == 0:
        result = await response(wire, operation(asked, asked.service))
    other = next((s for s in SERVICES if s != asked.service and contexts[s] == 0), None)
    elsewhere = await response(wire, operation(asked, other)) if other is not None else None
    wire.abort()
    await settle()
    return Answer(result, contexts, elsewhere)


async def response(wire: Wire, request: bytes) -> str:
    wire.sent.clear()
    wire.feed(request)
    await settle()
    pdu_type, body = next(pdus(bytes(wire.sent)))
    assert pdu_type == 4
    return meaning(decode(body[6:]).status)


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    loop = ManualLoop()
    yield loop
    loop.close()


def test_the_oracle_knows_them_all() -> None:
    assert len(ALL) == 8 * 6 * 4 * 4 * 3
    found = Counter(map(oracle, ALL))
    assert set(found) == {"closed", "1/1/3", "1/1/1", "no context", "A801", "performed"}
    assert min(found.values()) >= 3


def test_every_combination(loop: ManualLoop, caplog: pytest.LogCaptureFixture) -> None:
    provider = Provider()
    caplog.set_level(logging.INFO, "asyncdicom")

    async def check(asked: Combination) -> None:
        caplog.clear()
        provider.calls = 0
        got = await ask(loop, asked)
        assert got.result == oracle(asked)
        services = RULES[asked.who][1].split()
        refusals = int(got.contexts is None)
        if got.contexts is not None:
            assert got.contexts == {service: int(service not in services) for service in SERVICES}
            refusals += len(services) < len(SERVICES)  # one line for all contexts
            refusals += [got.result, got.elsewhere].count("0124") + [got.result, got.elsewhere].count("A801")
            if asked.service not in services:
                # what makes it a worklist is the SOP class: elsewhere it is another query
                assert got.elsewhere in ("0124", None) or (asked.service == "worklist" and "find" in services)
        assert provider.calls == [got.result, got.elsewhere].count("performed")
        marks = ("refused", "rejected", "a connection is closed")
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
        notes = [text for text in messages if any(mark in text for mark in marks)]
        assert len(notes) == refusals, notes
        assert not any("ana" in text or "secret" in text for text in messages)

    async def test() -> None:
        sock: Any = Listener()
        async with serve("ARCHIVE@192.0.2.99:104", sock=sock, **provider.options()):
            for asked in ALL:
                try:
                    await check(asked)
                except AssertionError as error:
                    raise AssertionError(f"{asked}: {error}") from error

    loop.run_until_complete(test())


def test_another_called_ae_title(loop: ManualLoop) -> None:
    async def test() -> None:
        sock: Any = Listener()
        async with serve("ARCHIVE@192.0.2.99:104", sock=sock, **Provider().options()):
            for who, user in itertools.product(RULES, USERS):
                wire = await loop.connect(ROOMS["ward"])
                wire.feed(rq(Combination(who, "echo", "ward", user, "WS1"), called="OTHER"))
                await settle()
                assert [rejection(pdu) for pdu in pdus(bytes(wire.sent))] == ["1/1/7"]

    loop.run_until_complete(test())


def test_a_c_echo_that_no_handler_sees(loop: ManualLoop) -> None:
    """It is answered without a task, but not without permission: on the context of another service, too."""

    async def test() -> None:
        sock: Any = Listener()
        async with serve(
            "ARCHIVE@192.0.2.99:104",
            sock=sock,
            c_store=Provider().one,
            access={"CT1": Peer(services="store")},
        ):
            wire = await loop.connect()
            asked = Combination("CT1", "echo", "ct", "nobody", "WS1")
            wire.feed(rq(asked))
            await settle()
            assert accepted(next(pdus(bytes(wire.sent))))["echo"] == 1
            assert await response(wire, operation(asked, "store")) == "0124"

    loop.run_until_complete(test())


# over sockets


async def from_there(port: int, host: str) -> RawPeer:
    connection = socket.socket()
    connection.setblocking(False)
    connection.bind((host, 0))
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return RawPeer(*await asyncio.open_connection(sock=connection))


async def ask_really(port: int, asked: Combination) -> str:
    async with await from_there(port, ROOMS[asked.room]) as peer:
        peer.write(rq(asked))
        answered = await peer.pdu()
        if answered[0] == 0:
            return "closed"
        if answered[0] != 2:
            return rejection(answered)
        if accepted(answered)[asked.service]:
            return "no context"
        peer.write(operation(asked, asked.service))
        return meaning((await peer.message()).command.status)


async def test_a_sample_over_sockets() -> None:
    chosen = random.Random(4).sample(ALL, 60)
    for result in sorted(set(map(oracle, ALL))):  # some of each, also of the rare ones
        chosen += random.Random(4).sample([asked for asked in ALL if oracle(asked) == result], 3)
    async with serve("ARCHIVE@127.0.0.1:0", **Provider().options()) as server:
        for asked in chosen:
            assert await ask_really(server.port, asked) == oracle(asked), asked
        await eventually(lambda: server.associations == 0)
