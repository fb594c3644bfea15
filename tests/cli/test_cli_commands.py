"""What storescp runs when something has come: arguments, never a shell, and never more than it was told."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from cli.nodes import Instance
from cli.running import Start
from hypothesis import given
from hypothesis import strategies as st

from asyncdicom import ReceivedInstance, Response, Status, associate, serve, storage_contexts
from asyncdicom.cli.commands import Commands, Template
from asyncdicom.cli.receiver import Receiver
from asyncdicom.scu.folders import FolderTemplate
from asyncdicom.telemetry import counters

VALUES = {
    "#p": "in/1.2",
    "#f": "1.2.3.dcm",
    "#p/#f": "in/1.2/1.2.3.dcm",
    "#a": "CT1",
    "#c": "ME",
    "#r": "::1",
}
PYTHON = sys.executable


def writing(target: Path) -> str:
    """A command line that appends its arguments, as JSON, to a file."""
    code = "import json, sys; open(sys.argv[1], 'a').write(json.dumps(sys.argv[2:]) + chr(10))"
    return f"{PYTHON} -c \"{code}\" '{target}'"


def written(target: Path) -> list[list[str]]:
    return [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else []


def test_placeholders_are_arguments_of_their_own() -> None:
    template = Template.parse(f"{PYTHON} -x '#p' #f #p/#f #a #c #r 'two words'")
    expected = ["in/1.2", "1.2.3.dcm", "in/1.2/1.2.3.dcm", "CT1", "ME", "::1", "two words"]
    assert template.filled(VALUES) == [PYTHON, "-x", *expected]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("'", "No closing quotation"),
        ("true file=#f", "'file=#f': placeholders are arguments of their own"),
        ("sh -c 'rm #f'", "'rm #f': placeholders are arguments of their own"),
        ("true #f.bak", "'#f.bak': placeholders are"),
        ("#f", "'#f' is no program"),
        ("no-such-program #f", "there is no program 'no-such-program'"),
    ],
)
def test_what_is_no_command(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        Template.parse(text)


@given(st.text(max_size=20))
def test_whatever_a_peer_sends_is_one_argument_or_nothing(title: str) -> None:
    template = Template.parse(f"{PYTHON} before #a after")
    if title.startswith("-") or "\0" in title:
        with pytest.raises(ValueError, match="#a is "):
            template.filled({"#a": title})
    else:
        assert template.filled({"#a": title}) == [PYTHON, "before", title, "after"]


async def test_no_shell_looks_at_what_a_peer_sends(tmp_path: Path) -> None:
    commands, target = Commands(2), tmp_path / "told"
    hostile = f"$(touch {tmp_path}/x); `touch {tmp_path}/y` | > {tmp_path}/z & * ~ %PATH%"
    commands.start(Template.parse(f"{writing(target)} #a"), VALUES | {"#a": hostile}, "1.2.3")
    await commands.close()
    assert written(target) == [[hostile]]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("line", "values", "why"),
    [
        (f"{PYTHON} -c 'raise SystemExit(3)'", {}, "1.2.3: the command ended with 3"),
        (f"{PYTHON} -c 'import os; os.kill(os.getpid(), 9)'", {}, "1.2.3: the command was ended by signal 9"),
        (f"{PYTHON} #a", {"#a": "-rf"}, "1.2.3: the command is not run: #a is '-rf', which would be taken"),
        (
            f"{PYTHON} #a",
            {"#a": "a\0b"},
            "1.2.3: the command is not run: #a is 'a\\x00b', which is no",
        ),
    ],
)
async def test_a_failure_is_one_line_and_a_counter(
    line: str, values: dict[str, str], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    commands, before = Commands(1), counters.commands_failed
    commands.start(Template.parse(line), values, "1.2.3")
    await commands.close()
    assert [record.getMessage()[: len(why)] for record in caplog.records] == [why]
    assert (commands.failed, counters.commands_failed - before) == (1, 1)


async def test_a_program_that_is_gone_when_it_is_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (program := tmp_path / "program").write_text("#!/bin/sh\n")
    program.chmod(0o755)
    template, commands = Template.parse(str(program)), Commands(1)
    program.unlink()
    commands.start(template, {}, "1.2.3")
    await commands.close()
    (record,) = caplog.records
    assert "1.2.3: the command cannot be run: [Errno 2]" in record.getMessage()
    assert commands.failed == 1


async def test_at_most_so_many_run_at_once(tmp_path: Path) -> None:
    """Each says how many there are, itself included."""
    code = (
        "import os, sys, time; open(sys.argv[1] + str(os.getpid()), 'w'); time.sleep(0.05);"
        "print(len(os.listdir(os.path.dirname(sys.argv[1]))), file=open(sys.argv[2], 'a'));"
        "os.unlink(sys.argv[1] + str(os.getpid()))"
    )
    (folder := tmp_path / "running").mkdir()
    commands = Commands(3)
    template = Template((PYTHON, "-S", "-c", code, f"{folder}/", str(tmp_path / "counts")))
    for _ in range(9):
        commands.start(template, {}, "1.2.3")
    await commands.close()
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 9
    assert max(counts) <= 3
    assert (commands.run, commands.failed) == (9, 0)


async def test_too_many_that_wait_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncdicom.cli.commands._WAITING", 2)
    commands = Commands(1)
    for _ in range(5):
        commands.start(Template(("true",)), {}, "1.2.3")
    await commands.close()
    assert (commands.run, commands.failed) == (3, 2)
    assert {record.getMessage() for record in caplog.records} == {
        "1.2.3: the command is not run: 2 others wait"
    }


async def test_the_end_waits_for_no_command_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncdicom.cli.commands._LAST_PATIENCE", 0.1)
    commands = Commands(1)
    for _ in range(2):
        commands.start(Template((PYTHON, "-c", "import time; time.sleep(1)")), {}, "1.2.3")
    await commands.close()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "1.2.3: the command was not run: the process ends",
        "1 of them still run, and are left alone",
    ]


async def stored(
    folder: Path,
    instances: Iterable[Instance],
    on_kept: Callable[[ReceivedInstance], None],
    **options: Any,
) -> list[int]:
    sources = [instance.source() for instance in instances]
    receiver = Receiver(str(folder), on_kept=on_kept, **options)
    async with serve("SCP@127.0.0.1:0", c_store=receiver) as server:
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, contexts=storage_contexts(sources)) as association:
            return [int((await association.c_store(source)).status) for source in sources]


async def test_it_is_told_when_the_sender_has_its_answer(tmp_path: Path) -> None:
    told: list[str] = []

    async def on_stored(received: ReceivedInstance) -> Response:
        told.append(f"stored {received.sop_instance_uid}")
        return Response(Status.SUCCESS)

    def on_kept(received: ReceivedInstance) -> None:
        told.append(str(received.path.relative_to(tmp_path)))

    studies = [Instance("1", "1.1", "1.1.1"), Instance("2", "2.1", "2.1.1"), Instance("../x", "3.1", "3.1.1")]
    options = {"folders": FolderTemplate.of_study("S"), "on_stored": on_stored}
    assert await stored(tmp_path, studies, on_kept, **options) == [0, 0, 0]
    assert told[:4] == ["stored 1.1.1", "S_1/1.1.1.dcm", "stored 2.1.1", "S_2/2.1.1.dcm"]
    assert told[5].startswith("S_.._x_"), "a received value is never a path"
    assert {path.parent for path in tmp_path.iterdir()} == {tmp_path}


async def test_a_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (inside := tmp_path / "in").mkdir()
    (inside / "1").symlink_to(outside)
    kept: list[Path] = []
    assert await stored(
        inside,
        [Instance("1", "1.1", "1.1.1")],
        lambda received: kept.append(received.path),
        folders=FolderTemplate.of_study(""),
    ) == [0xA700]
    assert (kept, list(outside.iterdir())) == ([], [])


async def test_what_is_refused_or_cut_off_runs_nothing(tmp_path: Path) -> None:
    kept: list[Path] = []
    instance = Instance("1", "1.1", "1.1.1")
    statuses = await stored(
        tmp_path, [instance], lambda received: kept.append(received.path), maximum_size=10
    )
    assert (statuses, kept) == ([0xA700], [])


async def test_storescp_runs_one_for_each_instance_and_one_for_each_study(
    start: Start, tmp_path: Path
) -> None:
    each, study = tmp_path / "each", tmp_path / "study"
    commands = ("-xcr", f"{writing(each)} #a #f", "-xcs", f"{writing(study)} #p", "-su", "S", "-tos", 3600)
    async with start("storescp", 0, "-od", tmp_path / "in", *commands) as process:
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        port = int(line.partition(",")[0].rpartition(":")[2])
        instances = [
            Instance("1", "1.1", "1.1.1"),
            Instance("1", "1.1", "1.1.2"),
            Instance("2", "2.1", "2.1.1"),
        ]
        sources = [instance.source() for instance in instances]
        contexts = storage_contexts(sources)
        async with associate(
            f"ANY@127.0.0.1:{port}", calling_ae_title="CT 1;x", contexts=contexts
        ) as association:
            for source in sources:
                assert (await association.c_store(source)).status == 0
        process.terminate()
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert sorted(written(each)) == [["CT 1;x", f"{uid}.dcm"] for uid in ("1.1.1", "1.1.2", "2.1.1")]
    assert sorted(written(study)) == [[str(tmp_path / "in" / "S_1")], [str(tmp_path / "in" / "S_2")]]
