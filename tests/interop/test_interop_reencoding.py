"""What is stored in one uncompressed transfer syntax comes to peers that take another one."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pydicom
import pytest
from interop.peers import Peer, call, dcmtk_tool, keys, run, store_all, tool
from pydicom import Dataset
from pydicom.uid import UID

from asyncdicom import STUDY_ROOT, Status, associate
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.part10 import encode_file_meta, read_file_meta
from asyncdicom.data.reencode import reencode
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import (
    BECOMES,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

UNCOMPRESSED = (
    "CT_small.dcm",
    "examples_palette.dcm",
    "liver_expb_1frame.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
    "rtdose.dcm",
    "rtplan.dcm",
    "waveform_ecg.dcm",
)


@pytest.fixture
def uncompressed(pydicom_files: Path, tmp_path: Path) -> list[Path]:
    """Files in the four uncompressed transfer syntaxes, and one of 5 MB; UIDs of their own."""
    from interop.peers import write_multi_frame

    folder = tmp_path / "uncompressed"
    folder.mkdir()
    for number, name in enumerate(UNCOMPRESSED):
        dataset = pydicom.dcmread(pydicom_files / name)
        dataset.StudyInstanceUID = f"2.25.{number + 10}"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number + 100}")
        dataset.save_as(folder / name)
    write_multi_frame(folder / "multi-frame.dcm", frames=40)
    return sorted(folder.iterdir())


def contents(paths: list[Path]) -> dict[str, tuple[int, str, bytes]]:
    """What is in files: how many elements, a name, the pixels in little endian order."""
    found = {}
    for dataset in map(pydicom.dcmread, paths):
        elements = [element for element in dataset.iterall() if element.tag.element]
        found[dataset.SOPInstanceUID] = (len(elements), str(dataset.get("PatientName")), pixels(dataset))
    return found


def pixels(dataset: Dataset) -> bytes:
    element = dataset.get("PixelData")
    if element is None or dataset.file_meta.TransferSyntaxUID != EXPLICIT_VR_BIG_ENDIAN:
        return element or b""
    is_words = dataset["PixelData"].VR == "OW"
    return bytes(element[at ^ 1] for at in range(len(element))) if is_words else bytes(element)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def syntaxes_of(paths: list[Path]) -> set[str]:
    return {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in paths}


@pytest.mark.parametrize("peer", ["dcmtk_implicit_storescp"], indirect=True)
async def test_storescu_to_a_peer_that_takes_implicit_vr_only(peer: Peer, uncompressed: list[Path]) -> None:
    assert len(syntaxes_of(uncompressed)) == 4
    await run(tool("ours", "storescu", peer, files=uncompressed))
    assert contents(peer.received()) == contents(uncompressed)
    assert syntaxes_of(peer.received()) == {IMPLICIT_VR_LITTLE_ENDIAN}


@pytest.mark.parametrize("peer", ["dcmtk_implicit_storescp"], indirect=True)
async def test_c_move_to_a_peer_that_takes_implicit_vr_only(
    peer: Peer, archive: Archive, uncompressed: list[Path]
) -> None:
    async with serve_archive(
        archive, "ARCHIVE@127.0.0.1:0", access={"*": None, peer.ae_title: peer.address}
    ) as server:
        await store_all(server, uncompressed)
        async with associate(f"ARCHIVE@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association:
            result = await association.c_move(wanted(uncompressed), move_destination=peer.ae_title)
    assert (result.status, result.completed) == (Status.SUCCESS, len(uncompressed))
    assert contents(peer.received()) == contents(uncompressed)


def wanted(paths: list[Path]) -> dict[str, str]:
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in paths}
    return {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "\\".join(sorted(studies))}


async def test_getscu_gets_everything(
    family: str, archive: Archive, uncompressed: list[Path], tmp_path: Path
) -> None:
    """One context with several transfer syntaxes is what they propose."""
    received = tmp_path / "received"
    received.mkdir()
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        await store_all(server, uncompressed)
        await run(tool(family, "getscu", server, "-S", "-od", received, *keys(wanted(uncompressed))))
    assert contents(files_in(received)) == contents(uncompressed)


@pytest.mark.parametrize("option", ["+xi", "+xe", "+xb", "+xd"])
@pytest.mark.usefixtures("dcmtk")
async def test_getscu_gets_everything_whatever_it_prefers(
    option: str, archive: Archive, uncompressed: list[Path], tmp_path: Path
) -> None:
    received = tmp_path / "received"
    received.mkdir()
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        await store_all(server, uncompressed)
        options = ("-S", option, "-od", received, *keys(wanted(uncompressed)))
        await run(tool("dcmtk", "getscu", server, *options))
    assert contents(files_in(received)) == contents(uncompressed)


# what DCMTK reads


def dump(path: Path) -> list[str]:
    """The elements as dcmdump shows them, without lengths and delimiters."""
    lines = call([dcmtk_tool("dcmdump"), "-q", "+L", "-M", str(path)], may_fail=True).splitlines()
    text = (re.sub(r"\s+#\s+\S+,\s*\S+ .*|\((Sequence|Item|Pixel) .*", "", line) for line in lines)
    left_out = re.compile(r"\s*(#.*|\(0002,.*|\(....,0000\).*|\(fffe,e0[0d]d\).*)?$", re.IGNORECASE)
    return [line.rstrip() for line in text if not left_out.match(line)]


# What one of both forms cannot tell: VRs of private elements, of values with a sign or not, of 8 bit pixels.
UNTOLD = re.compile(r"^[-+]\s*\((...[13579bdf],....|7fe0,0010|0028,110[123])\)")


@pytest.mark.usefixtures("dcmtk")
def test_dcmdump_shows_the_same(pydicom_files: Path, tmp_path: Path) -> None:
    compared = 0
    for path in files_in(pydicom_files):
        raw = path.read_bytes()
        try:
            meta = read_file_meta(raw[:65536])
            results = {
                target: reencode(raw[meta.offset :], meta.transfer_syntax_uid, target)
                for target in BECOMES.get(meta.transfer_syntax_uid, ())
            }
        except DataSetError:
            continue  # no DICOM file, or one that dcmdump does not read either
        if "TINY_ALPHA/PT" in str(path) or not results:
            continue
        before = dump(path)
        for target, data in results.items():
            again = tmp_path / "again.dcm"
            again.write_bytes(encode_file_meta("1.2.3", "1.2.4", target) + data)
            differ = [
                line
                for line in list(difflib.unified_diff(before, dump(again), lineterm="", n=0))[2:]
                if not line.startswith("@@")
            ]
            if target == EXPLICIT_VR_LITTLE_ENDIAN and meta.transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN:
                assert differ == [] or meta.transfer_syntax_uid.endswith(".99"), path
            assert [line for line in differ if not UNTOLD.match(line)] == [], path
            compared += 1
    assert compared > 70
