"""Every limit, one below it, at it, and one above it; and that docs/limits.md tells the truth about them."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trustme
from helpers.manual_loop import Listener, ManualLoop, Wire, settle
from helpers.peer import (
    ABORT,
    CT,
    EOF,
    IDENTIFIER,
    RELEASE_RQ,
    Peer,
    cancel_rq,
    echo_rq,
    find_rq,
    fragments,
    message,
    store_rq,
)

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AccessPolicy,
    AssociationAborted,
    AssociationTimeout,
    DataSetError,
    DicomNetworkError,
    Limits,
    PresentationContext,
    Request,
    Status,
    Timeouts,
    associate,
    serve,
)
from asyncdicom.access import Peer as KnownPeer
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import status_of
from asyncdicom.cli.fields import documentation
from asyncdicom.data.elements import decode as decode_data_set
from asyncdicom.data.elements import encode as encode_data_set
from asyncdicom.data.inflation import inflate
from asyncdicom.data.reencode import MAXIMUM_HELD, Reencoder, reencode
from asyncdicom.data.resuming import MAXIMUM_PLACES
from asyncdicom.dimse.assembler import Assembler
from asyncdicom.dimse.command import MAXIMUM_ELEMENTS, decode_elements
from asyncdicom.dimse.fragmenter import MAXIMUM_PDU, Fragmenter
from asyncdicom.dimse.messages import Command, CommandField, decode, encode, response_to
from asyncdicom.dimse.operations import (
    MAXIMUM_DUPLICATES,
    MAXIMUM_STRAYS,
    DuplicateInvocation,
    InvokedOperations,
    PerformedOperations,
)
from asyncdicom.exceptions import LocalProtocolError, RemoteProtocolError
from asyncdicom.net.counting import ConnectionRates, CountedSet, is_local, origin_of
from asyncdicom.net.stream import DataStream
from asyncdicom.opening import Opening
from asyncdicom.options import of_role
from asyncdicom.server import Server
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from asyncdicom.ul.decoder import MAXIMUM_EMPTY_FRAGMENTS, Decoder
from asyncdicom.ul.encoder import p_data_header
from asyncdicom.ul.items import (
    MAXIMUM_ITEMS,
    MAXIMUM_RELATED,
    MAXIMUM_TRANSFER_SYNTAXES,
    MAXIMUM_USER_SUB_ITEMS,
    CommonExtendedNegotiation,
    ProposedContext,
    UserIdentity,
    UserInformation,
    item,
)
from asyncdicom.ul.negotiation import (
    LONGEST_USER_IDENTITY,
    REJECTED_NO_REASON,
    Policy,
    answer,
    propose,
)
from asyncdicom.ul.pdu import MAXIMUM_CONTEXTS, AAssociateRJ, AAssociateRQ, decode_pdu
from asyncdicom.ul.protocol import MAXIMUM_DRAIN, UpperLayer

IMPLICIT = (IMPLICIT_VR_LITTLE_ENDIAN,)
AROUND = pytest.mark.parametrize("over", [-1, 0, 1])


# docs/limits.md


def tables() -> list[list[list[str]]]:
    """The three tables of docs/limits.md, as cells: `Timeouts`, `Limits`, and what is fixed."""
    text = (Path(__file__).parent.parent / "docs" / "limits.md").read_text()
    found = re.findall(r"(?m)^\|-.*\n((?:\|.*\n)+)", text)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for table in found[:3]
    ]


UNITS = {"s": 1, "/s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "": 1}


def number(cell: str) -> float | None:
    if cell == "never":
        return None
    matched = re.fullmatch(r"(\d+) ?(\S*)", cell)
    assert matched, cell
    return int(matched[1]) * UNITS[matched[2]]


@pytest.mark.parametrize("requestor", [True, False])
@pytest.mark.parametrize(("options", "table"), [(Timeouts, 0), (Limits, 1)])
def test_the_page_has_every_option_and_its_default(options: type, table: int, requestor: bool) -> None:
    column, theirs = (1, "serve") if requestor else (2, "associate")
    written = {row[0].strip("`"): number(row[column]) for row in tables()[table] if row[column]}
    assert written == {
        name: of_role(getattr(options, name), requestor=requestor)
        for name, text in documentation(options).items()
        if f"`{theirs}` only" not in text
    }


def test_the_page_has_what_is_fixed() -> None:
    for where, value, *_ in tables()[2]:
        path, _, argument = where.strip("`").rstrip(")").partition("(")
        *modules, name = path.split(".")
        classes = [part for part in modules if part[0].isupper()]
        module = import_module(".".join(["asyncdicom", *modules[: len(modules) - len(classes)]]))
        found: Any = reduce(getattr, [*classes, name], module)
        if argument:
            found = inspect.signature(found).parameters[argument].default
        assert found == number(value), where


def test_each_of_them_is_tested() -> None:
    tested = {*(f"`{name}`" for name in SERVER | CLIENT), *(f"`{name}`" for name in CORE), *ELSEWHERE}
    assert {row[0] for table in tables() for row in table} == tested


ELSEWHERE = {
    "`maximum_tls_handshakes`",  # in net/test_tls_handshakes.py
    "`handler_deadline`",  # in services/test_answers.py
    "`services.responses.MAXIMUM_UNWANTED`",  # in services/test_query.py
    "`data.inflation.MAXIMUM_HEADERS`",  # in data/test_data_scanner.py
    "`services.query.MAXIMUM_UNREADABLE`",  # there, too
    "`services.arrivals.MAXIMUM_REFUSED`",  # in services/test_arrivals.py
    # to the second, in net/test_deadlines.py
    *("`acse`", "`artim`", "`dimse`", "`receive`", "`write`", "`half_closed`"),
    *("`handler`", "`cancel`", "`release`", "`idle`", "`close`"),
    "`ul.protocol.MINIMUM_PROGRESS`",
    # ul/test_ul_timers.py
    "`ul.protocol.MINIMUM_RATE`",
    # archive/test_archive_aside.py, archive/test_archive_control.py
    *(f"`archive.archive.Archive({name})`" for name in ("maximum_quarantined", "maximum_quarantined_bytes")),
    "`archive.control.MAXIMUM_LINE`",
    # archive/test_archive_room.py
    "`archive.blobs.room.MINIMUM_FREE`",
    # dimse/test_operations.py
    *("`operations_invoked`", "`maximum_outstanding`"),
    *("`dimse.operations.MAXIMUM_PENDING`", "`dimse.operations.MAXIMUM_REPEATED`"),
    # test_outgoing.py
    *("`maximum_outgoing`", "`destination.Destination(maximum_associations)`"),
    # net/test_flow.py, net/test_blocks.py
    *("`net.flow.MAXIMUM_UNDELIVERED`", "`net.blocks.MAXIMUM_HELD`"),
    # test_draining.py
    *("`drain_idle`", "`drain_notice`"),
    # below
    *("`connect`", "`tls_handshake`", "`drain`"),
    "`dimse.fragmenter.MAXIMUM_PDU`",
    # dimse/test_fragmenter.py
    "`dimse.fragmenter.MOST_FRAGMENTS`",
    *("`net.stream.DataStream.read(maximum)`", "`archive.archive.Archive(maximum_size)`"),
}


# below the sans-IO line: each probe tells whether this many are within the limit


def header(pdu_type: int, length: int) -> bytes:
    return bytes((pdu_type, 0)) + length.to_bytes(4, "big")


def announced(pdu_type: int) -> Callable[[int], bool]:
    """Decided on the 6 bytes of a header: nothing was allocated for what it announces."""

    def probe(n: int) -> bool:
        decoder = Decoder(262144, 262144)
        decoder.feed(memoryview(header(pdu_type, n)))
        return decoder.error is None

    return probe


def request(**changes: Any) -> AAssociateRQ:
    contexts = (ProposedContext(1, VERIFICATION, IMPLICIT),)
    return AAssociateRQ("SCP", "SCU", contexts, UserInformation(16384))._replace(**changes)


def is_readable(body: bytes) -> bool:
    try:
        decode_pdu(1, body)
    except RemoteProtocolError:
        return False
    return True


def contexts(n: int) -> bool:
    item = request().encode()[6 + 68 + 4 + 21 :]  # behind the header, the fixed part, the application context
    length = 4 + int.from_bytes(item[2:4], "big")
    ids = [*range(1, 256, 2), 2]
    items = b"".join(item[:4] + bytes((ids[index],)) + item[5:length] for index in range(n))
    fixed = request().encode()[6 : 6 + 68 + 4 + 21]
    return is_readable(fixed + items + item[length:])


def proposed(n: int) -> bool:
    wanted = [PresentationContext(f"1.{i}", IMPLICIT) for i in range(n)]
    try:
        propose(wanted, called_ae_title="A", calling_ae_title="B")
    except LocalProtocolError:
        return False
    return True


def transfer_syntaxes(n: int) -> bool:
    sent = request(presentation_contexts=(ProposedContext(1, VERIFICATION, IMPLICIT * n),))
    received = decode_pdu(1, sent.encode()[6:])
    assert isinstance(received, AAssociateRQ)
    kept = len(received.presentation_contexts[0].transfer_syntaxes)
    assert kept == min(n, MAXIMUM_TRANSFER_SYNTAXES)
    return kept == n


def user_sub_items(n: int) -> bool:
    body = request(user_information=UserInformation(16384)).encode()[6:]
    at = body.index(bytes.fromhex("5000 0008 5100 0004"))
    items = bytes.fromhex("5100 0004 00004000") + bytes.fromhex("7f00 0000") * (n - 1)
    return is_readable(body[:at] + b"\x50\0" + len(items).to_bytes(2, "big") + items)


def all_items(n: int) -> bool:
    """In one context, which holds all of them but itself, in two, and beside one."""
    body = request().encode()[6:74]
    nothing = item(0x77, b"")
    one = item(0x20, bytes((1, 0, 0, 0)) + nothing * (n - 1))
    two = item(0x20, bytes((1, 0, 0, 0)) + nothing * (n // 2 - 1)) + item(
        0x20, bytes((3, 0, 0, 0)) + nothing * (n - n // 2 - 1)
    )
    user = item(0x50, nothing * 500) + nothing * (n - 501)
    found = {is_readable(body + items) for items in (one, two, user, nothing * n)}
    assert len(found) == 1
    return found.pop()


def related_classes(n: int) -> bool:
    uids = tuple(f"1.2.{number}" for number in range(n))
    information = UserInformation(common_extended_negotiations=(CommonExtendedNegotiation("1", "2", uids),))
    body = request(user_information=information).encode()[6:]
    received = decode_pdu(1, body)
    assert isinstance(received, AAssociateRQ)
    return received.user_information.common_extended_negotiations[0].related_general_sop_class_uids == uids


def user_identity(n: int) -> bool:
    identity = UserIdentity(2, bytes(n // 2), bytes(n - n // 2))
    verdict = answer(request(user_information=UserInformation(16384, user_identity=identity)), Policy({}))
    assert verdict == REJECTED_NO_REASON or not isinstance(verdict, AAssociateRJ)
    return verdict != REJECTED_NO_REASON


def drained(n: int) -> bool:
    core = UpperLayer(requestor=False, maximum_length=16384)
    core.connected(0)
    core.receive_data(memoryview(b"\xff"), 0)
    for size in (n - 1000, 1000):
        core.receive_data(memoryview(bytes(size)), 0)
    return not core.wants_close


def empty_fragments(n: int) -> bool:
    decoder = Decoder(16384)
    decoder.feed(memoryview(p_data_header(1, False, False, 0) * n))
    return decoder.error is None


def empty_fragments_of_an_assembler(n: int) -> bool:
    try:
        Assembler().feed(1, True, [memoryview(b"")] * n, False)
    except RemoteProtocolError:
        return False
    return True


def command_set(n: int) -> bool:
    assembler = Assembler()
    try:
        for size in (n - 10, 10):
            assembler.feed(1, True, [memoryview(bytes(size))], False)
    except RemoteProtocolError:
        return False
    return True


def command_elements(n: int) -> bool:
    elements = [b"\0\0" + tag.to_bytes(2, "little") + bytes(4) for tag in range(1, n + 1)]
    try:
        decode_elements(b"".join(elements))
    except RemoteProtocolError:
        return False
    return True


def stray_responses(n: int) -> bool:
    book = InvokedOperations(1)
    stray = response_to(echo_rq(7), 0)
    try:
        for _ in range(n):
            assert book.receive(stray, 0) is None
    except RemoteProtocolError:
        return False
    return True


def stray_cancels(n: int) -> bool:
    book = PerformedOperations(1)
    try:
        for _ in range(n):
            book.cancel(cancel_rq(7).message_id_being_responded_to or 0)
    except RemoteProtocolError:
        return False
    return True


def duplicates(n: int) -> bool:
    book = PerformedOperations(2)
    book.open(echo_rq(7))
    try:
        for _ in range(n):
            with suppress(DuplicateInvocation):
                book.open(echo_rq(7))
    except RemoteProtocolError:
        return False
    return True


def places(n: int) -> bool:
    """What follows is found at the place of this number: three are told by the broken element itself."""
    broken = b"\x08\0\x54\0UN\0\0\xfe\xff\xff\xff"
    rest = [(0x00100010, "PN", b""), (0x00100020, "LO", b""), (0x00100030, "DA", b"")]
    data = broken + bytes(n - 8) + encode_data_set(rest, EXPLICIT_VR_LITTLE_ENDIAN)
    return len(decode_data_set(data, EXPLICIT_VR_LITTLE_ENDIAN, strict=False)) == 3


def nested(n: int) -> bool:
    data = bytes.fromhex("08001111 ffffffff feff00e0 ffffffff") * n
    data += bytes.fromhex("feff0de0 00000000 feffdde0 00000000") * n
    try:
        decode_data_set(data, IMPLICIT_VR_LITTLE_ENDIAN)
    except DataSetError:
        return False
    return True


def nested_again(n: int) -> bool:
    data = bytes.fromhex("08001111 ffffffff feff00e0 ffffffff") * n
    data += bytes.fromhex("feff0de0 00000000 feffdde0 00000000") * n
    try:
        reencode(data, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    except DataSetError:
        return False
    return True


def inflated_again(n: int) -> bool:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(bytes.fromhex("e07f10004f420000 f4ff0000") + bytes(65524)) + deflater.flush()
    reencoder = Reencoder(
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, maximum_inflated=2 * 65536 - n
    )
    try:
        return len(list(reencoder.feed(data))) > 0
    except DataSetError:
        return False


def held(n: int) -> bool:
    """The first element waits for Pixel Representation, n bytes with it, their headers included."""
    waiting = bytes.fromhex("18001098 02000000 0100")
    comment = bytes.fromhex("20000040") + (n - 20).to_bytes(4, "little") + bytes(n - 20)
    signed = bytes.fromhex("28000301 02000000 0100")
    reencoder = Reencoder(IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)
    list(reencoder.feed(waiting + comment + signed))
    return not reencoder.guessed


def inflated(n: int) -> bool:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(bytes(range(256)) * 256) + deflater.flush()
    try:
        return len(inflate(data, 65536 + 65536 - n, 200)) == 65536
    except DataSetError:
        return False


def error_comment(n: int) -> bool:
    comment = decode(encode(response_to(echo_rq(1), 0x110, error_comment="x" * n))).error_comment
    assert comment == "x" * min(n, 64)
    return len(comment) == n


CORE: dict[str, list[tuple[int, Callable[[int], bool]]]] = {
    "maximum_associate_length": [(262144, announced(1)), (262144, announced(2))],
    "maximum_length": [(262144, announced(4))],
    "ul.pdu.MAXIMUM_CONTEXTS": [(MAXIMUM_CONTEXTS, contexts), (MAXIMUM_CONTEXTS, proposed)],
    "ul.items.MAXIMUM_TRANSFER_SYNTAXES": [(MAXIMUM_TRANSFER_SYNTAXES, transfer_syntaxes)],
    "ul.items.MAXIMUM_USER_SUB_ITEMS": [(MAXIMUM_USER_SUB_ITEMS, user_sub_items)],
    "ul.items.MAXIMUM_ITEMS": [(MAXIMUM_ITEMS, all_items)],
    "ul.items.MAXIMUM_RELATED": [(MAXIMUM_RELATED, related_classes)],
    "ul.negotiation.LONGEST_USER_IDENTITY": [(LONGEST_USER_IDENTITY, user_identity)],
    "ul.protocol.MAXIMUM_DRAIN": [(MAXIMUM_DRAIN, drained)],
    "ul.decoder.MAXIMUM_EMPTY_FRAGMENTS": [
        (MAXIMUM_EMPTY_FRAGMENTS, empty_fragments),
        (MAXIMUM_EMPTY_FRAGMENTS, empty_fragments_of_an_assembler),
    ],
    "dimse.assembler.Assembler(maximum_command)": [(65536, command_set)],
    "dimse.command.MAXIMUM_ELEMENTS": [(MAXIMUM_ELEMENTS, command_elements)],
    "dimse.operations.MAXIMUM_STRAYS": [
        (MAXIMUM_STRAYS, stray_responses),
        (MAXIMUM_STRAYS, stray_cancels),
    ],
    "dimse.operations.MAXIMUM_DUPLICATES": [(MAXIMUM_DUPLICATES, duplicates)],
    "data.elements.decode(maximum_depth)": [(64, nested)],
    "data.elements.decode(maximum_inflated)": [(65536, inflated)],
    "data.resuming.MAXIMUM_PLACES": [(MAXIMUM_PLACES, places)],
    "data.reencode.Reencoder(maximum_depth)": [(64, nested_again)],
    "data.reencode.Reencoder(maximum_inflated)": [(65536, inflated_again)],
    "data.reencode.MAXIMUM_HELD": [(MAXIMUM_HELD, held)],
}


@AROUND
@pytest.mark.parametrize(
    ("limit", "probe"),
    [
        pytest.param(limit, probe, id=f"{name}-{probe.__name__}")
        for name, probes in CORE.items()
        for limit, probe in probes
    ],
)
def test_below_the_line(limit: int, probe: Callable[[int], bool], over: int) -> None:
    assert probe(limit + over) is (over <= 0)


@AROUND
def test_the_longest_pdu_that_is_sent(over: int) -> None:
    """Fragments are of even length; 0 is no limit of the peer's."""
    for allowed in (1000 + over, MAXIMUM_PDU + over, 0):
        pdu, view, *_ = Fragmenter(1, allowed).data([bytes(1 << 20)], final=True)
        assert int.from_bytes(pdu[2:6], "big") == len(view) + 6
        assert len(view) + 6 == min(allowed or MAXIMUM_PDU, MAXIMUM_PDU) & ~1


