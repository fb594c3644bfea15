"""Whatever a peer does or leaves undone, an association ends by its documented deadline.

Conversations recorded from other implementations are cut at every byte. From there on the peer is silent, or
sends one byte at a time, each a second before the deadline, or closes its half of the connection. `serve`
and `associate` run as they are, in a loop whose time is the test's; what must happen when is worked
out from the conversation alone (``Plan``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from manual import Listener, ManualLoop, Wire, settle
from wire import (
    ABORT,
    CT,
    IDENTIFIER,
    RELEASE_RQ,
    echo_rq,
    find_rq,
    fragments,
    message,
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Association,
    AssociationAborted,
    AssociationClosed,
    AssociationError,
    AssociationTimeout,
    BytesSource,
    PresentationContext,
    Request,
    Retrieval,
    associate,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, decode, encode
from asyncdicom.server import Serve, Server
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import propose

Conversation = list[tuple[str, bytes]]  # who says it, the PDU

ACCEPTOR, REQUESTOR = "<", ">"
# Seconds, as the README has them.
LASTS = {
    **{"artim": 10, "association": 30, "release": 10, "close": 5},
    **{"receive": 60, "response": 120, "idle": 300, "write": 30, "handler": 120, "cancel": 10},
}
EXPLICIT = (EXPLICIT_VR_LITTLE_ENDIAN,)


# conversations


def recorded() -> dict[str, Conversation]:
    found: dict[str, Conversation] = {}
    path = Path(__file__).parents[1] / "data" / "conversations.txt"
    for line in path.read_text().splitlines():
        if line.startswith("["):
            conversation = found[line[1 : line.index("]")]] = []
        elif line[:1] in (ACCEPTOR, REQUESTOR):
            conversation.append((line[0], bytes.fromhex(line[2:])))
    return found


def fragmented() -> Conversation:
    """Stores whose parts are cut small, and two PDVs in one PDU."""
    request = propose(
        [PresentationContext(uid, EXPLICIT) for uid in (VERIFICATION, CT)],
        called_ae_title="SCP",
        calling_ae_title="SCU",
    )
    command = fragments(3, True, encode(store_rq(1)), 40)
    data = fragments(3, False, bytes(60), 20)
    joined = message(1, echo_rq(2))[6:] + message(3, store_rq(3))[6:]
    joined = b"\x04\0" + len(joined).to_bytes(4, "big") + joined
    stream = request.encode() + message(1, echo_rq(1)) + command + data + joined + data + RELEASE_RQ
    said: Conversation = []
    while stream:
        length = 6 + int.from_bytes(stream[2:6], "big")
        said.append((REQUESTOR, stream[:length]))
        stream = stream[length:]
    return said


CONVERSATIONS = {**recorded(), "fragmented": fragmented()}
AGAINST_REQUESTORS = [name for name in CONVERSATIONS if name.endswith("storescp") or name == "asyncdicom"]
AGAINST_ACCEPTORS = [name for name in CONVERSATIONS if not name.endswith("storescp")]


# what has to happen when


class Part(NamedTuple):
    """The end of something in the stream of one side: a PDU, a command or a data set."""

    end: int
    pdu_type: int
    command: Command | None = None
    is_message_end: bool = True


def parts(pdus: list[bytes]) -> Iterator[list[Part]]:
    """What each PDU of one side completes."""
    start, owes_data, command = 0, False, b""
    for pdu in pdus:
        ended, position = [], 6
        if pdu[0] != 4:
            ended.append(Part(start + len(pdu), pdu[0]))
        while pdu[0] == 4 and position < len(pdu):
            control = pdu[position + 5]
            stop = position + 4 + int.from_bytes(pdu[position : position + 4], "big")
            command += pdu[position + 6 : stop] if control & 1 else b""
            position = stop
            if control == 3:
                decoded = decode(command)
                owes_data, command = decoded.has_data_set, b""
                ended.append(Part(start + stop, 4, decoded, not owes_data and stop == len(pdu)))
            elif control == 2:
                ended.append(Part(start + stop, 4, None, stop == len(pdu)))
        start += len(pdu)
        yield ended


class Plan:
    """What we wait for at which byte of the peer's stream, and until when."""

    def __init__(self, conversation: Conversation, ours: str) -> None:
        self.stream = b"".join(pdu for who, pdu in conversation if who != ours)
        self.rests = {0}  # here the peer owes nothing
        self.completions: set[int] = set()
        self.phases: list[tuple[int, str]] = [(0, "association" if ours == REQUESTOR else "artim")]
        ended = {who: parts([pdu for w, pdu in conversation if w == who]) for who in (ACCEPTOR, REQUESTOR)}
        end, outstanding, releasing, acceptors_turn = 0, 0, "", ours == ACCEPTOR
        for who, _ in conversation:
            for part in next(ended[who]):
                command = part.command
                is_request = command is not None and not command.is_response
                if who == ours:
                    if command is not None and is_request:
                        outstanding += 1
                    releasing = {5: "release", 6: "close"}.get(part.pdu_type, releasing)
                else:
                    end = part.end
                    self.completions.add(end)
                    if part.is_message_end:
                        self.rests.add(end)
                    if command is not None and command.is_response:
                        outstanding -= command.status not in (0xFF00, 0xFF01)
                    if part.pdu_type == 5 and acceptors_turn:
                        releasing = "close"
                    if part.pdu_type in (6, 7):
                        releasing = "end"
                phase = releasing or ("response" if outstanding else "idle")
                # Our request, and any command of theirs while we wait, start a response timer anew.
                if phase != self.phases[-1][1] or (phase == "response" and command is not None):
                    self.phases.append((end, phase))

    def phase(self, position: int) -> tuple[int, str]:
        """The number and the name of the phase at this byte."""
        return max((n, name) for n, (start, name) in enumerate(self.phases) if start <= position)

    def follow(self, position: int, *, drip: bool) -> tuple[list[float], str, float]:
        """When to send each further byte, which timer ends the association, and when it expires."""
        at = entered = begun = 0.0
        when: list[float] = []
        while True:
            number, phase = self.phase(position)
            if phase == "end":
                return when, phase, at
            expires = {phase: (at if phase == "idle" else entered) + LASTS[phase]}
            if position not in self.rests and phase not in ("artim", "close"):
                expires["receive"] = begun + LASTS["receive"]
            timer = min(expires, key=lambda name: expires[name])
            following = at + LASTS[timer] - 1
            if not drip or position == len(self.stream) or following >= expires[timer]:
                return when, timer, expires[timer]
            at = following
            when.append(at)
            if position in self.rests or position + 1 in self.completions:
                begun = at
            position += 1
            if self.phase(position)[0] != number:
                entered = at


