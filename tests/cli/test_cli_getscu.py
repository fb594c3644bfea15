from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from cli.nodes import JPEG, PLAIN, Instance, Node, data_sets, expected
from cli.running import Tool

from asyncdicom import (
    STORAGE,
    Request,
    Response,
    Retrieval,
    Status,
    associate,
    serve,
    storage_contexts,
)
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive

STUDY = [
    Instance("1.1", "1.1.1", "1.1.1.1"),
    Instance("1.1", "1.1.1", "1.1.1.2", AvailableTransferSyntaxUID=JPEG),
    Instance("1.1", "1.1.2", "1.1.2.1", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
]
OTHER = [Instance("1.2", "1.2.1", "1.2.1.1")]


async def test_a_study(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY + OTHER)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        code, out, err = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path / "in", "-k", "StudyInstanceUID=1.1"
        )
    assert (code, err) == (0, "")
    assert out == "completed 3, warned 0, failed 0, received 3 (0.0 MB), status 0x0000 (Success)\n"
    assert data_sets(tmp_path / "in") == expected(STUDY)
    assert node.contexts == [4]  # one for C-GET and one for each pair of SOP class and transfer syntax
    assert len(node.gets_asked) == 1


async def test_json_and_ignore(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool(
            *("getscu", "--json", "--ignore", "127.0.0.1", server.port, "-od", tmp_path / "in"),
            *("-k", "StudyInstanceUID=1.1", "-k", "SeriesInstanceUID=1.1.1"),
        )
    assert result.code == 0
    (line,) = result.json
    assert (line["status"], line["completed"], line["failed"], line["received"]) == (0, 2, 0, 2)
    assert not (tmp_path / "in").exists()


async def test_a_list_of_studies(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY + OTHER)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1\\1.2"
        )
    assert result.code == 0
    assert data_sets(tmp_path) == expected(STUDY + OTHER)


async def test_a_peer_that_does_not_tell_transfer_syntaxes(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY, hidden=["AvailableTransferSyntaxUID"])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert result.code == 0
    assert data_sets(tmp_path) == expected(STUDY)


async def test_a_peer_that_does_not_tell_classes(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY, hidden=["AvailableTransferSyntaxUID", "SOPClassUID"])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert result.code == 0
    assert data_sets(tmp_path) == expected(STUDY)


async def test_a_peer_that_answers_no_query(tool: Tool, tmp_path: Path) -> None:
    for node in (Node(STUDY, finds=False), Node(STUDY)):
        options: dict[str, Any] = {"c_find": node.find} if not node.finds else {}
        async with serve("SCP@127.0.0.1:0", c_get=node.retrieve, **options) as server:
            result = await tool(
                "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1"
            )
        assert result.code == 0
        assert data_sets(tmp_path) == expected(STUDY)
        assert node.contexts == [127]


async def test_a_peer_that_aborts_a_query(tool: Tool, tmp_path: Path) -> None:
    node = Node(STUDY)

    async def find(request: Request) -> AsyncGenerator[dict[str, str], None]:
        await request.association.abort()
        yield {}

    async with serve("SCP@127.0.0.1:0", c_find=find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert result.code == 0
    assert data_sets(tmp_path) == expected(STUDY)


async def test_a_peer_that_refuses_to_be_asked(tool: Tool, tmp_path: Path) -> None:
    async with serve("SCP@127.0.0.1:0") as server:
        code, _, err = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1"
        )
    assert code == 1
    assert "without a storage context in the SCP role: the peer accepted none of those proposed" in err


async def test_more_contexts_than_an_association_has(tool: Tool, tmp_path: Path) -> None:
    """130 pairs: the last 3 go over a second association, and each series is asked for with its UIDs."""
    many = [
        Instance("1.1", f"1.1.{series}", f"1.1.{series}.{number}", sop_class, syntax)
        for number, sop_class in enumerate(STORAGE[:65])
        for series, syntax in enumerate((PLAIN, JPEG))
    ]
    node = Node(many + OTHER)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert result.code == 0
    assert result.out.startswith("completed 130, warned 0, failed 0, received 130 ")
    assert data_sets(tmp_path) == expected(many)
    assert node.contexts == [128, 128, 4]
    assert [
        (asked["QueryRetrieveLevel"], asked["StudyInstanceUID"], asked["SeriesInstanceUID"])
        for asked in node.gets_asked
    ] == [("IMAGE", "1.1", "1.1.0"), ("IMAGE", "1.1", "1.1.1"), ("IMAGE", "1.1", "1.1.1")]


PRIVATE, FUTURE, PALETTE = "1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.999.1", "1.2.840.10008.5.1.4.39.1"


async def test_private_and_future_storage_classes_come_back(tool: Tool, tmp_path: Path) -> None:
    classes = [PRIVATE, FUTURE, PALETTE, "1.2.840.10008.5.1.4.1.1.2"]
    instances = [
        Instance("1.1", "1.1.1", f"1.1.1.{number}", sop_class) for number, sop_class in enumerate(classes)
    ]
    node = Node(instances)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert (result.code, result.err) == (0, "")
    assert data_sets(tmp_path) == expected(instances)
    assert node.contexts == [5]