@AROUND
def test_an_error_comment_is_cut(over: int) -> None:
    assert error_comment(64 + over) is (over <= 0)


# above it, in a loop whose time and network are the test's


@pytest.fixture(scope="module")
def loop() -> Iterator[ManualLoop]:
    loop = ManualLoop()
    yield loop
    loop.close()


NO_RATE = Limits(accept_rate=None)
HERE, THERE = "127.0.0.1", "192.0.2.1"


def hosts(number: int) -> str:
    return f"198.51.100.{number + 1}"


async def on_store(request: Request) -> int:
    return 0  # does not read


def served(**options: Any) -> Opening[Server]:
    return serve("SCP@192.0.2.99:104", sock=Listener(), **options)  # type: ignore[arg-type]


def rq(calling: str = "SCU") -> bytes:
    proposed = [PresentationContext(uid, IMPLICIT) for uid in (VERIFICATION, CT, STUDY_ROOT.find)]
    return propose(proposed, called_ae_title="SCP", calling_ae_title=calling).encode()


async def associated(loop: ManualLoop, host: str = THERE, calling: str = "SCU") -> Wire | None:
    """A new association, or None if it is refused for the limit (which is all that may happen)."""
    wire = await loop.connect(host)
    if not wire.is_open:
        return None
    wire.feed(rq(calling))
    await settle()
    if wire.sent[0] == 3:
        assert wire.sent[7:] == bytes((2, 3, 2))
        return None
    assert wire.sent[0] == 2
    wire.sent.clear()
    return wire