def test_the_plan_of_a_conversation() -> None:
    """By hand: 211 bytes of request, an echo of 80, a release of 10."""
    plan = Plan(CONVERSATIONS["dcmtk-echoscu"], ACCEPTOR)
    assert plan.phases == [(0, "artim"), (211, "idle"), (301, "close")]
    assert plan.follow(0, drip=True) == ([9.0], "artim", 10.0)
    assert plan.follow(210, drip=False) == ([], "artim", 10.0)
    assert plan.follow(211, drip=False) == ([], "idle", 300.0)
    assert plan.follow(212, drip=True) == ([59.0], "receive", 60.0)
    assert plan.follow(290, drip=True) == ([59.0, 59.0 + 299, 59.0 + 299 + 59], "receive", 59.0 + 299 + 60)
    assert plan.follow(301, drip=True) == ([], "close", 5.0)


# the library at work


INSTANCE = BytesSource(CT, "2.25.1", EXPLICIT_VR_LITTLE_ENDIAN, bytes(100))


async def on_store(request: Request) -> int:
    await request.data.read()
    return 0


async def on_find(request: Request) -> AsyncIterator[bytes]:
    await request.data.read()
    for _ in range(2):
        yield IDENTIFIER


async def on_get(request: Request) -> Retrieval:
    await request.data.read()
    return Retrieval([INSTANCE])


HANDLERS: dict[str, Any] = {"c_store": on_store, "c_find": on_find, "c_get": on_get}


def served(**options: Any) -> Serve:
    return serve("SCP@192.0.2.99:104", sock=Listener(), **{**HANDLERS, **options})  # type: ignore[arg-type]


async def use_a_storage_scp() -> None:
    contexts = [VERIFICATION, PresentationContext(CT, EXPLICIT)]
    async with associate("SCP@192.0.2.1:104", contexts=contexts) as association:
        await association.c_echo()
        await association.c_store(INSTANCE)


