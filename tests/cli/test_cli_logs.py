"""What the servers log: at which level, about whom, and never a name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli.running import Start

from asyncdicom import (
    STUDY_ROOT,
    BytesSource,
    Proposable,
    Response,
    StatusError,
    associate,
    retrieval_contexts,
    storage_contexts,
)
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}


def instance(uid: str, *, name: bytes = b"Doe^Jane ") -> BytesSource:
    elements = [
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", uid.encode()),
        (0x00100010, "PN", name),
        (0x00100020, "LO", b"PAT-1234"),
        (0x0020000D, "UI", b"1.2"),
        (0x0020000E, "UI", b"1.2.3"),
    ]
    return BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, encode(elements, EXPLICIT_VR_LITTLE_ENDIAN))


async def kept(request: Any) -> Response:
    await request.data.read()
    return Response(0)


async def work_with(port: int) -> None:
    """Everything an archive does, and some that it does not."""
    sources = [instance("1.2.3.4"), BytesSource(CT, "1.2.3.5", EXPLICIT_VR_LITTLE_ENDIAN, b"\x08\0")]
    contexts: list[Proposable] = [STUDY_ROOT, *storage_contexts(sources)]
    address = f"ARCHIVE@127.0.0.1:{port}"
    async with associate(address, calling_ae_title="CT1", contexts=contexts) as association:
        assert (await association.c_store(sources[0])).status == 0
        assert (await association.c_store(sources[1])).status.is_failure
        await association.c_find(
            {"QueryRetrieveLevel": "STUDY", "PatientName": "Doe*", "PatientID": "PAT-1234"}
        )
        await association.c_find(STUDY)
        with pytest.raises(StatusError):
            await association.c_find({"QueryRetrieveLevel": "PAT-1234"})
        with pytest.raises(StatusError):
            await association.c_move(STUDY, move_destination="GONE")
        with pytest.raises(StatusError):
            await association.c_move(STUDY, move_destination="NOBODY")
    contexts = [STUDY_ROOT, *retrieval_contexts([(CT, EXPLICIT_VR_LITTLE_ENDIAN)])]
    async with associate(address, calling_ae_title="WS1", contexts=contexts) as association:
        assert (await association.c_get(STUDY, c_store=kept)).completed == 1


async def logged(start: Start, folder: Path, *options: str) -> list[str]:
    """The lines that qrscp writes on stderr."""
    peer = ("--peer", "GONE=127.0.0.1:1", "--data", folder / "archive", "--port", 0, "--json")
    async with start("qrscp", *peer, *options) as process:
        port = json.loads(await process.stdout.readline())["port"]
        await work_with(port)
        process.terminate()
        _, err = await process.communicate()
    text: str = err.decode()
    assert not re.search("Doe|Jane|PAT-1234", text), "no names, and no patient IDs"
    return text.splitlines()


async def test_by_default_what_failed_is_one_line_each(start: Start, tmp_path: Path) -> None:
    lines = [line for line in await logged(start, tmp_path) if "CT1 ->" in line]
    said = [re.sub(r".*?(C-[A-Z]+)", r"\1", line) for line in lines]
    assert [line.split()[0] for line in said] == ["C-STORE", "C-FIND", "C-MOVE", "C-MOVE"], lines
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ W: CT1 -> ARCHIVE \(127.0.0.1:\d+\): ", line) for line in lines)
    assert "C-STORE of CT Image Storage 1.2.3.5, 2 bytes: status 0x" in lines[0]
    assert "Query/Retrieve Level" in lines[1]
    assert "C-MOVE to GONE@127.0.0.1:1: GONE@127.0.0.1:1: connection refused" in lines[2]
    assert "unknown destination" in lines[3]


async def test_verbose_is_every_association_store_query_and_retrieval(start: Start, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in await logged(start, tmp_path, "-v", "--log-format", "json")]
    assert all(line["time"] and line["level"] and line["message"] for line in lines)
    about = [line for line in lines if "address" in line]
    assert {line["calling_ae_title"] for line in about} == {"CT1", "WS1"}
    assert {(line["called_ae_title"], line["address"]) for line in about} == {("ARCHIVE", "127.0.0.1")}
    ends = [line for line in about if "the association was released" in line["message"]]
    assert len(ends) == len([line for line in about if "established" in line["message"]]) == 2
    done = [line for line in about if "command" in line]
    assert all(line["seconds"] >= 0 and line["sop_class_uid"] for line in [*done])
    found = [(line["command"], line.get("status"), line.get("asked")) for line in done]
    failed = found.pop(1)
    assert (failed[0], int(failed[1], 16) >= 0xA000) == ("C-STORE", True)
    assert found == [
        ("C-STORE", "0x0000", None),
        ("C-FIND", "0x0000", "level STUDY"),
        ("C-FIND", "0x0000", "level STUDY, study 1.2"),
        ("C-FIND", "0xA900", None),
        ("C-MOVE", "0xA702", "level STUDY, study 1.2"),
        ("C-MOVE", "0xA801", None),
        ("C-GET", "0x0000", "level STUDY, study 1.2"),
    ]
    assert (done[0]["sop_instance_uid"], done[0]["bytes"]) == ("1.2.3.4", len(instance("1.2.3.4").data))
    assert (done[-1]["completed"], done[-1]["failed"]) == (1, 0)
    assert done[2]["matches"] == 1


async def test_debug_is_that_and_all_commands(start: Start, tmp_path: Path) -> None:
    lines = await logged(start, tmp_path, "-d")
    for name in ("C-STORE-RQ", "C-STORE-RSP", "C-FIND-RSP", "C-MOVE-RQ", "A-ASSOCIATE"):
        assert any(name in line for line in lines), name
    assert any("C-STORE of CT Image Storage 1.2.3.4" in line for line in lines)


async def test_quiet_is_errors_only(start: Start, tmp_path: Path) -> None:
    assert await logged(start, tmp_path, "-q") == []


@pytest.mark.parametrize(("options", "is_verbose"), [((), True), (("-q",), False)])
async def test_the_configuration_file_has_the_log_and_the_command_line_wins(
    start: Start, tmp_path: Path, options: tuple[str, ...], is_verbose: bool
) -> None:
    log = tmp_path / "archive.log"
    text = (
        f"log_level = 'info'\nlog_format = 'json'\nlog_file = '{log}'\n[limits]\nmaximum_associations = 7\n"
    )
    (tmp_path / "archive.toml").write_text(text)
    assert await logged(start, tmp_path, "--config", str(tmp_path / "archive.toml"), *options) == []
    found = {json.loads(line).get("command") for line in log.read_text().splitlines()}
    assert found >= {"C-STORE", "C-FIND", "C-GET"} if is_verbose else found == set()
