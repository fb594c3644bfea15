"""``asyncdicom archive``: looking after an archive that is served, or not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import status_of
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"


async def keep(root: Path, count: int, **others: bytes) -> None:
    async with Archive(root, durability="none") as archive:
        for number in range(count):
            uid = f"1.2.3.1.1.{number}"
            values = {0x00080016: CT, 0x00080018: uid, 0x0020000D: "1.2.3.1", 0x0020000E: "1.2.3.1.1"}
            elements = [(tag, "UI", value.encode()) for tag, value in values.items()]
            elements += [(0x00100010, "PN", name) for name in others.values()]
            elements.sort()
            data = encode(elements, EXPLICIT_VR_LITTLE_ENDIAN)

            async def batches(data: bytes = data):
                yield [memoryview(data)]

            stored = await archive.receive(
                sop_class_uid=CT,
                sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
                batches=batches(),
            )
            assert status_of(stored) in (0x0000, 0xB007)


async def test_a_damaged_index_is_built_again(tmp_path: Path, tool: Any) -> None:
    root = tmp_path / "archive"
    await keep(root, 3)
    (root / "index.sqlite").write_bytes(b"this is no database, but long enough to be looked at" * 50)
    refused = await tool("archive", root, "stat")
    assert refused.code == 1
    assert "reindex" in refused.err
    assert "Traceback" not in refused.err
    assert (await tool("archive", root, "reindex")).code == 0
    (counts,) = (await tool("archive", root, "stat", "--json")).json
    assert counts["instance"] == 3
    assert (root / "index.sqlite.damaged-1").exists()


async def test_verify_names_what_is_missing_or_damaged(tmp_path: Path, tool: Any) -> None:
    await keep(tmp_path, 3)
    assert (await tool("archive", tmp_path, "verify")).code == 0
    first, second, _ = sorted(tmp_path.rglob("*.dcm"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"\xff")
    verified = await tool("archive", tmp_path, "verify", "--json")
    assert verified.code == 1
    assert sorted(each["state"] for each in verified.json[:-1]) == ["damaged", "missing"]
    assert verified.json[-1] == {"verified": 3, "bad": 2}


async def test_a_folder_that_is_no_archive(tmp_path: Path, tool: Any) -> None:
    for words in (
        ["reindex"],
        ["verify"],
        ["stat"],
        ["quarantine", "list"],
        ["quarantine", "purge", "--all"],
    ):
        refused = await tool("archive", tmp_path / "none", *words)
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1
        assert f"there is no archive in {tmp_path / 'none'}" in refused.err
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


@pytest.mark.parametrize("is_served", [True, False])
async def test_it_works_served_or_not(tmp_path: Path, tool: Any, start: Any, is_served: bool) -> None:
    await keep(tmp_path, 3)
    await keep(tmp_path, 2, name=b"OTHER")
    async with AsyncExitStack() as serving:
        if is_served:
            qrscp = await serving.enter_async_context(start("qrscp", "--port", 0, "--data", tmp_path))
            await qrscp.stdout.readline()
            await qrscp.stdout.readline()
            assert (tmp_path / "control").is_socket()
        assert (
            await tool("archive", tmp_path, "verify")
        ).out == "5 files verified, 0 of them missing or damaged\n"
        (counts,) = (await tool("archive", tmp_path, "stat", "--json")).json
        assert (counts["instance"], counts["quarantine"]) == (3, 2)
        assert "3 instances are in the index" in (await tool("archive", tmp_path, "reindex")).out
        first, second, total = (await tool("archive", tmp_path, "quarantine", "list", "--json")).json
        assert total["quarantined"] == 2
        assert (await tool("archive", tmp_path, "quarantine", "accept", first["name"][:8])).code == 0
        assert (await tool("archive", tmp_path, "quarantine", "purge", second["name"])).code == 0
        refused = await tool("archive", tmp_path, "quarantine", "purge", second["name"])
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1
        listed = await tool("archive", tmp_path, "quarantine", "list")
        assert "accepted another one" in listed.lines[0]
        assert listed.lines[-1].startswith("1 in quarantine")
        assert (await tool("archive", tmp_path, "quarantine", "purge", "--all")).code == 0
        assert (await tool("archive", tmp_path, "quarantine", "purge")).code == 2
        (counts,) = (await tool("archive", tmp_path, "stat", "--json")).json
        assert (counts["instance"], counts["quarantine"], counts["purged"]) == (3, 0, 2)


@pytest.mark.parametrize("is_served", [True, False])
async def test_a_study_is_put_under_the_right_patient(
    tmp_path: Path, tool: Any, start: Any, is_served: bool
) -> None:
    await keep(tmp_path, 2, name=b"WRONG^ONE ")
    to = ("study", "1.2.3.1", "--to", "P2", "--name", "RIGHT^ONE", "--sex", "F")
    async with AsyncExitStack() as serving:
        if is_served:
            qrscp = await serving.enter_async_context(start("qrscp", "--port", 0, "--data", tmp_path))
            await qrscp.stdout.readline()
            await qrscp.stdout.readline()
        dry = await tool("archive", tmp_path, "reassign", *to)
        assert dry.out == "1.2.3.1: 2 instances would be moved from WRONG^ONE to P2 RIGHT^ONE\n"
        assert "--apply does it" in dry.err
        (done,) = (await tool("archive", tmp_path, "reassign", *to, "--apply", "--json")).json
        assert (done["instances"], done["applied"]) == (2, True)
        listed = await tool("archive", tmp_path, "reassign", "list")
        assert listed.lines[0].startswith(f"{done['names'][0]} 1.2.3.1 from WRONG^ONE to P2 RIGHT^ONE since ")
        assert listed.lines[1] == "1 were made, 1 are in force"
        again = await tool("archive", tmp_path, "reassign", *to, "--apply")
        assert again.code == 1
        assert len(again.err.splitlines()) == 1
        undone = await tool("archive", tmp_path, "reassign", "undo", done["names"][0], "--apply")
        assert undone.out == "1.2.3.1: 2 instances are moved from P2 RIGHT^ONE to WRONG^ONE\n"
        one, total = (await tool("archive", tmp_path, "reassign", "list", "--json")).json
        assert one["undone"]
        assert total == {"reassignments": 1, "in_force": 0}
