"""A study, series or instance is deleted: all of it or nothing, for good, and nothing that is owed."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.buckets import below
from helpers.index_asking import copy_index, lose_index, put_index_back

from asyncdicom import Address, Destination, Peer, Request, StorageCommitmentUser, associate, serve
from asyncdicom.archive import Archive, ArchiveError, FileCalls
from asyncdicom.archive.dimse import commitment_of, matching_instances, serve_archive
from asyncdicom.archive.index.deliveries import Settlement
from asyncdicom.archive.index.work import State, Work
from asyncdicom.archive.operations import METHODS
from asyncdicom.services.commitment import COMMITMENT_INSTANCE
from asyncdicom.services.node import Delivery
from asyncdicom.services.references import Commitment, Reference, write
from asyncdicom.uid import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT,
)

STUDY = "1.2.3.1"


async def keep(archive: Archive, tools: Any, number: int, **keywords: Any) -> str:
    uid = f"1.2.3.1.1.{number}"
    assert await tools.store(archive, tools.data_set(SOPInstanceUID=uid, **keywords)) == 0x0000
    return uid


async def uids(archive: Archive) -> set[str]:
    keys = {"SOPInstanceUID": ""}
    return {str(match["SOPInstanceUID"]) async for match in archive.search(keys, level="IMAGE")}


async def purge_of(archive: Archive, uid: str = STUDY, level: str = "STUDY", **options: Any) -> Any:
    return await archive.delete(level, uid, **options)


@pytest.fixture
async def three(tmp_path: Path, tools: Any) -> AsyncIterator[Archive]:
    """Two instances of a series, and one of another series of the study; one more study."""
    async with Archive(tmp_path, scrub=0) as archive:
        for number in (0, 1):
            await keep(archive, tools, number)
        await keep(archive, tools, 2, SeriesInstanceUID="1.2.3.1.2")
        await keep(
            archive, tools, 9, StudyInstanceUID="1.2.3.9", SeriesInstanceUID="1.2.3.9.1", PatientID="P9"
        )
        yield archive


@pytest.mark.parametrize("number", [1, 3, 4, 15, 16, 37])
async def test_a_study_goes_however_many_instances_it_has(tmp_path: Path, tools: Any, number: int) -> None:
    async with Archive(tmp_path, scrub=0, durability="none") as archive:
        kept = {await keep(archive, tools, each) for each in range(number)}
        assert await uids(archive) == kept
        assert (await purge_of(archive)).instances == number
        assert await uids(archive) == set()
        for each in range(number):  # they are known to be deleted, all of them, and may come again
            await keep(archive, tools, each)
        assert (await purge_of(archive)).instances == number


@pytest.mark.parametrize(
    ("level", "uid", "left", "counts"),
    [
        ("STUDY", STUDY, {"9"}, (1, 1, 1)),
        ("SERIES", "1.2.3.1.1", {"2", "9"}, (2, 2, 2)),
        ("IMAGE", "1.2.3.1.1.0", {"1", "2", "9"}, (2, 2, 3)),
    ],
)
async def test_it_goes_with_all_that_is_empty_then(
    three: Archive, tools: Any, level: str, uid: str, left: set[str], counts: tuple[int, ...]
) -> None:
    before = await purge_of(three, uid, level, dry_run=True)
    assert (before.instances, before.is_done) == (4 - len(left), False)
    assert len(await uids(three)) == 4
    deleted = await purge_of(three, uid, level)
    assert deleted == before._replace(is_done=True)
    assert deleted.size > 0
    assert {each[-1] for each in await uids(three)} == left
    found = await three.counts()
    assert (found["patient"], found["study"], found["series"]) == counts
    assert len(tools.files_below(Path(three.directory))) == len(left)
    stat = await three.read(three.care.stat)
    assert stat["deleted"] == three.happened["deleted"] == 4 - len(left)
    assert (await three.reindex()).told() == ""


async def test_what_is_not_clear_is_not_done(three: Archive, tools: Any) -> None:
    for level, uid, why in (
        ("STUDY", "1.9", "no study 1.9"),
        ("IMAGE", STUDY, "no instance"),
        ("X", "1", "one of"),
    ):
        with pytest.raises(ArchiveError, match=why):
            await purge_of(three, uid, level)
    with pytest.raises(ArchiveError, match="of that patient"):
        await purge_of(three, patient_id="P9")
    await keep(three, tools, 5, PatientID="P2")
    with pytest.raises(ArchiveError, match="2 patients have this study"):
        await purge_of(three)
    assert (await purge_of(three, patient_id="P1")).instances == 3
    assert {each[-1] for each in await uids(three)} == {"5", "9"}


async def owe(archive: Archive, uid: str, kind: str = "store", state: State = State.READY) -> None:
    rows = await archive.read(archive.deliveries.of_instance, uid)
    assert not rows
    digest = "0" * 32
    await archive.outbox.enqueue_for_instance(uid, digest, [Work(kind, "PACS", state=state)])


async def test_what_is_owed_stays(three: Archive) -> None:
    await owe(three, "1.2.3.1.1.0")
    for dry_run in (True, False):
        refused = await purge_of(three, dry_run=dry_run)
        assert (refused.instances, refused.is_done) == (3, False)
        assert refused.refused == (("1.2.3.1.1.0", "its 'store' work for PACS is open (ready)"),)
    [claimed] = await three.outbox.claim("store", "PACS", 1)
    assert "(leased)" in (await purge_of(three)).refused[0].why
    await three.outbox.settle([Settlement(claimed.id, State.FAILED, 0.0, 1, failed_at=1.0)])
    assert "has failed" in (await purge_of(three)).refused[0].why
    assert len(await uids(three)) == 4
    assert (await purge_of(three, even_failed=True)).instances == 3
    assert await three.outbox.retry() == 0  # it is forgotten: its row may not lead to another instance


async def test_a_number_is_never_given_again(three: Archive, tools: Any) -> None:
    """Else a retrieval that is under way would send the instance of another patient."""
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.9"})
    found = await matching_instances(three, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    await purge_of(three, "1.2.3.9")
    await keep(three, tools, 7, PatientID="P7", StudyInstanceUID="1.2.3.7")
    assert [each async for each in found] == [None]
    await purge_of(three, "1.2.3.7")
    directory = three.directory
    await three.close()
    async with Archive(directory, scrub=0) as again:  # after a start, too
        await keep(again, tools, 8)
        keys = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
        found = await matching_instances(again, keys, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
        assert list(found._ids) == [1, 2, 3, 6]


async def test_a_retrieval_that_has_begun_tells_what_it_misses(three: Archive, tools: Any) -> None:
    identifier = tools.encode({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
    found = await matching_instances(three, identifier, EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT)
    each = found.each()
    first = await anext(each)
    assert first is not None
    reading = found.source(first).open()
    async for _ in reading:
        break
    await purge_of(three)
    source = found.source(second) if (second := await anext(each)) is not None else None
    assert source is not None  # its row was read before
    with pytest.raises(OSError, match=r"[Nn]o such (file|object)"):
        await anext(aiter(source.open()))
    await reading.aclose()
    await each.aclose()


@pytest.mark.parametrize("when", ["at the first instance", "before it"])
async def test_deleted_beside_a_c_move(three: Archive, tools: Any, when: str, monkeypatch: Any) -> None:
    """What was opened before arrives whole; what is gone is a failed sub-operation, and it is told why."""
    received: list[int] = []
    look = three.instances

    async def instances(*arguments: Any, **options: Any) -> Any:
        found = await look(*arguments, **options)
        if when == "before it":
            assert (await purge_of(three, "1.2.3.1.2", "SERIES")).instances == 1
        return found

    async def take(request: Request) -> int:
        received.append(len(await request.data.read()))
        if when != "before it" and len(received) == 1:
            assert (await purge_of(three)).instances == 3
        return 0

    monkeypatch.setattr(three, "instances", instances)
    async with serve("WS@127.0.0.1:0", c_store=take) as station:
        where = Destination(Address("WS", "127.0.0.1", station.port), operations_invoked=1, associations=1)
        access = {"*": Peer(), "WS": Peer(where)}
        async with (
            serve_archive(three, "ARCHIVE@127.0.0.1:0", access=access) as server,
            associate(f"ARCHIVE@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association,
        ):
            identifier = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
            result = await association.c_move(tools.encode(identifier), move_destination="WS")
    assert result.completed + result.failed == 3
    assert result.completed == len(received)
    assert len(set(received)) <= 1
    assert bool(result.failed) == bool(result.error_comment)
    if when == "before it":
        assert (result.failed, result.error_comment) == (1, "an instance is not there any more")


async def test_sent_again_it_is_stored_again(three: Archive, tools: Any, caplog: Any) -> None:
    await purge_of(three)
    assert await keep(three, tools, 0) in await uids(three)
    assert "was deleted and has come again" in caplog.text
    assert three.happened["returned"] == 1
    for damage in ("", "index", "deleted.jsonl"):
        directory = Path(three.directory)
        await three.close()
        if damage == "index":
            lose_index(directory)
        elif damage:
            (directory / damage).unlink()
        async with Archive(directory, scrub=0) as again:
            assert (await again.reindex()).deleted == 0
            assert {each[-1] for each in await uids(again)} == {"0", "9"}
            assert (await again.counts())["quarantine"] == 0
            assert (await again.read(again.care.stat))["deleted"] == 3
    text = (directory / "deleted.jsonl").read_text()
    assert json.loads(text.splitlines()[-1])["lifted"] == ["1.2.3.1.1.0"]


@pytest.mark.parametrize(
    ("damage", "files"),
    [
        ("none", "put back"),
        ("lost", "gone"),
        ("lost", "put back"),
        ("older", "gone"),
        ("older", "put back"),
        ("before the last", "put back"),
        ("no file", "put back"),
    ],
)
async def test_it_outlives_the_index_and_the_folder(
    tmp_path: Path, tools: Any, damage: str, files: str
) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    async with Archive(root, scrub=0) as archive:
        for number in range(3):
            await keep(archive, tools, number)
        if damage == "before the last":
            await purge_of(archive, "1.2.3.1.1.0", "IMAGE")
    shutil.copytree(below(root / "objects"), copy / "objects")
    copy_index(root, copy)
    async with Archive(root, scrub=0) as archive:
        for number in range(2):
            if damage != "before the last" or number:
                await purge_of(archive, f"1.2.3.1.1.{number}", "IMAGE")
    if damage == "no file":
        (root / "deleted.jsonl").unlink()
    elif damage != "none":
        lose_index(root)
        if damage != "lost":
            put_index_back(root, copy)
    if files == "put back":
        shutil.copytree(copy / "objects", below(root / "objects"), dirs_exist_ok=True)
    for _ in range(2):
        async with Archive(root, scrub=0) as archive:
            swept = await archive.reindex()
            assert (swept.missing, swept.foreign, swept.quarantined) == (0, 0, 0)
            assert await uids(archive) == {"1.2.3.1.1.2"}
            assert (await archive.read(archive.care.stat))["deleted"] == 2
    assert len(tools.files_below(root)) == 1
    assert len((root / "deleted.jsonl").read_text().splitlines()) >= 2


async def test_a_file_of_that_name_with_other_bytes_is_none_of_them(three: Archive, tools: Any) -> None:
    root = Path(three.directory)
    before = {path: path.read_bytes() for path in tools.files_below(root)}
    await purge_of(three)
    [gone, *_] = sorted(before.keys() - set(tools.files_below(root)))
    [here] = tools.files_below(root)
    other = here.read_bytes().replace(b"1.2.3.1.1.9", b"1.2.3.1.1.8")
    gone.write_bytes(other)  # its digest is not that of the tombstone
    swept = await three.reindex()
    assert (swept.deleted, swept.set_aside + swept.indexed) == (0, 1)
    assert not gone.exists() or "1.2.3.1.1.8" in await uids(three)


async def test_another_copy_of_it_goes_to_quarantine(three: Archive, tools: Any) -> None:
    """It may have been left by a crash, or be wanted: it is not found again, and not lost either."""
    root = Path(three.directory)
    [path, *_] = tools.files_below(root)
    path.with_name(f"{'0' * 32}.dcm").write_bytes(path.read_bytes())
    for study in (STUDY, "1.2.3.9"):
        await purge_of(three, study)
    assert (await three.reindex()).quarantined == 1
    assert await uids(three) == set()
    [line, _] = [line async for line in METHODS["quarantine list"](three, {})]
    assert "was deleted" in line["reason"]
    async for _ in METHODS["quarantine accept"](three, {"names": [line["name"]]}):
        pass
    assert await uids(three) == {line["sop_instance_uid"]}
    assert three.happened["returned"] == 1


@pytest.mark.parametrize("whose", ["another archive", "a copy that went its own way"])
async def test_the_file_of_others_deletes_nothing(
    tmp_path: Path, tools: Any, whose: str, caplog: Any
) -> None:
    root, other = tmp_path / "archive", tmp_path / "other"
    async with Archive(root, scrub=0) as archive:
        await keep(archive, tools, 0)
        await keep(archive, tools, 1)
        await keep(archive, tools, 2)
        if whose != "another archive":
            await purge_of(archive, "1.2.3.1.1.2", "IMAGE")
    shutil.copytree(root, other)
    if whose == "another archive":
        for name in ("archive.json", "index.sqlite"):
            (other / name).unlink()
    async with Archive(other, scrub=0) as archive:
        await archive.reindex()
        await purge_of(archive, "1.2.3.1.1.0", "IMAGE")
    if whose != "another archive":
        async with Archive(root, scrub=0) as archive:
            await purge_of(archive, "1.2.3.1.1.1", "IMAGE")
    shutil.copy(other / "deleted.jsonl", root)
    for _ in range(2):
        async with Archive(root, scrub=0) as archive:
            await archive.reindex()
            assert "1.2.3.1.1.0" in await uids(archive)
            await purge_of(archive, "1.2.3.1.1.0", "IMAGE", dry_run=True)
    assert (root / "deleted.jsonl.other-1").exists()
    assert not (root / "deleted.jsonl.other-2").exists()


class Disk(FileCalls):
    """A disk without room for that one file, or one whose files cannot be removed."""

    is_full = False
    is_stuck = False

    def append(self, path: str, position: int, content: bytes, *, sync: bool) -> None:
        if self.is_full and content:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        super().append(path, position, content, sync=sync)

    def remove(self, path: str) -> None:
        if self.is_stuck:
            raise OSError(errno.EIO, "Input/output error", path)
        super().remove(path)


async def test_a_full_disk_changes_nothing(tmp_path: Path, tools: Any) -> None:
    calls = Disk()
    async with Archive(tmp_path, files=calls, scrub=0) as archive:
        uid = await keep(archive, tools, 0)
        await keep(archive, tools, 1)
        await purge_of(archive, "1.2.3.1.1.1", "IMAGE")
        before = (tmp_path / "deleted.jsonl").read_bytes()
        calls.is_full = True
        with pytest.raises(ArchiveError, match="No space left"):
            await purge_of(archive)
        assert (tmp_path / "deleted.jsonl").read_bytes() == before
        await keep(archive, tools, 1)  # what was deleted can come again all the same
        assert await uids(archive) == {uid, "1.2.3.1.1.1"}
        calls.is_full = False
        assert (await purge_of(archive)).instances == 2
    async with Archive(tmp_path, scrub=0) as archive:
        assert await uids(archive) == set()


async def test_an_index_that_cannot_commit_leaves_the_file_as_it_was(
    three: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncdicom.archive.index.writer import Writer

    await purge_of(three, "1.2.3.9")
    path, commit = Path(three.directory) / "deleted.jsonl", Writer._commit
    before = path.read_bytes()
    failures = iter([OSError(errno.EIO, "Input/output error")])

    def fail(writer: Writer) -> None:
        if (error := next(failures, None)) is not None:
            raise error
        commit(writer)

    monkeypatch.setattr(Writer, "_commit", fail)
    with pytest.raises(ArchiveError, match="Input/output error"):
        await purge_of(three)
    assert path.read_bytes() == before
    assert len(await uids(three)) == 3
    assert (await purge_of(three)).instances == 3


async def test_a_file_that_cannot_be_removed_goes_at_the_next_start(
    tmp_path: Path, tools: Any, caplog: Any
) -> None:
    calls = Disk()
    async with Archive(tmp_path, files=calls, scrub=0) as archive:
        await keep(archive, tools, 0)
        await archive.reindex()
        calls.is_stuck = True
        assert (await purge_of(archive)).instances == 1
        assert "the next start removes it" in caplog.text
        assert (await archive.reindex()).failed == 1
    assert len(tools.files_below(tmp_path)) == 1
    async with Archive(tmp_path, scrub=0) as archive:
        await archive.reindex()
        assert await uids(archive) == set()
    assert tools.files_below(tmp_path) == []


@pytest.mark.parametrize("change", ["cut", "gone"])
async def test_a_file_that_somebody_has_changed_meanwhile(three: Archive, change: str) -> None:
    await purge_of(three, "1.2.3.9")
    path = Path(three.directory) / "deleted.jsonl"
    path.write_bytes(b"") if change == "cut" else path.unlink()
    with pytest.raises(ArchiveError, match="was changed by somebody"):
        await purge_of(three)
    assert len(await uids(three)) == 3
    directory = three.directory
    await three.close()
    async with Archive(directory, scrub=0) as again:
        assert (await purge_of(again)).instances == 3


@pytest.mark.parametrize("content", [b"{\n", b"[]\n", b'{"when": 7, "name": "x"}\n', b'{"deleted": [[1]]}\n'])
async def test_a_damaged_file_is_told_in_one_line(three: Archive, content: bytes) -> None:
    await purge_of(three, "1.2.3.9")
    path = Path(three.directory) / "deleted.jsonl"
    await three.close()
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(ArchiveError, match=r"deleted\.jsonl is damaged") as refused:
        await Archive(three.directory).open()
    assert "\n" not in str(refused.value)
    path.write_bytes(path.read_bytes().removesuffix(content) + b'{"when": "half')
    async with Archive(three.directory, scrub=0) as again:  # a line without its end is none
        assert (await purge_of(again)).instances == 3
    assert b"half" not in path.read_bytes()


async def test_a_file_that_is_read_piece_by_piece(tmp_path: Path, tools: Any, monkeypatch: Any) -> None:
    from asyncdicom.archive import deleted_journal

    monkeypatch.setattr(deleted_journal, "_PIECE", 50)
    options: dict[str, Any] = {"durability": "none", "scrub": 0}
    path = tmp_path / "deleted.jsonl"
    async with Archive(tmp_path, **options) as archive:
        for number in range(4):
            await keep(archive, tools, number)
        for number in range(3):
            await purge_of(archive, f"1.2.3.1.1.{number}", "IMAGE")
    written = path.read_bytes()
    for damage in ("index", "file", "another", "another"):
        if damage == "index":
            lose_index(tmp_path)
        elif damage == "file":
            path.unlink()
        else:
            path.write_bytes(written.replace(b'"name": "', b'"name": "f'))
        async with Archive(tmp_path, **options) as archive:
            await archive.reindex()
            assert (await archive.read(archive.care.stat))["deleted"] == 3
            assert await uids(archive) == {"1.2.3.1.1.3"}
        assert len(path.read_bytes().splitlines()) == 4
    assert (tmp_path / "deleted.jsonl.other-2").exists()
    monkeypatch.setattr(deleted_journal, "_LONGEST", 100)
    lose_index(tmp_path)
    with pytest.raises(ArchiveError, match="is damaged"):
        await Archive(tmp_path, **options).open()


async def test_a_study_that_arrives_right_now(
    three: Archive, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile stays, and it is told; nothing is lost that was answered with Success."""
    from asyncdicom.archive.index import deleting

    monkeypatch.setattr(
        deleting,
        "_DOOMED",
        {level: type(each)(_limited(level, deleting)) for level, each in deleting._DOOMED.items()},
    )
    came: list[str] = []
    some = three.deleting.some

    def one(*arguments: Any, **options: Any) -> Any:
        step = some(*arguments, **options)
        if len(came) < 2:
            number = 50 + len(came)
            came.append(asyncio.run_coroutine_threadsafe(keep(three, tools, number), loop).result(60))
        return step

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(three.deleting, "some", one)
    deleted = await purge_of(three)
    assert (deleted.instances, deleted.came_meanwhile, len(came)) == (3, 2, 2)
    assert await uids(three) == {*came, "1.2.3.1.1.9"}
    assert (await three.reindex()).told() == ""


