"""Data sets that end within an element: refused, or kept and marked, until a complete copy comes."""

from __future__ import annotations

import asyncio
import zlib
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import below
from helpers.index_asking import ask, lose_index

from asyncdicom.archive import Archive
from asyncdicom.archive.arrival import Arrival, Outcome, Rules
from asyncdicom.archive.dimse import matching_instances, status_of
from asyncdicom.archive.examine import examine
from asyncdicom.archive.operations import METHODS
from asyncdicom.archive.round import Bounds, Round
from asyncdicom.data.likeness import Likeness
from asyncdicom.uid import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT

UID = "1.2.3.1.1.1"
PIXELS = bytes(range(256)) * 4000
JPEG = "1.2.840.10008.1.2.4.50"
ITEM, ITEM_END, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
SEQUENCE = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff"
ENCAPSULATED = (
    b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    + b"".join(ITEM + len(each).to_bytes(4, "little") + each for each in (b"", PIXELS, PIXELS))
    + END
    + bytes(4)
)


def rows(root: Path, table: str) -> list[tuple[Any, ...]]:
    columns = "sop_instance_uid, incomplete" + (", reason" if table == "quarantine" else "")
    return ask(root, f"SELECT {columns} FROM {table}")


async def kept(archive: Archive, tools: Any) -> bytes:
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.1"})
    found = await matching_instances(archive, identifier, "1.2.840.10008.1.2.1", STUDY_ROOT)
    [instance] = [each async for each in found.each()]
    assert instance is not None
    return bytes(tools.read(instance.path)[instance.data_set_offset :])


async def refused(archive: Archive, tools: Any, data: bytes, size: int, syntax: str | None = None) -> str:
    options = {"transfer_syntax_uid": syntax} if syntax else {}
    stored = await archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid=UID,
        transfer_syntax_uid=syntax or "1.2.840.10008.1.2.1",
        batches=tools.in_batches(data, size),
    )
    assert status_of(stored) == 0xC000, options
    assert (await archive.counts())["instance"] == 0
    await tools.left_below(Path(archive.directory), 0)
    assert 0 < len(stored.comment) <= 64
    return stored.comment


@pytest.mark.parametrize("size", [1 << 20, 300_000, 1000])
@pytest.mark.parametrize(
    ("tail", "cut"),
    [
        (b"", 1),
        (b"", 500_000),
        (SEQUENCE + ITEM + b"\xff\xff\xff\xff" + ITEM_END + bytes(4) + END + bytes(4), 3),
        (SEQUENCE + ITEM + b"\xff\xff\xff\xff" + ITEM_END + bytes(4) + END + bytes(4), 8),
        (ENCAPSULATED, 1),
        (ENCAPSULATED, 8),
        (ENCAPSULATED, 500_000),
        (ENCAPSULATED, len(PIXELS) + 16),
    ],
)
async def test_what_ends_within_an_element_is_refused(
    archive: Archive, tools: Any, tail: bytes, cut: int, size: int
) -> None:
    pixels = {"PixelData": None if tail else PIXELS}
    data = tools.data_set(**pixels) + tail
    assert "truncated" in await refused(archive, tools, data[:-cut], size)
    assert await tools.store(archive, data, size) == 0x0000


@pytest.mark.parametrize("padding", [1, 2, 7, 8, 4096, 700_000])
async def test_zeros_behind_the_last_element_are_no_element(
    archive: Archive, tools: Any, padding: int
) -> None:
    data = tools.data_set(PixelData=PIXELS) + bytes(padding)
    assert await tools.store(archive, data, 300_000, sop_instance_uid=UID) == 0x0000
    assert await kept(archive, tools) == data


async def test_deflated_data_ends_where_its_stream_does(archive: Archive, tools: Any) -> None:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(tools.data_set(PixelData=bytes(60 << 20))) + compressor.flush()
    syntax = DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
    assert "truncated" in await refused(archive, tools, deflated[:-9], 1 << 20, syntax)
    broken = deflated[:-9] + b"\xff" * 9000  # a block of a type that does not exist
    await refused(archive, tools, broken, 1000, syntax)
    stored = await archive.receive(
        sop_class_uid=tools.ct,
        sop_instance_uid=UID,
        transfer_syntax_uid=syntax,
        batches=tools.in_batches(deflated + b"\0", 1 << 20),
    )
    assert (status_of(stored), stored.comment) == (0x0000, "")


async def test_what_cannot_be_read_behind_the_index_costs_nothing(archive: Archive, tools: Any) -> None:
    strange = b"\xe1\x7f\x10\x10\x01\x02" + b"rubbish" * 10
    assert await tools.store(archive, tools.data_set() + strange, sop_instance_uid=UID) == 0x0000


