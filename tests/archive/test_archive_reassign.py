"""A study under the wrong patient is put under the right one, and back; its files stay as they came."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers.index_asking import copy_index, lose_index, put_index_back

from asyncdicom.archive import Archive, ArchiveError, FileCalls
from asyncdicom.archive.dimse import matching_instances
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.sources import source_of
from asyncdicom.data.elements import decode
from asyncdicom.net.sources import BytesSource
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, PATIENT_ROOT, STUDY_ROOT

RIGHT = {"patient_id": "P2", "patient_name": "ROE^JANE", "patient_birth_date": "19700102", "patient_sex": "F"}
STUDY = "1.2.3.1"


async def lines(archive: Archive, method: str, **arguments: Any) -> list[Any]:
    return [line async for line in METHODS[method](archive, arguments)]


async def reassign(archive: Archive, **arguments: Any) -> Any:
    arguments = {"study_instance_uid": STUDY, "becomes": RIGHT, "apply": True, **arguments}
    [line] = await lines(archive, "reassign study", **arguments)
    return line


async def undo(archive: Archive, name: str, **arguments: Any) -> Any:
    [line] = await lines(archive, "reassign undo", name=name, **{"apply": True, **arguments})
    return line


async def keep(archive: Archive, tools: Any, number: int, **keywords: Any) -> bytes:
    data: bytes = tools.data_set(SOPInstanceUID=f"1.2.3.1.1.{number}", **keywords)
    assert await tools.store(archive, data) == 0x0000
    return data


async def whose(archive: Archive, tools: Any) -> dict[str, tuple[str, str]]:
    """Patient ID -> name, and how many instances its studies have."""
    found = await tools.find(
        archive, PATIENT_ROOT, "PATIENT", PatientName="", PatientID="", NumberOfPatientRelatedInstances=""
    )
    return {
        each["PatientID"]: (each["PatientName"], each["NumberOfPatientRelatedInstances"]) for each in found
    }


async def sent(archive: Archive, tools: Any, **keywords: Any) -> list[bytes]:
    """What a C-GET gives."""
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY, **keywords})
    model = PATIENT_ROOT if "PatientID" in keywords else STUDY_ROOT
    found = await matching_instances(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, model)
    given = []
    async for each in found:
        assert each is not None
        source = found.source(each)
        given.append(b"".join([bytes(part) async for batch in source.open() for part in batch]))
    return given


def values(data: bytes) -> dict[int, bytes]:
    return {element.tag: element.value.rstrip(b" \0") for element in decode(data, EXPLICIT_VR_LITTLE_ENDIAN)}


@pytest.fixture
async def two(tmp_path: Path, tools: Any) -> AsyncIterator[Archive]:
    async with Archive(tmp_path, scrub=0) as archive:
        for number in range(2):
            await keep(archive, tools, number, SeriesInstanceUID=f"1.2.3.1.{number}")
        yield archive


async def test_it_is_found_and_sent_as_the_right_patients(two: Archive, tools: Any) -> None:
    before = {path: path.read_bytes() for path in tools.files_below(Path(two.directory))}
    line = await reassign(two)
    assert (line["series"], line["instances"], line["applied"]) == (2, 2, True)
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "2")}
    assert (await two.counts())["study"] == 1
    assert await sent(two, tools, PatientID="P1") == []
    for data in (*await sent(two, tools, PatientID="P2"), *await sent(two, tools)):
        told = values(data)
        assert (told[0x00100010], told[0x00100020], told[0x00100030]) == (b"ROE^JANE", b"P2", b"19700102")
        assert b"P1" in told[0x04000561]
        assert told[0x7FE00010] == b"\1\2\3\4"
    assert before == {path: path.read_bytes() for path in tools.files_below(Path(two.directory))}
    for number in range(2):  # what comes again is here
        await keep(two, tools, number, SeriesInstanceUID=f"1.2.3.1.{number}")
    assert (await two.counts())["quarantine"] == 0
    assert (await two.reindex()).told() == ""


async def test_dry_it_changes_nothing(two: Archive, tools: Any) -> None:
    line = await reassign(two, apply=False)
    assert (line["instances"], line["applied"], line["names"]) == (2, False, [])
    assert (line["was"]["patient_id"], line["becomes"]["patient_name"]) == ("P1", "ROE^JANE")
    assert await whose(two, tools) == {"P1": ("DOE^JOHN", "2")}
    assert not (Path(two.directory) / "reassigned.json").exists()
    [name] = (await reassign(two))["names"]
    assert (await undo(two, name, apply=False))["instances"] == 2
    assert list(await whose(two, tools)) == ["P2"]


async def test_what_comes_later_goes_there_too(two: Archive, tools: Any) -> None:
    await reassign(two)
    two.happened.clear()
    await keep(two, tools, 5, SeriesInstanceUID="1.2.3.1.5")
    await keep(two, tools, 6, SeriesInstanceUID="1.2.3.1.0")
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "4")}
    assert not two.happened["mismatch"]
    assert all(values(data)[0x00100020] == b"P2" for data in await sent(two, tools))
    await keep(two, tools, 7, StudyInstanceUID="1.2.3.9")  # another study of the first one is not meant
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "4"), "P1": ("DOE^JOHN", "1")}


async def test_it_is_undone(two: Archive, tools: Any) -> None:
    as_it_came = sorted(await sent(two, tools))
    [name] = (await reassign(two))["names"]
    await keep(two, tools, 2, PatientComments="FIRST")
    assert (await undo(two, name[:8]))["instances"] == 3
    assert await whose(two, tools) == {"P1": ("DOE^JOHN", "3")}
    assert set(as_it_came) < set(await sent(two, tools))
    with pytest.raises(ArchiveError, match="was undone"):
        await undo(two, name)
    line, total = await lines(two, "reassign list")
    assert (line["name"], bool(line["undone"])) == (name, True)
    assert total == {"reassignments": 1, "in_force": 0}
    await keep(two, tools, 3)
    assert list(await whose(two, tools)) == ["P1"]


async def test_one_of_two_patients_with_the_study(two: Archive, tools: Any) -> None:
    await keep(two, tools, 8, PatientID="P2", PatientName="ROE^JANE", SeriesInstanceUID="1.2.3.1.0")
    with pytest.raises(ArchiveError, match="2 patients have this study"):
        await reassign(two, becomes={"patient_id": "P2"})
    [name] = (await reassign(two, patient_id="P1", becomes={"patient_id": "P2"}))["names"]
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "3")}
    counts = await two.counts()
    assert (counts["patient"], counts["study"], counts["series"]) == (1, 1, 2)
    assert sum(0x04000561 in values(data) for data in await sent(two, tools)) == 2  # the third came so
    await undo(two, name)
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "1"), "P1": ("DOE^JOHN", "2")}


async def test_put_under_a_third_one_and_back_where_it_came_from(two: Archive, tools: Any) -> None:
    await reassign(two)
    await reassign(two, becomes={"patient_id": "P3", "patient_name": "LEE"})
    assert await whose(two, tools) == {"P3": ("LEE", "2")}
    [data, *_] = await sent(two, tools)
    assert b"P1" in values(data)[0x04000561]
    assert b"P2" not in data
    back = await reassign(two, becomes={"patient_id": "P1", "patient_name": "DOE^JOHN"})
    assert back["names"] == []
    assert await whose(two, tools) == {"P1": ("DOE^JOHN", "2")}
    assert 0x04000561 not in values((await sent(two, tools))[0])


async def test_a_study_of_a_patient_without_an_id(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, scrub=0) as archive:
        await keep(archive, tools, 0, PatientID=None, PatientName="UNKNOWN")
        [name] = (await reassign(archive))["names"]
        assert await whose(archive, tools) == {"P2": ("ROE^JANE", "1")}
        assert values((await sent(archive, tools))[0])[0x00100020] == b"P2"
        await undo(archive, name)
        assert await whose(archive, tools) == {"": ("UNKNOWN", "1")}


@pytest.mark.parametrize("damage", ["lost", "older", "before it", "no file"])
async def test_it_outlives_the_index(tmp_path: Path, tools: Any, damage: str) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    async with Archive(root, scrub=0) as archive:
        await keep(archive, tools, 0)
    copy_index(root, copy)
    async with Archive(root, scrub=0) as archive:
        [first] = (await reassign(archive, becomes={"patient_id": "P7", "patient_name": "WRONG"}))["names"]
        if damage == "older":
            await undo(archive, first)
    if damage == "older":  # it knows one that was undone since
        copy_index(root, copy)
    async with Archive(root, scrub=0) as archive:
        await reassign(archive)
        await keep(archive, tools, 1)
    if damage == "no file":
        (root / "reassigned.json").unlink()
    else:
        lose_index(root)
        if damage != "lost":
            put_index_back(root, copy)
    for _ in range(2):
        async with Archive(root, scrub=0) as archive:
            await archive.reindex()
            assert await whose(archive, tools) == {"P2": ("ROE^JANE", "2")}
            assert all(values(data)[0x00100020] == b"P2" for data in await sent(archive, tools))
            *listed, total = await lines(archive, "reassign list")
            assert (len(listed), total["in_force"]) == (2, 1)
    assert await tools.unsound(root) == []
    assert len(json.loads((root / "reassigned.json").read_text())["reassignments"]) == 2
    async with Archive(root, scrub=0) as archive:  # and it can be undone still
        *_, last, _ = await lines(archive, "reassign list")
        await undo(archive, last["name"])
        assert await whose(archive, tools) == {"P1": ("DOE^JOHN", "2")}


async def test_an_index_that_knows_one_that_was_undone_since(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, scrub=0) as archive:
        await keep(archive, tools, 0)
        [name] = (await reassign(archive))["names"]
    copy_index(tmp_path, tmp_path / "copy")
    async with Archive(tmp_path, scrub=0) as archive:
        await undo(archive, name)
    put_index_back(tmp_path, tmp_path / "copy")
    async with Archive(tmp_path, scrub=0) as archive:
        assert await whose(archive, tools) == {"P1": ("DOE^JOHN", "1")}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"reassignments": [{}]}', b'{"reassignments": [7]}'])
async def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, tools: Any, content: bytes) -> None:
    async with Archive(tmp_path, scrub=0) as archive:
        await keep(archive, tools, 0)
        await reassign(archive)
    whole = json.loads((tmp_path / "reassigned.json").read_text())
    whole["reassignments"][0]["becomes"]["patient_name"] = 7
    for damaged in (content, json.dumps(whole).encode()):
        (tmp_path / "reassigned.json").write_bytes(damaged)
        with pytest.raises(ArchiveError, match=r"reassigned\.json is damaged") as refused:
            await Archive(tmp_path).open()
        assert "\n" not in str(refused.value)
    (tmp_path / "reassigned.json").unlink()
    async with Archive(tmp_path, scrub=0) as archive:
        assert list(await whose(archive, tools)) == ["P2"]


class FullDisk(FileCalls):
    """A disk without room for that one file."""

    is_full = False

    def replace(self, path: str, content: bytes, *, sync: bool) -> None:
        if self.is_full and path.endswith("reassigned.json"):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        super().replace(path, content, sync=sync)


async def test_a_full_disk_changes_nothing(tmp_path: Path, tools: Any) -> None:
    calls = FullDisk()
    async with Archive(tmp_path, files=calls, scrub=0) as archive:
        await keep(archive, tools, 0)
        calls.is_full = True
        with pytest.raises(ArchiveError, match="No space left"):
            await reassign(archive)
        await keep(archive, tools, 1)
        assert await whose(archive, tools) == {"P1": ("DOE^JOHN", "2")}
        calls.is_full = False
        [name] = (await reassign(archive))["names"]
        calls.is_full = True
        with pytest.raises(ArchiveError, match="No space left"):
            await undo(archive, name)
        assert await whose(archive, tools) == {"P2": ("ROE^JANE", "2")}


async def test_an_index_that_cannot_commit_leaves_the_file_as_it_was(
    two: Archive, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncdicom.archive.index.writer import Writer

    path, commit = Path(two.directory) / "reassigned.json", Writer._commit
    for before in (None, "made"):
        if before is not None:
            monkeypatch.setattr(Writer, "_commit", commit)
            await reassign(two)
        kept = path.read_bytes() if path.exists() else None

        def fail(writer: Writer) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Writer, "_commit", fail)
        with pytest.raises(ArchiveError, match="Input/output error"):
            await reassign(two, becomes={"patient_id": "P3", "patient_name": "LEE"})
        assert (path.read_bytes() if path.exists() else None) == kept
    monkeypatch.setattr(Writer, "_commit", commit)
    assert await whose(two, tools) == {"P2": ("ROE^JANE", "2")}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"study_instance_uid": "1.9"}, "no study 1.9"),
        ({"study_instance_uid": 7}, "is a text"),
        ({"patient_id": "P9"}, "not under that patient"),
        ({"becomes": {"patient_id": "P1"}}, "under that patient already"),
        ({"becomes": {"patient_id": ""}}, "is missing"),
        ({"becomes": {"patient_id": "P9"}}, "knows no such patient"),
        ({"becomes": {"patient_id": "A\\B", "patient_name": "X"}}, "cannot be in it"),
        ({"becomes": {"patient_id": "A\x1b", "patient_name": "X"}}, "cannot be in it"),
        ({"becomes": {"patient_id": "A" * 65, "patient_name": "X"}}, "too long"),
        ({"becomes": {**RIGHT, "patient_birth_date": "1970"}}, "eight digits"),
        ({"becomes": {**RIGHT, "patient_sex": "X"}}, "M, F or O"),
        ({"becomes": {"patient_id": "P5", "patient_name": "NOT^THAT"}}, "by another name"),
        ({"becomes": {"patient_id": "P6"}}, "2 patients have this Patient ID"),
        ({"becomes": {"patient_name": "X"}}, "the right patient"),
        ({"becomes": "P2"}, "the right patient"),
        ({"becomes": {**RIGHT, "patient_comments": "X"}}, "the right patient"),
    ],
)
async def test_what_is_not_clear_is_not_done(two: Archive, tools: Any, arguments: Any, why: str) -> None:
    others = {"StudyInstanceUID": "1.2.3.5", "SeriesInstanceUID": "1.2.3.5.1"}
    await keep(two, tools, 5, PatientID="P5", PatientName="KNOWN", **others)
    for number in (6, 7):
        others = {"StudyInstanceUID": f"1.2.3.{number}", "IssuerOfPatientID": f"H{number}"}
        await keep(two, tools, number, PatientID="P6", **others)
    with pytest.raises(ArchiveError, match=why):
        await reassign(two, **arguments)
    assert (await two.counts())["patient"] == 4
    line = await reassign(two, becomes={"patient_id": "P6", "issuer_of_patient_id": "H7"})
    assert line["becomes"]["issuer_of_patient_id"] == "H7"
    assert values((await sent(two, tools))[0])[0x00100021] == b"H7"


@pytest.mark.parametrize("name", ["", "xyz", "ab", "0" * 32, 7])
async def test_undoing_what_there_is_not(two: Archive, name: Any) -> None:
    with pytest.raises(ArchiveError):
        await undo(two, name)


async def test_what_others_send_of_it(two: Archive, tools: Any) -> None:
    [path, *_] = tools.files_below(Path(two.directory))
    source = await source_of(path)
    assert await two.assigned(source) is source
    [name] = (await reassign(two))["names"]
    assigned = await two.assigned(source)
    data = b"".join([bytes(part) async for batch in assigned.open() for part in batch])
    assert values(data)[0x00100020] == b"P2"
    assert assigned.at_hand() is None
    await undo(two, name)
    assert await two.assigned(source) is source
    unknown = BytesSource("1.2", "1.9", EXPLICIT_VR_LITTLE_ENDIAN, b"")
    assert await two.assigned(unknown) is unknown
