"""Every DICOM file that comes with pydicom goes to our archive and comes back, or is named as refused."""

from __future__ import annotations

import asyncio
import os
import warnings
from pathlib import Path

import pydicom
import pytest
from interop.peers import data_sets, keys, run, tool

from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive

pytestmark = pytest.mark.interop

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

STORED = {
    "charset_files": """
        chrArab.dcm chrFren.dcm chrFrenMulti.dcm chrGerm.dcm chrGreek.dcm chrH31.dcm chrH32.dcm
        chrHbrw.dcm chrI2.dcm chrJapMulti.dcm chrJapMultiExplicitIR6.dcm chrKoreanMulti.dcm chrRuss.dcm
        chrX1.dcm chrX2.dcm
    """,
    "test_files": """
        693_J2KI.dcm CT_small.dcm ExplVR_BigEnd.dcm GDCMJ2K_TextGBR.dcm J2K_pixelrep_mismatch.dcm
        JPEG-lossy.dcm JPEG2000-embedded-sequence-delimiter.dcm JPEG2000.dcm JPGExtended.dcm
        MR_small.dcm MR_small_RLE.dcm MR_small_bigendian.dcm MR_small_expb.dcm MR_small_implicit.dcm
        MR_small_jp2klossless.dcm MR_small_jpeg_ls_lossless.dcm MR_small_padded.dcm
        SC_jpeg_no_color_transform.dcm SC_jpeg_no_color_transform_2.dcm SC_rgb_dcmtk_+eb+cr.dcm
        SC_rgb_dcmtk_+eb+cy+n1.dcm SC_rgb_dcmtk_+eb+cy+n2.dcm SC_rgb_dcmtk_+eb+cy+np.dcm
        SC_rgb_dcmtk_+eb+cy+s2.dcm SC_rgb_dcmtk_+eb+cy+s4.dcm SC_rgb_gdcm_KY.dcm
        SC_rgb_jpeg_app14_dcmd.dcm SC_rgb_jpeg_dcmd.dcm SC_rgb_jpeg_dcmtk.dcm SC_rgb_jpeg_gdcm.dcm
        SC_rgb_jpeg_lossy_gdcm.dcm SC_rgb_rle.dcm SC_rgb_rle_16bit.dcm SC_rgb_rle_16bit_2frame.dcm
        SC_rgb_rle_2frame.dcm SC_rgb_rle_32bit.dcm SC_rgb_rle_32bit_2frame.dcm SC_rgb_small_odd.dcm
        SC_rgb_small_odd_big_endian.dcm SC_rgb_small_odd_jpeg.dcm SC_ybr_full_422_uncompressed.dcm
        ExplVR_BigEndNoMeta.dcm ExplVR_LitEndNoMeta.dcm rtstruct.dcm
        badVR.dcm examples_jpeg2k.dcm examples_overlay.dcm examples_palette.dcm examples_rgb_color.dcm
        examples_ybr_color.dcm image_dfl.dcm liver_1frame.dcm liver_expb_1frame.dcm reportsi.dcm
        reportsi_with_empty_number_tags.dcm rtdose.dcm rtdose_1frame.dcm rtdose_expb.dcm
        rtdose_expb_1frame.dcm rtdose_rle.dcm rtdose_rle_1frame.dcm rtplan.dcm
        test-SR.dcm waveform_ecg.dcm
    """,
    "test_files/dicomdirtests/77654033/CR1": "6154",
    "test_files/dicomdirtests/77654033/CR2": "6247",
    "test_files/dicomdirtests/77654033/CR3": "6278",
    "test_files/dicomdirtests/77654033/CT2": "17106 17136 17166 17196",
    "test_files/dicomdirtests/98892001/CT2N": "6293 6924",
    "test_files/dicomdirtests/98892001/CT5N": "2062 2392 2693 3023 3353",
    "test_files/dicomdirtests/98892003/MR1": "15820 4919 5641",
    "test_files/dicomdirtests/98892003/MR2": "15970 4950 4981 5011 6273 6605 6935",
    "test_files/dicomdirtests/98892003/MR700": "4467 4528 4558 4588 4618 4648 4678",
    "test_files/dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000": " ".join(
        [f"IM00000{digit}" for digit in _DIGITS] + [f"IM00001{digit}" for digit in _DIGITS[:14]]
    ),
}

# Their data sets end inside an element: our tools that receive refuse them (cli/test_cli_receiver.py).
TRUNCATED = {"test_files": "MR_truncated.dcm rtplan_truncated.dcm"}

