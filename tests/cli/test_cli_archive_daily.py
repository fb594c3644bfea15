"""``asyncdicom archive``: finding, exporting, importing, backing up and restoring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive, ArchiveError
from asyncdicom.archive.backup import Backup, Copied, Restore
from asyncdicom.archive.control import Control
from asyncdicom.archive.index.work import Work
from asyncdicom.archive.marker import RESTORING
from asyncdicom.archive.operations import METHODS
from asyncdicom.data.elements import encode
from asyncdicom.net.sources import BytesSource
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"


def instance(
    number: int, *, study: str = "1.2.3.1", patient: str = "P1", name: str = "DOE^JANE"
) -> BytesSource:
    uid = f"1.2.3.1.1.{number}"
    elements = [
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", uid.encode()),
        (0x00080060, "CS", b"CT"),
        (0x00100010, "PN", name.encode()),
        (0x00100020, "LO", patient.encode()),
        (0x0020000D, "UI", study.encode()),
        (0x0020000E, "UI", b"1.2.3.1.1"),
    ]
    data = encode(elements, EXPLICIT_VR_LITTLE_ENDIAN)
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


async def keep(root: Path, instances: Iterable[BytesSource], **options: Any) -> None:
    async with Archive(root, durability="none", **options) as archive:
        for each in instances:
            assert (await archive.store(each)).outcome.keeps


@asynccontextmanager
async def served(root: Path, **options: Any) -> AsyncIterator[Archive]:
    async with Archive(root, durability="none", **options) as archive, Control(archive):
        yield archive


async def test_find_and_list(tmp_path: Path, tool: Any) -> None:
    await keep(tmp_path, [instance(1), instance(2), instance(3, study="1.2.3.2", patient="P2")])
    listed = await tool("archive", tmp_path, "list")
    assert [line.split()[:2] for line in listed.lines] == [["P1", "1.2.3.1"], ["P2", "1.2.3.2"]]
    assert "2 studies" in listed.err
    found = await tool("archive", tmp_path, "find", "-k", "PatientID=P1", "-L", "image", "--json")
    assert [line["SOPInstanceUID"] for line in found.json[:-1]] == ["1.2.3.1.1.1", "1.2.3.1.1.2"]
    assert found.json[-1] == {"found": 2}
    some = await tool("archive", tmp_path, "find", "-k", "SOPInstanceUID", "--limit", 1, "--json")
    assert some.json[-1] == {"found": 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["find", "-k", "Nonsense=1"], "'Nonsense'"),
        (["find", "-k", "SOPInstanceUID=1", "-L", "STUDY"], "SOPInstanceUID"),
        (["export", "-k", "Nonsense=1", "out"], "'Nonsense'"),
    ],
)
async def test_a_key_that_is_not_searched_by(tmp_path: Path, tool: Any, words: list[str], told: str) -> None:
    await keep(tmp_path, [instance(1)])
    refused = await tool("archive", tmp_path, *words)
    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1
    assert told in refused.err


@pytest.mark.parametrize("is_served", [True, False])
async def test_what_is_exported_can_be_imported(tmp_path: Path, tool: Any, is_served: bool) -> None:
    first, second, out = tmp_path / "first", tmp_path / "second", tmp_path / "out"
    await keep(first, [instance(number) for number in range(5)])
    told = await tool("archive", first, "export", "-k", "PatientID=P1", out, "--dry-run")
    assert (told.out, out.exists()) == ("5 instances would be exported\n", False)
    told = await tool("archive", first, "export", "-k", "PatientID=P1", out, "--json")
    assert (told.code, told.json[-1]) == (0, {"exported": 5, "there": 0, "failed": 0})
    files = sorted(path.relative_to(out) for path in out.rglob("*.dcm"))
    assert files[0] == Path("1.2.3.1/1.2.3.1.1/1.2.3.1.1.0.dcm")
    (out / "notes.txt").write_text("of somebody")
    (out / "broken.dcm").write_bytes(bytes(128) + b"DICM and no more")
    await keep(second, [])
    if is_served:
        async with served(second):
            told = await tool("archive", second, "import", out, "--json")
    else:
        told = await tool("archive", second, "import", out, "--json")
    assert told.json[-1] == {"imported": 5, "failed": 1, "skipped": 1}
    assert told.code == 1
    (out / "broken.dcm").unlink()
    told = await tool("archive", second, "import", out)
    assert (told.code, told.out) == (0, "5 are in the archive, 0 are not, 1 are no instances\n")
    told = await tool("archive", second, "import", out, "--dry-run")
    assert told.out == "5 files would be imported\n"
    (counts,) = (await tool("archive", second, "stat", "--json")).json
    assert counts["instance"] == 5


async def test_an_export_replaces_nothing_and_stays_below_its_folder(tmp_path: Path, tool: Any) -> None:
    root, out = tmp_path / "archive", tmp_path / "out"
    await keep(root, [instance(1), instance(2, study="..")])
    mine = out / "1.2.3.1/1.2.3.1.1/1.2.3.1.1.1.dcm"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    told = await tool("archive", root, "export", "-k", "PatientID=*", out, "--json")
    assert told.json[-1] == {"exported": 1, "there": 1, "failed": 0}
    assert mine.read_bytes() == b"mine"
    assert sorted(path.name for path in out.iterdir()) == ["1.2.3.1", "_"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "out"]


async def test_a_file_that_is_missing_costs_the_export_only_itself(tmp_path: Path, tool: Any) -> None:
    root, out = tmp_path / "archive", tmp_path / "out"
    await keep(root, [instance(1), instance(2)])
    sorted(root.rglob("*.dcm"))[0].unlink()
    told = await tool("archive", root, "export", "-k", "PatientID=*", out)
    assert told.code == 1
    assert "not exported, No such file" in told.out
    assert told.lines[-1] == "1 exported, 0 were there already, 1 failed"
    assert len(list(out.rglob("*.dcm"))) == 1
    assert not list(out.rglob("*.part"))


# Backup and restore


async def copied_index(archive: Archive, path: str) -> None:
    async with aclosing(METHODS["copy index"](archive, {"path": path})) as lines:
        assert [line async for line in lines] == [{"copied": path}]


async def test_a_backup_under_load_has_all_that_was_acknowledged_before(tmp_path: Path, tool: Any) -> None:
    root, copy, again = tmp_path / "archive", tmp_path / "copy", tmp_path / "again"
    acknowledged: list[str] = []
    backed_up = asyncio.Event()

    async def store(archive: Archive, count: int) -> None:
        for _ in range(count):
            number = len(acknowledged)
            assert (await archive.store(instance(number))).is_here
            acknowledged.append(f"1.2.3.1.1.{number}")

    async def go_on(archive: Archive) -> None:
        while not backed_up.is_set() and len(acknowledged) < 200:
            await store(archive, 1)

    async with served(root) as archive:
        for _ in range(2):  # the second one copies what is new
            backed_up.clear()
            await store(archive, 20)
            before = set(acknowledged)
            storing = asyncio.ensure_future(go_on(archive))
            told = await tool("archive", root, "backup", copy, "--json")
            backed_up.set()
            await storing
            assert (told.code, told.json[0]["missing"]) == (0, 0)
    assert told.json[0]["before"] > 0
    told = await tool("archive", again, "restore", copy, "--json")
    assert (told.code, told.json[0]["damaged"]) == (0, 0)
    async with Archive(again, durability="none") as restored:
        found = {str(match["SOPInstanceUID"]) async for match in restored.search({"SOPInstanceUID": ""})}
        assert (await restored.reindex()).told() == ""  # index and files belong together
    assert before <= found
    assert (await tool("archive", again, "verify")).code == 0


async def test_a_file_that_moves_while_it_is_backed_up_is_found_by_the_next_index(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    async with served(root, on_conflict="replace") as archive:
        await archive.store(instance(1))
        made = Backup(str(root), str(tmp_path / "copy"))
        await copied_index(archive, made.place_of_index())
        await archive.store(instance(1, name="ROE^RICHARD"))  # the file of the first one is gone
        copied = Copied()
        list(made.copy_files(copied))
        assert copied.missing == 1
        await copied_index(archive, made.place_of_index())
        list(made.copy_files(copied))
        assert (copied.files, copied.missing) == (1, 0)
        made.finish()
    await restored_has(tmp_path / "copy", tmp_path / "again", ["1.2.3.1.1.1"])


async def test_what_is_deleted_while_it_is_backed_up_is_not_missing(tmp_path: Path) -> None:
    """As all the time in a gateway that keeps no copy."""
    root, copy = tmp_path / "archive", tmp_path / "copy"
    async with served(root) as archive:
        for number in (1, 2, 3):
            await archive.store(instance(number))
        assert (await archive.delete("IMAGE", "1.2.3.1.1.3")).is_done  # before
        made = Backup(str(root), str(copy))
        await copied_index(archive, made.place_of_index())
        assert (await archive.delete("IMAGE", "1.2.3.1.1.1")).is_done  # meanwhile
        copied = Copied()
        list(made.copy_files(copied))
        assert (copied.files, copied.missing) == (1, 0)
        made.finish()
    restore = Restore(str(copy), str(tmp_path / "other"))
    list(restore.copy_files(copied := Copied()))
    restore.close()
    assert (copied.files, copied.missing) == (1, 0)
    await restored_has(copy, tmp_path / "again", ["1.2.3.1.1.2"])


async def restored_has(copy: Path, target: Path, uids: list[str]) -> None:
    restore = Restore(str(copy), str(target))
    list(restore.copy_files(Copied()))
    restore.finish()
    restore.close()
    async with Archive(target, durability="none") as archive:
        found = [match["SOPInstanceUID"] async for match in archive.search({"SOPInstanceUID": ""})]
    assert found == uids


async def test_what_is_damaged_or_missing_is_named(tmp_path: Path, tool: Any) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    await keep(root, [instance(number) for number in range(3)])
    first, second, _ = sorted(root.rglob("*.dcm"))
    first.write_bytes(first.read_bytes()[:-1] + b"\xff")
    second.unlink()
    told = await tool("archive", root, "backup", copy)
    assert told.code == 1
    assert "1 missing, 1 damaged" in told.out
    assert [line.split(") is ")[1] for line in told.err.splitlines()] == ["missing", "damaged"]
    told = await tool("archive", tmp_path / "again", "restore", copy)
    assert told.code == 1
    assert "1 missing, 1 damaged" in told.out


async def test_a_backup_that_breaks_off_leaves_the_last_one(tmp_path: Path, tool: Any) -> None:
    root, copy = tmp_path / "archive", tmp_path / "copy"
    await keep(root, [instance(1)])
    assert (await tool("archive", root, "backup", copy)).code == 0
    async with served(root) as archive:
        await archive.store(instance(2))
        made = Backup(str(root), str(copy))
        await copied_index(archive, made.place_of_index())
        list(made.copy_files(Copied()))
        made.close()  # it is killed
    await restored_has(copy, tmp_path / "again", ["1.2.3.1.1.1"])


async def test_a_restore_that_breaks_off_is_no_archive_and_goes_on(tmp_path: Path, tool: Any) -> None:
    root, copy, again = tmp_path / "archive", tmp_path / "copy", tmp_path / "again"
    await keep(root, [instance(1), instance(2)])
    assert (await tool("archive", root, "backup", copy)).code == 0
    restore = Restore(str(copy), str(again))
    next(restore.copy_files(Copied()))
    restore.close()
    with pytest.raises(ArchiveError, match="run it again"):
        await keep(again, [])
    told = await tool("archive", again, "restore", copy, "--json")
    assert (told.code, told.json[0]["before"], told.json[0]["files"]) == (0, 1, 1)
    assert not (again / RESTORING).exists()
    assert (await tool("archive", again, "verify")).code == 0


async def test_the_root_of_a_new_file_system_is_empty(tmp_path: Path, tool: Any) -> None:
    root, copy, again = tmp_path / "archive", tmp_path / "copy", tmp_path / "again"
    await keep(root, [instance(1)])
    for folder in (copy, again):
        (folder / "lost+found").mkdir(parents=True)
    assert (await tool("archive", root, "backup", copy)).code == 0
    assert (await tool("archive", again, "restore", copy)).code == 0
    assert (await tool("archive", again, "verify")).code == 0


async def test_one_at_a_time(tmp_path: Path, tool: Any) -> None:
    root, copy, again = tmp_path / "archive", tmp_path / "copy", tmp_path / "again"
    await keep(root, [instance(1)])
    assert (await tool("archive", root, "backup", copy)).code == 0
    for first, *words in (
        (Backup(str(root), str(copy)), root, "backup", copy),
        (Restore(str(copy), str(again)), again, "restore", copy),
    ):
        refused = await tool("archive", *words)
        assert (refused.code, "is in use" in refused.err) == (1, True)
        first.close()
        assert (await tool("archive", *words)).code == 0


async def test_folders_that_are_something_else(tmp_path: Path, tool: Any) -> None:
    root, copy, other, mine = (tmp_path / name for name in ("archive", "copy", "other", "mine"))
    await keep(root, [instance(1)])
    await keep(other, [instance(2)])
    mine.mkdir()
    (mine / "file").touch()
    assert (await tool("archive", root, "backup", copy)).code == 0
    for told, *words in (
        ("is not empty, and no backup", root, "backup", mine),
        ("the backup of another archive", other, "backup", copy),
        ("in the archive itself", root, "backup", root / "copy"),
        ("there is no archive", tmp_path / "none", "backup", tmp_path / "new"),
        ("is not empty: restore into an empty folder", other, "restore", copy),
        ("no whole backup", tmp_path / "new", "restore", other),
    ):
        refused = await tool("archive", *words)
        assert refused.code == 1
        assert told in refused.err
        assert len(refused.err.splitlines()) == 1
    (copy / "backup.json").write_text("nonsense")
    assert "another archive" in (await tool("archive", root, "backup", copy)).err
    assert (await tool("archive", root, "export", mine)).code == 2


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("find", {"keys": []}),
        ("find", {"level": 1}),
        ("find", {"limit": 0}),
        ("find", {"keys": {"PatientName": "\ud800"}}),
        ("export", {"target": "relative"}),
        ("export", {}),
        ("import", {"paths": []}),
        ("import", {"paths": ["relative"]}),
        ("import", {"paths": ["/x"] * 501}),
        ("copy index", {"path": "relative"}),
        ("copy index", {"path": "/"}),
    ],
)
async def test_a_request_that_means_nothing(tmp_path: Path, method: str, arguments: Any) -> None:
    async with Archive(tmp_path, durability="none") as archive:
        async with aclosing(METHODS[method](archive, arguments)) as lines:
            with pytest.raises(ArchiveError):
                await anext(lines)


# Deleting


async def keep_one_more(root: Path, archive: Archive | None) -> None:
    if archive is None:
        await keep(root, [instance(1)])
    else:
        assert (await archive.store(instance(1))).is_here


@pytest.mark.parametrize("is_served", [True, False])
async def test_a_study_is_deleted(tmp_path: Path, tool: Any, is_served: bool) -> None:
    await keep(tmp_path, [instance(1), instance(2), instance(3, study="1.2.3.2", patient="P2")])
    words = ("archive", tmp_path, "delete", "study", "1.2.3.1")
    async with AsyncExitStack() as stack:
        if is_served:
            archive = await stack.enter_async_context(served(tmp_path))
            await archive.outbox.enqueue_for_instance("1.2.3.1.1.2", "0" * 32, [Work("store", "PACS")])
        told = await tool(*words)
        assert told.lines[-1].startswith("nothing was" if is_served else "2 instances would be deleted")
        assert told.code == int(is_served)
        if is_served:
            refused = await tool(*words, "--apply")
            assert (refused.code, refused.lines) == (1, told.lines)
            assert refused.lines[0] == "1.2.3.1.1.2: its 'store' work for PACS is open (ready)"
            await archive.outbox.drop()
        else:
            assert "--apply" in told.err
        told = await tool(*words, "--apply")
        assert (told.code, told.out.startswith("2 instances were deleted")) == (0, True)
        known = await tool("archive", tmp_path, "deleted", "1.2.3.1")
        assert known.lines[-1] == "2 were deleted"
        assert known.lines[0].startswith("1.2.3.1.1.1 of 1.2.3.1 ")
        assert known.lines[0].endswith(": by an operator")
        await keep_one_more(tmp_path, archive if is_served else None)
        known = await tool("archive", tmp_path, "deleted", "1.2.3.1.1.1")
        assert "and again stored 20" in known.lines[0]
        assert (await tool("archive", tmp_path, "deleted", "1.9")).lines == ["0 were deleted"]
        assert (await tool("archive", tmp_path, "delete", "instance", "1.2.3.1.1.1", "--apply")).code == 0
        gone = await tool(*words, "--apply", "--json")
        assert (gone.code, "no study 1.2.3.1 is here" in gone.err) == (1, True)
        listed = await tool("archive", tmp_path, "list")
        assert [line.split()[:2] for line in listed.lines] == [["P2", "1.2.3.2"]]


async def test_what_came_while_it_was_deleted_is_told(tmp_path: Path, tool: Any) -> None:
    await keep(tmp_path, [instance(1)])
    async with served(tmp_path) as archive:
        left = archive.deleting.left

        def with_one_more(scope: Any) -> int:
            return left(scope) + 1

        archive.deleting.left = with_one_more  # type: ignore[method-assign]
        told = await tool("archive", tmp_path, "delete", "instance", "1.2.3.1.1.1", "--apply")
    assert told.out.endswith(", 1 came meanwhile and stay\n")


@pytest.mark.parametrize("is_served", [True, False])
async def test_what_would_go_by_the_rules_of_a_file(tmp_path: Path, tool: Any, is_served: bool) -> None:
    root, config = tmp_path / "archive", tmp_path / "gate.toml"
    await keep(root, [instance(1), instance(2)])
    words = ("archive", root, "retention", "--config", config)
    for text, why in (("days = 1", "unknown key 'days'"), ("port = 1", "has no [[retention]]")):
        config.write_text(text)
        refused = await tool(*words)
        assert (refused.code, why in refused.err) == (2, True)
    config.write_text('keep = 0\n[[retention]]\nname = "all"\nmaximum_gib = 0\n')
    async with AsyncExitStack() as stack:
        if is_served:
            await stack.enter_async_context(served(root))
        told = await tool(*words)
        assert (told.code, len(told.lines)) == (0, 3)
        assert told.lines[0].startswith("1.2.3.1.1.1 ")
        assert told.lines[0].endswith(": all")
        assert told.lines[-1] == "2 instances would be deleted (248 bytes), 0 are held"
        total = (await tool(*words, "--json")).json[-1]
        assert total == {"would_delete": 2, "size": 248, "held": 0}