async def test_an_incomplete_one_is_kept_marked_and_superseded(tmp_path: Path, tools: Any) -> None:
    data = tools.data_set(PixelData=PIXELS)
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0x0000
        assert rows(tmp_path, "instance") == [(UID, 1)]
        assert await kept(archive, tools) == data[:-9]
        assert await tools.store(archive, data) == 0x0000
        assert rows(tmp_path, "instance") == [(UID, 0)]
        [(uid, incomplete, reason)] = rows(tmp_path, "quarantine")
        assert (uid, incomplete) == (UID, 1)
        assert "complete copy" in reason
        assert await kept(archive, tools) == data
        [aside] = tools.files_below(tmp_path / "quarantine")
        assert aside.read_bytes()[-100:] == data[-109:-9]
        assert archive.happened == {"incomplete": 1, "superseded": 1}
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0xB007  # never the other way
        assert await kept(archive, tools) == data


async def test_a_complete_one_that_disagrees_supersedes_nothing(tmp_path: Path, tools: Any) -> None:
    data = tools.data_set(PixelData=PIXELS)
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0x0000
        other = tools.data_set(PixelData=PIXELS, PatientName="OTHER")
        assert await tools.store(archive, other) == 0xB007
        assert await kept(archive, tools) == data[:-9]


async def test_the_mark_goes_with_the_file_that_is_accepted(tmp_path: Path, tools: Any) -> None:
    data = tools.data_set(PixelData=PIXELS)
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0x0000
        assert await tools.store(archive, data) == 0x0000
        for incomplete in (1, 0):  # the torso after all, then the whole one again
            [name] = tools.names_in(tmp_path / "quarantine")
            [_] = [line async for line in METHODS["quarantine accept"](archive, {"names": [name[:8]]})][1:]
            assert rows(tmp_path, "instance") == [(UID, incomplete)]
            assert [row[:2] for row in rows(tmp_path, "quarantine")] == [(UID, 1 - incomplete)]
            assert await kept(archive, tools) == (data[:-9] if incomplete else data)
        [name] = tools.names_in(tmp_path / "quarantine")
        assert [line async for line in METHODS["quarantine purge"](archive, {"names": [name[:8]]})]
    assert ask(tmp_path, "SELECT incomplete FROM tombstone") == [(1,)]


@pytest.mark.parametrize("bounds", [{"maximum_quarantined": 2}, {"maximum_quarantined_bytes": 2_100_000}])
async def test_what_is_superseded_counts_in_quarantine_and_always_has_room(
    tmp_path: Path, tools: Any, bounds: dict[str, Any]
) -> None:
    uids = [f"1.2.7.{number}" for number in range(3)]
    whole = [tools.data_set(PixelData=PIXELS, SOPInstanceUID=uid) for uid in uids]
    async with Archive(tmp_path, durability="none", incomplete="store", **bounds) as archive:
        for uid, data in zip(uids, whole, strict=True):
            assert await tools.store(archive, data[:-9], sop_instance_uid=uid) == 0x0000
        together = [tools.store(archive, data) for data in whole]  # in one round, or two
        assert await asyncio.gather(*together) == [0x0000] * 3
        assert archive.happened == {"incomplete": 3, "superseded": 3}
        other = tools.data_set(PatientName="OTHER", SOPInstanceUID=uids[0])
        assert await tools.store(archive, other) == 0xA700
        assert len(tools.names_in(tmp_path / "quarantine")) == 3


async def test_what_is_superseded_in_a_round_takes_the_room_of_its_conflicts(
    tmp_path: Path, tools: Any
) -> None:
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        for uid in ("1.2.7.0", "1.2.7.1"):
            data = tools.data_set(PixelData=PIXELS, SOPInstanceUID=uid)
            assert await tools.store(archive, data[:-9], sop_instance_uid=uid) == 0x0000
        writer = archive._index.writer()
        batch = []
        for uid, likeness in (("1.2.7.0", Likeness.TORSO), ("1.2.7.1", Likeness.DIFFERENT)):
            existing = writer.find(uid)
            assert existing is not None
            path = archive._blobs.path(existing.file)
            found = examine(archive._blobs, path, existing.file, is_closing=lambda: False)
            found.file.digest = "another"
            came = Arrival(found.file, found.transfer_syntax_uid, "")  # type: ignore[arg-type]
            came.record, came.compared = found.record, {existing.file: likeness}
            batch.append(came)
        round_ = Round(writer, archive._blobs, Rules(), Bounds(1, 1 << 30))
        round_._existing = writer.find_all([came.record.sop_instance_uid for came in batch])
        assert [round_._plan(each).outcome for each in batch] == [Outcome.SUPERSEDED, Outcome.QUARANTINE_FULL]
        writer.close()


