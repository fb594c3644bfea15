"""``asyncdicom archive``: looking after a folder that nothing serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncdicom.archive import Archive
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"


async def keep(root: Path, count: int) -> None:
    async with Archive(root, durability="none") as archive:
        for number in range(count):
            uid = f"1.2.3.1.1.{number}"
            values = {0x00080016: CT, 0x00080018: uid, 0x0020000D: "1.2.3.1", 0x0020000E: "1.2.3.1.1"}
            elements = [(tag, "UI", value.encode()) for tag, value in values.items()]
            data = encode(elements, EXPLICIT_VR_LITTLE_ENDIAN)

            async def batches(data: bytes = data):  # type: ignore[no-untyped-def]
                yield [memoryview(data)]

            status, _ = await archive.store(
                sop_class_uid=CT,
                sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
                batches=batches(),
            )
            assert status == 0x0000


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
    for word in ("reindex", "verify", "stat"):
        refused = await tool("archive", tmp_path / "none", word)
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1