def statuses(wire: Wire) -> list[int | None]:
    """Of the responses that the library has sent."""
    found, sent = [], bytes(wire.sent)
    while sent:
        length = 6 + int.from_bytes(sent[2:6], "big")
        if sent[0] == 4 and sent[11] == 3:
            found.append(decode(sent[12:length]).status)
        sent = sent[length:]
    return found


Probe = Callable[[ManualLoop, int, int], Awaitable[bool]]  # the limit, and how many there are
Among = Callable[[int], tuple[str, str]]  # the host and the AE title of each of several peers


def associations(option: str, peers: Among) -> Probe:
    async def probe(loop: ManualLoop, limit: int, n: int) -> bool:
        async with served(limits=replace(NO_RATE, **{option: limit})) as server:
            wires = [await associated(loop, *peers(i)) for i in range(n)]
            assert None not in wires[:-1]
            assert server.associations == n - (wires[-1] is None)
            if wires[-1] is None:  # one leaves, and there is room again
                assert wires[0] is not None
                wires[0].feed(RELEASE_RQ)
                wires[0].half_close()
                await settle()
                assert await associated(loop, *peers(0)) is not None
            return wires[-1] is not None

    return probe


def connections(option: str, peers: Callable[[int], str]) -> Probe:
    async def probe(loop: ManualLoop, limit: int, n: int) -> bool:
        async with served(limits=replace(NO_RATE, **{option: limit})):
            wires = [loop.knock(peers(i)) for i in range(n)]
            await settle()
            assert all(wire.is_open for wire in wires[:-1])
            within = wires[-1].is_open
            assert within or not wires[-1].sent
            if not within:
                wires[0].feed(rq())  # it does not count any more
                await settle()
                assert (await loop.connect(peers(0))).is_open
            return within

    return probe


