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
from helpers.manual_loop import Listener, ManualLoop, Wire, settle
from helpers.peer import (
    ABORT,
    CT,
    IDENTIFIER,
    ONE_AT_A_TIME,
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
    AssociationError,
    BytesSource,
    Limits,
    PresentationContext,
    Request,
    Retrieval,
    associate,
    serve,
)
from asyncdicom.dimse.messages import Command, CommandField, decode, encode
from asyncdicom.opening import Opening
from asyncdicom.server import Server
from asyncdicom.services.contexts import Proposable
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.negotiation import ANY_TRANSFER_SYNTAX, Policy, answer, propose
from asyncdicom.ul.pdu import AAssociateRJ, AAssociateRQ, decode_pdu

Conversation = list[tuple[str, bytes]]  # who says it, the PDU

ACCEPTOR, REQUESTOR = "<", ">"
# Seconds, as docs/limits.md has them.
LASTS = {
    "artim": 10,
    "acse": 30,
    "release": 10,
    "half_closed": 5,
    "close": 5,
    "receive": 60,
    "dimse": 120,
    "sub-operation": float("inf"),
    "idle": 300,
    "write": 30,
    "handler": 120,
    "cancel": 10,
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
        self.phases: list[tuple[int, str]] = [(0, "acse" if ours == REQUESTOR else "artim")]
        ended = {who: parts([pdu for w, pdu in conversation if w == who]) for who in (ACCEPTOR, REQUESTOR)}
        end, outstanding, ending = 0, 0, ""
        for who, _ in conversation:
            for part in next(ended[who]):
                command = part.command
                is_request = command is not None and not command.is_response
                if who == ours:
                    if command is not None and is_request:
                        outstanding += 1
                    ending = "release" if part.pdu_type == 5 else ending
                else:
                    end = part.end
                    self.completions.add(end)
                    if part.is_message_end:
                        self.rests.add(end)
                    if command is not None and command.is_response:
                        outstanding -= command.status not in (0xFF00, 0xFF01)
                    ending = {5: "close", 6: "end", 7: "end"}.get(part.pdu_type, ending)
                if not end:
                    continue
                phase = ending or ("dimse" if outstanding else "idle")
                if phase == "dimse" and who != ours and is_request:
                    phase = "sub-operation"  # the response cannot come before its data set has
                is_news = command is not None and is_request == (who == ours)
                if phase != self.phases[-1][1] or (phase == "dimse" and is_news):
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


NO_RATE: dict[str, Any] = {"limits": Limits(accept_rate=None)}
HANDLERS: dict[str, Any] = {"c_store": on_store, "c_find": on_find, "c_get": on_get}


def served(**options: Any) -> Opening[Server]:
    return serve("SCP@192.0.2.99:104", sock=Listener(), **{**HANDLERS, **NO_RATE, **options})  # type: ignore[arg-type]


async def use_a_storage_scp() -> None:
    contexts: list[Proposable] = [VERIFICATION, PresentationContext(CT, EXPLICIT)]
    async with associate("SCP@192.0.2.1:104", contexts=contexts, limits=ONE_AT_A_TIME) as association:
        await association.c_echo()
        await association.c_store(INSTANCE)


async def use_an_archive() -> None:
    implicit = (IMPLICIT_VR_LITTLE_ENDIAN,)
    contexts: list[Proposable] = [
        VERIFICATION,
        PresentationContext(CT, EXPLICIT, scp_role=True),
        PresentationContext(STUDY_ROOT.find, implicit),
        PresentationContext(STUDY_ROOT.get, implicit),
    ]
    async with associate(
        "SCP@192.0.2.1:104", contexts=contexts, c_store=on_store, limits=ONE_AT_A_TIME
    ) as association:
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
    if timer not in ("artim", "close", "end"):  # these end without a word
        assert wire.sent[-10:-9] == ABORT[:1], (timer, expires)
        await asyncio.sleep(LASTS["close"])
    assert not wire.is_open, (timer, expires)
    return timer


async def play_against_acceptor(server: Server, loop: ManualLoop, name: str, mode: str) -> set[str]:
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


async def play_against_requestor(loop: ManualLoop, name: str, mode: str, use: Any) -> set[str]:
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
        ended = user.exception()
        assert isinstance(ended, AssociationError) or ended is None
        assert ended is None or cut < len(plan.stream)
    return timers


MODES = ["silence", "drip", "half-close"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AGAINST_ACCEPTORS)
def test_an_acceptor_ends_in_time(loop: ManualLoop, name: str, mode: str) -> None:
    async def run() -> set[str]:
        async with served() as server:
            return await play_against_acceptor(server, loop, name, mode)

    timers = loop.run_until_complete(run())
    assert "artim" in timers or mode == "half-close"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AGAINST_REQUESTORS)
