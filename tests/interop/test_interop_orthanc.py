"""Orthanc in both directions: our tools and archive call it, and it calls ours when told by REST."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pydicom
import pytest
from interop import field
from interop.peers import OURS, Peer, call, free_port, keys, running, tool
from interop.questions import ONE_SERIES
from pydicom import Dataset
from pydicom.uid import UID, generate_uid

from asyncdicom import STUDY_ROOT, Client, Request, Status, associate, retrieval_contexts
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

pytestmark = pytest.mark.interop

SERIES_KEYS = keys({keyword: ONE_SERIES[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID")})
MANY = 150
PORTS = {title: free_port() for title in ("ORTHANC", "ARCHIVE", "DESTINATION")}
HTTP = free_port()


@pytest.fixture(scope="module")
def orthanc(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Orthanc with the corpus in it, which our storescu has sent."""
    field.need("orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    peer = Peer("orthanc", "ORTHANC", PORTS["ORTHANC"], folder / "storage", folder / "log")
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(field.orthanc_configuration(PORTS, HTTP, peer.folder)))
    with running(["Orthanc", str(configuration)], peer.port, peer.log):
        call(tool("ours", "storescu", peer, files=corpus))
        yield peer


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Peer]:
    """Our archive, which is empty and knows Orthanc."""
    peer = Peer("archive", "ARCHIVE", PORTS["ARCHIVE"], tmp_path / "data", tmp_path / "archive.log")
    options = [
        "-aet",
        "ARCHIVE",
        "--port",
        str(peer.port),
        "--data",
        str(peer.folder),
        "--durability",
        "none",
    ]
    known = f"--peer=ORTHANC=127.0.0.1:{PORTS['ORTHANC']}"
    with running([*OURS, "qrscp", *options, known], peer.port, peer.log):
        yield peer


def write_many(folder: Path, template: Path) -> list[Dataset]:
    """Write a study of 150 images; gives them."""
    folder.mkdir()
    dataset, datasets = pydicom.dcmread(template), list[Dataset]()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID = (
        generate_uid(),
        generate_uid(),
        "MANY",
    )
    for number in range(MANY):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(folder / f"{number:03}.dcm")
        datasets.append(deepcopy(dataset))
    return datasets


class Receiver:
    """A handler of C-STORE that refuses one instance."""

    def __init__(self, refused: str) -> None:
        self._refused = refused
        self.kept: list[str] = []

    async def __call__(self, request: Request) -> Status:
        if request.affected_sop_instance_uid == self._refused:
            return Status(0xA700)
        self.kept.append(request.affected_sop_instance_uid)
        return Status.SUCCESS


# Our tools ask Orthanc


def test_echo(orthanc: Peer) -> None:
    call(tool("ours", "echoscu", orthanc))


def test_store(orthanc: Peer, corpus: list[Path]) -> None:
    assert {pydicom.dcmread(path).SOPInstanceUID for path in corpus} <= uids_of_orthanc()


def instances() -> list[str]:
    found: list[str] = field.rest(HTTP, "/instances")
    return found


def uids_of_orthanc() -> set[str]:
    return {one["MainDicomTags"]["SOPInstanceUID"] for one in field.rest(HTTP, "/instances?expand")}


def test_find(orthanc: Peer) -> None:
    wanted = ("-L", "IMAGE", "-k", "SOPInstanceUID", *SERIES_KEYS)
    *matches, end = map(json.loads, call(tool("ours", "findscu", orthanc, "--json", *wanted)).splitlines())
    assert len({match["00080018"]["Value"][0] for match in matches}) == 7
    assert end["status"] == 0


def test_get(orthanc: Peer, series: list[Path], tmp_path: Path) -> None:
    call(tool("ours", "getscu", orthanc, "-od", tmp_path, *SERIES_KEYS))
    assert field.contents(tmp_path) == field.contents(series)


def test_move(orthanc: Peer, series: list[Path], tmp_path: Path) -> None:
    receiver = ("-aet", "DESTINATION", "--port", PORTS["DESTINATION"], "-od", tmp_path)
    call(tool("ours", "movescu", orthanc, *receiver, *SERIES_KEYS))
    assert field.contents(tmp_path) == field.contents(series)


