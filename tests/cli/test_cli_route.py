"""``asyncdicom route`` and ``asyncdicom outbox``: rules explained, and a gateway looked after."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from asyncdicom import BytesSource, PresentationContext, associate
from asyncdicom.archive import Archive
from asyncdicom.archive.control import Control
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.index.work import Work
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.gateway.config import parse_gateway
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.gateway.methods import methods_of
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"
RULES = """
[destinations.PACS]
address = "PACS@127.0.0.1:1"
[destinations.AI]
address = "AI@127.0.0.1:1"

[[routes]]
name = "heads"
when = { calling = "CT*", BodyPartExamined = "HEAD" }
to = ["AI"]
priority = "urgent"
[[routes]]
name = "rest"
default = true
to = ["PACS"]
"""
DATA = encode(
    [
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", b"1.2.3"),
        (0x00180015, "CS", b"HEAD"),
        (0x0020000D, "UI", b"1.2"),
        (0x0020000E, "UI", b"1.2.1"),
    ],
    EXPLICIT_VR_LITTLE_ENDIAN,
)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(RULES)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "head.dcm"
    path.write_bytes(encode_file_meta(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN) + DATA)
    return path


async def test_a_configuration_is_checked(rules: Path, tool: Any) -> None:
    checked = await tool("route", "check", rules)
    assert (checked.code, checked.out) == (0, f"{rules}: 2 routes to PACS, AI\n")
    assert (await tool("route", "check", rules, "--json")).json == [
        {"destinations": ["PACS", "AI"], "routes": 2}
    ]
    rules.with_name("none").write_text('[destinations.A]\naddress = "A@127.0.0.1:1"\n')
    without = await tool("route", "check", rules.with_name("none"))
    assert without.out.endswith("0 routes to A; without [[routes]] nothing is sent on\n")
    rules.write_text(RULES.replace("HEAD", "/(/"))
    wrong = await tool("route", "check", rules)
    assert wrong.code == 2
    assert f"{rules}:9: BodyPartExamined: /(/ is no regular expression" in wrong.err


async def test_it_is_explained_where_a_file_goes(rules: Path, file: Path, tool: Any) -> None:
    explained = await tool("route", "explain", rules, file, "--calling", "CT1")
    assert explained.code == 0
    assert explained.lines == [
        f"{file}:",
        "  fits     heads: calling fits 'CT*', BodyPartExamined fits 'HEAD'",
        "  does not rest: not asked, because of a rule above",
        "  goes to AI (urgent), by heads",
    ]
    (said,) = (await tool("route", "explain", rules, file, "--calling", "MR1", "--json")).json
    assert said["targets"] == [{"to": ["PACS"], "priority": "normal", "rule": "rest"}]
    assert said["rules"][0] == {
        "rule": "heads",
        "fits": False,
        "why": "calling is 'MR1', which does not fit 'CT*'",
    }


async def test_it_is_explained_what_goes_when_its_study_is_stable(rules: Path, file: Path, tool: Any) -> None:
    stable = '\n[[routes]]\nname = "later"\nwhen = { stable = 90, BodyPartExamined = "HEAD" }\nto = ["AI"]\n'
    rules.write_text(RULES.replace("[[routes]]", stable + "[[routes]]", 1))
    explained = await tool("route", "explain", rules, file)
    when = "when nothing has come for its study for 90 seconds"
    assert explained.lines[-1] == f"  goes to AI (normal), by later, {when}"
    (said,) = (await tool("route", "explain", rules, file, "--json")).json
    assert said["targets"] == [{"to": ["AI"], "priority": "normal", "rule": "later", "stable": 90.0}]


async def test_an_archive_without_a_gateway_says_what_is_missing(tmp_path: Path, tool: Any) -> None:
    async with Archive(tmp_path / "archive", durability="none") as archive, Control(archive):
        for words in (["status"], ["pause", "A"], ["resume", "A"]):
            refused = await tool("route", words[0], archive.directory, *words[1:])
            assert refused.code == 1
            assert "qrscp --gateway FILE" in refused.err


async def test_a_file_that_is_none_is_told(rules: Path, tool: Any) -> None:
    explained = await tool("route", "explain", rules, rules, rules.with_name("nowhere"))
    assert explained.code == 1
    assert "not a DICOM Part 10 file" in explained.err
    assert "No such file" in explained.err


async def test_what_an_archive_owes_is_shown_tried_again_and_dropped(tmp_path: Path, tool: Any) -> None:
    root = tmp_path / "archive"
    async with Archive(root, durability="none") as archive:
        await archive.outbox.enqueue([Work("report", "A"), Work("report", "A"), Work("report", "B")])
    listed = await tool("outbox", root, "list")
    assert listed.lines[-2:] == ["A: 2 ready", "B: 1 ready"]
    assert listed.lines[0] == "1 report to A: ready after 0 attempt(s)"
    *rows, counts = (await tool("outbox", root, "list", "--destination", "B", "--json")).json
    assert [(row["id"], row["state"]) for row in rows] == [(3, "ready")]
    assert counts == {"outbox": {"B": {"ready": 1}}}
    assert (await tool("outbox", root, "retry", "--all")).out == "0 retried\n"
    code, out, err = await tool("outbox", root, "drop", "1", "98", "99")
    assert (code, out) == (1, "1 dropped\n")
    assert "2 of 3 not found: there is no such delivery" in err
    for what in ("retry", "drop"):
        unknown = await tool("outbox", root, what, "1")
        assert (unknown.code, unknown.err.count("\n")) == (1, 1), "it was dropped before"
    assert (await tool("outbox", root, "drop", "--destination", "A")).out == "1 dropped\n"
    ways: list[list[Any]] = [["outbox", root, "retry", "--destination"], ["route", "retry", root]]
    for words in ways:
        misspelt = await tool(*words, "PASC")
        assert (misspelt.code, misspelt.out) == (0, "0 retried\n")
        assert "nothing for PASC waits or has failed: `list` shows" in misspelt.err
    assert (await tool("outbox", root, "drop", "--all", "--json")).json == [{"dropped": 1}]
    assert (await tool("outbox", root, "list")).out == "nothing is owed\n"
    for wrong in (["drop"], ["drop", "1", "--all"], ["retry", "--all", "--destination", "A"]):
        refused = await tool("outbox", root, *wrong)
        assert refused.code == 2
        assert "say which" in refused.err


async def test_a_gateway_is_asked_and_told(rules: Path, tmp_path: Path, tool: Any) -> None:
    root = tmp_path / "archive"
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(Archive(root, durability="none"))
        gateway = await stack.enter_async_context(Gateway(archive, parse_gateway(RULES)))
        server = await stack.enter_async_context(serve_archive(archive, "GATE@127.0.0.1:0"))
        await stack.enter_async_context(Control(archive, methods=methods_of(gateway)))
        assert (await tool("route", "pause", root, "AI")).out == "paused: AI\n"
        contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
        where = f"GATE@127.0.0.1:{server.port}"
        async with associate(where, calling_ae_title="CT1", contexts=contexts) as association:
            source = BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, DATA)
            assert (await association.c_store(source)).status == 0
        pacs, ai, totals = (await tool("route", "status", root, "--json")).json
        assert (pacs["destination"], pacs["state"]) == ("PACS", "ok")
        assert (ai["state"], ai["ready"], ai["failed"]) == ("paused", 1, 0)
        assert (totals["destinations"], totals["unrouted"]) == (2, 0)
        assert "AI (AI@127.0.0.1:1): paused; 1 ready" in (await tool("route", "status", root)).out
        row, total = (await tool("route", "why", root, "1.2.3", "--json")).json
        assert (row["destination"], row["state"], total) == ("AI", "ready", {"deliveries": 1})
        chosen = ("route", "resend", root, "--to", "AI", "--study")
        nothing = await tool(*chosen, "1.9")
        assert (nothing.code, "there is no such instance" in nothing.err) == (1, True)
        assert "say what" in (await tool(*chosen[:-1])).err
        would = await tool(*chosen, "1.2")
        assert (would.code, "1 instances of 1 studies" in would.out) == (0, True)
        assert "add --yes" in would.out
        assert (await tool(*chosen, "1.2", "--yes")).out == "1 instances go to AI once more\n"
        unknown = await tool("route", "pause", root, "AJ")
        assert unknown.code == 1
        assert "there is no destination 'AJ'; there are PACS, AI" in unknown.err
        assert (await tool("route", "resume", root, "AI")).out == "resumed: AI\n"
        async with asyncio.timeout(60):
            while "refused" not in (status := (await tool("route", "status", root)).out):
                await asyncio.sleep(0.01)
        assert "last trouble: AI@127.0.0.1:1" in status
        assert (await tool("route", "retry", root, "AI")).code == 0
    gone = await tool("route", "pause", root, "AI")
    assert gone.code == 1
    assert "no process serves" in gone.err
    (told,) = (await tool("route", "status", root, "--json")).json  # for who reads stdout
    assert (told["exit_code"], "no process serves" in told["error"]) == (1, True)