async def connections_of_all(loop: ManualLoop, limit: int, n: int) -> bool:
    """Silent ones cannot take all the room: the oldest goes, whoever has asked for something stays."""
    async with served(
        limits=Limits(accept_rate=None, maximum_not_associated=limit),
        access=AccessPolicy(user_identity=never),
    ):
        asked = await loop.connect(hosts(0))
        asked.feed(rq())
        wires = [loop.knock(hosts(i)) for i in range(1, n)]
        await settle()
        assert asked.is_open
        assert all(wire.is_open for wire in wires[1:])
        within = wires[0].is_open
        assert within or not wires[0].sent
        return within


async def never(request: AAssociateRQ, identity: UserIdentity | None) -> bool:
    await asyncio.Event().wait()
    return False


async def rate(loop: ManualLoop, limit: int, n: int) -> bool:
    async with served(limits=Limits(accept_rate=limit / 2, maximum_not_associated_per_address=None)):
        wires = [loop.knock(THERE) for _ in range(n)]
        await settle()
        assert all(wire.is_open for wire in wires[:-1])
        if not wires[-1].is_open:
            assert (await loop.connect(hosts(1))).is_open, "somebody else may come"
            await asyncio.sleep(2 / limit)
            assert (await loop.connect()).is_open
            assert not (await loop.connect()).is_open
        return wires[-1].is_open