def _limited(level: str, deleting: Any) -> Any:
    statement = deleting._meant(level, deleting.instance.c.id, deleting.instance.c.parent, *deleting._COLUMNS)
    number = deleting.instance.c.id
    return (
        statement.where(number > deleting.bindparam("after"), number <= deleting.bindparam("last"))
        .order_by(number)
        .limit(deleting.literal_column("1"))
    )


async def test_a_commitment_holds_it_and_is_refused_afterwards(three: Archive, tools: Any) -> None:
    release = three.deleting.holds.take(["1.2.3.1.1.0"])
    refused = await purge_of(three)
    assert (refused.instances, refused.is_done, len(refused.refused)) == (3, False, 1)
    assert "storage commitment" in refused.refused[0].why
    release()
    user = StorageCommitmentUser()
    references = [(tools.ct, f"1.2.3.1.1.{number}") for number in (0, 9)]
    async with (
        serve_archive(three, "ARCHIVE@127.0.0.1:0", services=[commitment_of(three)]) as server,
        associate(
            f"ARCHIVE@127.0.0.1:{server.port}", contexts=[STORAGE_COMMITMENT_PUSH_MODEL], services=[user]
        ) as association,
    ):
        assert (await user.commit(association, references)).is_complete
        async with asyncio.timeout(60):
            while not (await purge_of(three)).is_done:  # until it is noted that the report was taken
                await asyncio.sleep(0.01)
        result = await user.commit(association, references)
        assert list(result.failed.values()) == [0x0112]
        assert len(result.committed) == 1


