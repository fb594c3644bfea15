"""``asyncdicom samples``: synthetic images to try things with: nothing in them comes from a person."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from math import hypot
from pathlib import Path
from typing import Any, NamedTuple

import click

from asyncdicom.cli.options import EXIT_CODES, output_options
from asyncdicom.cli.output import json_line
from asyncdicom.cli.run import FAILED, OK, complain

__all__ = ["command", "write_samples"]

_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
_SIZE = 128  # rows and columns
_AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]

Attributes = dict[str, Any]


@click.command(epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(file_okay=False), metavar="DIR")
@output_options
def command(folder: str, as_json: bool, debug: bool) -> int:
    """Write synthetic images into DIR: four studies of three patients who do not exist.

    \b
    asyncdicom samples images
    asyncdicom storescu PACS@10.0.0.5:104 images

    There are CT, MR, ultrasound (moving), a scanned film and a report, in Explicit and Implicit VR Little
    Endian. They are the same each time, and replace no other file.
    """
    try:
        files = write_samples(Path(folder))
    except FileExistsError as error:
        return complain("asyncdicom samples", str(error), FAILED)
    if as_json:
        json_line(files=[str(path) for path in files])
    else:
        print(f"{len(files)} images of {len(_STUDIES)} studies are in {folder}")
    return OK


def _uid(*what: object) -> str:
    """Make a UID (PS3.5 B.2) of what it is for: the same samples have the same UIDs each time."""
    text = "/".join(map(str, ("asyncdicom samples", *what)))
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"


class _Study(NamedTuple):
    """One study; `series`: what makes the instances of each series, and how many there are."""

    patient: Attributes
    number: str
    date: str
    description: str
    series: tuple[tuple[str, int], ...]


def _patient(number: int, name: str, birth_date: str, sex: str) -> Attributes:
    return {
        "PatientName": name,
        "PatientID": f"SAMPLE-{number}",
        "PatientBirthDate": birth_date,
        "PatientSex": sex,
    }


_ANNA = _patient(1, "Sample^Anna", "19700101", "F")
_JOERG = _patient(2, "Müster^Jörg", "", "M")
_TARO = _patient(3, "Yamada^Tarou=山田^太郎=やまだ^たろう", "19850630", "O")
_STUDIES = (
    _Study(_ANNA, "1", "20260105", "CT of a disc", (("ct", 4), ("ct", 2))),
    _Study(_ANNA, "2", "20260212", "MR of a disc", (("mr", 3), ("report", 1))),
    _Study(_JOERG, "3", "20260301", "Film, scanned", (("capture", 2),)),
    _Study(_TARO, "4", "20260301", "Ultrasound, moving", (("cine", 1),)),
)


class Sample(NamedTuple):
    """A file to be: its name, how it is encoded, and its data set."""

    name: str
    transfer_syntax_uid: str
    attributes: Attributes


@cache
def _distances() -> list[float]:
    """How far each pixel is from the middle."""
    middle = (_SIZE - 1) / 2
    return [hypot(row - middle, column - middle) for row in range(_SIZE) for column in range(_SIZE)]


def _disc(radius: float, inside: int, outside: int) -> Iterator[int]:
    """The pixels of a disc, brighter towards its middle, row by row."""
    for distance in _distances():
        yield outside if distance > radius else inside + int((radius - distance) * 4)


def _grey(radius: float, inside: int, outside: int) -> Attributes:
    """An image of 16 bits (PS3.3 C.7.6.3)."""
    pixels = b"".join(value.to_bytes(2, "little") for value in _disc(radius, inside, outside))
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": _SIZE,
        "Columns": _SIZE,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels,
    }


def _bytes_of(samples: int, frames: int) -> bytes:
    """Frames of 8 bits, each with a smaller disc; `samples`: 3 for colours."""
    return b"".join(
        bytes([value & 0xFF]) * samples
        for frame in range(frames)
        for value in _disc(_SIZE / 2.5 - 6 * frame, 60, 10)
    )


def _small(samples: int) -> Attributes:
    colours = {"PlanarConfiguration": 0} if samples == 3 else {}
    return colours | {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "Rows": _SIZE,
        "Columns": _SIZE,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    }


def _plane(number: int, study: str) -> Attributes:
    return {
        "FrameOfReferenceUID": _uid(study, "frame of reference"),
        "PositionReferenceIndicator": "",
        "PixelSpacing": [1.0, 1.0],
        "ImageOrientationPatient": _AXIAL,
        "ImagePositionPatient": [-64.0, -64.0, 5.0 * number],
        "SliceThickness": 5.0,
    }


def _ct(number: int, study: str) -> Attributes:
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": 120,
        "AcquisitionNumber": 1,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "RescaleType": "HU",
        "WindowCenter": 40,
        "WindowWidth": 400,
        **_plane(number, study),
        **_grey(30 + 5 * number, 1050, 24),
    }


def _mr(number: int, study: str) -> Attributes:
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": 500,
        "EchoTime": 15,
        "EchoTrainLength": 1,
        **_plane(number, study),
        **_grey(25 + 6 * number, 600, 20),
    }


def _capture(number: int, study: str) -> Attributes:
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "Modality": "OT",
        "ConversionType": "DF",
        "ImageType": ["DERIVED", "SECONDARY"],
        **_small(3),
        "PixelData": _bytes_of(3, 1),
    }


def _cine(number: int, study: str) -> Attributes:
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1",
        "Modality": "US",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "NumberOfFrames": 6,
        "FrameIncrementPointer": 0x00181063,
        "FrameTime": 100,
        **_small(1),
        "PixelData": _bytes_of(1, 6),
    }


def _code(value: str, scheme: str, meaning: str) -> list[Attributes]:
    return [{"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}]


def _report(number: int, study: str) -> Attributes:
    finding = {
        "RelationshipType": "CONTAINS",
        "ValueType": "TEXT",
        "ConceptNameCodeSequence": _code("121071", "DCM", "Finding"),
        "TextValue": "A disc.",
    }
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11",
        "Modality": "SR",
        "ContentDate": "20260212",
        "ContentTime": "101500",
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "ReferencedPerformedProcedureStepSequence": [],
        "PerformedProcedureCodeSequence": [],
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": _code("126000", "DCM", "Imaging Measurement Report"),
        "ContinuityOfContent": "SEPARATE",
        "ContentSequence": [finding],
    }


_KINDS = {"ct": _ct, "mr": _mr, "capture": _capture, "cine": _cine, "report": _report}
_COMMON: Mapping[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 192",
    "StudyTime": "100000",
    "ReferringPhysicianName": "",
    "Manufacturer": "asyncdicom",
    "ManufacturerModelName": "samples",
    "PatientOrientation": "",
    "ContentDate": "",
    "ContentTime": "",
    "Laterality": "",
}


def _samples() -> Iterator[Sample]:
    for study in _STUDIES:
        for series, (kind, count) in enumerate(study.series, 1):
            for number in range(1, count + 1):
                name = f"{kind}-{study.number}-{series}-{number}"
                attributes = {
                    **_COMMON,
                    **study.patient,
                    "StudyInstanceUID": _uid(study.number),
                    "StudyID": study.number,
                    "StudyDate": study.date,
                    "StudyDescription": study.description,
                    "AccessionNumber": f"SAMPLE-A{study.number}",
                    "SeriesInstanceUID": _uid(study.number, series),
                    "SeriesNumber": series,
                    "SOPInstanceUID": _uid(name),
                    "InstanceNumber": number,
                    **_KINDS[kind](number, study.number),
                }
                is_old = kind == "mr"  # as old scanners send it
                yield Sample(f"{name}.dcm", _IMPLICIT if is_old else _EXPLICIT, attributes)


def write_samples(folder: Path) -> list[Path]:
    """Write the samples into a folder, which is made if there is none; gives the files.

    Raises FileExistsError, before anything is written, where another file has one of their names; OSError.
    """
    from asyncdicom.data.part10 import encode_file_meta
    from asyncdicom.dataset import encode

    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {}
    for name, syntax, attributes in _samples():
        meta = encode_file_meta(attributes["SOPClassUID"], attributes["SOPInstanceUID"], syntax)
        files[folder / name] = meta + encode(attributes, syntax)
    for path, content in files.items():
        if path.exists() and path.read_bytes() != content:
            raise FileExistsError(f"{path} is there, and is no sample of this version")
    for path, content in files.items():
        path.write_bytes(content)
    return list(files)
