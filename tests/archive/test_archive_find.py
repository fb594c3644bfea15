from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, IdentifierError, Problem
from asyncdicom.archive.dimse import find, matching_instances, status_of
from asyncdicom.archive.index.query import find_query
from asyncdicom.archive.index.unsupported import has_unsupported
from asyncdicom.data.elements import Element, decode, encode
from asyncdicom.data.part10 import read_file_meta
from asyncdicom.data.steps import finish
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    PATIENT_ROOT,
    PATIENT_STUDY_ONLY,
    STUDY_ROOT,
)

SR = "1.2.840.10008.5.1.4.1.1.88.11"

# Patient, study, series, modality, SOP class, number of instances
TREE = [
    ("P1", "1.1", "1.1.1", "CT", None, 3),
    ("P1", "1.1", "1.1.2", "SR", SR, 1),
    ("P1", "1.2", "1.2.1", "MR", None, 2),
    ("P2", "2.1", "2.1.1", "CT", None, 1),
]
PATIENTS = {
    "P1": {"PatientName": "DOE^JOHN", "PatientBirthDate": "19600504", "PatientSex": "M"},
    "P2": {"PatientName": "ROE^JANE", "PatientBirthDate": "1971.12.24", "OtherPatientIDs": "A1\\B2"},
}
STUDIES = {
    "1.1": {"StudyDate": "20250101", "StudyTime": "1015", "AccessionNumber": "ACC1", "StudyID": "S1"},
    "1.2": {"StudyDate": "20250215", "StudyTime": "235959.5", "StudyDescription": "MR Knee"},
    "2.1": {"StudyDate": "20250301", "ReferringPhysicianName": "HOUSE^GREGORY^^DR"},
}


@pytest.fixture
async def filled(archive: Archive, tools: Any) -> Archive:
    for patient, study, series, modality, sop_class, count in TREE:
        for number in range(1, count + 1):
            data = tools.data_set(
                **PATIENTS[patient],
                **STUDIES[study],
                SOPClassUID=sop_class or tools.ct,
                PatientID=patient,
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                SeriesNumber=f"0{series[-1]}",
                SOPInstanceUID=f"{series}.{number}",
                InstanceNumber=number,
                Modality=modality,
                ImageType="ORIGINAL\\PRIMARY",
                Rows=512,
            )
            assert await tools.store(archive, data) == 0x0000
    return archive


