"""The sample images: what they are good for, and that nobody gets hurt by them."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from cli.running import Tool

from asyncdicom import associate, file_source, open_file, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.cli.samples import write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_samples(tmp_path_factory.mktemp("samples") / "images")


def test_there_are_patients_studies_series_and_classes(samples: list[Path]) -> None:
    datasets = [pydicom.dcmread(path) for path in samples]
    found = {
        name: len({dataset[name].value for dataset in datasets})
        for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    }
    assert found == {
        "PatientID": 3,
        "StudyInstanceUID": 4,
        "SeriesInstanceUID": 6,
        "SOPInstanceUID": len(samples),
        "SOPClassUID": 5,
    }
    assert len({dataset.file_meta.TransferSyntaxUID for dataset in datasets}) == 2
    assert all(dataset.PatientID.startswith("SAMPLE-") for dataset in datasets)
    assert {str(dataset.PatientName) for dataset in datasets} >= {"Sample^Anna", "Müster^Jörg"}


def test_what_pydicom_reads_is_whole_and_valid(samples: list[Path]) -> None:
    """It warns about values that PS3.5 forbids, and warnings are errors here."""
    for path in samples:
        dataset = pydicom.dcmread(path)
        for element in dataset.iterall():
            assert element.value is not None or element.is_empty
        if "PixelData" in dataset:
            frames = int(dataset.get("NumberOfFrames", 1))
            size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
            assert len(dataset.PixelData) == size * frames
            assert len(set(dataset.PixelData)) > 10, "there is something to see"
        source = file_source(path)
        assert (source.sop_class_uid, source.sop_instance_uid) == (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )


async def test_an_archive_takes_them(samples: list[Path], tmp_path: Path) -> None:
    files = [await open_file(path) for path in samples]
    async with (
        Archive(tmp_path / "archive") as archive,
        serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server,
        associate(f"ARCHIVE@127.0.0.1:{server.port}", contexts=storage_contexts(files)) as association,
    ):
        assert {int((await association.c_store(file)).status) for file in files} == {0}
        counts = await archive.counts()
    assert (counts["patient"], counts["study"], counts["instance"]) == (3, 4, len(files))


async def test_the_same_each_time_and_nothing_is_replaced(tool: Tool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "images"
    first = await tool("samples", folder)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = await tool("samples", folder, "--json")
    assert (first.code, first.err, again.code) == (0, "", 0)
    assert first.out == f"{len(content)} images of 4 studies are in {folder}\n"
    assert sorted(Path(name).name for name in again.json[0]["files"]) == sorted(content)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
    (folder / "ct-1-1-1.dcm").write_bytes(b"mine")
    (folder / "mr-2-1-1.dcm").unlink()
    code, _, err = await tool("samples", folder)
    assert (code, err.count("\n")) == (1, 1)
    assert "ct-1-1-1.dcm is there, and is no sample" in err
    assert (folder / "ct-1-1-1.dcm").read_bytes() == b"mine"
    assert not (folder / "mr-2-1-1.dcm").exists(), "nothing is written where something is wrong"


async def test_a_file_in_the_way(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = await tool("samples", tmp_path / "file")
    assert (code, err.count("\n")) == (2, 1)
