from __future__ import annotations

import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from asyncdicom.data import elements
from asyncdicom.data.elements import Skipped, show
from asyncdicom.data.inflation import deflate
from asyncdicom.data.part10 import read_file_meta
from asyncdicom.dataset import decode, encode, from_mapping, transfer_syntax_of
from asyncdicom.exceptions import DataSetError

IMPLICIT, EXPLICIT, DEFLATED, BIG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
SYNTAXES = pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, BIG])
FILES = Path(pydicom.__file__).parent / "data" / "test_files"

IDENTIFIER = {
    "QueryRetrieveLevel": "STUDY",
    "PatientName": "DOE^J*",
    "StudyDate": "20240101-20240131",
    "StudyInstanceUID": "",
    "ModalitiesInStudy": ["CT", "MR"],
    "NumberOfStudyRelatedSeries": None,
    "RequestAttributesSequence": [{"RequestedProcedureID": "17"}, {}],
    "ReferencedStudySequence": [],
}


@SYNTAXES
def test_a_mapping(syntax) -> None:
    dataset = decode(encode(IDENTIFIER, syntax), syntax)
    assert dataset == from_mapping(IDENTIFIER)
    assert dataset.PatientName == "DOE^J*"
    assert dataset.StudyDate == "20240101-20240131"
    assert dataset.ModalitiesInStudy == ["CT", "MR"]
    assert [len(item) for item in dataset.RequestAttributesSequence] == [1, 0]
    assert "SpecificCharacterSet" not in dataset
    assert encode(dataset, syntax) == encode(IDENTIFIER, syntax)