async def test_get_of_150_of_which_one_fails(orthanc: Peer, pydicom_files: Path, tmp_path: Path) -> None:
    """The rest comes, and the one that failed is told: Orthanc has the list of them in the Command Set."""
    many = write_many(tmp_path / "many", pydicom_files / "MR_small.dcm")
    call(tool("ours", "storescu", orthanc, files=[tmp_path / "many"]))
    refused, *others = [one.SOPInstanceUID for one in many]
    receiver = Receiver(refused)
    wanted = [(many[0].SOPClassUID, EXPLICIT_VR_LITTLE_ENDIAN)]
    contexts: list[Any] = [STUDY_ROOT, *retrieval_contexts(wanted)]
    async with associate(orthanc.address, contexts=contexts, c_store=receiver) as association:
        result = await association.c_get(study_of(many))
    assert (result.completed, result.failed) == (MANY - 1, 1)
    assert sorted(receiver.kept) == sorted(others)


def study_of(datasets: list[Dataset]) -> dict[str, str]:
    return {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": datasets[0].StudyInstanceUID}


# Orthanc asks our archive


def test_orthanc_echoes(orthanc: Peer, archive: Peer) -> None:
    field.rest(HTTP, "/modalities/archive/echo", {})


def test_orthanc_stores_finds_and_moves(orthanc: Peer, archive: Peer, series: list[Path]) -> None:
    sent = [one for one in instances() if _series_of(one) == ONE_SERIES["SeriesInstanceUID"]]
    field.rest(HTTP, "/modalities/archive/store", sent)
    kept = sorted((archive.folder / "objects").rglob("*.dcm"))
    assert field.contents(kept) == field.contents(series)
    for one in sent:
        field.rest(HTTP, f"/instances/{one}", method="DELETE")
    wanted = {keyword: ONE_SERIES[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}
    query = {"Level": "Series", "Query": wanted}
    asked = field.rest(HTTP, "/modalities/archive/query", query)["ID"]
    assert field.rest(HTTP, f"/queries/{asked}/answers") == ["0"]
    field.rest(HTTP, f"/queries/{asked}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    assert sorted(one for one in instances() if one in sent) == sorted(sent)


def _series_of(instance: str) -> str:
    uid: str = field.rest(HTTP, f"/instances/{instance}/series")["MainDicomTags"]["SeriesInstanceUID"]
    return uid


def test_our_archive_moves_to_orthanc(orthanc: Peer, archive: Peer, pydicom_files: Path) -> None:
    path = pydicom_files / "CT_small.dcm"
    call(tool("ours", "storescu", archive, files=[path]))
    study = pydicom.dcmread(path).StudyInstanceUID
    call(tool("ours", "movescu", archive, "-aem", "ORTHANC", *keys({"StudyInstanceUID": study})))
    assert pydicom.dcmread(path).SOPInstanceUID in uids_of_orthanc()


def test_our_archive_moves_150_of_which_orthanc_refuses_one(
    orthanc: Peer, archive: Peer, pydicom_files: Path, tmp_path: Path
) -> None:
    """It takes no context for a storage class that it does not know."""
    many = write_many(tmp_path / "many", pydicom_files / "MR_small.dcm")
    one = many[MANY // 2]
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = UID("1.2.826.0.1.3680043.8.498.1")
    one.save_as(tmp_path / "many" / f"{MANY // 2:03}.dcm")
    call(tool("ours", "storescu", archive, files=[tmp_path / "many"]))
    wanted = keys({"StudyInstanceUID": one.StudyInstanceUID})
    output = call(tool("ours", "movescu", archive, "--json", "-aem", "ORTHANC", *wanted), may_fail=True)
    end = json.loads(output.splitlines()[-1])
    assert (end["completed"], end["failed"]) == (MANY - 1, 1), archive.log.read_text()
    sent = {dataset.SOPInstanceUID for dataset in many}
    assert sent - uids_of_orthanc() == {one.SOPInstanceUID}


async def test_client(orthanc: Peer, tmp_path: Path) -> None:
    """The daily jobs, by C-GET and by C-MOVE to ourselves."""
    listen = f"DESTINATION@127.0.0.1:{PORTS['DESTINATION']}"
    for method in ("get", "move"):
        async with Client(orthanc.address, listen=listen, method=method) as pacs:
            studies = await pacs.find({"PatientID": "77654033"})
            retrieved = await pacs.retrieve(studies, to=tmp_path / method)
            assert retrieved.raise_for_failures().methods == {method}
            result = await pacs.store(tmp_path / method)
            assert result.raise_for_failures().sent == len(retrieved.instances) > 0
