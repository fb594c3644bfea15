"""Whose an instance is: Patient IDs are compared as bytes, one study of two patients stays two."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import lose_index

from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import matching_instances, status_of
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, PATIENT_ROOT, STUDY_ROOT


async def keep(archive: Archive, tools: Any, number: int, **keywords: Any) -> str:
    uid = f"1.2.7.{number}"
    values = {"StudyInstanceUID": f"1.2.7.{number}.1", "SeriesInstanceUID": f"1.2.7.{number}.2"}
    data = tools.data_set(SOPInstanceUID=uid, **(values | keywords))
    assert await tools.store(archive, data, sop_instance_uid=uid) == 0x0000
    return uid


async def retrieved(
    archive: Archive, tools: Any, level: str = "PATIENT", **keywords: Any
) -> tuple[set[str], int]:
    identifier = tools.encode({"QueryRetrieveLevel": level, **keywords})
    model = PATIENT_ROOT if "PatientID" in keywords else STUDY_ROOT
    found = await matching_instances(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, model)
    return {each.sop_instance_uid async for each in found if each is not None}, found.leaves_out


@pytest.mark.parametrize(
    "ids",
    [
        [(b"123", None), (b"1\x0023", None), (b"123\xa0", None), (b"123\x02", None), (b"123\t", None)],
        [(b"caf\xe9", None), (b"caf\xc3\xa9", None)],
        [(b"caf\xe9", b"ISO_IR 192"), (b"caf\xc3\xa9", b"ISO_IR 192")],
        [(b"caf\xe9", b"ISO_IR 100"), (b"caf\xe9", None)],
        [(b"\xc0\xc1", b"ISO_IR 192"), (b"\xc2\xc3", b"ISO_IR 192")],
        [(b"\x1b%Fa", None), (b"\x1b%Ha", None), (b"a", None)],
        [(b"A" * 1024, None), (b"A" * 1024 + b"B", None)],
        [(b"P1", None), (b"p1", None)],
    ],
)
async def test_what_differs_in_bytes_is_another_patient(
    archive: Archive, tools: Any, ids: list[tuple[bytes, bytes | None]]
) -> None:
    uids = [
        await keep(archive, tools, number, PatientID=patient_id, SpecificCharacterSet=declared)
        for number, (patient_id, declared) in enumerate(ids)
    ]
    assert (await archive.counts())["patient"] == len(ids)
    for uid, (patient_id, declared) in zip(uids, ids, strict=True):
        keys = {"PatientID": patient_id} | ({"SpecificCharacterSet": declared} if declared else {})
        assert await retrieved(archive, tools, "PATIENT", **keys) == ({uid}, 0)


@pytest.mark.parametrize(
    "ids",
    [
        [(b"P1", None), (b"P1  ", None), (b"P1", b"ISO_IR 192")],
        [(b"caf\xe9", b"ISO_IR 100"), (b"caf\xc3\xa9", b"ISO_IR 192"), (b"caf\xe9 ", b"LATIN1")],
    ],
)
async def test_the_same_text_in_declared_sets_is_one_patient(
    archive: Archive, tools: Any, ids: list[tuple[bytes, bytes | None]]
) -> None:
    for number, (patient_id, declared) in enumerate(ids):
        await keep(archive, tools, number, PatientID=patient_id, SpecificCharacterSet=declared)
    assert (await archive.counts())["patient"] == 1


async def test_what_a_query_answers_can_be_retrieved_while_it_is_clear(archive: Archive, tools: Any) -> None:
    uid = await keep(archive, tools, 1, PatientID=b"caf\xe9")
    utf_8: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 192", "PatientID": "café".encode()}
    assert await retrieved(archive, tools, **utf_8) == ({uid}, 0)
    await keep(archive, tools, 2, PatientID=b"caf\xc3\xa9")
    assert await retrieved(archive, tools, **utf_8) == (set(), 0)


@pytest.mark.parametrize("value", [b"1.2\x003", b"1.2 3", b"1.2\xa0"])
async def test_what_is_no_uid_becomes_none_by_stripping(archive: Archive, tools: Any, value: bytes) -> None:
    assert await tools.store(archive, tools.data_set(StudyInstanceUID=value)) == 0xA900


SHARED = {"StudyInstanceUID": "1.2.8", "SeriesInstanceUID": "1.2.8.1"}


async def test_one_study_of_two_patients_stays_two(
    archive: Archive, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = await keep(archive, tools, 1, PatientID="P1", **SHARED)
    with caplog.at_level(logging.WARNING):
        second = {await keep(archive, tools, n, PatientID="P2", **SHARED) for n in (2, 3)}
    assert archive.happened == {"mismatch": 1}  # once a study
    assert "another patient has this Study Instance UID" in caplog.text
    assert "P2" not in caplog.text
    assert await retrieved(archive, tools, "STUDY", StudyInstanceUID="1.2.8") == ({first}, 2)
    both = {"StudyInstanceUID": "1.2.8", "SeriesInstanceUID": "1.2.8.1"}
    assert await retrieved(archive, tools, "SERIES", **both) == ({first}, 2)
    named = {"PatientID": "P2", "StudyInstanceUID": "1.2.8"}
    assert await retrieved(archive, tools, "STUDY", **named) == (second, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"IssuerOfPatientID": "HOSPITAL"},
        {"PatientID": "p1 "},
        {"PatientID": None},
        {"PatientID": "P1   "},
    ],
)
async def test_what_is_no_contradiction(
    archive: Archive, tools: Any, other: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """But where the study is listed more than once for it, that is told, with what puts it together."""
    uids = {await keep(archive, tools, 1, **SHARED), await keep(archive, tools, 2, **(SHARED | other))}
    listed = len(await tools.find(archive, StudyInstanceUID="1.2.8", PatientID="", IssuerOfPatientID=""))
    assert archive.happened == ({"divided": 1} if listed > 1 else {})
    assert caplog.text.count("reassign study 1.2.8 --to ID") == listed - 1
    assert await retrieved(archive, tools, "STUDY", StudyInstanceUID="1.2.8") == (uids, 0)


async def test_two_issuers_are_a_contradiction(archive: Archive, tools: Any) -> None:
    for number, issuer in enumerate(("A", "B")):
        await keep(archive, tools, number, IssuerOfPatientID=issuer, **SHARED)
    assert archive.happened == {"mismatch": 1}


def twice(tools: Any, first: str, second: str) -> bytes:
    ids = tools.encode({"PatientID": first})
    whole: bytes = tools.data_set(PatientID=second)
    return whole.replace(tools.encode({"PatientID": second}), ids + tools.encode({"PatientID": second}))


@pytest.mark.parametrize(("first", "mismatches"), [("OTHER1", 1), ("P1", 0), ("P1  ", 0)])
async def test_an_id_given_twice_is_told(archive: Archive, tools: Any, first: str, mismatches: int) -> None:
    assert await tools.store(archive, twice(tools, first, "P1")) == 0x0000
    assert archive.happened["mismatch"] == mismatches


async def test_what_is_not_clear_goes_to_quarantine_if_told_so(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none", on_mismatch="quarantine") as archive:
        await keep(archive, tools, 1, PatientID="P1", **SHARED)
        stored = await archive.receive(
            sop_class_uid=tools.ct,
            sop_instance_uid="1.2.9",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            batches=tools.in_batches(tools.data_set(SOPInstanceUID="1.2.9", PatientID="P2", **SHARED), 99),
        )
        assert status_of(stored) == 0xB007
        assert stored.comment == "another patient has this Study Instance UID: quarantined"
        assert await tools.store(archive, twice(tools, "A", "B"), sop_instance_uid="1.2.3.1.1.1") == 0xB007
        assert (await archive.counts())["instance"] == 1
        assert (await archive.counts())["quarantine"] == 2
        assert archive.happened["mismatch"] == 2


@pytest.mark.parametrize("on_mismatch", ["separate", "quarantine"])
async def test_a_sweep_tells_the_patients_that_do_not_agree(
    tmp_path: Path, tools: Any, on_mismatch: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(tmp_path) as archive:
        for number in range(1, 13):
            values = {"StudyInstanceUID": "1.2.7.1", "SeriesInstanceUID": "1.2.7.2"}
            await keep(archive, tools, number, PatientID="P1" if number == 1 else "P2", **values)
        await keep(archive, tools, 20, PatientID="P3")
    lose_index(tmp_path)
    caplog.clear()
    async with Archive(tmp_path, on_mismatch=on_mismatch, sweep=False) as archive:
        swept = await archive.reindex()
        counts = await archive.counts()
        assert (counts["instance"], counts["quarantine"]) == (13, 0)  # it was kept once
    assert (swept.indexed, 0 < swept.mismatched < 12) == (13, True)
    assert "of another patient than the rest of their study" in swept.told()
    lines = [line for line in caplog.messages if "another patient has this Study Instance UID" in line]
    assert len(lines) == min(swept.mismatched, 10)
    assert "P2" not in caplog.text
