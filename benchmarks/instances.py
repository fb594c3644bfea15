"""The DICOM files that are sent: valid ones, of the size that is asked for."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
_UID_BASE = 10**30
_PLACES = 10**6  # so many instances have a study


class Kind(NamedTuple):
    """A kind of instance: its pixel data is rows x columns x 2 bytes x frames."""

    name: str
    rows: int
    columns: int
    frames: int

    @property
    def size(self) -> int:
        """The size of the pixel data in bytes."""
        return self.rows * self.columns * 2 * self.frames


BULK = Kind("1 GiB", 512, 512, 2048)
LARGE = Kind("256 MiB", 512, 512, 512)
MEDIUM = Kind("64 MiB", 512, 512, 128)  # these two stand for larger ones in a quick run
MODEST = Kind("16 MiB", 512, 512, 32)
IMAGE = Kind("512 KiB", 512, 512, 1)
SMALL = Kind("39 KiB", 128, 156, 1)
TINY = Kind("2 KiB", 32, 32, 1)


def make(folder: Path, kind: Kind, count: int, study: int = 0) -> Path:
    """Write `count` files of one kind, each with its own SOP Instance UID, in a new folder.

    Instances of another `study` are others.
    """
    from pydicom import Dataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import UID

    folder.mkdir(parents=True)
    noise = os.urandom(min(kind.size, 1 << 20))
    first = study * _PLACES
    for number in range(first, first + count):
        dataset = Dataset()
        dataset.SOPClassUID = CT
        dataset.SOPInstanceUID = uid(kind, number)
        dataset.StudyDate = "20240101"
        dataset.Modality = "CT"
        dataset.PatientName = "Benchmark^Patient"
        dataset.PatientID = "BENCHMARK"
        dataset.StudyInstanceUID = study_uid(kind, study)
        dataset.SeriesInstanceUID = series_uid(kind, study)
        dataset.InstanceNumber = number - first + 1
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        if kind.frames > 1:
            dataset.NumberOfFrames = kind.frames
        dataset.Rows = kind.rows
        dataset.Columns = kind.columns
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 0
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
        path = folder / f"{number:06}.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
        with path.open("ab") as file:
            file.write(struct.pack("<HH2s2xL", 0x7FE0, 0x0010, b"OW", kind.size))
            for start in range(0, kind.size, len(noise)):
                file.write(noise[: kind.size - start])
    return folder


def uid(kind: Kind, number: int) -> str:
    """Give a SOP Instance UID, of the same length for every number."""
    return f"2.25.{_UID_BASE + kind.size * 10**12 + number}"


def study_uid(kind: Kind, study: int = 0) -> str:
    """Give the Study Instance UID of all instances of one kind and `study`."""
    return uid(kind, 10**8 + study)


def series_uid(kind: Kind, study: int = 0) -> str:
    """Give the Series Instance UID of these instances."""
    return uid(kind, 2 * 10**8 + study)


def files(folder: Path | str) -> list[str]:
    """Give the files of a folder in the order in which they are sent."""
    return sorted(entry.path for entry in os.scandir(folder))


def size_of(folder: Path | str) -> int:
    """Give the size of all files of a folder in bytes."""
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def empty(folder: Path | str, *, expected: int | None = None, at_least: int = 0) -> None:
    """Remove what was received, after a look at how much it is."""
    count = size = 0
    for entry in os.scandir(folder):
        size += entry.stat().st_size
        count += 1
        os.unlink(entry.path)
    if expected is not None and (count != expected or size < at_least):
        from benchmarks.processes import BenchmarkError

        raise BenchmarkError(f"{count} files with {size} bytes were received, not {expected} with {at_least}")