def test_a_requestor_ends_in_time(loop: ManualLoop, name: str, mode: str) -> None:
    use = use_an_archive if name == "asyncdicom" else use_a_storage_scp
    timers = loop.run_until_complete(play_against_requestor(loop, name, mode, use))
    assert timers >= {"acse", "dimse", "receive", "release", "end"} or mode == "half-close"


# other ways to keep us waiting


REQUEST = propose(
    [PresentationContext(uid, EXPLICIT) for uid in (VERIFICATION, CT, STUDY_ROOT.find)],
    called_ae_title="SCP",
    calling_ae_title="SCU",
).encode()


async def associated(loop: ManualLoop) -> Wire:
    """A connection with an association: contexts 1 to 5 are Verification, CT and Study Root Find."""
    wire = await loop.connect()
    wire.feed(REQUEST)
    await settle()
    assert wire.sent[0] == 2
    wire.sent.clear()
    return wire


def run(loop: ManualLoop, test: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(test)


async def endless(request: Request) -> AsyncIterator[bytes]:
    await request.data.read()
    while True:
        yield bytes(8192)


@pytest.mark.parametrize("taken", [0, 1, 1000])
def test_a_peer_that_does_not_read(loop: ManualLoop, taken: int) -> None:
    """Nothing of what waits for it leaves, or a few bytes at a time: that is no progress."""

    async def test() -> None:
        async with served(c_find=endless) as server:
            wire = await associated(loop)
            wire.is_stuck = True
            wire.feed(message(5, find_rq(), IDENTIFIER))
            await settle()
            unsent = wire.get_write_buffer_size()
            assert 1 << 18 < unsent < (1 << 18) + 20000, "back-pressure reaches the handler"
            await asyncio.sleep(LASTS["write"] - 1)
            wire.take(taken)
            assert wire.is_open
            await asyncio.sleep(2)
            assert not wire.is_open
            assert server.associations == 0

    run(loop, test())


def test_a_peer_that_reads_slowly(loop: ManualLoop) -> None:
    async def test() -> None:
        async with served(c_find=endless):
            wire = await associated(loop)
            wire.is_stuck = True
            wire.feed(message(5, find_rq(), IDENTIFIER))
            for _ in range(100):
                await asyncio.sleep(LASTS["write"] - 1)
                wire.take(1024)
            assert wire.is_open
            wire.abort()

    run(loop, test())


@pytest.mark.parametrize("end", [RELEASE_RQ, b"GET / HTTP/1.1\r\n\r\n", ABORT, b""])
def test_a_peer_that_does_not_take_the_last_bytes(loop: ManualLoop, end: bytes) -> None:
    async def test() -> None:
        async with served():
            wire = await associated(loop)
            wire.is_stuck = True
            wire.feed(message(1, echo_rq()))
            await settle()
            wire.feed(end)
            await asyncio.sleep((0 if end else LASTS["idle"]) + LASTS["close"] + 1.5)
            assert not wire.is_open

    run(loop, test())


@pytest.mark.parametrize("garbage", [b"\xff", RELEASE_RQ[:7], REQUEST, message(1, echo_rq())])
def test_garbage_behind_the_end_keeps_nobody(loop: ManualLoop, garbage: bytes) -> None:
    async def test() -> None:
        async with served():
            wire = await associated(loop)
            wire.feed(RELEASE_RQ)
            begun = loop.now
            while wire.is_open:
                await asyncio.sleep(0.9)
                wire.feed(garbage)
            assert LASTS["close"] <= loop.now - begun <= LASTS["close"] + 1

    run(loop, test())


@pytest.mark.parametrize(
    ("size", "pause", "lives"),
    [(1024, 1.0, True), (1023, LASTS["receive"] - 0.5, False), (1024, LASTS["receive"] - 0.5, False)],
)
def test_the_slowest_sender_that_is_tolerated(loop: ManualLoop, size: int, pause: float, lives: bool) -> None:
    """A kilobyte a second, and one for each `Timeouts.receive`."""

    async def test() -> None:
        async with served():
            wire = await associated(loop)
            wire.feed(message(3, store_rq()))
            wire.feed(fragments(3, False, bytes(200_000), 200_000)[:12])
            for _ in range(150):
                await asyncio.sleep(pause)
                wire.feed(bytes(size))
            assert wire.is_open is lives
            wire.abort()

    run(loop, test())


@pytest.mark.parametrize("swallows", [False, True])
def test_a_handler_that_takes_nothing(loop: ManualLoop, swallows: bool) -> None:
    """It is cancelled, and answered for: after all, it is not the peer's fault."""
    seen: list[str] = []

    async def stuck(request: Request) -> int:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                if not swallows or len(seen) > 1:
                    raise

    async def test() -> None:
        async with served(c_store=stuck):
            wire = await associated(loop)
            wire.feed(message(3, store_rq(), bytes((1 << 20) + 1)))
            assert not wire.reads
            await asyncio.sleep(LASTS["handler"] - 1)
            assert not wire.sent
            await asyncio.sleep(1.5)
            assert seen == ["cancelled"]
            if swallows:
                await asyncio.sleep(LASTS["cancel"])
            assert bytes.fromhex("0009 0200 0000 00a7") in wire.sent, "status A700H"
            wire.abort()

    run(loop, test())


def test_who_has_closed_its_half_is_worked_for_no_longer(loop: ManualLoop) -> None:
    """It may have gone, and what it has asked takes time and memory of others."""

    async def stuck(request: Request) -> int:
        await request.data.read()
        await asyncio.Event().wait()
        return 0

    async def test() -> None:
        async with served(c_store=stuck) as server:
            wire = await associated(loop)
            wire.feed(message(3, store_rq(), bytes(1000)))
            wire.half_close()
            await asyncio.sleep(LASTS["half_closed"] - 1)
            assert wire.is_open
            assert server.associations == 1
            await asyncio.sleep(2)
            assert server.associations == 0
            assert wire.sent[0] == ABORT[0]

    run(loop, test())


@pytest.mark.parametrize("pause", [90, 91, 92, 93, 94])
def test_the_peers_time_stands_still_while_we_do_not_read(loop: ManualLoop, pause: int) -> None:
    """To the second: what was left of it when reading paused is what it has when reading goes on."""
    go_on = asyncio.Event()

    async def slow(request: Request) -> int:
        await go_on.wait()
        await request.data.read()
        return 0

    async def test() -> None:
        async with served(c_store=slow, limits=Limits(accept_rate=None, read_budget=4096)):
            wire = await associated(loop)
            wire.feed(message(3, store_rq()))
            wire.feed(fragments(3, False, bytes(16000))[:4000])
            await asyncio.sleep(LASTS["receive"] - 2)
            wire.feed(bytes(999))  # not enough to earn the peer a new deadline
            assert not wire.reads
            await asyncio.sleep(pause)
            assert wire.is_open
            go_on.set()
            await asyncio.sleep(1.9)
            assert wire.reads
            assert not wire.sent
            await asyncio.sleep(0.2)
            assert wire.sent == ABORT
            await asyncio.sleep(LASTS["close"])
            assert not wire.is_open

    run(loop, test())


def test_a_retrieval_may_take_any_time_as_long_as_it_goes_on(loop: ManualLoop) -> None:
    """C-GET: a provider need not send Pending responses; instances that come show that it is at work."""

    async def use() -> object:
        contexts = [
            PresentationContext(STUDY_ROOT.get, (IMPLICIT_VR_LITTLE_ENDIAN,)),
            PresentationContext(CT, EXPLICIT, scp_role=True),
        ]
        async with associate("SCP@192.0.2.1:104", contexts=contexts, c_store=on_store) as association:
            return await association.c_get(IDENTIFIER)

    async def test() -> None:
        user = asyncio.create_task(use())
        await settle()
        wire = loop.dialled.pop()
        wire.feed(accept_all(bytes(wire.sent)))
        await settle()
        for number in range(1, 4):  # one after another, each just in time
            await asyncio.sleep(LASTS["dimse"] - 1)
            wire.feed(message(3, store_rq(number), bytes(10)))
        await asyncio.sleep(LASTS["dimse"] - 1)
        wire.feed(message(3, store_rq(9)))
        data = fragments(3, False, bytes(160_000))
        while data:  # a large one on a slow line
            await asyncio.sleep(1)
            wire.feed(data[:1100])
            data = data[1100:]
        await asyncio.sleep(LASTS["dimse"] - 1)
        final = Command(
            CommandField.C_GET_RSP,
            message_id_being_responded_to=1,
            status=0,
            number_of_completed_sub_operations=4,
        )
        wire.feed(message(1, final))
        await settle()
        wire.feed(bytes.fromhex("0600 00000004 00000000"))
        assert str((await user).status) == "0x0000 (Success)"  # type: ignore[attr-defined]

    run(loop, test())


def accept_all(request: bytes) -> bytes:
    decoded = decode_pdu(1, request[6:])
    assert isinstance(decoded, AAssociateRQ)
    everything = {context.abstract_syntax: ANY_TRANSFER_SYNTAX for context in decoded.presentation_contexts}
    verdict = answer(decoded, Policy(everything, everything))
    assert not isinstance(verdict, AAssociateRJ)
    return verdict[0].encode()