# Why -> what storescu says about each of them, and which they are.
REFUSED = {
    "not a Part 10 file": (
        "not a DICOM Part 10 file",
        {
            "": "hashes.json urls.json",
            "charset_files": "FileInfo.txt",
            "palettes": "README.md",
            "test_files": """
                README.txt crayons.icc no_meta.dcm rtplan.dump rtstruct.dump test1.json test_PN.json zipMR.gz
            """,
            "test_files/dicomdirtests": "README.txt",
            "test_files/dicomdirtests/TINY_ALPHA": "README",
        },
    ),
    "no Transfer Syntax UID": ("no valid Transfer Syntax UID", {"test_files": "meta_missing_tsyntax.dcm"}),
    "no SOP UIDs": ("no SOP Class UID", {"test_files": "empty_charset_LEI.dcm nested_priv_SQ.dcm"}),
    # Directories of media, and palettes, which belong to no patient: not for the Storage Service Class.
    "not a storage SOP class": (
        "no accepted presentation context",
        {
            "palettes": """
                fall.dcm hotiron.dcm hotmetalblue.dcm pet.dcm pet20step.dcm spring.dcm summer.dcm winter.dcm
            """,
            "test_files/dicomdirtests": """
                DICOMDIR DICOMDIR-bigEnd DICOMDIR-empty.dcm DICOMDIR-implicit DICOMDIR-nooffset
                DICOMDIR-nopatient DICOMDIR-reordered
            """,
            "test_files/dicomdirtests/TINY_ALPHA": "DICOMDIR",
        },
    ),
    # The index needs Study and Series Instance UID; SOP Class UID may not be in the File Meta alone.
    "no UIDs for the index": (
        "0xA900",
        {
            "charset_files": "chrSQEncoding.dcm chrSQEncoding1.dcm",
            "test_files": """
                JPEGLSNearLossless_08.dcm JPEGLSNearLossless_16.dcm SC_rgb_jls_lossy_line.dcm
                SC_rgb_jls_lossy_sample.dcm UN_sequence.dcm no_meta_group_length.dcm priv_SQ.dcm
            """,
        },
    ),
    # It says that it is JPEG Baseline, but its data set is in Implicit VR.
    "encoded in something else": ("0xC000", {"test_files": "SC_rgb_jpeg.dcm"}),
}


def paths(root: Path, names: dict[str, str]) -> list[Path]:
    return [root / folder / name for folder, text in names.items() for name in text.split()]


@pytest.fixture(scope="module")
def root(pydicom_files: Path) -> Path:
    return pydicom_files.parent


@pytest.mark.skipif(pydicom.__version__ != "3.0.2", reason="other versions of pydicom have other files")
def test_no_file_is_forgotten(root: Path) -> None:
    listed = paths(root, STORED) + paths(root, TRUNCATED)
    for _, names in REFUSED.values():
        listed += paths(root, names)
    there = [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert sorted(listed) == sorted(there)


def without_conflicts(files: list[Path]) -> list[list[tuple[Path, pydicom.Dataset]]]:
    """Rounds, in each of which a SOP Instance UID occurs once: the first ones, the second ones, ..."""
    rounds: list[list[tuple[Path, pydicom.Dataset]]] = []
    seen: dict[str, int] = {}
    for path in files:
        # ExplVR_BigEndNoMeta, ExplVR_LitEndNoMeta and rtstruct are bare data sets.
        head = pydicom.dcmread(path, specific_tags=["SOPInstanceUID", "StudyInstanceUID"], force=True)
        number = seen.get(head.SOPInstanceUID, 0)
        seen[head.SOPInstanceUID] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append((path, head))
    return rounds


def test_stored_and_retrieved(root: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # of pydicom, about odd files
        rounds = without_conflicts(paths(root, STORED))

    async def all_rounds() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, files in enumerate(rounds):
                tasks.create_task(send_and_get_back(tmp_path / str(number), files))

    asyncio.run(all_rounds())
    for number, files in enumerate(rounds):
        back = tmp_path / str(number) / "back"
        assert len(os.listdir(back)) == len(files)
        for path, head in files:
            assert data_sets([back / f"{head.SOPInstanceUID}.dcm"]) == data_sets([path]), path
    assert len(rounds) == 8  # there are eight files of one MR image


async def send_and_get_back(folder: Path, files: list[tuple[Path, pydicom.Dataset]]) -> None:
    """Send the files to a fresh archive, and have them sent to the folder ``back``."""
    studies = "\\".join({head.StudyInstanceUID for _, head in files})
    archive = Archive(folder / "archive", durability="none")
    async with archive, serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        output = await run(tool("ours", "storescu", server, files=[path for path, _ in files]))
        assert f"sent {len(files)}, warned 0, failed 0" in output
        wanted = keys({"StudyInstanceUID": studies})
        output = await run(tool("ours", "getscu", server, "-od", folder / "back", *wanted))
        assert f"completed {len(files)}, warned 0, failed 0" in output


@pytest.mark.parametrize("why", REFUSED)
def test_refused(root: Path, tmp_path: Path, why: str) -> None:
    said, names = REFUSED[why]
    files = paths(root, names)

    async def send() -> tuple[str, dict[str, int]]:
        archive = Archive(tmp_path / "archive", durability="none")
        async with archive, serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
            output = await run(tool("ours", "storescu", server, files=files), fails=True)
            return output, await archive.counts()

    output, counts = asyncio.run(send())
    for path in files:
        line = next(line for line in output.splitlines() if line.startswith(f"{path}: "))
        assert said in line
    assert set(counts.values()) == {0}
