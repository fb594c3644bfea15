"""Modality worklist with DCMTK: its findscu asks our service, and we ask its wlmscpfs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.peers import Peer, dcmtk_tool, free_port, run, running, tool
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from asyncdicom import STUDY_ROOT, Request, associate, serve
from asyncdicom.dataset import from_mapping
from asyncdicom.services.worklist import Worklist
from asyncdicom.uid import MODALITY_WORKLIST

pytestmark = pytest.mark.interop


def step(modality: str, date: str, name: str, number: str) -> dict[str, Any]:
    """One scheduled procedure step, with what PS3.4 Table K.6-1 wants of it."""
    return {
        "AccessionNumber": f"A{number}",
        "PatientName": name,
        "PatientID": f"P{number}",
        "StudyInstanceUID": f"1.2.3.{number}",
        "RequestedProcedureID": f"R{number}",
        "RequestedProcedureDescription": "EXAM",
        "ScheduledProcedureStepSequence": [
            {
                "Modality": modality,
                "ScheduledStationAETitle": "SCANNER",
                "ScheduledProcedureStepStartDate": date,
                "ScheduledProcedureStepStartTime": "080000",
                "ScheduledPerformingPhysicianName": "JOHNSON",
                "ScheduledProcedureStepDescription": "STEP",
                "ScheduledProcedureStepID": f"S{number}",
            }
        ],
    }


STEPS = [
    step("MR", "20261126", "VIVALDI^ANTONIO", "1"),
    step("CT", "20261126", "BACH^JOHANN", "2"),
    step("MR", "20261127", "ROSSINI^GIOACHINO", "3"),
]


def asked_for(item: dict[str, Any], identifier: Dataset) -> bool:
    """Match the keys that these tests use."""
    [scheduled] = item["ScheduledProcedureStepSequence"]
    wanted = (identifier.get("ScheduledProcedureStepSequence") or [Dataset()])[0]
    name = str(identifier.get("PatientName") or "").rstrip("*")
    return (
        wanted.get("Modality", "") in ("", scheduled["Modality"])
        and wanted.get("ScheduledProcedureStepStartDate", "")
        in ("", scheduled["ScheduledProcedureStepStartDate"])
        and item["PatientName"].startswith(name)
    )


async def on_find(request: Request) -> AsyncIterator[dict[str, Any]]:
    identifier = await request.identifier()
    for item in STEPS:
        if asked_for(item, identifier):
            yield item


SCHEDULED = "ScheduledProcedureStepSequence[0]."
QUESTIONS: list[tuple[list[str], set[str]]] = [
    ([f"{SCHEDULED}Modality"], {"P1", "P2", "P3"}),
    ([f"{SCHEDULED}Modality=MR"], {"P1", "P3"}),
    ([f"{SCHEDULED}Modality=MR", f"{SCHEDULED}ScheduledProcedureStepStartDate=20261126"], {"P1"}),
    (["PatientName=BACH*", f"{SCHEDULED}Modality"], {"P2"}),
    ([f"{SCHEDULED}Modality=US"], set()),
]


@pytest.mark.parametrize(("keys", "expected"), QUESTIONS)
@pytest.mark.parametrize("whose", ["dcmtk", "ours"])
async def test_findscu_asks_our_worklist(
    dcmtk: None, whose: str, keys: list[str], expected: set[str]
) -> None:
    async with serve("RIS@127.0.0.1:0", services=[Worklist(on_find)]) as server:
        options = [part for key in ["PatientID", *keys] for part in ("-k", key)]
        output = await run(tool(whose, "findscu", server, "-W", *options))
    assert {
        number for number in ("P1", "P2", "P3") if f"[{number}" in output or f" {number}" in output
    } == expected


async def test_findscu_gets_no_worklist_of_who_only_answers_queries(dcmtk: None) -> None:
    async with serve("RIS@127.0.0.1:0", c_find=on_find) as server:
        await run(tool("dcmtk", "findscu", server, "-W", "-k", "PatientID"), fails=True)


@pytest.fixture(scope="session")
def wlmscpfs(dcmtk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """DCMTK's worklist provider, with the same steps in files."""
    folder = tmp_path_factory.mktemp("wlmscpfs")
    peer = Peer("wlmscpfs", "RIS", free_port(), folder / "RIS", folder / "log")
    peer.folder.mkdir()
    (peer.folder / "lockfile").touch()
    for number, item in enumerate(STEPS):
        write(peer.folder / f"{number}.wl", item)
    command = [dcmtk_tool("wlmscpfs"), "-v", "-dfp", str(folder), str(peer.port)]
    with running(command, peer.port, peer.log):
        yield peer


def write(path: Path, item: dict[str, Any]) -> None:
    dataset = from_mapping(item)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(MODALITY_WORKLIST.find)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.preamble = bytes(128)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    ("scheduled", "name", "expected"),
    [
        ({}, "", {"P1", "P2", "P3"}),
        ({"Modality": "MR"}, "", {"P1", "P3"}),
        ({"Modality": "MR", "ScheduledProcedureStepStartDate": "20261126"}, "", {"P1"}),
        ({"ScheduledProcedureStepStartDate": "20261126-20261127"}, "", {"P1", "P2", "P3"}),
        ({}, "BACH*", {"P2"}),
        ({"Modality": "US"}, "", set()),
    ],
)
async def test_we_ask_wlmscpfs(
    wlmscpfs: Peer, scheduled: dict[str, str], name: str, expected: set[str]
) -> None:
    identifier = {
        "PatientID": "",
        "PatientName": name,
        "ScheduledProcedureStepSequence": [{"Modality": "", "ScheduledProcedureStepID": "", **scheduled}],
    }
    async with associate(wlmscpfs.address, contexts=[MODALITY_WORKLIST]) as association:
        found = await association.c_find(identifier, information_model=MODALITY_WORKLIST)
    assert {match.PatientID for match in found} == expected
    for match in found:
        [item] = match.ScheduledProcedureStepSequence
        assert item.ScheduledProcedureStepID == f"S{match.PatientID[1:]}"


async def test_the_same_with_queries_on_one_association(dcmtk: None) -> None:
    async def nothing(request: Request) -> AsyncIterator[dict[str, Any]]:
        return
        yield {}

    async with (
        serve("RIS@127.0.0.1:0", c_find=nothing, services=[Worklist(on_find)]) as server,
        associate(f"RIS@127.0.0.1:{server.port}", contexts=[STUDY_ROOT, MODALITY_WORKLIST]) as association,
    ):
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
        assert await association.c_find(keys) == []
        found = await association.c_find({"PatientID": ""}, information_model=MODALITY_WORKLIST)
        assert len(found) == 3