async def use_an_archive() -> None:
    implicit = (IMPLICIT_VR_LITTLE_ENDIAN,)
    contexts = [
        VERIFICATION,
        PresentationContext(CT, EXPLICIT, scp_role=True),
        PresentationContext(STUDY_ROOT.find, implicit),
        PresentationContext(STUDY_ROOT.get, implicit),
    ]
    async with associate("SCP@192.0.2.1:104", contexts=contexts, c_store=on_store) as association:
        await association.c_echo()
        await association.c_store(INSTANCE)
        await association.c_find(IDENTIFIER, raw=True)
        await association.c_get(IDENTIFIER)


@pytest.fixture(scope="module")
def loop() -> Iterator[ManualLoop]:
    loop = ManualLoop()
    yield loop
    loop.close()


async def play(wire: Wire, conversation: Conversation, ours: str, cut: int) -> None:
    """Say what the peer said, up to a byte, each PDU when we have done what we can."""
    for who, pdu in conversation:
        if who != ours:
            await settle()
            wire.feed(pdu[:cut])
            cut -= len(pdu)
            if cut <= 0:
                break
    await settle()


async def finish(wire: Wire, plan: Plan, cut: int, mode: str) -> str:
    """Go on in this mode until the connection is closed, which has to be in time."""
    loop = wire._loop
    begun = loop.now
    if mode == "half-close":
        wire.half_close()
        await settle()
        assert not wire.is_open
        return "end"
    when, timer, expires = plan.follow(cut, drip=mode == "drip")
    for at, byte in zip(when, plan.stream[cut:], strict=False):
        await asyncio.sleep(begun + at - loop.now)
        assert wire.is_open, (timer, at)
        wire.feed(bytes([byte]))
    await asyncio.sleep(begun + expires - 0.5 - loop.now)
    assert wire.is_open or timer == "end", (timer, expires)
    await asyncio.sleep(1.0)
    if timer not in ("artim", "close", "end"):
        assert wire.sent[-10:-9] == ABORT[:1], (timer, expires)
        await asyncio.sleep(LASTS["close"])
    assert not wire.is_open, (timer, expires)
    return timer


async def acceptor(server: Server, loop: ManualLoop, name: str, mode: str) -> set[str]:
    conversation = CONVERSATIONS[name]
    plan = Plan(conversation, ACCEPTOR)
    timers = set()
    for cut in range(len(plan.stream) + 1):
        wire = await loop.connect()
        await play(wire, conversation, ACCEPTOR, cut)
        try:
            timers.add(await finish(wire, plan, cut, mode))
        except AssertionError as error:
            raise AssertionError(f"cut at byte {cut} of {len(plan.stream)}: {error}") from error
    assert server.associations == 0
    assert not server._waiting
    return timers


async def requestor(loop: ManualLoop, name: str, mode: str, use: Any) -> set[str]:
    conversation = CONVERSATIONS[name]
    plan = Plan(conversation, REQUESTOR)
    timers = set()
    for cut in range(len(plan.stream) + 1):
        user = loop.create_task(use())
        await settle()
        wire = loop.dialled.pop()
        await play(wire, conversation, REQUESTOR, cut)
        try:
            timers.add(await finish(wire, plan, cut, mode))
        except AssertionError as error:
            raise AssertionError(f"cut at byte {cut} of {len(plan.stream)}: {error}") from error
        await settle()
        assert user.done()
        error = user.exception()
        assert error is None if cut == len(plan.stream) else isinstance(error, AssociationError | None), error
    return timers


MODES = ["silence", "drip", "half-close"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AGAINST_ACCEPTORS)
def test_an_acceptor_ends_in_time(loop: ManualLoop, name: str, mode: str) -> None:
    async def run() -> set[str]:
        async with served() as server:
            return await acceptor(server, loop, name, mode)

    timers = loop.run_until_complete(run())
    assert "artim" in timers or mode == "half-close"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AGAINST_REQUESTORS)
def test_a_requestor_ends_in_time(loop: ManualLoop, name: str, mode: str) -> None:
    use = use_an_archive if name == "asyncdicom" else use_a_storage_scp
    timers = loop.run_until_complete(requestor(loop, name, mode, use))
    assert timers >= {"association", "response", "receive", "release", "end"} or mode == "half-close"
