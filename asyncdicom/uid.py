"""Unique identifiers (PS3.5 9, PS3.6 Annex A): transfer syntaxes, SOP classes, information models.

UIDs are plain ``str`` everywhere in this package.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from asyncdicom._sop_classes import SOP_CLASSES as SOP_CLASSES
from asyncdicom._version import __version__

APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"

# How we present ourselves (PS3.7 D.3.3.2). The class UID stays the same for every release.
IMPLEMENTATION_CLASS_UID = "2.25.199425688140626237361533859764399928532"
IMPLEMENTATION_VERSION_NAME = ("ASYNCDICOM_" + "".join(filter(str.isdigit, __version__)))[:16]

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
ENCAPSULATED_UNCOMPRESSED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.98"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
GE_PRIVATE_BIG_ENDIAN_PIXEL_DATA = "1.2.840.113619.5.2"
JPEG_BASELINE_8BIT = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED_12BIT = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
MPEG2_MAIN_PROFILE_MAIN_LEVEL = "1.2.840.10008.1.2.4.100"
MPEG2_MAIN_PROFILE_HIGH_LEVEL = "1.2.840.10008.1.2.4.101"
MPEG4_HIGH_PROFILE_4_1 = "1.2.840.10008.1.2.4.102"
HEVC_MAIN_PROFILE_5_1 = "1.2.840.10008.1.2.4.107"
HEVC_MAIN_10_PROFILE_5_1 = "1.2.840.10008.1.2.4.108"
JPEG_XL_LOSSLESS = "1.2.840.10008.1.2.4.110"
JPEG_XL = "1.2.840.10008.1.2.4.112"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
DEFLATED_IMAGE_FRAME_COMPRESSION = "1.2.840.10008.1.2.8.1"

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
MODALITY_PERFORMED_PROCEDURE_STEP = "1.2.840.10008.3.1.2.3.3"
MODALITY_WORKLIST_FIND = "1.2.840.10008.5.1.4.31"


class TransferSyntax(NamedTuple):
    """How a data set is encoded (PS3.5 Annex A)."""

    uid: str
    name: str
    implicit: bool = False
    little_endian: bool = True
    deflated: bool = False
    encapsulated: bool = True


# UIDs below 1.2.840.10008.1.2 and names: Explicit VR Little Endian with encapsulated pixel data (PS3.5 A.4).
_ENCAPSULATED = """\
1.98 Encapsulated Uncompressed Explicit VR Little Endian
4.50 JPEG Baseline (Process 1)
4.51 JPEG Extended (Process 2 and 4)
4.52 JPEG Extended (Process 3 and 5)
4.53 JPEG Spectral Selection, Non-Hierarchical (Process 6 and 8)
4.54 JPEG Spectral Selection, Non-Hierarchical (Process 7 and 9)
4.55 JPEG Full Progression, Non-Hierarchical (Process 10 and 12)
4.56 JPEG Full Progression, Non-Hierarchical (Process 11 and 13)
4.57 JPEG Lossless, Non-Hierarchical (Process 14)
4.58 JPEG Lossless, Non-Hierarchical (Process 15)
4.59 JPEG Extended, Hierarchical (Process 16 and 18)
4.60 JPEG Extended, Hierarchical (Process 17 and 19)
4.61 JPEG Spectral Selection, Hierarchical (Process 20 and 22)
4.62 JPEG Spectral Selection, Hierarchical (Process 21 and 23)
4.63 JPEG Full Progression, Hierarchical (Process 24 and 26)
4.64 JPEG Full Progression, Hierarchical (Process 25 and 27)
4.65 JPEG Lossless, Hierarchical (Process 28)
4.66 JPEG Lossless, Hierarchical (Process 29)
4.70 JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])
4.80 JPEG-LS Lossless Image Compression
4.81 JPEG-LS Lossy (Near-Lossless) Image Compression
4.90 JPEG 2000 Image Compression (Lossless Only)
4.91 JPEG 2000 Image Compression
4.92 JPEG 2000 Part 2 Multi-component Image Compression (Lossless Only)
4.93 JPEG 2000 Part 2 Multi-component Image Compression
4.100 MPEG2 Main Profile / Main Level
4.100.1 Fragmentable MPEG2 Main Profile / Main Level
4.101 MPEG2 Main Profile / High Level
4.101.1 Fragmentable MPEG2 Main Profile / High Level
4.102 MPEG-4 AVC/H.264 High Profile / Level 4.1
4.102.1 Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.1
4.103 MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
4.103.1 Fragmentable MPEG-4 AVC/H.264 BD-compatible High Profile / Level 4.1
4.104 MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video
4.104.1 Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 2D Video
4.105 MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video
4.105.1 Fragmentable MPEG-4 AVC/H.264 High Profile / Level 4.2 For 3D Video
4.106 MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
4.106.1 Fragmentable MPEG-4 AVC/H.264 Stereo High Profile / Level 4.2
4.107 HEVC/H.265 Main Profile / Level 5.1
4.108 HEVC/H.265 Main 10 Profile / Level 5.1
4.110 JPEG XL Lossless
4.111 JPEG XL JPEG Recompression
4.112 JPEG XL
4.201 High-Throughput JPEG 2000 Image Compression (Lossless Only)
4.202 High-Throughput JPEG 2000 with RPCL Options Image Compression (Lossless Only)
4.203 High-Throughput JPEG 2000 Image Compression
5 RLE Lossless
8.1 Deflated Image Frame Compression
"""

TRANSFER_SYNTAXES: dict[str, TransferSyntax] = {
    syntax.uid: syntax
    for syntax in (
        TransferSyntax(
            IMPLICIT_VR_LITTLE_ENDIAN, "Implicit VR Little Endian", implicit=True, encapsulated=False
        ),
        TransferSyntax(EXPLICIT_VR_LITTLE_ENDIAN, "Explicit VR Little Endian", encapsulated=False),
        TransferSyntax(
            DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
            "Deflated Explicit VR Little Endian",
            deflated=True,
            encapsulated=False,
        ),
        TransferSyntax(
            EXPLICIT_VR_BIG_ENDIAN, "Explicit VR Big Endian", little_endian=False, encapsulated=False
        ),
        TransferSyntax("1.2.840.10008.1.2.4.94", "JPIP Referenced", encapsulated=False),
        TransferSyntax(
            "1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", deflated=True, encapsulated=False
        ),
        TransferSyntax("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", encapsulated=False),
        TransferSyntax(
            "1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate", deflated=True, encapsulated=False
        ),
        TransferSyntax(
            "1.2.840.10008.1.20", "Papyrus 3 Implicit VR Little Endian", implicit=True, encapsulated=False
        ),
        TransferSyntax(  # of GE; only what is in the Pixel Data is big endian
            GE_PRIVATE_BIG_ENDIAN_PIXEL_DATA,
            "GE Private Implicit VR Little Endian with big endian Pixel Data",
            implicit=True,
            encapsulated=False,
        ),
        *(
            TransferSyntax("1.2.840.10008.1.2." + uid, name)
            for uid, _, name in (line.partition(" ") for line in _ENCAPSULATED.splitlines())
        ),
    )
}

BECOMES: dict[str, tuple[str, ...]] = {
    IMPLICIT_VR_LITTLE_ENDIAN: (EXPLICIT_VR_LITTLE_ENDIAN,),
    EXPLICIT_VR_LITTLE_ENDIAN: (IMPLICIT_VR_LITTLE_ENDIAN,),
    EXPLICIT_VR_BIG_ENDIAN: (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
    GE_PRIVATE_BIG_ENDIAN_PIXEL_DATA: (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
}
"""What can become what: transfer syntax -> those that its data sets can be re-encoded to, best first."""

#: Every SOP class whose instances the Storage service class (PS3.4 Annex B) stores, retired ones too.
STORAGE: tuple[str, ...] = tuple(uid for uid, entry in SOP_CLASSES.items() if entry[1] == "storage")

#: The same for the Non-Patient Object Storage service class (PS3.4 Annex GG): no patient, study or series.
NON_PATIENT_OBJECT_STORAGE: tuple[str, ...] = tuple(
    uid for uid, entry in SOP_CLASSES.items() if entry[1] == "non-patient-object-storage"
)


class InformationModel(NamedTuple):
    """A Query/Retrieve information model (PS3.4 C.3): its three SOP classes and its levels, top first."""

    name: str
    find: str
    move: str
    get: str
    levels: tuple[str, ...]


PATIENT_ROOT = InformationModel(
    "Patient Root",
    "1.2.840.10008.5.1.4.1.2.1.1",
    "1.2.840.10008.5.1.4.1.2.1.2",
    "1.2.840.10008.5.1.4.1.2.1.3",
    ("PATIENT", "STUDY", "SERIES", "IMAGE"),
)
STUDY_ROOT = InformationModel(
    "Study Root",
    "1.2.840.10008.5.1.4.1.2.2.1",
    "1.2.840.10008.5.1.4.1.2.2.2",
    "1.2.840.10008.5.1.4.1.2.2.3",
    ("STUDY", "SERIES", "IMAGE"),
)
PATIENT_STUDY_ONLY = InformationModel(
    "Patient/Study Only",
    "1.2.840.10008.5.1.4.1.2.3.1",
    "1.2.840.10008.5.1.4.1.2.3.2",
    "1.2.840.10008.5.1.4.1.2.3.3",
    ("PATIENT", "STUDY"),
)

#: PS3.4 Annex K: one C-FIND, no levels, nothing to retrieve.
MODALITY_WORKLIST = InformationModel("Modality Worklist", MODALITY_WORKLIST_FIND, "", "", ())


def transfer_syntax(uid: str) -> TransferSyntax:
    """What is known of a transfer syntax.

    An unknown or private one is taken for Explicit VR Little Endian with encapsulated pixel data, which is
    what PS3.5 A.4 asks of every new one.
    """
    return TRANSFER_SYNTAXES.get(uid) or TransferSyntax(uid, uid)


def name_of(uid: str) -> str:
    """The name that PS3.6 gives to a SOP class or transfer syntax; the UID itself where it gives none."""
    if uid in SOP_CLASSES:
        return SOP_CLASSES[uid][0]
    return transfer_syntax(uid).name


def is_valid_uid(uid: str) -> bool:
    """Whether `uid` obeys PS3.5 9.1: 1 to 64 characters, numbers without leading zeros joined by dots.

    This is the rule for what we make ourselves, and for names of files.
    """
    return len(uid) <= 64 and _VALID_UID(uid) is not None


def is_usable_uid(uid: str) -> bool:
    """Whether a received `uid` is taken: 1 to 64 printable ASCII characters without backslash, `*`, `?`, `/`.

    A space has no place in it either. Peers send UIDs with leading zeros, letters and hyphens; each of these
    names one thing all the same, and is kept as it came. The characters that are refused would make a list
    or a pattern of it in a query, or a path.
    """
    return _USABLE_UID(uid) is not None


_VALID_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*").fullmatch
_USABLE_UID = re.compile(r"[!-)+-.0->@-\[\]-~]{1,64}").fullmatch  # the ranges between those that are refused


def new_uid() -> str:
    """A new UID, derived from a random UUID (PS3.5 B.2)."""
    import uuid  # costs more than the rest of this module, and few need it

    return f"2.25.{uuid.uuid4().int}"
