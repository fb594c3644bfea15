from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import below
from helpers.index_asking import lose_index

from asyncdicom.archive import Archive, ArchiveError
from asyncdicom.archive.dimse import matching_instances, status_of
from asyncdicom.data.part10 import read_file_meta
from asyncdicom.data.scanner import Scanner
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STUDY_ROOT,
)

NOTHING = {"patient": 0, "study": 0, "series": 0, "instance": 0, "quarantine": 0}
ONE = {"patient": 1, "study": 1, "series": 1, "instance": 1, "quarantine": 0}


async def test_a_stored_instance_is_a_part_10_file(archive: Archive, tools: Any) -> None:
    data = tools.data_set()
    assert await tools.store(archive, data) == 0x0000
    assert await archive.counts() == ONE
    (path,) = tools.files_below(Path(archive.directory, "objects"))
    content = path.read_bytes()
    meta = read_file_meta(content)
    assert content[:128] == bytes(128)
    assert meta[:3] == (tools.ct, "1.2.3.1.1.1", EXPLICIT_VR_LITTLE_ENDIAN)
    assert content[meta.offset :] == data


@pytest.mark.parametrize(
    "syntax",
    [
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
    ],
)
async def test_every_encoding(archive: Archive, tools: Any, syntax: str) -> None:
    data = tools.data_set(syntax, Rows=512)
    assert await tools.store(archive, data, transfer_syntax_uid=syntax) == 0x0000
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.1"})
    matching = await matching_instances(archive, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    [found] = [instance async for instance in matching]
    assert found is not None
    assert found[:3] == (tools.ct, "1.2.3.1.1.1", syntax)
    content = tools.read(found.path)
    assert content[found.data_set_offset :] == data
    assert found.data_set_length == len(data)
    (match,) = await tools.find(
        archive, level="IMAGE", StudyInstanceUID="1.2.3.1", SeriesInstanceUID="1.2.3.1.1", Rows=512
    )
    assert match["Rows"] == "512"


@pytest.mark.parametrize("size", [1, 100, 300_000, 1 << 20])
async def test_any_pieces_give_the_same_file(archive: Archive, tools: Any, size: int) -> None:
    data = tools.data_set(PixelData=bytes(range(256)) * (16 if size < 100 else 4096))
    assert await tools.store(archive, data, size) == 0x0000
    (path,) = tools.files_below(Path(archive.directory, "objects"))
    assert path.read_bytes().endswith(data)
    assert await tools.store(archive, data) == 0x0000  # the digest does not depend on the pieces
    assert await archive.counts() == ONE


async def test_the_same_bytes_twice_are_kept_once(archive: Archive, tools: Any) -> None:
    for _ in range(3):
        assert await tools.store(archive, tools.data_set()) == 0x0000
    assert await archive.counts() == ONE
    await tools.left_below(Path(archive.directory), 1)


async def test_other_bytes_go_to_quarantine(
    archive: Archive, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = tools.data_set(), tools.data_set(PatientName="SECRET^NAME")
    assert await tools.store(archive, first) == 0x0000
    assert await tools.store(archive, other) == 0xB007
    assert await archive.counts() == {**ONE, "quarantine": 1}
    (kept,) = tools.files_below(Path(archive.directory, "objects"))
    (aside,) = tools.files_below(Path(archive.directory, "quarantine"))
    assert kept.read_bytes().endswith(first)
    assert aside.read_bytes().endswith(other)
    assert "1.2.3.1.1.1" in caplog.text
    assert "SECRET" not in caplog.text

    assert await tools.store(archive, other) == 0xB007  # a sender that tries again fills no disk
    assert await archive.counts() == {**ONE, "quarantine": 1}
    await tools.left_below(Path(archive.directory), 2)


async def test_another_transfer_syntax_is_the_same_instance(archive: Archive, tools: Any) -> None:
    assert await tools.store(archive, tools.data_set()) == 0x0000
    data = tools.data_set(IMPLICIT_VR_LITTLE_ENDIAN)
    assert await tools.store(archive, data, transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN) == 0x0000
    assert await archive.counts() == ONE
    await tools.left_below(Path(archive.directory), 1)
    data = tools.data_set(IMPLICIT_VR_LITTLE_ENDIAN, PatientName="OTHER")
    assert await tools.store(archive, data, transfer_syntax_uid=IMPLICIT_VR_LITTLE_ENDIAN) == 0xB007


async def test_on_conflict_keep(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none", on_conflict="keep") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="OTHER")) == 0x0111
        assert await archive.counts() == ONE
        await tools.left_below(tmp_path, 1)


async def test_on_conflict_replace(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none", on_conflict="replace") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        other = tools.data_set(PatientID="P2", PatientName="ROE^JANE", StudyInstanceUID="1.2.3.2")
        assert await tools.store(archive, other) == 0x0000
        assert await archive.counts() == ONE
        assert [match["PatientID"] for match in await tools.find(archive, PatientID="")] == ["P2"]
        (path,) = tools.files_below(tmp_path)
        assert path.read_bytes().endswith(other)
        assert await tools.store(archive, tools.data_set()) == 0x0000  # and back, into a tree made anew
        assert [match["PatientID"] for match in await tools.find(archive, PatientID="")] == ["P1"]


@pytest.mark.parametrize("policy", ["quarantine", "keep", "replace"])
async def test_one_uid_at_the_same_time(tmp_path: Path, tools: Any, policy: str) -> None:
    async with Archive(tmp_path, durability="none", on_conflict=policy) as archive:
        data = [tools.data_set(PatientID=f"P{number % 3}") for number in range(30)]
        statuses = await asyncio.gather(*(tools.store(archive, each) for each in data))
        counts = await archive.counts()
        assert counts["instance"] == counts["patient"] == 1
        await tools.left_below(tmp_path, 3 if policy == "quarantine" else 1)
        if policy == "quarantine":
            assert sorted(map(int, statuses)) == [0] * 10 + [0xB007] * 20
            assert counts["quarantine"] == 2
        elif policy == "keep":
            assert sorted(map(int, statuses)) == [0] * 10 + [0x0111] * 20
        else:
            assert set(map(int, statuses)) == {0}


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "no SOP Class UID": ({"SOPClassUID": None}, {}, 0xA900),
    "no SOP Instance UID": ({"SOPInstanceUID": None}, {}, 0xA900),
    "no Study Instance UID": ({"StudyInstanceUID": None}, {}, 0xA900),
    "empty Series Instance UID": ({"SeriesInstanceUID": ""}, {}, 0xA900),
    "a path for a UID": ({"SeriesInstanceUID": "../../etc/passwd"}, {}, 0xA900),
    "65 characters": ({"StudyInstanceUID": "1." + "2" * 63}, {}, 0xA900),
    "another SOP Instance UID in the command": ({}, {"sop_instance_uid": "1.2.3.4"}, 0xA900),
    "another SOP Class UID in the command": ({}, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
    "a path in the command": ({}, {"sop_instance_uid": "../../etc/passwd"}, 0xA900),
    "no SOP Instance UID in the command": ({}, {"sop_instance_uid": ""}, 0xA900),
    "Implicit VR said to be Explicit": ({"syntax": IMPLICIT_VR_LITTLE_ENDIAN}, {}, 0xC000),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_cannot_be_indexed_is_refused_and_not_kept(
    archive: Archive, tools: Any, case: str
) -> None:
    keywords, options, status = BAD[case]
    options = {"sop_class_uid": tools.ct, "sop_instance_uid": "1.2.3.1.1.1", **options}
    assert await tools.store(archive, tools.data_set(**keywords), **options) == status
    assert await archive.counts() == NOTHING
    await tools.left_below(Path(archive.directory), 0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0xA900),
        (b"GET / HTTP/1.1\r\n\r\n" * 50, 0xC000),
        (b"\x08\x00\x16\x00UI\xff\x00123", 0xC000),
        (bytes(1000), 0xA900),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_an_unreadable_data_set_is_refused(
    archive: Archive, tools: Any, data: bytes, status: int, size: int
) -> None:
    assert await tools.store(archive, data, size, sop_instance_uid="1.2.3") == status
    assert await archive.counts() == NOTHING
    await tools.left_below(Path(archive.directory), 0)


async def test_a_cut_data_set_is_refused_wherever_it_is_cut_before_the_pixels(
    archive: Archive, tools: Any
) -> None:
    data = tools.data_set(PixelData=None)
    for end in range(1, len(data)):
        options = {"sop_class_uid": tools.ct, "sop_instance_uid": "1.2.3.1.1.1"}
        status = await tools.store(archive, data[:end], **options)
        assert status in (0xA900, 0xC000), end
    assert await archive.counts() == NOTHING
    await tools.left_below(Path(archive.directory), 0)


async def test_a_large_unreadable_data_set_is_refused_early(archive: Archive, tools: Any) -> None:
    taken = 0

    async def endless() -> AsyncIterator[list[memoryview]]:
        nonlocal taken
        while True:
            taken += 1
            yield [memoryview(b"\xff" * 100_000)]

    stored = await archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        batches=endless(),
    )
    assert status_of(stored) == 0xC000
    assert taken <= 3


async def test_too_large(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none", maximum_size=1_000_000) as archive:
        assert await tools.store(archive, tools.data_set(PixelData=bytes(999_000)), 100_000) == 0x0000
        data = tools.data_set(SOPInstanceUID="1.2.3.1.1.2", PixelData=bytes(1_000_000))
        assert await tools.store(archive, data, 100_000) == 0xA700
        await tools.left_below(tmp_path, 1)


async def test_an_association_that_breaks_leaves_nothing(archive: Archive, tools: Any) -> None:
    class Broken(Exception):
        pass

    async def broken() -> AsyncIterator[list[memoryview]]:
        yield [memoryview(tools.data_set(PixelData=bytes(600_000)))[:500_000]]
        raise Broken

    with pytest.raises(Broken):
        await archive.receive(
            sop_class_uid=tools.ct,
            sop_instance_uid="1.2.3.1.1.1",
            transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
            batches=broken(),
        )
    assert await archive.counts() == NOTHING
    await tools.left_below(Path(archive.directory), 0)


async def test_two_hundred_at_the_same_time(archive: Archive, tools: Any) -> None:
    data = [
        tools.data_set(
            SOPInstanceUID=f"1.2.3.1.1.{number}",
            SeriesInstanceUID=f"1.2.3.1.{number % 7}",
            PatientID=f"P{number % 3}",
        )
        for number in range(200)
    ]
    statuses = await asyncio.gather(*(tools.store(archive, each, 300) for each in data))
    assert set(statuses) == {0}
    # A study is one patient's, a series one study's: 3 patients, and every pair of them with the 7 series.
    assert await archive.counts() == {**NOTHING, "patient": 3, "study": 3, "series": 21, "instance": 200}
    contents = {path.read_bytes() for path in tools.files_below(Path(archive.directory))}
    assert all(any(content.endswith(each) for content in contents) for each in data)


async def test_two_patients_without_identifier_are_two(archive: Archive, tools: Any) -> None:
    for number in (1, 2):
        for image in (1, 2):
            data = tools.data_set(
                PatientID=None,
                StudyInstanceUID=f"1.2.{number}",
                SeriesInstanceUID=f"1.2.{number}.1",
                SOPInstanceUID=f"1.2.{number}.1.{image}",
            )
            assert await tools.store(archive, data) == 0x0000
    assert await archive.counts() == {**NOTHING, "patient": 2, "study": 2, "series": 2, "instance": 4}


async def test_a_restart_keeps_everything(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path) as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="X")) == 0xB007
        files = tools.files_below(tmp_path)
    async with Archive(tmp_path) as archive:
        assert await archive.counts() == {**ONE, "quarantine": 1}
        assert await tools.store(archive, tools.data_set()) == 0x0000
        assert await tools.store(archive, tools.data_set(PatientName="X")) == 0xB007
        data = tools.data_set(SOPInstanceUID="1.2.3.1.1.2")
        assert await tools.store(archive, data) == 0x0000
        assert await archive.counts() == {**ONE, "instance": 2, "quarantine": 1}
    assert set(files) < set(tools.files_below(tmp_path))
    assert {"archive.json", "objects", "quarantine"} <= {*tools.names_in(tmp_path), *os.listdir(tmp_path)}


async def test_two_archives_on_one_folder(archive: Archive) -> None:
    other = Archive(archive.directory)
    with pytest.raises(ArchiveError, match="in use by another archive"):
        await other.open()
    await other.close()


async def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="cannot be used: "):
        await Archive(tmp_path / "file").open()


async def test_an_index_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_text("this is no database, but long enough to be looked at" * 50)
    with pytest.raises(ArchiveError, match="cannot be opened"):
        await Archive(tmp_path).open()


@pytest.mark.parametrize("version", [1, 99])
async def test_an_index_of_another_version(tmp_path: Path, version: int) -> None:
    import sqlite3

    async with Archive(tmp_path):
        pass
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(ArchiveError, match=f"schema {version}"):
        await Archive(tmp_path).open()


@pytest.mark.parametrize("option", [{"durability": "perhaps"}, {"on_conflict": "fight"}])
def test_wrong_options(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"perhaps|fight"):
        Archive(tmp_path, **option)


async def test_leftovers_of_a_crash_are_swept(tmp_path: Path, tools: Any) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
    (kept,) = tools.files_below(tmp_path)
    (below(tmp_path / "objects") / "zz").mkdir()
    kept.with_name(f"{1:032x}.dcm").write_bytes(b"half")
    async with Archive(tmp_path, durability="none") as archive:
        assert await tools.store(archive, tools.data_set(SOPInstanceUID="1.2.3.1.1.2")) == 0x0000
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
        assert kept in tools.files_below(tmp_path)
        await tools.left_below(tmp_path, 2)


async def test_a_lost_index_costs_no_files(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        assert await tools.store(archive, tools.data_set()) == 0x0000
    lose_index(tmp_path)
    async with Archive(tmp_path, durability="none") as archive:
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
    await tools.left_below(tmp_path, 1)
    assert "not in the index" in caplog.text


async def test_a_missing_file_is_reported(
    tmp_path: Path, tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        for number in (1, 2):
            assert await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.{number}")) == 0x0000
    tools.files_below(tmp_path)[0].unlink()
    caplog.set_level(logging.ERROR)
    async with Archive(tmp_path, durability="none") as archive:
        assert archive._sweep is not None
        await asyncio.wait((archive._sweep,))
    assert "1 indexed files are missing" in caplog.text


def pydicom_instances() -> Iterator[tuple[dict[str, str], bytes]]:
    """The UIDs a sender would give (those of the data set, which some files' heads do not agree with)."""
    import pydicom

    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        try:
            content = path.read_bytes() if path.is_file() else b""
            meta = read_file_meta(content)
        except ValueError:
            continue
        data = content[meta.offset :]
        uids = {"sop_class_uid": meta.sop_class_uid, "sop_instance_uid": meta.sop_instance_uid}
        try:
            scanner = Scanner(meta.transfer_syntax_uid, frozenset([0x00080016, 0x00080018]))
            scanner.feed(data)
            found = scanner.finish()
            for name, tag in zip(uids, (0x00080016, 0x00080018), strict=True):
                uids[name] = found[tag].value.decode().rstrip("\0")
        except (ValueError, KeyError):
            pass
        yield {**uids, "transfer_syntax_uid": meta.transfer_syntax_uid}, data


async def test_every_instance_of_pydicom(archive: Archive, tmp_path: Path, tools: Any) -> None:
    """Whatever has the four UIDs is stored byte by byte; conflicting ones into an archive of their own."""
    statuses: Counter[int] = Counter()
    same = 0

    async def store(where: Archive, uids: dict[str, Any], data: bytes) -> int:
        return int(status_of(await where.receive(batches=tools.in_batches(data, 65536), **uids)))

    async def keeps(where: Archive, data: bytes) -> bool:
        counts = await where.counts()
        files = await tools.left_below(Path(where.directory), counts["instance"] + counts["quarantine"])
        return any(path.read_bytes().endswith(data) for path in files)

    for number, (uids, data) in enumerate(pydicom_instances()):
        status = await store(archive, uids, data)
        if status == 0xB007:
            async with Archive(tmp_path / str(number), durability="none") as fresh:
                status = await store(fresh, uids, data)
                assert status or await keeps(fresh, data)
        statuses[status] += 1
        if archive.happened["same"] > same:
            same += 1  # another encoding of one that is here
        elif status == 0 and not (tmp_path / str(number)).exists():
            assert await keeps(archive, data)
    assert statuses[0] > 140
    assert set(statuses) <= {0, 0xA900, 0xC000}
    assert statuses[0xC000] <= 4
