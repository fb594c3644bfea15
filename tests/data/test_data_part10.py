from __future__ import annotations

import io
import warnings
from pathlib import Path
from struct import pack

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom.data.part10 import HEAD_SIZE, FileMeta, encode_file_meta, read_file_meta
from asyncdicom.exceptions import DataSetError
from asyncdicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

CT, INSTANCE, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
HEAD = encode_file_meta(CT, INSTANCE, EXPLICIT, source_ae_title="SCANNER1 ")
DATA_SET = b"\x08\0\x05\0CS\x0a\0ISO_IR 100"


def element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr in (b"OB", b"UN", b"SQ", b"UT"):
        return pack("<HH2sHL", 2, number, vr, 0, len(value)) + value
    return pack("<HH2sH", 2, number, vr, len(value)) + value


SYNTAX = element(0x0010, b"UI", EXPLICIT.encode() + b"\0")
START = bytes(128) + b"DICM"


def test_both_ways() -> None:
    assert read_file_meta(HEAD + DATA_SET) == FileMeta(CT, INSTANCE, EXPLICIT, len(HEAD), "SCANNER1")
    assert read_file_meta(HEAD) == FileMeta(CT, INSTANCE, EXPLICIT, len(HEAD), "SCANNER1")
    assert read_file_meta(memoryview(bytearray(HEAD))) == FileMeta(
        CT, INSTANCE, EXPLICIT, len(HEAD), "SCANNER1"
    )


def test_pydicom_reads_what_we_write() -> None:
    meta = pydicom.dcmread(io.BytesIO(HEAD + DATA_SET)).file_meta
    assert meta.FileMetaInformationGroupLength == len(HEAD) - 144
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, INSTANCE)
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME
    assert meta.SourceApplicationEntityTitle == "SCANNER1"
    assert (
        "SourceApplicationEntityTitle"
        not in pydicom.dcmread(io.BytesIO(encode_file_meta(CT, INSTANCE, EXPLICIT) + DATA_SET)).file_meta
    )


def test_private_information() -> None:
    head = encode_file_meta(CT, INSTANCE, EXPLICIT, private_information=("1.2.3", b"ab"))
    meta = pydicom.dcmread(io.BytesIO(head + DATA_SET)).file_meta
    assert (meta.PrivateInformationCreatorUID, meta.PrivateInformation) == ("1.2.3", b"ab")
    assert meta.FileMetaInformationGroupLength == len(head) - 144


def test_the_preamble_is_zeros() -> None:  # M-09
    assert HEAD[:132] == bytes(128) + b"DICM"


def test_every_file_of_pydicom() -> None:
    seen = 0
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        head = path.read_bytes()[:HEAD_SIZE] if path.is_file() else b""
        if head[128:132] != b"DICM" or path.name == "meta_missing_tsyntax.dcm":
            continue
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            meta = pydicom.filereader.read_file_meta_info(path)
            file.seek(132)
            pydicom.filereader._read_file_meta_info(file)
            offset = file.tell()
        assert read_file_meta(head) == FileMeta(
            meta.get("MediaStorageSOPClassUID", ""),
            meta.get("MediaStorageSOPInstanceUID", ""),
            meta.TransferSyntaxUID,
            offset,
            meta.get("SourceApplicationEntityTitle", ""),
        ), path.name
        seen += 1
    assert seen > 100


@pytest.mark.parametrize("length", [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(HEAD) - 144 - 8, len(HEAD) - 144 + 8])
def test_a_wrong_group_length_does_not_matter(length) -> None:  # M-02
    head = HEAD[:140] + pack("<L", length) + HEAD[144:]
    assert read_file_meta(head + DATA_SET) == FileMeta(CT, INSTANCE, EXPLICIT, len(HEAD), "SCANNER1")


def test_no_group_length() -> None:  # M-02
    head = HEAD[:132] + HEAD[144:]
    assert read_file_meta(head + DATA_SET) == FileMeta(CT, INSTANCE, EXPLICIT, len(head), "SCANNER1")


def test_deflated_bytes_that_look_like_group_2() -> None:
    head = encode_file_meta(CT, INSTANCE, DEFLATED)
    assert read_file_meta(head + b"\2\0\3\0UI\4\0" + bytes(20)) == FileMeta(CT, INSTANCE, DEFLATED, len(head))