async def matches(loop: ManualLoop, limit: int, n: int) -> bool:
    closed = []

    async def on_find(request: Request) -> AsyncIterator[bytes]:
        try:
            for _ in range(n):
                yield IDENTIFIER
        finally:
            closed.append(True)

    async with served(limits=Limits(maximum_matches=limit), c_find=on_find):
        wire = await associated(loop)
        assert wire is not None
        wire.feed(message(5, find_rq(), IDENTIFIER))
        await settle()
        assert closed
        *pending, final = statuses(wire)
        assert pending == [Status.PENDING] * min(n, limit)
        assert final in (Status.SUCCESS, Status.OUT_OF_RESOURCES)
        return final == Status.SUCCESS


async def discarded(loop: ManualLoop, limit: int, n: int) -> bool:
    async with served(limits=Limits(maximum_discarded=limit), c_store=on_store):
        wire = await associated(loop)
        assert wire is not None
        wire.feed(message(3, store_rq()))
        await settle()  # the handler has returned
        wire.feed(fragments(3, False, bytes(n + 1))[: 12 + n])
        await settle()
        return wire.sent != ABORT


async def budget(loop: ManualLoop, limit: int, n: int) -> bool:
    async def waits(request: Request) -> int:
        await asyncio.Event().wait()
        return 0

    async with served(limits=Limits(read_budget=limit), c_store=waits):
        wire = await associated(loop)
        assert wire is not None
        wire.feed(message(3, store_rq()) + fragments(3, False, bytes(n)))
        return wire.reads


async def performed(loop: ManualLoop, limit: int, n: int) -> bool:
    async def waits(request: Request) -> int:
        await asyncio.Event().wait()
        return 0

    async with served(c_echo=waits):
        wire = await associated(loop)  # without a window, that is one of 1: one more is tolerated
        assert wire is not None
        for number in range(n):
            wire.feed(message(1, echo_rq(number + 1)))
        await settle()
        assert wire.sent in (b"", bytes.fromhex("07000000000400000205"))
        return not wire.sent


