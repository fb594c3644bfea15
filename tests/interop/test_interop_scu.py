"""We are the service class user; DCMTK and pynetdicom provide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from asyncdicom import (
    PATIENT_ROOT,
    STUDY_ROOT,
    VERIFICATION,
    Address,
    InformationModel,
    Progress,
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
ROOT = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0"
STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.118"  # 3 series, 11 images; 7 images
ANOTHER_STUDY = f"{ROOT}.427"

STORAGE_PEERS = ["dcmtk_storescp", "pynetdicom_storescp"]
QUERY_PEERS = ["dcmtk_qrscp", "pynetdicom_qrscp"]

# What to ask, and how many patients, studies, series or images match.
QUESTIONS: dict[str, tuple[InformationModel, dict[str, str], int]] = {
    "all patients": (PATIENT_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "", "PatientName": ""}, 2),
    "a wildcard": (
        PATIENT_ROOT,
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "", "PatientName": "Doe^P*"},
        1,
    ),
    "nobody": (PATIENT_ROOT, {"QueryRetrieveLevel": "PATIENT", "PatientID": "NOBODY"}, 0),
    "all studies": (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}, 6),
    "a range of dates": (
        STUDY_ROOT,
        {"QueryRetrieveLevel": "STUDY", "StudyDate": "19960101-20021231", "StudyInstanceUID": ""},
        2,
    ),
    "a list of UIDs": (
        STUDY_ROOT,
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"{STUDY}\\{ANOTHER_STUDY}\\1.2.3"},
        2,
    ),
    "series": (
        STUDY_ROOT,
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": "", "Modality": ""},
        3,
    ),
    "images": (
        STUDY_ROOT,
        {
            "QueryRetrieveLevel": "IMAGE",
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": SERIES,
            "SOPInstanceUID": "",
            "InstanceNumber": "",
        },
        7,
    ),
}
UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
ONE_SERIES = {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES}


@pytest.fixture(scope="session")
def series(corpus: list[Path]) -> list[Path]:
    """The files of SERIES."""
    return [path for path in corpus if path.parent.name == "MR700"]


@pytest.mark.parametrize("peer", STORAGE_PEERS + QUERY_PEERS, indirect=True)
async def test_echo(peer: Any) -> None:
    async with associate(peer.address) as association:
        assert (await association.c_echo()).status == Status.SUCCESS
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", STORAGE_PEERS, indirect=True)
async def test_store(
    peer: Any, variety: list[Path], data_sets: Callable[[Iterable[Path]], list[bytes]]
) -> None:
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
async def test_find(peer: Any, question: str) -> None:
    model, identifier, expected = QUESTIONS[question]
    async with associate(peer.address, contexts=[model]) as association:
        matches = await association.c_find(identifier, information_model=model)
    unique = UNIQUE_KEYS[identifier["QueryRetrieveLevel"]]
    assert len({match[unique].value for match in matches}) == expected  # qrscp repeats studies and series
    assert all(match.RetrieveAETitle == peer.ae_title for match in matches)
    assert all(set(identifier) <= set(match.dir()) for match in matches)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_find_is_left_early_and_the_association_goes_on(peer: Any) -> None:
    model, identifier, _ = QUESTIONS["all studies"]
    async with associate(peer.address, contexts=[VERIFICATION, model]) as association:
        async with association.c_find(identifier, information_model=model) as matches:
            async for _ in matches:
                break
        assert matches.status in (Status.CANCEL, Status.SUCCESS)  # it may have been too late
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_get(
    peer: Any, series: list[Path], tmp_path: Path, data_sets: Callable[[Iterable[Path]], list[bytes]]
) -> None:
    async def on_store(request: Request) -> Status:
        await request.data.save(tmp_path / request.affected_sop_instance_uid)
        return Status.SUCCESS

    contexts = [STUDY_ROOT, *retrieval_contexts([(MR_IMAGE, EXPLICIT_VR_LITTLE_ENDIAN)])]
    progress: list[Progress] = []
    async with associate(peer.address, contexts=contexts, c_store=on_store) as association:
        async with association.c_get(ONE_SERIES) as retrieval:
            progress = [step async for step in retrieval]
    assert retrieval.result == (Status.SUCCESS, len(series), 0, 0, ())
    assert {step.total for step in progress} == {len(series)}
    assert data_sets(tmp_path.iterdir()) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move(
    peer: Any, series: list[Path], tmp_path: Path, data_sets: Callable[[Iterable[Path]], list[bytes]]
) -> None:
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
        result = await association.c_move(ONE_SERIES, move_destination=peer.destination.ae_title)
    assert result == (Status.SUCCESS, len(series), 0, 0, ())
    # pynetdicom gives its own AE title as the Move Originator
    assert originators == {("US" if "dcmtk" in peer.name else peer.ae_title, 1)}
    assert data_sets(tmp_path.iterdir()) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move_to_nobody(peer: Any) -> None:
    async with associate(peer.address, contexts=[VERIFICATION, STUDY_ROOT]) as association:
        with pytest.raises(StatusError) as error:
            await association.c_move(ONE_SERIES, move_destination="NOBODY")
        assert error.value.status == Status.MOVE_DESTINATION_UNKNOWN
        assert (await association.c_echo()).status == Status.SUCCESS


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
async def test_move_to_a_destination_that_is_down(peer: Any) -> None:
    assert isinstance(peer.destination, Address)
    async with associate(peer.address, contexts=[VERIFICATION, STUDY_ROOT]) as association:
        with pytest.raises(StatusError):
            await association.c_move(ONE_SERIES, move_destination=peer.destination.ae_title)
        assert (await association.c_echo()).status == Status.SUCCESS