@SYNTAXES
def test_what_was_decoded_can_be_saved_and_read(syntax, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    decode(encode(IDENTIFIER, syntax), syntax).save_as(path)
    assert read_file_meta(path.read_bytes()).transfer_syntax_uid == syntax
    read = pydicom.dcmread(path)
    assert read.PatientName == "DOE^J*"
    assert read == from_mapping(IDENTIFIER)


@SYNTAXES
def test_our_own_codec_reads_it(syntax) -> None:
    ours = {element.tag: element for element in elements.decode(encode(IDENTIFIER, syntax), syntax)}
    assert ours[0x00100010] == (0x00100010, "PN", b"DOE^J*")
    assert ours[0x00080061] == (0x00080061, "CS", b"CT\\MR ")
    assert ours[0x0020000D] == (0x0020000D, "UI", b"")
    assert ours[0x00400275].vr == "SQ"
    assert sorted(ours) == sorted(int(element.tag) for element in from_mapping(IDENTIFIER))


@SYNTAXES
@pytest.mark.parametrize("made", [from_mapping, dict], ids=["dataset", "mapping"])
def test_text_outside_ascii_gets_a_character_set(syntax, made) -> None:
    for text in ({"PatientName": "Müller"}, {"ReferencedStudySequence": [{"PatientName": "王"}]}):
        dataset = made(text)
        decoded = decode(encode(dataset, syntax), syntax)
        assert decoded.SpecificCharacterSet == "ISO_IR 192"
        assert "SpecificCharacterSet" not in dataset
        del decoded.SpecificCharacterSet
        assert decoded == from_mapping(text)


def test_a_given_character_set_stays() -> None:
    dataset = decode(
        encode({"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller"}, EXPLICIT), EXPLICIT
    )
    assert dataset.SpecificCharacterSet == "ISO_IR 100"
    assert dataset.get_item(0x00100010).value == b"M\xfcller"


SAYS_ITS_OWN = {"SpecificCharacterSet": "ISO_IR 100", "CodeMeaning": "山田"}


@pytest.mark.parametrize(
    "mapping",
    [
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "山田*"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Dvořák^山田"},
        {"SpecificCharacterSet": "ISO_IR 144", "PatientID": ["Люк", "Müller"]},
        {"SpecificCharacterSet": "ISO_IR 6", "PatientName": "Müller"},
        {"SpecificCharacterSet": "", "PatientName": "Müller"},
        {"SpecificCharacterSet": "NONSENSE", "PatientName": "Müller"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Müller^山田"},
        {"SpecificCharacterSet": "ISO_IR 100", "RequestedProcedureCodeSequence": [{"CodeMeaning": "山田"}]},
    ],
)
def test_text_that_the_given_character_set_cannot_hold_goes_as_utf_8(mapping: dict[str, Any]) -> None:
    data = encode(mapping, EXPLICIT)
    assert b"?" not in data
    again = decode(data, EXPLICIT)
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert again[2:] == from_mapping(mapping | {"SpecificCharacterSet": "ISO_IR 192"})[2:]


@pytest.mark.parametrize(
    ("character_set", "text"),
    [
        ("ISO_IR 100", "Müller"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 100", "ISO 2022 IR 144"], "Müller^Люк"),
        ("ISO 2022 IR 13", "ﾔﾏﾀﾞ"),
        ("GB18030", "王^小东"),
    ],
)
def test_text_that_the_given_character_set_holds_stays_in_it(character_set: Any, text: str) -> None:
    mapping = {"SpecificCharacterSet": character_set, "PatientName": text}
    again = decode(encode(mapping, EXPLICIT), EXPLICIT)
    assert (again.SpecificCharacterSet, again.PatientName) == (character_set, text)


def test_text_that_no_character_set_can_hold_is_an_error_and_never_replaced() -> None:
    for mapping in ({"PatientName": "\ud800"}, {"RequestedProcedureCodeSequence": [SAYS_ITS_OWN]}):
        with pytest.raises(DataSetError, match="characters that its Specific Character Set has not"):
            encode(mapping, EXPLICIT)
    read = decode(encode(SAYS_ITS_OWN | {"CodeMeaning": "ü"}, EXPLICIT), EXPLICIT)
    read.PatientName = "山田"  # the rest of what was read is in the declared set
    with pytest.raises(DataSetError, match="PatientName") as caught:
        encode(read, EXPLICIT)
    assert "山田" not in str(caught.value)


def test_what_no_dictionary_knows_is_sent() -> None:
    """By its tag; a Private Creator tells the VR of private elements, else it is UN."""
    mapping = {"7777,0010": "A creator", "(7777,1001)": "odd", "5555,0008": "ü"}
    mapping |= {"0009,0010": "GEMS_IDEN_01", "00091001": "x", "0009,10E3": "1.2"}
    found = decode(encode(mapping, EXPLICIT), EXPLICIT)
    assert {show(each.tag): (each.VR, each.value) for each in found} == {
        "(5555,0008)": ("UN", "ü".encode()),
        "(7777,0010)": ("LO", "A creator"),
        "(7777,1001)": ("UN", b"odd "),
        "(0009,0010)": ("LO", "GEMS_IDEN_01"),
        "(0009,1001)": ("LO", "x"),
        "(0009,10E3)": ("UI", "1.2"),
    }


@pytest.mark.parametrize("name", ["0000,0100", "FFFE,E000", "0010", "0010,00100", "PatientNam", "(0010"])
def test_what_is_no_element_of_a_data_set_is_refused(name: str) -> None:
    with pytest.raises(DataSetError, match=r"keyword|no element"):
        encode({name: "1"}, EXPLICIT)


def test_a_data_set_that_was_read_keeps_its_bytes() -> None:
    """Its text may be Latin-1 without saying so; a character set added to that would be a lie."""
    data = elements.encode([(0x00100010, "PN", b"M\xfcller")], EXPLICIT)
    dataset = decode(data, EXPLICIT)
    assert dataset.PatientName == "Müller"
    assert encode(dataset, EXPLICIT) == data


def test_group_2_is_never_written() -> None:
    dataset = Dataset()
    dataset.PatientID = "1"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    assert encode(dataset, EXPLICIT) == elements.encode([(0x00100020, "LO", b"1")], EXPLICIT)
    with_meta = elements.encode([(0x00020010, "UI", b"1.2"), (0x00100020, "LO", b"1")], EXPLICIT)
    assert encode(decode(with_meta, EXPLICIT), EXPLICIT) == encode(dataset, EXPLICIT)


def test_transfer_syntax_of() -> None:
    assert transfer_syntax_of(decode(b"", EXPLICIT)) == EXPLICIT
    assert transfer_syntax_of(decode(encode({"PatientID": "1"}, BIG), BIG)) == BIG
    assert transfer_syntax_of(Dataset()) is None


@pytest.mark.parametrize(
    "mapping", [{"NoSuchKeyword": ""}, {"patientID": "1"}, {"SeriesNumber": "x"}, {"Rows": "x"}]
)
def test_what_cannot_be_encoded(mapping) -> None:
    with pytest.raises(DataSetError):
        encode(mapping, EXPLICIT)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        encode(IDENTIFIER, EXPLICIT)[:-1],
        encode(IDENTIFIER, IMPLICIT),
        encode(IDENTIFIER, BIG),
        bytes(100),
    ],
)
def test_what_cannot_be_decoded(data) -> None:
    with pytest.raises(DataSetError):
        decode(data, EXPLICIT)


BROKEN = [
    (b"\x10\0\x30\0\1\2\4\0ab12", 1),
    (b"\x10\0\x30\0DA\xff\xff12", 1),
    (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xffnot items" + b"\xfe\xff\xdd\xe0\0\0\0\0", 1),
    (bytes(100), 0),
]


@pytest.mark.parametrize(("broken", "count"), BROKEN)
def test_an_element_that_cannot_be_read_costs_only_itself(broken: bytes, count: int) -> None:
    data = encode({"PatientName": "A^B", "PatientID": "1"}, EXPLICIT) + broken
    if count:
        with pytest.raises(DataSetError):
            decode(data, EXPLICIT)
    skipped = Skipped()
    dataset = decode(data, EXPLICIT, strict=False, skipped=skipped)
    assert (str(dataset.PatientName), dataset.PatientID, len(dataset)) == ("A^B", "1", 2)
    assert skipped.count == count


def test_what_has_nothing_to_read_is_an_error_for_the_lenient_too() -> None:
    for data in (b"\x08", b"\x08\0\x05\0CS\xff\xff", b"garbage, and no data set"):
        with pytest.raises(DataSetError):
            decode(data, EXPLICIT, strict=False)
    assert len(decode(b"", EXPLICIT, strict=False)) == 0


def test_a_stray_delimiter_does_not_end_a_dataset() -> None:
    data = elements.encode([(0x00080005, "CS", b"")], EXPLICIT) + b"\xfe\xff\x0d\xe0\0\0\0\0"
    assert decode(data + elements.encode([(0x00100020, "LO", b"1")], EXPLICIT), EXPLICIT).PatientID == "1"


@pytest.mark.parametrize("how", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("declared", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
def test_the_lenient_read_a_data_set_in_another_syntax(how: str, declared: str) -> None:
    data = encode({"PatientName": "A^B", "PatientID": "1"}, how)
    data = deflate(data) if declared == DEFLATED else data
    assert decode(data, declared, strict=False).PatientID == "1"


@pytest.mark.parametrize("name", ["LATIN1", "no such set", "ISO_IR 192\\ISO 2022 IR 6", "\\\\", "utf8\0"])
def test_a_character_set_that_nobody_knows_costs_nothing(name: str) -> None:
    data = elements.encode(
        [(0x00080005, "CS", name.encode()), (0x00100010, "PN", b"A^B"), (0x00100020, "LO", b"1")], EXPLICIT
    )
    with warnings.catch_warnings(action="ignore"):
        assert decode(data, EXPLICIT).PatientID == "1"


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [("LATIN1", "latin-1", "Müller"), ("WINDOWS-1251", "cp1251", "Иванов"), ("ISO-IR 192", "utf-8", "山田")],
)
def test_text_in_a_character_set_that_only_the_field_knows(declared: str, codec: str, name: str) -> None:
    inner = elements.encode([(0x00100010, "PN", name.encode(codec))], IMPLICIT)
    items = b"\xfe\xff\0\xe0" + len(inner).to_bytes(4, "little") + inner
    for sequence in (
        elements.encode([(0x00101002, "SQ", items)], IMPLICIT),
        b"\x10\0\x02\x10\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0",
    ):
        head = elements.encode(
            [(0x00080005, "CS", declared.encode()), (0x00100010, "PN", name.encode(codec))], IMPLICIT
        )
        dataset = decode(head + sequence, IMPLICIT)
        assert str(dataset.PatientName) == name
        assert str(dataset.OtherPatientIDsSequence[0].PatientName) == name


@pytest.mark.parametrize("declared", ["ISO_IR 192", "NONSENSE", "UTF8"])
@pytest.mark.parametrize("codec", ["utf-8", "latin-1"])
def test_text_that_is_not_in_the_declared_set_is_not_replaced(declared: str, codec: str) -> None:
    head = [(0x00080005, "CS", declared.encode()), (0x00081030, "LO", "é".encode(codec))]
    data = elements.encode([*head, (0x00100010, "PN", "Müller".encode(codec))], EXPLICIT)
    dataset = decode(data, EXPLICIT)
    assert (dataset.StudyDescription, str(dataset.PatientName)) == ("é", "Müller")


@pytest.mark.parametrize(
    "mapping", [{"Modality": "Ω"}, {"ModalitiesInStudy": ["CT", "Ω"]}, {"StudyInstanceUID": "1.2.é"}]
)
def test_a_value_that_may_only_be_ascii_is_named(mapping: dict[str, Any]) -> None:
    [keyword] = mapping
    with pytest.raises(
        DataSetError, match=rf"{keyword} has characters that a value of VR (CS|UI) may not have"
    ):
        encode(mapping, EXPLICIT)


def test_every_file_of_pydicom_is_read_as_pydicom_reads_it() -> None:
    seen = 0
    for path in sorted(FILES.glob("*.dcm")):
        data = path.read_bytes()
        try:
            meta = read_file_meta(data)
            with warnings.catch_warnings(action="ignore"):
                ours = decode(data[meta.offset :], meta.transfer_syntax_uid)
                theirs = pydicom.dcmread(path)[0x00030000:]
                assert ours == theirs, path.name
                assert encode(ours, meta.transfer_syntax_uid) == encode(theirs, meta.transfer_syntax_uid)
        except DataSetError:
            continue
        seen += 1
    assert seen > 50


def test_inflating_has_a_limit() -> None:
    data = elements.encode([(0x00091010, "OB", random.Random(1).randbytes(1 << 10) * 1024)], DEFLATED)
    assert len(decode(data, DEFLATED)[0x00091010].value) == 1 << 20
    bomb = elements.encode([(0x00091010, "OB", bytes(1 << 20))], DEFLATED)
    with pytest.raises(DataSetError, match="is a bomb"):
        decode(bomb, DEFLATED)
    with pytest.raises(DataSetError):
        decode(data, DEFLATED, maximum_inflated=1 << 19)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_RLE.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm"]
)
def test_files_come_back_byte_by_byte(name) -> None:
    data = (FILES / name).read_bytes()
    meta = read_file_meta(data)
    data = data[meta.offset :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = encode(decode(data, meta.transfer_syntax_uid), meta.transfer_syntax_uid)
        theirs = pydicom.dcmread(FILES / name)
        assert decode(data, meta.transfer_syntax_uid) == theirs
    if not name.startswith("image_dfl"):  # deflated by another zlib
        assert [e for e in elements.decode(encoded, meta.transfer_syntax_uid) if e.tag & 0xFFFF] == [
            e for e in elements.decode(data, meta.transfer_syntax_uid) if e.tag & 0xFFFF
        ]


def test_pydicom_is_imported_when_needed_only() -> None:
    code = "import sys, asyncdicom.dataset, asyncdicom.data.scanner; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
