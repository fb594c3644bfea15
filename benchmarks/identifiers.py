"""Data sets made by hand, in Explicit VR Little Endian: making them must cost next to nothing."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

STUDY = "2.25.1000000000000000000000000000000001"
SERIES = "2.25.1000000000000000000000000000000002"
_INSTANCE = b"2.25.2%029d"
_LONG = frozenset({b"OB", b"OW", b"SQ", b"UN", b"UT"})


def element(tag: int, vr: bytes, value: bytes | str) -> bytes:
    """Encode one element; odd values are padded (PS3.5 7.1)."""
    data = value.encode() if isinstance(value, str) else value
    if len(data) % 2:
        data += b"\0" if vr == b"UI" else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + struct.pack("<2xL" if vr in _LONG else "<H", len(data)) + data


def head(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """What comes before the pixel data of an image."""
    return _before(sop_class_uid) + element(0x00080018, b"UI", sop_instance_uid) + _after()


def _before(sop_class_uid: str) -> bytes:
    return element(0x00080016, b"UI", sop_class_uid)


def _after(study: str = STUDY, series: str = SERIES) -> bytes:
    short = functools.partial(struct.pack, "<H")
    return b"".join(
        (
            element(0x00080020, b"DA", "20240101"),
            element(0x00080050, b"SH", "BENCHMARK"),
            element(0x00080060, b"CS", "CT"),
            element(0x00100010, b"PN", "Benchmark^Patient"),
            element(0x00100020, b"LO", "BENCHMARK"),
            element(0x0020000D, b"UI", study),
            element(0x0020000E, b"UI", series),
            element(0x00200013, b"IS", "1"),
            element(0x00280002, b"US", short(1)),
            element(0x00280004, b"CS", "MONOCHROME2"),
            element(0x00280010, b"US", short(128)),
            element(0x00280011, b"US", short(156)),
            element(0x00280100, b"US", short(16)),
            element(0x00280101, b"US", short(16)),
            element(0x00280102, b"US", short(15)),
            element(0x00280103, b"US", short(0)),
        )
    )


def template(sop_class_uid: str, size: int, study: str = STUDY, series: str = SERIES) -> tuple[bytes, bytes]:
    """Give what is before and after the SOP Instance UID (35 characters) of an instance of `size` bytes."""
    before = _before(sop_class_uid) + struct.pack("<HH2sH", 0x0008, 0x0018, b"UI", 36)
    after = b"\0" + _after(study, series)
    pixels = max(2, size - len(before) - 35 - len(after) - 12) & ~1
    noise = (bytes(range(256)) * (pixels // 256 + 1))[:pixels]
    return before, after + element(0x7FE00010, b"OW", noise)


# C-FIND at the IMAGE level of the Study Root, all instances of one series.


def query() -> bytes:
    """Ask for all of them."""
    return b"".join(
        (
            element(0x00080018, b"UI", ""),
            element(0x00080052, b"CS", "IMAGE"),
            element(0x0020000D, b"UI", STUDY),
            element(0x0020000E, b"UI", SERIES),
            element(0x00200013, b"IS", ""),
        )
    )


def instance_uid(number: int) -> str:
    """Give the SOP Instance UID of a match."""
    return (_INSTANCE % number).decode()


def match(number: int) -> bytes:
    """Encode a match."""
    return b"".join(
        (
            element(0x00080018, b"UI", _INSTANCE % number),
            _LEVEL,
            _STUDY,
            _SERIES,
            element(0x00200013, b"IS", b"%d" % number),
        )
    )


_LEVEL = element(0x00080052, b"CS", "IMAGE")
_STUDY = element(0x0020000D, b"UI", STUDY)
_SERIES = element(0x0020000E, b"UI", SERIES)


def dataset(number: int) -> Dataset:
    """Make a match as a pydicom Dataset, as most handlers do."""
    from pydicom import Dataset

    found = Dataset()
    found.SOPInstanceUID = instance_uid(number)
    found.QueryRetrieveLevel = "IMAGE"
    found.StudyInstanceUID = STUDY
    found.SeriesInstanceUID = SERIES
    found.InstanceNumber = number
    return found


# C-FIND by an indexed key: one patient of many, each with one study of one series.

SERIES_SIZE = 100


def patient_id(number: int) -> str:
    """Give the Patient ID of a patient of a filled index."""
    return f"P{number:08}"


def patients(instances: int) -> int:
    """Tell how many patients an index of so many instances has."""
    return -(-instances // SERIES_SIZE)


def patient_query(patient_id: str) -> bytes:
    """Ask for the studies of one patient."""
    return b"".join(
        (
            element(0x00080052, b"CS", "STUDY"),
            element(0x00100010, b"PN", ""),
            element(0x00100020, b"LO", patient_id),
            element(0x0020000D, b"UI", ""),
        )
    )
