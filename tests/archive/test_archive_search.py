"""What a program asks of an archive: it stores files, bytes, data sets, and searches with keywords."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from helpers.peer import eventually
from pydicom import Dataset

from asyncdicom import BytesSource, DataSetError
from asyncdicom.archive import Archive, IdentifierError, Outcome
from asyncdicom.archive.dimse import status_of
from asyncdicom.archive.search import query_of
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

SAMPLE = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"


async def found(archive: Archive, wanted: Any, level: str = "") -> list[dict[str, Any]]:
    return [match async for match in archive.search(wanted, level=level)]


@pytest.fixture
async def filled(archive: Archive, tools: Any) -> Archive:
    for number, (patient, name) in enumerate((("P1", "DOE^JOHN"), ("P1", "DOE^JOHN"), ("P2", "ROE^JANE"))):
        data = tools.data_set(
            PatientID=patient,
            PatientName=name,
            SOPInstanceUID=f"1.2.3.{number}",
            StudyInstanceUID=f"1.2.{patient[1]}",
            SeriesInstanceUID=f"1.2.{patient[1]}.{number}",
            StudyDate="20260101" if patient == "P1" else "20260315",
            ImageType="ORIGINAL\\PRIMARY",
            Rows=512,
        )
        assert await tools.store(archive, data) == 0x0000
    return archive


async def test_keywords_and_the_level_that_they_say(filled: Archive) -> None:
    assert await found(filled, {"PatientName": "doe*"}) == [{"PatientID": "P1", "PatientName": "DOE^JOHN"}]
    [study] = await found(
        filled,
        {
            "StudyDate": "20260201-",
            "ModalitiesInStudy": "",
            "NumberOfStudyRelatedInstances": None,
        },
    )
    assert study == {
        "PatientID": "P2",
        "StudyDate": "20260315",
        "ModalitiesInStudy": ["CT"],
        "NumberOfStudyRelatedInstances": 1,
        "StudyInstanceUID": "1.2.2",
    }
    images = await found(filled, {"PatientID": "P1", "ImageType": "", "Rows": 512}, "IMAGE")
    assert [each["SOPInstanceUID"] for each in images] == ["1.2.3.0", "1.2.3.1"]
    assert images[0]["ImageType"] == ["ORIGINAL", "PRIMARY"]
    assert images[0]["Rows"] == "512"
    assert await found(filled, {"Rows": 256}, "IMAGE") == []
    assert len(await found(filled, {"SOPInstanceUID": ["1.2.3.0", "1.2.3.2", "9.9"]})) == 2
    assert len(await found(filled, {"StudyDate": datetime.date(2026, 1, 1)})) == 1
    assert len(await found(filled, {})) == 2


async def test_a_dataset_asks_as_well(filled: Archive) -> None:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES"
    wanted.SpecificCharacterSet = "ISO_IR 192"
    wanted.PatientName = "ROE^*"
    wanted.Modality = ""
    [series] = await found(filled, wanted)
    assert (series["SeriesInstanceUID"], series["Modality"]) == ("1.2.2.2", "CT")
    wanted.StudyDate = "20270101"
    assert await found(filled, wanted) == []


@pytest.mark.parametrize(
    ("wanted", "level", "why"),
    [
        ({"PatientsName": ""}, "", "not searched by 'PatientsName'"),
        ({"WindowCenter": ""}, "", "searched by"),
        ({"Modality": "CT"}, "STUDY", "below the STUDY level: Modality"),
        ({}, "IMAGES", "the level is one of"),
        ({"QueryRetrieveLevel": "FRAME"}, "", "the level is one of"),
        ({"PatientID": b"P1"}, "", "a value is text"),
        ({"PatientID": "\ud800"}, "", "surrogate"),
        ({7: ""}, "", "not searched by 7"),
        ({"x" * 1000: ""}, "", "not searched by"),
        ({"PatientID": "*" * 2000 + "x"}, "", "longer than"),
        ({"StudyDate": "yesterday"}, "", "neither a value nor a range"),
    ],
)
async def test_what_cannot_be_asked(archive: Archive, wanted: Any, level: str, why: str) -> None:
    with pytest.raises(IdentifierError, match=why) as caught:
        await found(archive, wanted, level)
    assert len(caught.value.comment) <= 64


@pytest.mark.parametrize("wanted", [b"x", 5, None, "PatientID"])
def test_a_search_takes_a_mapping_or_a_dataset(wanted: Any) -> None:
    with pytest.raises(TypeError, match="a search takes a mapping or a Dataset, not"):
        query_of(wanted)


def test_a_query_is_the_same_in_whatever_order() -> None:
    wanted = {"PatientID": "P", "StudyDate": "20260101", "PatientName": "A*"}
    assert query_of(wanted) == query_of(dict(reversed(wanted.items())))


async def test_a_search_that_is_left_early_holds_nothing(filled: Archive) -> None:
    async for match in filled.search({"SOPInstanceUID": ""}):
        assert match["SOPInstanceUID"]
        break
    pool: Any = filled._index._engine.pool
    await eventually(lambda: pool.checkedout() == 1)  # that of the writer


async def test_files_bytes_and_datasets_are_stored(tmp_path: Path) -> None:
    uid = str(pydicom.dcmread(SAMPLE).SOPInstanceUID)
    content = SAMPLE.read_bytes()
    for instance in (SAMPLE, str(SAMPLE), content, memoryview(content), pydicom.dcmread(SAMPLE)):
        async with Archive(tmp_path / type(instance).__name__, durability="none") as archive:
            stored = await archive.store(instance, calling_ae_title="ME")  # type: ignore[arg-type]
            assert stored.is_here
            assert status_of(stored) == 0x0000
            [match] = await found(archive, {"SOPInstanceUID": uid, "Modality": ""})
            assert match["Modality"] == "CT"


async def test_a_dataset_that_was_made_here_is_stored(archive: Archive, tools: Any) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = tools.ct, "1.2.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
    dataset.PatientName = "Äneas"
    assert (await archive.store(dataset)).outcome is Outcome.STORED
    assert [each["PatientName"] for each in await found(archive, {"PatientName": ""})] == ["Äneas"]
    assert (await archive.store(dataset)).outcome is Outcome.ALREADY_HERE
    dataset.PatientID = "other"
    stored = await archive.store(dataset)
    assert (stored.outcome, stored.is_here) == (Outcome.QUARANTINED, False)
    assert stored.comment


async def test_a_source_is_stored_as_it_comes(archive: Archive, tools: Any) -> None:
    data = tools.data_set()

    class Slow(BytesSource):
        async def open(self) -> AsyncGenerator[list[bytes | bytearray | memoryview], None]:
            for start in range(0, len(data), 100):
                yield [data[start : start + 50], memoryview(data)[start + 50 : start + 100]]

    source = Slow(tools.ct, "1.2.3.1.1.1", EXPLICIT_VR_LITTLE_ENDIAN, data)
    assert (await archive.store(source)).is_here
    wrong = BytesSource(tools.ct, "1.2.9", EXPLICIT_VR_LITTLE_ENDIAN, data)
    stored = await archive.store(wrong)
    assert (stored.outcome, status_of(stored)) == (Outcome.WRONG, 0xA900)


async def test_what_is_no_instance_is_told(archive: Archive, tmp_path: Path, tools: Any) -> None:
    for rubbish in (b"", b"no DICOM file", bytes(1000)):
        with pytest.raises(DataSetError):
            await archive.store(rubbish)
    with pytest.raises(FileNotFoundError):
        await archive.store(tmp_path / "missing.dcm")
    head = encode_file_meta(tools.ct, "1.2.3.1.1.1", EXPLICIT_VR_LITTLE_ENDIAN)
    stored = await archive.store(head + tools.data_set()[:-3])
    assert (stored.outcome, status_of(stored)) == (Outcome.UNREADABLE, 0xC000)
    assert (await archive.store(Dataset())).outcome is Outcome.WRONG
    with pytest.raises(TypeError, match="files, bytes, sources and datasets can be stored, not 5"):
        await archive.store(5)  # type: ignore[arg-type]
    assert (await archive.counts())["instance"] == 0