async def test_a_report_that_is_owed_holds_it(three: Archive, tools: Any) -> None:
    references = tuple(Reference(tools.ct, f"1.2.3.1.1.{number}") for number in (0, 9))
    said = Commitment("1.2.3", references, {})
    uid, instance = STORAGE_COMMITMENT_PUSH_MODEL, COMMITMENT_INSTANCE
    report = Delivery("NOBODY", uid, instance, 1, partial(write, said))
    await three.reports.add("ARCHIVE", report)
    await three.outbox.enqueue([Work("report", "NOBODY", payload="{}")])  # one that cannot be read
    await three.reports.add("ARCHIVE", report._replace(sop_class_uid="1.2"))
    refused = await purge_of(three)
    assert refused.refused == (("1.2.3.1.1.0", "a storage commitment for it is under way"),)
    for _ in range(2):
        claimed = await three.outbox.claim("report", "NOBODY", 5)
        if claimed:
            await three.outbox.settle(
                [Settlement(each.id, State.FAILED, 0.0, 1, failed_at=1.0) for each in claimed]
            )
        assert not (await purge_of(three)).is_done
    assert (await purge_of(three, even_failed=True)).is_done


async def test_held_while_it_is_being_deleted(three: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins to promise it between the look and the deletion is not passed over."""
    look = three.deleting.look

    def first(*arguments: Any, **options: Any) -> Any:
        found = look(*arguments, **options)
        three.deleting.holds.take(["1.2.3.1.1.1"])
        return found

    monkeypatch.setattr(three.deleting, "look", first)
    deleted = await purge_of(three)
    assert (deleted.instances, deleted.is_done) == (2, True)
    assert [each.sop_instance_uid for each in deleted.refused] == ["1.2.3.1.1.1"]
    assert deleted.came_meanwhile == 0


async def test_under_another_patient(three: Archive, tools: Any) -> None:
    becomes = {"patient_id": "P2", "patient_name": "ROE^JANE"}
    arguments = {"study_instance_uid": STUDY, "becomes": becomes, "apply": True}
    assert [line async for line in METHODS["reassign study"](three, arguments)]
    assert (await purge_of(three, patient_id="P2")).instances == 3
    assert (await three.counts())["patient"] == 1
    await keep(three, tools, 0)  # what comes again goes there, too
    [match] = await tools.find(three, PatientID="", StudyInstanceUID=STUDY)
    assert match["PatientID"] == "P2"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"level": "STUDY", "uid": ""},
        {"level": 1, "uid": "1"},
        {"level": "STUDY", "uid": "1", "patient_id": 1},
    ],
)
async def test_asked_wrongly(three: Archive, arguments: Any) -> None:
    with pytest.raises(ArchiveError, match="text"):
        [line async for line in METHODS["delete"](three, arguments)]
    with pytest.raises(ArchiveError, match="uid is a text"):
        [line async for line in METHODS["deleted"](three, {"uid": 1})]


async def test_what_the_control_channel_tells(three: Archive) -> None:
    arguments = {"level": "STUDY", "uid": STUDY}
    [line] = [line async for line in METHODS["delete"](three, arguments)]
    assert (line["instances"], line["is_done"], line["refused"]) == (3, False, 0)
    await owe(three, "1.2.3.1.1.0")
    named, line = [line async for line in METHODS["delete"](three, {**arguments, "apply": True})]
    assert (named["sop_instance_uid"], line["refused"]) == ("1.2.3.1.1.0", 1)
    await three.outbox.drop()
    so_far, line = [line async for line in METHODS["delete"](three, {**arguments, "apply": True})]
    assert (so_far, line["is_done"]) == ({"deleted_so_far": 3}, True)