SERVER: dict[str, tuple[int, Probe]] = {
    "maximum_associations": (5, associations("maximum_associations", lambda i: (hosts(i), f"SCU{i}"))),
    "maximum_associations_per_address": (
        5,
        associations("maximum_associations_per_address", lambda i: (THERE, f"SCU{i}")),
    ),
    "maximum_associations_per_ae_title": (
        5,
        associations("maximum_associations_per_ae_title", lambda i: (THERE, "SCU")),
    ),
    "maximum_not_associated": (5, connections_of_all),
    "maximum_not_associated_per_address": (
        5,
        connections("maximum_not_associated_per_address", lambda i: THERE),
    ),
    "accept_rate": (10, rate),
    "maximum_matches": (5, matches),
    "maximum_discarded": (1000, discarded),
    "read_budget": (1000, budget),
    "operations_performed": (2, performed),
}


@AROUND
@pytest.mark.parametrize("name", SERVER)
def test_of_a_server(loop: ManualLoop, name: str, over: int) -> None:
    limit, probe = SERVER[name]

    async def test() -> bool:
        return await probe(loop, limit, limit + over)

    assert loop.run_until_complete(test()) is (over <= 0)


@pytest.mark.parametrize("host", [HERE, "::1", "::ffff:127.0.0.1"])
def test_peers_on_this_machine_are_only_counted_in_all(loop: ManualLoop, host: str) -> None:
    async def test() -> None:
        limits = Limits(
            maximum_associations=6,
            maximum_associations_per_address=2,
            maximum_associations_per_ae_title=2,
            maximum_not_associated=3,
            maximum_not_associated_per_address=1,
            accept_rate=1.0,
        )
        async with served(limits=limits):
            assert all([await associated(loop, host) for _ in range(6)])
            assert await associated(loop, host) is None
        async with served(limits=replace(limits, maximum_associations=2000)):
            wires = [await loop.connect(host) for _ in range(4)]
            assert [wire.is_open for wire in wires] == [False, True, True, True]

    loop.run_until_complete(test())


def test_a_noisy_title_keeps_nobody_else_out(loop: ManualLoop) -> None:
    """Others get in meanwhile, also from the same host, and the noisy one again when it has left room."""

    async def test() -> None:
        async with served(limits=replace(NO_RATE, maximum_associations_per_ae_title=2)):
            noisy = [await associated(loop, THERE, "NOISY") for _ in range(20)]
            assert [wire is not None for wire in noisy] == [True] * 2 + [False] * 18
            others = [await associated(loop, THERE, f"CT{number}") for number in range(5)]
            assert None not in others
            assert noisy[0] is not None
            noisy[0].feed(RELEASE_RQ)
            noisy[0].half_close()
            await settle()
            assert await associated(loop, THERE, "NOISY") is not None
            assert await associated(loop, THERE, "NOISY") is None

    loop.run_until_complete(test())


def test_limits_can_be_switched_off(loop: ManualLoop) -> None:
    async def test() -> None:
        none = Limits(
            maximum_associations_per_address=None,
            maximum_associations_per_ae_title=None,
            maximum_not_associated_per_address=None,
            accept_rate=None,
        )
        async with served(limits=none):
            assert all([await associated(loop) for _ in range(250)])
            assert all([(await loop.connect()).is_open for _ in range(250)])

    loop.run_until_complete(test())


# a requestor


async def answered(loop: ManualLoop, use: Coroutine[Any, Any, list[bytes]], *responses: bytes) -> list[bytes]:
    """Let somebody use an association, and answer his request."""
    user = asyncio.ensure_future(use)
    await settle()
    wire = loop.dialled.pop()
    decoded = decode_pdu(1, bytes(wire.sent[6:]))
    assert isinstance(decoded, AAssociateRQ)
    verdict = answer(decoded, Policy({STUDY_ROOT.find: IMPLICIT}))
    assert not isinstance(verdict, AAssociateRJ)
    wire.feed(verdict[0].encode())
    await settle()
    wire.feed(b"".join(responses))
    await settle()
    if wire.sent[-10:] == RELEASE_RQ:
        wire.feed(bytes.fromhex("0600 00000004 00000000"))
    await settle()
    wire.abort()
    return await user


def find_rsp(status: int) -> Command:
    return Command(
        CommandField.C_FIND_RSP,
        message_id_being_responded_to=1,
        status=status,
        has_data_set=status == Status.PENDING,
    )


async def found(
    *, maximum_matches: int = 100, maximum_bytes: int = 10_000, maximum_data_set: int = 10_000
) -> list[bytes]:
    contexts = [PresentationContext(STUDY_ROOT.find, IMPLICIT)]
    where = "SCP@192.0.2.1:104"
    async with associate(
        where, contexts=contexts, limits=Limits(maximum_data_set=maximum_data_set)
    ) as association:
        return await association.c_find(
            IDENTIFIER, raw=True, maximum_matches=maximum_matches, maximum_bytes=maximum_bytes
        )