MATCHES = [
    # model, level, keys, the returned key, its values in order of arrival
    (PATIENT_ROOT, "PATIENT", {"PatientID": ""}, "PatientID", ["P1", "P2"]),
    (PATIENT_ROOT, "PATIENT", {"PatientName": "d*"}, "PatientID", ["P1"]),
    (PATIENT_ROOT, "PATIENT", {"PatientBirthDate": "19700101-"}, "PatientID", ["P2"]),
    (PATIENT_ROOT, "PATIENT", {"OtherPatientIDs": "B?"}, "PatientID", ["P2"]),
    (PATIENT_ROOT, "PATIENT", {"PatientSex": "F"}, "PatientID", []),
    (PATIENT_ROOT, "PATIENT", {"NumberOfPatientRelatedStudies": "2"}, "PatientID", ["P1"]),
    (PATIENT_ROOT, "STUDY", {"PatientID": "P1"}, "StudyInstanceUID", ["1.1", "1.2"]),
    (PATIENT_ROOT, "STUDY", {"PatientID": "P1", "StudyDate": "-20250131"}, "StudyInstanceUID", ["1.1"]),
    (PATIENT_ROOT, "SERIES", {"PatientID": "P1", "StudyInstanceUID": "1.1"}, "Modality", ["CT", "SR"]),
    (PATIENT_ROOT, "SERIES", {"PatientID": "P2", "StudyInstanceUID": "1.1"}, "Modality", []),
    (
        PATIENT_ROOT,
        "IMAGE",
        {"PatientID": "P1", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"},
        "InstanceNumber",
        ["1", "2", "3"],
    ),
    (PATIENT_STUDY_ONLY, "PATIENT", {"PatientName": "*"}, "PatientID", ["P1", "P2"]),
    (PATIENT_STUDY_ONLY, "STUDY", {"PatientID": "P1"}, "StudyID", ["S1", ""]),
    (STUDY_ROOT, "STUDY", {}, "StudyInstanceUID", ["1.1", "1.2", "2.1"]),
    (STUDY_ROOT, "STUDY", {"PatientName": "ROE^JANE"}, "StudyInstanceUID", ["2.1"]),
    (
        STUDY_ROOT,
        "STUDY",
        {"PatientID": "P?", "StudyDate": "20250101-20250228"},
        "StudyDate",
        ["20250101", "20250215"],
    ),
    (STUDY_ROOT, "STUDY", {"StudyTime": "23-"}, "StudyInstanceUID", ["1.2"]),
    (STUDY_ROOT, "STUDY", {"AccessionNumber": "ACC1"}, "StudyInstanceUID", ["1.1"]),
    (STUDY_ROOT, "STUDY", {"StudyDescription": "*Knee"}, "StudyInstanceUID", ["1.2"]),
    (STUDY_ROOT, "STUDY", {"ReferringPhysicianName": "house*"}, "StudyInstanceUID", ["2.1"]),
    (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.1\\2.1\\9"}, "StudyInstanceUID", ["1.1", "2.1"]),
    (STUDY_ROOT, "STUDY", {"ModalitiesInStudy": "CT"}, "StudyInstanceUID", ["1.1", "2.1"]),
    (STUDY_ROOT, "STUDY", {"ModalitiesInStudy": "MR\\SR"}, "StudyInstanceUID", ["1.1", "1.2"]),
    (STUDY_ROOT, "STUDY", {"ModalitiesInStudy": "*R"}, "ModalitiesInStudy", ["CT\\SR", "MR"]),
    (STUDY_ROOT, "STUDY", {"ModalitiesInStudy": ""}, "ModalitiesInStudy", ["CT\\SR", "MR", "CT"]),
    (STUDY_ROOT, "STUDY", {"SOPClassesInStudy": SR}, "StudyInstanceUID", ["1.1"]),
    (STUDY_ROOT, "STUDY", {"NumberOfStudyRelatedSeries": ""}, "NumberOfStudyRelatedSeries", ["2", "1", "1"]),
    (STUDY_ROOT, "STUDY", {"NumberOfStudyRelatedInstances": "4"}, "StudyInstanceUID", ["1.1"]),
    (STUDY_ROOT, "STUDY", {"Modality": "MR"}, "Modality", ["", "", ""]),  # a key of a lower level
    (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.1", "Modality": "SR"}, "SeriesInstanceUID", ["1.1.2"]),
    (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.1", "SeriesNumber": "1"}, "SeriesNumber", ["1"]),
    (
        STUDY_ROOT,
        "SERIES",
        {"StudyInstanceUID": "1.1", "NumberOfSeriesRelatedInstances": ""},
        "NumberOfSeriesRelatedInstances",
        ["3", "1"],
    ),
    (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.1", "PatientID": ""}, "PatientID", ["P1", "P1"]),
    (
        STUDY_ROOT,
        "IMAGE",
        {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": "1.1.1.2\\1.1.1.3"},
        "SOPInstanceUID",
        ["1.1.1.2", "1.1.1.3"],
    ),
    (
        STUDY_ROOT,
        "IMAGE",
        {
            "StudyInstanceUID": "1.1",
            "SeriesInstanceUID": "1.1.1",
            "ImageType": "PRIMARY",
            "InstanceNumber": "2",
        },
        "ImageType",
        ["ORIGINAL\\PRIMARY"],
    ),
    (
        STUDY_ROOT,
        "IMAGE",
        {"StudyInstanceUID": "2.1", "SeriesInstanceUID": "2.1.1", "AvailableTransferSyntaxUID": ""},
        "AvailableTransferSyntaxUID",
        [EXPLICIT_VR_LITTLE_ENDIAN],
    ),
]


@pytest.mark.parametrize("case", range(len(MATCHES)))
async def test_levels_models_and_keys(filled: Archive, tools: Any, case: int) -> None:
    model, level, keys, returned, values = MATCHES[case]
    matches = await tools.find(filled, model, level, **{returned: "", **keys})
    assert [match[returned] for match in matches] == values
    assert {match["QueryRetrieveLevel"] for match in matches} <= {level}


async def test_an_answer_has_what_was_asked_for_and_the_unique_key(filled: Archive, tools: Any) -> None:
    matches = await tools.find(
        filled,
        options={"retrieve_ae_title": "ARCHIVE"},
        PatientName="ROE*",
        StudyDate="",
        TimezoneOffsetFromUTC="+0100",
        ReferencedStudySequence="",
        RetrieveAETitle="",
        InstanceAvailability="",
        SeriesInstanceUID="",
    )
    assert matches == [
        {
            "QueryRetrieveLevel": "STUDY",
            "StudyInstanceUID": "2.1",
            "PatientName": "ROE^JANE",
            "StudyDate": "20250301",
            "TimezoneOffsetFromUTC": "",
            "ReferencedStudySequence": "",
            "RetrieveAETitle": "ARCHIVE",
            "InstanceAvailability": "ONLINE",
            "SeriesInstanceUID": "",
        }
    ]


@pytest.mark.parametrize(
    "syntax",
    [
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
    ],
)
async def test_every_encoding(filled: Archive, tools: Any, syntax: str) -> None:
    keys = {"StudyInstanceUID": "2.1", "SeriesInstanceUID": "2.1.1", "Rows": 512, "ImageType": ""}
    (match,) = await tools.find(filled, STUDY_ROOT, "IMAGE", syntax, **keys)
    assert match == {
        "QueryRetrieveLevel": "IMAGE",
        "SOPInstanceUID": "2.1.1.1",
        "Rows": "512",
        "ImageType": "ORIGINAL\\PRIMARY",
        "StudyInstanceUID": "2.1",
        "SeriesInstanceUID": "2.1.1",
        "RetrieveAETitle": "",
    }
    assert await tools.find(filled, STUDY_ROOT, "IMAGE", syntax, **{**keys, "Rows": 256}) == []


async def test_group_lengths_are_not_keys(filled: Archive) -> None:
    identifier = encode(
        [(0x00080000, "UL", b"\1\0\0\0"), (0x00080052, "CS", b"STUDY"), (0x0020000D, "UI", b"")],
        EXPLICIT_VR_LITTLE_ENDIAN,
    )
    answers = [each async for each in find(filled, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)]
    assert len(answers) == 3
    assert not any(answer.startswith(b"\x08\0\0\0") for answer in answers)


REFUSED = [
    (PATIENT_ROOT, {"QueryRetrieveLevel": ""}),
    (PATIENT_ROOT, {"QueryRetrieveLevel": "FRAME"}),
    (STUDY_ROOT, {"QueryRetrieveLevel": "PATIENT"}),
    (PATIENT_STUDY_ONLY, {"QueryRetrieveLevel": "SERIES", "PatientID": "P1", "StudyInstanceUID": "1.1"}),
    (PATIENT_ROOT, {"QueryRetrieveLevel": "STUDY"}),
    (PATIENT_ROOT, {"QueryRetrieveLevel": "STUDY", "PatientID": "P*"}),
    (PATIENT_ROOT, {"QueryRetrieveLevel": "STUDY", "PatientID": "P1\\P2"}),
    (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES"}),
    (STUDY_ROOT, {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.1\\1.2"}),
    (STUDY_ROOT, {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.1"}),
    (STUDY_ROOT, {"QueryRetrieveLevel": "STUDY", "StudyDate": "2025"}),
    (STUDY_ROOT, {"PatientName": "SECRET"}),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
async def test_identifiers_that_cannot_be_answered(filled: Archive, tools: Any, case: int) -> None:
    model, keys = REFUSED[case]
    with pytest.raises(IdentifierError) as caught:
        async for _ in find(filled, tools.encode(keys), EXPLICIT_VR_LITTLE_ENDIAN, model):
            pass
    assert caught.value.problem is Problem.WRONG
    assert 0 < len(caught.value.comment) <= 64
    assert "SECRET" not in caught.value.comment


async def test_an_identifier_that_cannot_be_read(filled: Archive) -> None:
    with pytest.raises(IdentifierError) as caught:
        async for _ in find(filled, b"\x08\0\x52\0CS\xff\0STUDY", EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT):
            pass
    assert caught.value.problem is Problem.UNREADABLE


async def test_relational_queries_need_no_upper_keys(filled: Archive, tools: Any) -> None:
    matches = await tools.find(filled, PATIENT_ROOT, "SERIES", options={"relational": True}, Modality="MR")
    assert [match["SeriesInstanceUID"] for match in matches] == ["1.2.1"]


CREATOR, PRIVATE, STUDIES_REFERENCED = 0x00090010, 0x00091001, 0x00081110
DEPARTMENT, TIMEZONE, UID_REFERENCED = 0x00081040, 0x00080201, 0x00081155


def item_of(syntax: str, *elements: tuple[int, str, bytes], is_defined: bool = True) -> bytes:
    """An item of a sequence, of defined or undefined length."""
    is_deflated = syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    content = encode(elements, EXPLICIT_VR_LITTLE_ENDIAN if is_deflated else syntax)
    order = "big" if syntax == EXPLICIT_VR_BIG_ENDIAN else "little"
    item, delimiter = ((0xFFFE, 0xE000), (0xFFFE, 0xE00D))
    begin, end = (b"".join(part.to_bytes(2, order) for part in tag) for tag in (item, delimiter))  # type: ignore[arg-type]
    if is_defined:
        return begin + len(content).to_bytes(4, order) + content  # type: ignore[arg-type]
    return begin + b"\xff" * 4 + content + end + bytes(4)


def with_keys(syntax: str) -> list[tuple[str, bool, list[tuple[int, str, bytes]]]]:
    """What an identifier has beside Study Instance UID, and whether the index leaves it out of account."""
    value, empty = (UID_REFERENCED, "UI", b"1.2"), (UID_REFERENCED, "UI", b"")
    creator = (CREATOR, "LO", b"SOMEBODY")
    endless = item_of(syntax, value, is_defined=False)
    deep = item_of(syntax, (STUDIES_REFERENCED, "SQ", item_of(syntax, value)))
    return [
        ("a key of a lower level", True, [(0x00080060, "CS", b"MR")]),
        ("the same without a value", False, [(0x00080060, "CS", b"")]),
        ("a key of the standard", True, [(DEPARTMENT, "LO", b"RADIO")]),
        ("nothing but wildcards", False, [(DEPARTMENT, "LO", b"* ")]),
        ("a private key", True, [creator, (PRIVATE, "LO", b"X")]),
        ("a private key without a value", False, [creator, (PRIVATE, "LO", b"")]),
        ("an unknown tag", True, [(0x77780002, "UN", b"X\0")]),
        ("an unknown tag without a value", False, [(0x77780002, "UN", b"\0\0")]),
        ("a key in a sequence", True, [(STUDIES_REFERENCED, "SQ", item_of(syntax, value))]),
        ("in an item without an end", True, [(STUDIES_REFERENCED, "SQ", endless)]),
        ("in the second item", True, [(STUDIES_REFERENCED, "SQ", item_of(syntax) + item_of(syntax, value))]),
        ("deep in sequences", True, [(STUDIES_REFERENCED, "SQ", deep)]),
        ("empty keys in a sequence", False, [(STUDIES_REFERENCED, "SQ", item_of(syntax, empty))]),
        ("an empty sequence", False, [(STUDIES_REFERENCED, "SQ", b"")]),
        ("an empty item", False, [(STUDIES_REFERENCED, "SQ", item_of(syntax))]),
        ("no key at all", False, [(TIMEZONE, "SH", b"+0100 ")]),
        ("keys that are matched", False, [(0x00080020, "DA", b"20250101-")]),
    ]


@pytest.mark.parametrize(
    "syntax",
    [
        EXPLICIT_VR_LITTLE_ENDIAN,
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ],
)
async def test_a_key_with_a_value_that_is_not_matched_is_told(filled: Archive, syntax: str) -> None:
    told: list[str] = []
    for what, is_told, keys in with_keys(syntax):
        told.clear()
        always = [(0x00080052, "CS", b"STUDY"), (0x0020000D, "UI", b"1.1")]
        identifier = encode(sorted([*always, *keys], key=lambda key: key[0]), syntax)
        found = find(filled, identifier, syntax, STUDY_ROOT, on_unsupported=lambda: told.append("told"))
        matches = [decode(match, syntax) async for match in found]
        assert (told, len(matches)) == (["told"] * is_told, 1), what
        answered = {element.tag: element.value for element in matches[0]}
        assert answered.keys() >= {tag for tag, _, _ in keys}, what
        if CREATOR in answered:  # without it nobody knows whose the private key is
            assert answered[CREATOR] == b"SOMEBODY"


def test_a_sequence_that_cannot_be_read_counts_as_a_value() -> None:
    query = find_query([Element(0x00080052, "CS", b"STUDY")], STUDY_ROOT, little_endian=True)
    for rest in (b"\x08\0\x55\x11??", b"\x08\0\x55\x11\1\2\3\4", b"\x09\0\x55\x11OB\0\0"):
        element = Element(STUDIES_REFERENCED, "SQ", b"\xfe\xff\0\xe0\xff\xff\xff\xff" + rest.ljust(8, b"\1"))
        assert finish(has_unsupported([element], query, EXPLICIT_VR_LITTLE_ENDIAN)), rest


def test_a_long_sequence_is_looked_at_in_steps() -> None:
    query = find_query([Element(0x00080052, "CS", b"STUDY")], STUDY_ROOT, little_endian=True)
    element = Element(STUDIES_REFERENCED, "SQ", b"\xfe\xff\0\xe0\0\0\0\0" * 5000)
    assert len(list(has_unsupported([element], query, EXPLICIT_VR_LITTLE_ENDIAN))) == 5


RETRIEVED = [
    (PATIENT_ROOT, "PATIENT", {"PatientID": "P1"}, 6),
    (PATIENT_ROOT, "STUDY", {"PatientID": "P1", "StudyInstanceUID": "1.1"}, 4),
    (PATIENT_ROOT, "STUDY", {"PatientID": "P2", "StudyInstanceUID": "1.1"}, 0),
    (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.1\\2.1"}, 5),
    (STUDY_ROOT, "STUDY", {"StudyInstanceUID": "1.1", "PatientName": "NOBODY"}, 4),
    (STUDY_ROOT, "SERIES", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1\\1.1.2"}, 4),
    (
        STUDY_ROOT,
        "IMAGE",
        {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": "1.1.1.1\\1.1.1.3\\9"},
        2,
    ),
]


@pytest.mark.parametrize("case", range(len(RETRIEVED)))
async def test_what_a_retrieval_sends(filled: Archive, tools: Any, case: int) -> None:
    model, level, keys, count = RETRIEVED[case]
    identifier = tools.encode({"QueryRetrieveLevel": level, **keys})
    found = await matching_instances(filled, identifier, EXPLICIT_VR_LITTLE_ENDIAN, model)
    instances = [instance async for instance in found if instance is not None]
    assert len(found) == len({instance.sop_instance_uid for instance in instances}) == count
    assert found.kinds == {(each.sop_class_uid, each.transfer_syntax_uid) for each in instances}
    for instance in instances:
        content = tools.read(instance.path)
        meta = read_file_meta(content)
        assert meta.sop_instance_uid == instance.sop_instance_uid
        assert instance.data_set_offset == meta.offset
        assert instance.data_set_offset + instance.data_set_length == len(content)


@pytest.mark.parametrize(
    "keys",
    [
        {"QueryRetrieveLevel": "STUDY"},
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "\\"},
        {"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "1.1.1"},
        {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"},
        {"StudyInstanceUID": "1.1"},
    ],
)
async def test_retrievals_without_their_unique_keys(
    filled: Archive, tools: Any, keys: dict[str, str]
) -> None:
    with pytest.raises(IdentifierError) as caught:
        await matching_instances(filled, tools.encode(keys), EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    assert caught.value.problem is Problem.WRONG


async def test_a_star_does_not_retrieve_everything(filled: Archive, tools: Any) -> None:
    identifier = tools.encode({"QueryRetrieveLevel": "PATIENT", "PatientID": "*"})
    assert len(await matching_instances(filled, identifier, EXPLICIT_VR_LITTLE_ENDIAN, PATIENT_ROOT)) == 0


async def test_paging_beyond_a_thousand(archive: Archive, tools: Any) -> None:
    data = [
        tools.data_set(SOPInstanceUID=f"1.2.3.1.1.{n}", StudyInstanceUID=f"1.2.{n}", PatientID=f"P{n}")
        for n in range(2001)
    ]
    statuses = await asyncio.gather(*(tools.store(archive, each) for each in data))
    assert set(statuses) == {0}
    assert archive._sweep is not None
    await archive._sweep  # which has a connection of its own
    pages: list[int] = []
    run = archive._queries.run

    async def count(peer: object, work: Any) -> Any:
        result = await run(peer, work)
        pages.append(len(result[0]))
        return result

    archive._queries.run = count  # type: ignore[method-assign,assignment]
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientID": "P*"})
    seen = []
    async for answer in find(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT):
        # Only the writer holds a connection while an answer is being used: nothing pins the WAL.
        pool: Any = archive._index._engine.pool
        async with asyncio.timeout(60):
            while pool.checkedout() != 1:  # who has answered gives his back at once
                await asyncio.sleep(0)
        seen.append(answer)
    assert len(seen) == len(set(seen)) == 2001
    assert pages == [16, *[64] * 31, 2001 - 16 - 31 * 64]
    archive._queries.run = run  # type: ignore[method-assign]
    identifier = tools.encode({"QueryRetrieveLevel": "PATIENT", "PatientID": "P7"})
    assert len(await matching_instances(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, PATIENT_ROOT)) == 1


async def test_exactly_one_page(archive: Archive, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.1.1.{n}")) == 0x0000
    from asyncdicom.archive import find

    for size in (1, 2, 3, 4, 5):
        monkeypatch.setattr(find, "PAGES", (size,))
        keys = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.1.1"}
        assert len(await tools.find(archive, level="IMAGE", **keys)) == 4


async def test_what_arrives_while_a_query_is_read(filled: Archive, tools: Any) -> None:
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
    count = 0
    async for _ in find(filled, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT):
        count += 1
        data = tools.data_set(SOPInstanceUID=f"9.{count}", StudyInstanceUID=f"9.{count}")
        assert await tools.store(filled, data) == 0x0000
    assert count == 3


# character sets

NAMES = [
    ("chrFren.dcm", "buc^jérôme", "Buc^Jérôme"),
    ("chrGerm.dcm", "ÄNEAS*", "Äneas^Rüdiger"),
    ("chrGreek.dcm", "διονυσιος", "Διονυσιος"),
    ("chrRuss.dcm", "ЛЮКCEМБ*", "Люкceмбypг"),
    ("chrH31.dcm", "=山田*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("chrH31.dcm", "YAMADA*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("chrH32.dcm", "ヤマダ^タロウ", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    ("chrI2.dcm", "hong*", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("chrX1.dcm", "wang*=王*", "Wang^XiaoDong=王^小東="),
    ("chrX2.dcm", "wang*", "Wang^XiaoDong=王^小东="),
]


def charset_file(name: str) -> bytes:
    import pydicom

    return (Path(pydicom.__file__).parent / "data" / "charset_files" / name).read_bytes()


@pytest.mark.parametrize(("file", "key", "name"), NAMES)
async def test_character_sets(archive: Archive, tools: Any, file: str, key: str, name: str) -> None:
    content = charset_file(file)
    meta = read_file_meta(content)
    stored = await archive.receive(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        batches=tools.in_batches(content[meta.offset :], 1000),
    )
    assert status_of(stored) == 0x0000
    assert await tools.store(archive, tools.data_set()) == 0x0000
    (match,) = await tools.find(archive, SpecificCharacterSet="ISO_IR 192", PatientName=key)
    assert match["PatientName"] == name
    assert match["SpecificCharacterSet"] == "ISO_IR 192"


async def test_a_latin_1_query(archive: Archive, tools: Any) -> None:
    data = tools.data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Äneas^Rüdiger", PatientSex="M")
    assert await tools.store(archive, data) == 0x0000
    key = "äNEAS*".encode("latin-1")
    (match,) = await tools.find(archive, SpecificCharacterSet="ISO_IR 100", PatientName=key)
    assert match["PatientName"] == "Äneas^Rüdiger"


async def test_ascii_answers_name_no_character_set(archive: Archive, tools: Any) -> None:
    data = tools.data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Äneas^Rüdiger", StudyID="7")
    assert await tools.store(archive, data) == 0x0000
    (match,) = await tools.find(archive, StudyID="")
    assert "SpecificCharacterSet" not in match
    (match,) = await tools.find(archive, StudyID="", SpecificCharacterSet="")
    assert match["SpecificCharacterSet"] == ""
    (match,) = await tools.find(archive, PatientName="")
    assert match["SpecificCharacterSet"] == "ISO_IR 192"


async def test_rubbish_in_text_neither_breaks_nor_leaks(archive: Archive, tools: Any) -> None:
    for number, rubbish in enumerate(
        [b"\xff\xfe\xfd", b"\x1b$B\x1b", b"a\0b", b"x" * 5000, b"';DROP TABLE study;--"]
    ):
        data = tools.data_set(
            SpecificCharacterSet="ISO 2022 IR 87\\NONSENSE",
            SOPInstanceUID=f"1.2.3.{number}",
            PatientName=rubbish,
            PatientID=rubbish + b"\\" + rubbish,
            OtherPatientIDs=rubbish + b"\\" + rubbish,
            SeriesNumber=rubbish,
            StudyDate=rubbish[:8],
        )
        assert await tools.store(archive, data) == 0x0000
    keys = {"PatientName": "", "PatientID": "", "OtherPatientIDs": "x*\\*y", "StudyDate": ""}
    assert len(await tools.find(archive, **keys)) == 1
    assert len(await tools.find(archive, **{**keys, "OtherPatientIDs": ""})) == 5
    assert len(await tools.find(archive, PatientName="';drop*")) == 1