def test_a_group_length_that_is_wrong_before_deflated_bytes() -> None:
    """It is believed only where it is right: the elements tell."""
    head = bytearray(encode_file_meta(CT, INSTANCE, DEFLATED))
    head[140] += 2
    assert read_file_meta(bytes(head) + b"\xed" * 20) == FileMeta(CT, INSTANCE, DEFLATED, len(head))


def test_padding_of_uids() -> None:
    head = START + element(2, b"UI", b"1.2 ") + element(3, b"UI", b"1.3\0\0\0") + SYNTAX
    assert read_file_meta(head) == FileMeta("1.2", "1.3", EXPLICIT, len(head))


def test_the_sop_uids_may_be_missing() -> None:
    assert read_file_meta(START + SYNTAX) == FileMeta("", "", EXPLICIT, len(START + SYNTAX))


REFUSED = {
    "M-01 empty": b"",
    "M-01 no preamble": HEAD[128:] + DATA_SET,
    "M-01 127 bytes of preamble": HEAD[1:] + DATA_SET,
    "M-01 DICM elsewhere": bytes(4) + HEAD + DATA_SET,
    "M-01 data set only": DATA_SET * 20,
    "M-03 no Transfer Syntax UID": START + element(2, b"UI", b"1.2\0") + DATA_SET,
    "M-03 empty Transfer Syntax UID": START + element(0x10, b"UI", b"") + DATA_SET,
    "M-03 not a UID": START + element(0x10, b"UI", b"../../etc/passwd") + DATA_SET,
    "M-06 fake VR": START + element(0x02, b"ZZ", b"1.2\0") + SYNTAX,
    "M-06 lower case VR": START + element(0x02, b"ui", b"1.2\0") + SYNTAX,
    "M-06 sequence": START + element(0x02, b"SQ", b"") + SYNTAX,
    "M-06 open length": START + pack("<HH2sHL", 2, 2, b"OB", 0, 0xFFFFFFFF) + SYNTAX,
    "M-06 length beyond the file": START + pack("<HH2sHL", 2, 2, b"OB", 0, 100_000) + SYNTAX,
    "M-06 longer than a head may be": START + element(0x100, b"OB", bytes(70_000)) + SYNTAX,
    "M-06 1,000 elements": START + element(0x0100, b"OB", b"") * 1000 + SYNTAX,
    "cut in a header": START + SYNTAX[:10],
    "cut in a value": HEAD[:-1],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case) -> None:
    with pytest.raises(DataSetError):
        read_file_meta(REFUSED[case])


@pytest.mark.parametrize(
    "start", [START, bytes(127) + b"\0DICM", b"DICM", b""], ids=["whole", "same", "DICM alone", "no preamble"]
)
def test_lenient_with_any_beginning(start: bytes) -> None:
    meta = HEAD[132:]
    expected = FileMeta(CT, INSTANCE, EXPLICIT, len(start + meta), "SCANNER1")
    assert read_file_meta(start + meta + DATA_SET, strict=False) == expected
    assert read_file_meta(start + DATA_SET, strict=False) == FileMeta("", "", "", len(start))
    assert read_file_meta(start + element(2, b"UI", CT.encode() + b"\0") + DATA_SET, strict=False)[:3] == (
        CT,
        "",
        "",
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_a_data_set_that_begins_with_group_2_again(strict: bool, told: bool) -> None:  # the field, 1.10
    implicit = element(0x0010, b"UI", b"1.2.840.10008.1.2\0")
    length = pack("<HH2sHL", 2, 0, b"UL", 4, len(implicit)) if told else b""
    head = START + length + implicit
    data = pack("<HHL", 2, 0x10, 4) + b"1.2\0" + pack("<HHL", 8, 5, 0)
    assert read_file_meta(head + data, strict=strict) == FileMeta("", "", "1.2.840.10008.1.2", len(head))


@given(head=st.binary(max_size=200))
def test_noise_raises_nothing_else(head) -> None:
    for data in (head, START + head, START + SYNTAX + head):
        for strict in (True, False):
            try:
                read_file_meta(data, strict=strict)
            except DataSetError:
                continue


@pytest.mark.parametrize("uid", ["1.2.é", "1" * 70_000])
def test_what_cannot_be_a_uid_is_not_written(uid) -> None:
    with pytest.raises(DataSetError):
        encode_file_meta(CT, uid, EXPLICIT)