async def a_heavy_list(loop: ManualLoop, limit: int, n: int) -> bool:
    responses = [message(1, find_rsp(Status.PENDING), bytes(size)) for size in (400, n - 400)]
    responses.append(message(1, find_rsp(Status.SUCCESS)))
    asked = answered(loop, found(maximum_bytes=limit), *responses)
    if n <= limit:
        return await asked == [bytes(400), bytes(n - 400)]
    with pytest.raises(DicomNetworkError, match=rf"{limit} bytes.*maximum_bytes.*async with") as raised:
        await asked
    assert raised.value.result is not None  # what came before it
    return False


async def a_list(loop: ManualLoop, limit: int, n: int) -> bool:
    responses = [message(1, find_rsp(Status.PENDING), IDENTIFIER) for _ in range(n)]
    responses.append(message(1, find_rsp(Status.SUCCESS)))
    asked = answered(loop, found(maximum_matches=limit), *responses)
    if n <= limit:
        return await asked == [IDENTIFIER] * n
    with pytest.raises(DicomNetworkError, match=f"more than {limit} matches"):
        await asked
    return False


async def a_data_set(loop: ManualLoop, limit: int, n: int) -> bool:
    responses = message(1, find_rsp(Status.PENDING), bytes(n)) + message(1, find_rsp(Status.SUCCESS))
    asked = answered(loop, found(maximum_data_set=limit), responses)
    if n <= limit:
        return await asked == [bytes(n)]
    with pytest.raises(AssociationAborted, match="larger than allowed"):
        await asked
    return False


CLIENT = {
    "association.Association.c_find(maximum_matches)": (5, a_list),
    "association.Association.c_find(maximum_bytes)": (1000, a_heavy_list),
    "maximum_data_set": (1000, a_data_set),
}


@AROUND
@pytest.mark.parametrize("name", CLIENT)
def test_of_a_requestor(loop: ManualLoop, name: str, over: int) -> None:
    limit, probe = CLIENT[name]

    async def test() -> bool:
        return await probe(loop, limit, limit + over)

    assert loop.run_until_complete(test()) is (over <= 0)


# other deadlines, and what has no place in the tables of probes


def test_a_connection_that_does_not_come(loop: ManualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*arguments: Any, **options: Any) -> Any:
        await asyncio.Event().wait()

    async def test() -> None:
        begun = loop.now
        with pytest.raises(AssociationTimeout, match="no connection within 10 s"):
            await associate("SCP@192.0.2.1:104")
        assert loop.now - begun == pytest.approx(10, abs=0.01)

    monkeypatch.setattr(loop, "create_connection", nothing)
    loop.run_until_complete(test())


def test_a_server_that_is_closed_waits_for_operations_so_long(loop: ManualLoop) -> None:
    async def waits(request: Request) -> int:
        await asyncio.Event().wait()
        return 0

    async def test() -> None:
        async with served(c_echo=waits) as server:
            wire = await associated(loop)
            assert wire is not None
            wire.feed(message(1, echo_rq()))
            await settle()
            begun = loop.now
            closing = asyncio.ensure_future(server.close())
            await asyncio.sleep(29.9)
            assert not wire.sent
            await asyncio.sleep(0.2)
            assert wire.sent == ABORT
            await closing
            assert loop.now - begun < 32

    loop.run_until_complete(test())


def test_a_server_that_is_closed_need_not_wait(loop: ManualLoop) -> None:
    async def waits(request: Request) -> int:
        await asyncio.Event().wait()
        return 0

    async def test() -> None:
        async with served(c_echo=waits, timeouts=Timeouts(drain=0)) as server:
            wire = await associated(loop)
            assert wire is not None
            wire.feed(message(1, echo_rq()))
            await settle()
            begun = loop.now
            closing = asyncio.ensure_future(server.close())
            await settle()
            assert wire.sent == ABORT
            assert loop.now - begun < 0.01
            await closing

    loop.run_until_complete(test())


async def test_a_tls_handshake_that_does_not_come() -> None:
    secure = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(secure)
    async with serve("SCP@127.0.0.1:0", ssl=secure, timeouts=Timeouts(tls_handshake=0.1)) as server:
        async with await Peer.connect(server.port) as peer:
            assert await peer.pdu() == EOF


@AROUND
async def test_a_data_set_in_memory(over: int) -> None:
    stream = DataStream(IMPLICIT_VR_LITTLE_ENDIAN)
    stream.feed([memoryview(bytes(100 + over))], 100 + over, True)
    if over <= 0:
        assert len(await stream.read(100)) == 100 + over
    else:
        with pytest.raises(DataSetError):
            await stream.read(100)


@AROUND
async def test_a_data_set_in_the_archive(tmp_path: Path, over: int) -> None:
    elements = [
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", b"2.25.1"),
        (0x0020000D, "UI", b"2.25.2"),
        (0x0020000E, "UI", b"2.25.3"),
        (0x7FE00010, "OB", bytes(1000)),
    ]
    data = encode_data_set(elements, EXPLICIT_VR_LITTLE_ENDIAN)

    async def batches() -> AsyncIterator[list[memoryview]]:
        yield [memoryview(data[:500])]
        yield [memoryview(data[500:])]

    async with Archive(tmp_path, durability="none", maximum_size=len(data) - over) as archive:
        stored = await archive.receive(
            sop_class_uid=CT,
            sop_instance_uid="2.25.1",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            batches=batches(),
        )
        assert status_of(stored) == (Status.SUCCESS if over <= 0 else Status.OUT_OF_RESOURCES)
        assert (await archive.counts())["instance"] == (1 if over <= 0 else 0)


