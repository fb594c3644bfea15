"""We are the service class user; DCMTK and pynetdicom provide."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from interop.peers import Peer, attempts, data_sets
from interop.questions import ONE_SERIES, QUESTIONS, UNIQUE_KEYS, identifier_of

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AssociationRejected,
    Request,
    Status,
    StatusError,
    associate,
    file_source,
    retrieval_contexts,
    serve,
    storage_contexts,
)
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

pytestmark = pytest.mark.interop

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"

STORAGE_PEERS = ["dcmtk_storescp", "pynetdicom_storescp"]
QUERY_PEERS = ["dcmtk_qrscp", "pynetdicom_qrscp"]


@pytest.mark.parametrize("peer", STORAGE_PEERS + QUERY_PEERS, indirect=True)
async def test_echo(peer: Peer) -> None:
    async with associate(peer.address) as association:
        assert (await association.c_echo()).status == Status.SUCCESS
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", STORAGE_PEERS, indirect=True)
async def test_store(peer: Peer, variety: list[Path]) -> None:
    sources = [file_source(path) for path in variety]
    async with associate(peer.address, contexts=storage_contexts(sources)) as association:
        for source in sources:
            assert (await association.c_store(source)).status == Status.SUCCESS, source.path
    assert data_sets(peer.received()) == data_sets(variety)


@pytest.mark.parametrize(
    ("peer", "question"),
    [
        (peer, question)
        for peer in QUERY_PEERS
        for question in QUESTIONS
        if (peer, question) != ("pynetdicom_qrscp", "a list of UIDs")  # it answers 0xC320
    ],
    indirect=["peer"],
)
async def test_find(peer: Peer, question: str) -> None:
    model, level, keys, expected = QUESTIONS[question]
    identifier, unique = identifier_of(level, keys), UNIQUE_KEYS[level]
    async with associate(peer.address, contexts=[model]) as association:
        matches = await association.c_find(identifier, information_model=model)
    assert len({match[unique].value for match in matches}) == expected  # pynetdicom repeats what it found
    assert all(match.RetrieveAETitle == peer.ae_title for match in matches)
    if "dcmtk" in peer.name:  # pynetdicom leaves out the keys that it does not know
        assert all(set(identifier) <= set(match.dir()) for match in matches)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_find_is_left_early_and_the_association_goes_on(peer: Peer) -> None:
    identifier = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
    async with associate(peer.address, contexts=[VERIFICATION, STUDY_ROOT]) as association:
        async with association.c_find(identifier) as matches:
            async for _ in matches:
                break
        assert matches.status in (Status.CANCEL, Status.SUCCESS)  # it may have been too late
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_get(peer: Peer, series: list[Path], tmp_path: Path) -> None:
    async def on_store(request: Request) -> Status:
        await request.data.save(tmp_path / request.affected_sop_instance_uid)
        return Status.SUCCESS

    async with (
        associate(
            peer.address,
            contexts=[STUDY_ROOT, *retrieval_contexts([(MR_IMAGE, EXPLICIT_VR_LITTLE_ENDIAN)])],
            c_store=on_store,
        ) as association,
        association.c_get(ONE_SERIES) as retrieval,
    ):
        totals = {progress.total async for progress in retrieval}
    assert retrieval.result == (Status.SUCCESS, len(series), 0, 0, (), None)
    assert totals == {len(series)}
    assert data_sets(tmp_path) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move(peer: Peer, series: list[Path], tmp_path: Path) -> None:
    originators: set[tuple[str | None, int | None]] = set()

    async def on_store(request: Request) -> Status:
        command = request.command
        originators.add((command.move_originator_ae_title, command.move_originator_message_id))
        await request.data.save(tmp_path / request.affected_sop_instance_uid)
        return Status.SUCCESS

    async with (
        serve(peer.destination, c_store=on_store),
        associate(peer.address, calling_ae_title="US", contexts=[STUDY_ROOT]) as association,
    ):
        for _ in range(attempts(peer)):
            with suppress(StatusError):
                result = await association.c_move(ONE_SERIES, move_destination=peer.destination.ae_title)
                if result.failed == 0:
                    break
    assert result == (Status.SUCCESS, len(series), 0, 0, (), None)
    # pynetdicom gives its own AE title as the Move Originator
    assert {title for title, _ in originators} == {"US" if "dcmtk" in peer.name else peer.ae_title}
    assert None not in {message_id for _, message_id in originators}
    assert data_sets(tmp_path) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move_to_nobody(peer: Peer) -> None:
    async with associate(peer.address, contexts=[VERIFICATION, STUDY_ROOT]) as association:
        with pytest.raises(StatusError) as error:
            await association.c_move(ONE_SERIES, move_destination="NOBODY")
        assert error.value.status == Status.MOVE_DESTINATION_UNKNOWN
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move_to_a_destination_that_is_down(peer: Peer) -> None:
    async with associate(peer.address, contexts=[VERIFICATION, STUDY_ROOT]) as association:
        with pytest.raises(StatusError):
            await association.c_move(ONE_SERIES, move_destination=peer.destination.ae_title)
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", ["dcmtk_qrscp"], indirect=True)
async def test_a_rejection(peer: Peer) -> None:
    with pytest.raises(AssociationRejected) as error:
        await associate(peer.address._replace(ae_title="NOBODY"))
    assert (error.value.result, error.value.source, error.value.reason) == (1, 1, 7)