async def test_what_the_archive_stored_under_a_private_class_comes_back(tool: Tool, tmp_path: Path) -> None:
    instances = [Instance("1.1", "1.1.1", f"1.1.1.{n}", uid) for n, uid in enumerate([PRIVATE, FUTURE])]
    async with (
        Archive(tmp_path / "archive", durability="process") as archive,
        serve_archive(archive, "SCP@127.0.0.1:0") as server,
    ):
        sources = [instance.source() for instance in instances]
        async with associate(
            f"SCP@127.0.0.1:{server.port}", contexts=storage_contexts(sources)
        ) as association:
            assert [(await association.c_store(source)).status for source in sources] == [0, 0]
        result = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path / "in", "-k", "StudyInstanceUID=1.1"
        )
    assert (result.code, result.err) == (0, "")
    assert data_sets(tmp_path / "in") == expected(instances)


@pytest.mark.parametrize("told", ["\\".join(f"1.2.3.{number}" for number in range(300)), "*", "no UID\\"])
async def test_transfer_syntaxes_that_no_association_has_room_for(
    tool: Tool, tmp_path: Path, told: str
) -> None:
    node = Node([Instance("1.1", "1.1.1", "1.1.1.1", AvailableTransferSyntaxUID=told)])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        result = await tool("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
    assert len(node.gets_asked) == 1, "it was asked all the same"
    assert "Traceback" not in result.err


async def test_failed_instances_are_named(tool: Tool, tmp_path: Path) -> None:
    """The peer lies about a transfer syntax, so that one of them does not fit."""
    node = Node(STUDY)
    liar = Node([STUDY[0], STUDY[1]._replace(AvailableTransferSyntaxUID=PLAIN), STUDY[2]])
    async with serve("SCP@127.0.0.1:0", c_find=liar.find, c_get=node.retrieve) as server:
        code, out, _ = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1"
        )
    assert code == 1
    first, second = out.splitlines()
    assert first == "failed: 1.1.1.2"
    assert second.startswith("completed 2, warned 0, failed 1, received 2 (0.0 MB), status 0xB000 (Warning")
    assert data_sets(tmp_path) == expected([STUDY[0], STUDY[2]])


@pytest.mark.parametrize(("status", "code"), [(0, 0), (0xB000, 1), (0xFE00, 1)])
async def test_nothing_matched(tool: Tool, tmp_path: Path, status: int, code: int) -> None:
    async def nothing(request: Request) -> Response:
        await request.data.read()
        return Response(status, error_comment="look elsewhere")

    async with serve("SCP@127.0.0.1:0", c_find=Node([]).find, c_get=nothing) as server:
        command = ("getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.1")
        result = await tool(*command)
        in_json = await tool(*command, "--json")
    assert (result.code, in_json.code) == (code, code)
    assert result.err == ("nothing matched\n" if status == 0 else "")
    assert result.out.endswith(", look elsewhere\n")
    (line,) = in_json.json
    assert (line["status"], line["error_comment"]) == (status, "look elsewhere")


async def test_what_cannot_be_saved_is_refused(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(OTHER)
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=node.retrieve) as server:
        code, out, _ = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.2"
        )
    assert code == 1
    assert "failed: 1.2.1.1\n" in out
    assert "refused: 1.2.1.1: only 1 MiB of the disk are free" in out
    assert os.listdir(tmp_path) == []  # no part file stays


async def test_what_was_not_asked_for_is_refused_and_replaces_nothing(tool: Tool, tmp_path: Path) -> None:
    """The peer adds an instance of another study; and it says Success to all."""
    asked, other = Instance("1.2", "1.2.1", "1.2.1.1"), Instance("6.6", "6.6.1", "1.2.1.9")
    (tmp_path / "1.2.1.9.dcm").write_bytes(b"mine")

    async def everything(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval([instance.source() for instance in (asked, other)])

    node = Node([asked])
    async with serve("SCP@127.0.0.1:0", c_find=node.find, c_get=everything) as server:
        code, out, _ = await tool(
            "getscu", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.2"
        )
    assert code == 1
    assert "refused: 1.2.1.9: not asked for: its StudyInstanceUID is 6.6" in out
    assert sorted(os.listdir(tmp_path)) == ["1.2.1.1.dcm", "1.2.1.9.dcm"]
    assert (tmp_path / "1.2.1.9.dcm").read_bytes() == b"mine"


async def test_a_failure(tool: Tool, tmp_path: Path) -> None:
    async def c_get(request: object) -> Status:
        return Status.UNABLE_TO_PERFORM_SUB_OPERATIONS

    async with serve("SCP@127.0.0.1:0", c_find=Node(OTHER).find, c_get=c_get) as server:
        result = await tool(
            "getscu", "--json", "127.0.0.1", server.port, "-od", tmp_path, "-k", "StudyInstanceUID=1.2"
        )
    assert result.code == 1
    assert json.loads(result.out)["status"] == 0xA702