# the bookkeeping


def test_a_counted_set() -> None:
    members: CountedSet[int] = CountedSet()
    members.add(1, "a", "x")
    members.add(2, "a", "y")
    assert (len(members), list(members)) == (2, [1, 2])
    assert [members.count(key) for key in "axyz"] == [2, 1, 1, 0]
    members.discard(1)
    members.discard(1)
    assert [members.count(key) for key in "axyz"] == [1, 0, 1, 0]
    members.discard(2)
    assert not members._counts, "nothing is kept of who has left"


def test_rates_forget() -> None:
    rates = ConnectionRates(2.0)
    for index in range(30_000):
        assert rates.allows(f"2001:db8::{index:x}", index / 100_000)
    assert len(rates._origins) <= 10_000, "an attacker with many addresses costs no memory"
    for index in range(30_000):
        rates.allows("192.0.2.1", 1000 + index / 10)
    assert len(rates._origins) < 10_000


def test_rates_allow_a_burst_and_then_the_rate() -> None:
    rates = ConnectionRates(2.0)
    assert [rates.allows("a", 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert [rates.allows("a", at / 4) for at in range(1, 9)] == [False, True] * 4
    assert [rates.allows("a", 100.0) for _ in range(5)] == [True] * 4 + [False]


def test_local_peers() -> None:
    assert all(is_local(host) for host in (HERE, "127.8.9.10", "::1", "::ffff:127.0.0.1", "?"))
    assert not any(is_local(host) for host in ("128.0.0.1", "10.127.0.1", "::2", "::ffff:10.0.0.1"))


async def test_a_peer_without_power_is_noticed() -> None:
    """TCP asks after 60 s of silence, every 20 s, three times; elsewhere than on Linux names may differ."""
    async with serve("SCP@127.0.0.1:0") as server, associate(f"SCP@127.0.0.1:{server.port}") as association:
        connection = association.get_extra_info("socket")
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = [getattr(socket, name, None) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")]
        if None not in options:
            found = [connection.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            assert found == [60, 20, 3]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("?", "?"),
    ],
)
def test_what_connections_are_counted_by(host: str, origin: str) -> None:
    assert origin_of(host) == origin


def test_one_network_of_ipv6_is_one_host(loop: ManualLoop) -> None:
    async def test() -> None:
        async with served(
            limits=Limits(maximum_associations_per_address=2, maximum_associations_per_ae_title=None)
        ):
            taken = [await associated(loop, f"2001:db8::{number:x}", f"SCU{number}") for number in range(5)]
            assert [wire is not None for wire in taken] == [True, True, False, False, False]
            assert await associated(loop, "2001:db8:0:1::1")
        async with served(limits=Limits(accept_rate=1.0)):
            wires = [await loop.connect(f"2001:db8::{number:x}") for number in range(5)]
            assert [wire.is_open for wire in wires] == [True, True, False, False, False]

    loop.run_until_complete(test())


def test_a_stranger_under_the_name_of_a_modality_does_not_lock_it_out(loop: ManualLoop) -> None:
    async def test() -> None:
        async with served(limits=Limits(maximum_associations_per_ae_title=3)):
            taken = [await associated(loop, "198.51.100.1", "CT1") for _ in range(5)]
            assert [wire is not None for wire in taken] == [True] * 3 + [False] * 2
            assert await associated(loop, THERE, "CT1")

    loop.run_until_complete(test())


KNOWN = {"CT1": KnownPeer(networks=THERE), "WS1": "192.0.2.2:104", "*": None}


@pytest.mark.parametrize(("title", "host"), [("CT1", THERE), ("WS1", "192.0.2.2")])
def test_strangers_leave_a_share_to_known_peers(loop: ManualLoop, title: str, host: str) -> None:
    async def test() -> None:
        async with served(access=KNOWN, limits=Limits(maximum_associations=10)):
            # The AE title of WS1, whose networks are not limited, can be taken by anybody.
            strangers = [await associated(loop, hosts(100 + n), "WS1") for n in range(5)]
            strangers += [await associated(loop, hosts(200 + n), f"X{n}") for n in range(5)]
            assert sum(wire is not None for wire in strangers) == 8
            assert await associated(loop, host, title)
            assert await associated(loop, host, title)
            assert await associated(loop, host, title) is None

    loop.run_until_complete(test())


def test_strangers_leave_connections_to_known_peers(loop: ManualLoop) -> None:
    async def test() -> None:
        async with served(access=KNOWN, limits=Limits(maximum_not_associated=10)):
            known = [await loop.connect(THERE) for _ in range(2)]
            strangers = [await loop.connect(hosts(100 + n)) for n in range(50)]
            assert all(wire.is_open for wire in known)
            assert sum(wire.is_open for wire in strangers) == 8
            assert strangers[-1].is_open, "the oldest stranger made room"

    loop.run_until_complete(test())
