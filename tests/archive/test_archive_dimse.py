"""The archive as an application entity, through real associations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import ask
from helpers.peer import Peer

from asyncdicom import (
    STUDY_ROOT,
    AccessPolicy,
    AssociationRejected,
    BytesSource,
    PresentationContext,
    Proposable,
    Request,
    Server,
    StatusError,
    associate,
    new_uid,
    retrieval_contexts,
    serve,
    storage_contexts,
)
from asyncdicom.access import Peer as PeerRights
from asyncdicom.address import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.elements import encode
from asyncdicom.dataset import encode as encode_keywords
from asyncdicom.dimse.messages import Command, CommandField
from asyncdicom.uid import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.items import ExtendedNegotiation
from asyncdicom.ul.negotiation import propose
from asyncdicom.ul.pdu import AAssociateAC, decode_pdu

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}


def instance(uid: str = "", *, pixels: int = 20_000, study: str = "1.2.3") -> BytesSource:
    uid = uid or new_uid()
    data = encode(
        [
            (0x00080016, "UI", CT.encode()),
            (0x00080018, "UI", uid.encode()),
            (0x00100010, "PN", b"DOE^JANE"),
            (0x00100020, "LO", b"P1"),
            (0x0020000D, "UI", study.encode()),
            (0x0020000E, "UI", f"{study}.1".encode()),
            (0x7FE00010, "OW", bytes(pixels)),
        ],
        EXPLICIT_VR_LITTLE_ENDIAN,
    )
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Archive(tmp_path, durability="process") as archive:
        yield archive


def address(server: Server) -> str:
    return f"{server.ae_title}@127.0.0.1:{server.port}"


_OF_A_BUCKET = "process_request_thread"  # which is in this process, and has one for each connection


async def test_two_hundred_associations_store_at_the_same_time_in_few_threads(archive: Archive) -> None:
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        together = asyncio.Barrier(200)
        threads: list[int] = []

        async def send() -> None:
            source = instance()
            async with associate(address(server), contexts=storage_contexts([source])) as association:
                await together.wait()
                for _ in range(3):
                    assert (await association.c_store(instance())).status == 0
                    names = [each.name for each in threading.enumerate()]
                    threads.append(len([name for name in names if _OF_A_BUCKET not in name]))

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(send())
    assert max(threads) < 50
    assert (await archive.counts())["instance"] == 600


async def test_a_retrieval_sends_what_was_stored(archive: Archive) -> None:
    sources = [instance() for _ in range(3)]
    received: dict[str, bytes] = {}

    async def keep(request: object) -> int:
        received[request.affected_sop_instance_uid] = await request.data.read()  # type: ignore[attr-defined]
        return 0

    async with serve("WS@127.0.0.1:0", c_store=keep) as station:
        access = {"*": None, "WS": Address("WS", "127.0.0.1", station.port)}
        async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=access) as server:
            contexts: list[Proposable] = [*storage_contexts(sources), STUDY_ROOT]
            async with associate(address(server), contexts=contexts) as association:
                for source in sources:
                    assert (await association.c_store(source)).status == 0
                result = await association.c_move(STUDY, move_destination="WS")
            assert (result.completed, result.failed) == (3, 0)
            assert received == {source.sop_instance_uid: source.data for source in sources}
            received.clear()
            pairs = [(CT, EXPLICIT_VR_LITTLE_ENDIAN)]
            async with associate(
                address(server), contexts=[STUDY_ROOT, *retrieval_contexts(pairs)]
            ) as association:
                result = await association.c_get(STUDY, c_store=keep)
            assert (result.completed, result.failed) == (3, 0)
            assert received == {source.sop_instance_uid: source.data for source in sources}


async def test_c_get_prefers_what_most_of_what_is_stored_has(tmp_path: Path) -> None:
    """Among the transfer syntaxes of one context: before it was ever stopped, and after."""
    sources = [
        minimal(CT, "1.2.1", IMPLICIT_VR_LITTLE_ENDIAN),
        minimal(MR, "1.2.2", EXPLICIT_VR_LITTLE_ENDIAN),
        minimal(MR, "1.2.3", EXPLICIT_VR_BIG_ENDIAN),
    ]
    received: dict[str, str] = {}

    async def keep(request: object) -> int:
        await request.data.read()  # type: ignore[attr-defined]
        received[request.affected_sop_instance_uid] = request.transfer_syntax_uid  # type: ignore[attr-defined]
        return 0

    offered = (EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
    contexts = [PresentationContext(uid, offered, scu_role=False, scp_role=True) for uid in (CT, MR)]
    for is_first in (True, False):
        async with (
            Archive(tmp_path / "archive", durability="none") as archive,
            serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server,
        ):
            if is_first:
                async with associate(address(server), contexts=storage_contexts(sources)) as association:
                    for source in sources:
                        assert (await association.c_store(source)).status == 0
            async with associate(address(server), contexts=[STUDY_ROOT, *contexts]) as association:
                result = await association.c_get(STUDY, c_store=keep)
        assert (result.completed, result.failed) == (3, 0)
        assert received == {
            "1.2.1": IMPLICIT_VR_LITTLE_ENDIAN,
            "1.2.2": EXPLICIT_VR_LITTLE_ENDIAN,
            "1.2.3": EXPLICIT_VR_LITTLE_ENDIAN,
        }
        received.clear()


def minimal(sop_class: str, uid: str, syntax: str) -> BytesSource:
    elements = [
        (0x00080016, "UI", sop_class.encode()),
        (0x00080018, "UI", uid.encode()),
        (0x00100020, "LO", b"P1"),
        (0x0020000D, "UI", b"1.2.3"),
        (0x0020000E, "UI", f"1.2.3.{sop_class[-1]}".encode()),
    ]
    return BytesSource(sop_class, uid, syntax, encode(elements, syntax))


@pytest.mark.parametrize("destination", ["NOBODY", "ARCHIVE", "CALLER"])
async def test_what_is_no_destination_is_unknown(archive: Archive, destination: str) -> None:
    """Also the archive itself, and a peer without an address."""
    access = {"*": None, "ARCHIVE": "127.0.0.1:1", "CALLER": None}
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=access) as server:
        async with associate(address(server), contexts=[STUDY_ROOT]) as association:
            with pytest.raises(StatusError) as caught:
                await association.c_move(STUDY, move_destination=destination)
            assert caught.value.status == 0xA801
            assert association.is_established


async def test_a_wrong_identifier_is_refused_and_the_association_goes_on(archive: Archive) -> None:
    async with (
        serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server,
        associate(address(server), contexts=[STUDY_ROOT]) as association,
    ):
        with pytest.raises(StatusError) as caught:
            await association.c_find({"QueryRetrieveLevel": "PLANET", "StudyInstanceUID": ""})
        assert caught.value.status == 0xA900
        assert await association.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}) == []


async def test_a_query_by_a_key_that_is_not_matched_is_answered_with_a_warning(archive: Archive) -> None:
    """0xFF01 for each match, not for none (PS3.4 C.4.1.1.4)."""
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        async with associate(address(server), contexts=[CT]) as association:
            await association.c_store(instance("1.2.3.4"))
        async with associate(address(server), contexts=[STUDY_ROOT]) as association:
            for more, is_matched in (({"Modality": "MR"}, False), ({"StudyDescription": ""}, True)):
                async with association.c_find(STUDY | more) as query:
                    matches = [match async for match in query]
                assert (len(matches), query.optional_keys_supported) == (1, is_matched)
                assert query.status == 0


SERIES = {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "1.2.3.1"}  # and no Study Instance UID


@asynccontextmanager
async def asking(port: int, *information: bytes) -> AsyncIterator[tuple[Peer, set[bytes]]]:
    """An association for C-FIND and C-GET whose requestor proposes these extended negotiations for each."""
    uids = (STUDY_ROOT.find, STUDY_ROOT.get)
    async with await Peer.connect(port) as peer:
        request = propose(
            [PresentationContext(uid, (EXPLICIT_VR_LITTLE_ENDIAN,)) for uid in uids],
            called_ae_title="ARCHIVE",
            calling_ae_title="PEER",
            extended_negotiations=[ExtendedNegotiation(uid, each) for uid in uids for each in information],
        )
        peer.write(request.encode())
        accept = decode_pdu(*await peer.pdu())
        assert isinstance(accept, AAssociateAC)
        yield peer, {each.information for each in accept.user_information.extended_negotiations}


async def final_status(peer: Peer, context_id: int, field: CommandField, sop_class: str) -> int:
    command = Command(
        field, message_id=context_id, affected_sop_class_uid=sop_class, priority=0, has_data_set=True
    )
    peer.send(context_id, command, encode_keywords(SERIES, EXPLICIT_VR_LITTLE_ENDIAN))
    status = None
    while status in (None, 0xFF00):
        status = (await peer.message()).command.status
    return status or 0


RELATIONAL = [
    # the callers that need not negotiate it, what is proposed, what is agreed to, whether it may
    ((), (b"\1",), b"\1", True),
    ((), (b"\1\1\1\1\1",), b"\1\0\0\0\0", True),
    ((), (b"\1" * 7,), b"\1\0\0\0\0", True),
    ((), (b"\0\1",), b"\0\0", False),
    ((), (b"\2",), b"\0", False),
    ((), (b"",), None, False),
    ((), (), None, False),
    (("PEER",), (), None, True),
    (("PEER",), (b"\0",), b"\0", True),
    (("*",), (), None, True),
    ("*", (), None, True),
    (("OTHER",), (), None, False),
]


@pytest.mark.parametrize(("callers", "proposed", "agreed", "may"), RELATIONAL)
async def test_who_may_leave_out_the_keys_of_upper_levels(
    archive: Archive, callers: Any, proposed: tuple[bytes, ...], agreed: bytes | None, may: bool
) -> None:
    async with (
        serve_archive(archive, "ARCHIVE@127.0.0.1:0", relational=callers) as server,
        asking(server.port, *proposed) as (peer, answers),
    ):
        assert answers == ({agreed} if agreed is not None else set())
        expected = 0x0000 if may else 0xA900
        assert await final_status(peer, 1, CommandField.C_FIND_RQ, STUDY_ROOT.find) == expected
        assert await final_status(peer, 3, CommandField.C_GET_RQ, STUDY_ROOT.get) == expected


async def test_who_may_only_query_is_offered_no_retrieval(archive: Archive) -> None:
    """Also where contexts= says what is offered: that queries may be relational grants nothing."""
    contexts = [STUDY_ROOT.find, STUDY_ROOT.get, STUDY_ROOT.move]
    access = {"PEER": PeerRights(services=("find",))}
    async with (
        serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=access, contexts=contexts) as server,
        associate(address(server), calling_ae_title="PEER", contexts=contexts) as association,
    ):
        accepted = {context.abstract_syntax for context in association.contexts.values()}
    assert accepted == {STUDY_ROOT.find}


async def test_a_strict_archive_knows_its_callers(archive: Archive) -> None:
    strict = AccessPolicy(called_ae_titles="ARCHIVE", peers="CT1")
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", access=strict) as server:
        where = f"127.0.0.1:{server.port}"
        for called, calling, reason in (("OTHER", "CT1", 7), ("ARCHIVE", "CT2", 3)):
            with pytest.raises(AssociationRejected) as caught:
                await associate(f"{called}@{where}", calling_ae_title=calling)
            assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, reason)
        async with associate(f"ARCHIVE@{where}", calling_ae_title="CT1") as association:
            assert (await association.c_echo()).status == 0


async def nothing(request: Request) -> int:
    raise AssertionError("nothing was to come")


async def test_an_index_that_cannot_be_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Archive(tmp_path, durability="none", scrub=0, sweep=False) as archive:
        async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
            ask(tmp_path, "ALTER TABLE study RENAME TO another")
            contexts: list[Proposable] = [
                STUDY_ROOT,
                *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)]),
            ]
            async with associate(address(server), contexts=contexts) as association:
                with pytest.raises(StatusError) as caught:
                    await association.c_find(STUDY)
                assert caught.value.status == 0xA700
                assert "the index cannot be read" in str(caught.value)
                with pytest.raises(StatusError) as caught:
                    await association.c_get(STUDY, c_store=nothing)
                assert caught.value.status == 0xA700
    assert "no such table: study" in caplog.text or 'relation "study" does not exist' in caplog.text
    assert "Traceback" not in caplog.text