async def test_the_mark_and_the_file_survive_a_lost_index(tmp_path: Path, tools: Any) -> None:
    data = tools.data_set(PixelData=PIXELS)
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0x0000
    lose_index(tmp_path)
    async with Archive(tmp_path, durability="none") as archive:
        await archive.reindex()
        assert rows(tmp_path, "instance") == [(UID, 1)]
        assert await tools.store(archive, data) == 0x0000
        assert await kept(archive, tools) == data


async def test_a_crash_before_the_move_is_made_up_for(tmp_path: Path, tools: Any) -> None:
    data = tools.data_set(PixelData=PIXELS)
    async with Archive(tmp_path, durability="none", incomplete="store") as archive:
        assert await tools.store(archive, data[:-9], sop_instance_uid=UID) == 0x0000
        [old] = tools.files_below(tmp_path / "objects")
        assert await tools.store(archive, data) == 0x0000
    (below(tmp_path / "quarantine") / old.name).rename(old)
    async with Archive(tmp_path, durability="none") as archive:
        await archive.reindex()
        assert await kept(archive, tools) == data
        assert len(rows(tmp_path, "quarantine")) == 1
        assert tools.names_in(tmp_path / "quarantine") == [old.name]


async def test_many_elements_behind_the_first_piece_go_through_the_lane(archive: Archive, tools: Any) -> None:
    many = b"\x09\x00\x10\x10LO\0\0" * 100_000
    data = tools.data_set(PixelData=None) + b"\xe1\x7f" + many[2:]
    assert await tools.store(archive, data, 200_000) == 0x0000
    assert (
        "truncated"
        in (
            await archive.receive(
                sop_class_uid=tools.ct,
                sop_instance_uid=UID,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                batches=tools.in_batches(data[:-3], 200_000),
            )
        ).comment
    )


@pytest.mark.parametrize(
    ("options", "changes", "status"),
    [
        ({}, {"StudyInstanceUID": None}, 0xA900),
        ({}, {"SOPInstanceUID": "1.2.9"}, 0xA900),
        ({"maximum_size": 100}, {}, 0xA700),
        ({"on_conflict": "keep"}, {"PatientName": "OTHER"}, 0x0111),
        ({}, {"PatientName": "OTHER"}, 0xB007),
        ({"minimum_free": 1 << 60}, {}, 0xA700),
    ],
)
async def test_a_refusal_tells_its_reason(
    tmp_path: Path, tools: Any, options: dict[str, Any], changes: dict[str, Any], status: int
) -> None:
    async with Archive(tmp_path, durability="none", **options) as archive:
        await tools.store(archive, tools.data_set())
        stored = await archive.receive(
            sop_class_uid=tools.ct,
            sop_instance_uid=UID,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            batches=tools.in_batches(tools.data_set(**changes), 1000),
        )
    assert status_of(stored) == status
    assert 0 < len(stored.comment) <= 64
    assert stored.comment.isascii()


@pytest.mark.parametrize("vr", [b"--", b"  ", b"\0\0", b"??", b"us", b"X-", b"\xff\xff", b"U\0", b"\0T"])
@pytest.mark.parametrize("tag", [0x00080001, 0x00080060, 0x00091010, 0x00190010, 0x7FE11010])
async def test_a_value_representation_that_is_none_costs_nothing(
    archive: Archive, tools: Any, vr: bytes, tag: int
) -> None:
    element = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr + b"\4\0ABCD"
    plain = tools.data_set(Modality=None)
    at = 0
    while (
        at < len(plain)
        and int.from_bytes(plain[at : at + 2], "little") << 16
        | int.from_bytes(plain[at + 2 : at + 4], "little")
        < tag
    ):
        is_long = plain[at + 4 : at + 6] in (b"OB", b"OW", b"UN")
        length = int.from_bytes(plain[at + 8 : at + 12] if is_long else plain[at + 6 : at + 8], "little")
        at += (12 if is_long else 8) + length
    data = plain[:at] + element + plain[at:]
    assert await tools.store(archive, data, sop_instance_uid=UID, sop_class_uid=tools.ct) == 0x0000
    assert await kept(archive, tools) == data
    assert archive.happened == {"strange": 1}
    [match] = await tools.find(archive, StudyInstanceUID="", PatientID="", ModalitiesInStudy="")
    assert match["PatientID"] == "P1"
    assert match["ModalitiesInStudy"] == ("ABCD" if tag == 0x00080060 else "")
