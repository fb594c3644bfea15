"""Python functions of storescp: on reception, and for a study; whatever they do, the tool goes on."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import pytest
from cli.nodes import Instance
from cli.running import Start, Tool

from asyncdicom import (
    BytesSource,
    ReceivedInstance,
    ReceivedStudy,
    Status,
    associate,
    serve,
    storage_contexts,
)
from asyncdicom.cli.calling import Function
from asyncdicom.cli.commands import Executing, Wanted
from asyncdicom.cli.functions import Named, named_of
from asyncdicom.cli.receiver import Receiver
from asyncdicom.data.elements import encode
from asyncdicom.scu.folders import FolderTemplate
from asyncdicom.telemetry import counters
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

INSTANCE = Instance("1", "1.1", "1.1.1")
NEVER = 3600.0


async def stored(
    folder: Path,
    wanted: Wanted,
    *instances: Instance,
    patience: float = NEVER,
    then: Callable[[], Awaitable[object]] | None = None,
) -> list[tuple[int, str | None]]:
    """Send to a receiver that calls these functions; gives the answers when all have ended."""
    async with Executing(wanted, patience, 2) as executing:
        receiver = Receiver(
            folder,
            folders=FolderTemplate("{StudyInstanceUID}/{SeriesInstanceUID}"),
            on_stored=executing.stored,
            on_kept=executing.kept,
        )
        sources = [instance.source() for instance in instances]
        async with serve("SCP@127.0.0.1:0", c_store=receiver) as server:
            address, contexts = f"SCP@127.0.0.1:{server.port}", storage_contexts(sources)
            async with associate(address, calling_ae_title="CT1", contexts=contexts) as association:
                answers = [await association.c_store(source) for source in sources]
            if then is not None:
                await then()
    return [(int(answer.status), answer.error_comment) for answer in answers]


def named(function: Callable[..., Any]) -> Named:
    return Named("app:function", function)


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_instance_and_each_study_is_told(tmp_path: Path, is_async: bool) -> None:
    told: list[ReceivedInstance | ReceivedStudy] = []
    threads: set[bool] = set()

    def tell(what: ReceivedInstance | ReceivedStudy) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        told.append(what)

    async def tell_later(what: ReceivedInstance | ReceivedStudy) -> None:
        await asyncio.sleep(0)
        tell(what)

    function = named(tell_later if is_async else tell)
    instances = [INSTANCE, Instance("1", "1.2", "1.1.2"), INSTANCE]
    answers = await stored(tmp_path, Wanted(on_stored=function, on_stable=function), *instances)
    assert answers == [(0, None)] * 3
    assert threads == {is_async}
    folder = tmp_path / "1"
    first, second, again, study = told
    assert isinstance(first, ReceivedInstance)
    assert first == again
    assert first.path.read_bytes().endswith(INSTANCE.source().data)
    assert first._replace(address="?") == ReceivedInstance(
        folder / "1.1" / "1.1.1.dcm",
        folder,
        "1",
        INSTANCE.SOPClassUID,
        "1.1.1",
        EXPLICIT_VR_LITTLE_ENDIAN,
        len(INSTANCE.source().data),
        "CT1",
        "SCP",
        "?",
    )
    assert second.folder == folder
    assert study == ReceivedStudy(folder, "1", 3, "CT1", "SCP", first.address)


async def test_a_late_one_arms_its_study_again(tmp_path: Path) -> None:
    stable, told = asyncio.Event(), []

    async def tell(study: ReceivedStudy) -> None:
        told.append(study.instances)
        stable.set()

    wanted = Wanted(on_stable=named(tell))
    await stored(tmp_path, wanted, INSTANCE, patience=0.001, then=stable.wait)
    await stored(tmp_path, wanted, INSTANCE, Instance("1", "1.1", "1.1.2"))
    assert told == [1, 2]


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (None, (0, None)),
        (Status.OUT_OF_RESOURCES, (0xA700, None)),
        (0xB000, (0xB000, None)),
        (True, (0xC000, "the function on reception failed")),
        ("no", (0xC000, "the function on reception failed")),
        (0xFF00, (0xC000, "the function on reception failed")),
    ],
)
async def test_what_it_returns_is_the_answer(
    tmp_path: Path, result: object, answer: tuple[int, str | None]
) -> None:
    studies: list[object] = []
    wanted = Wanted(on_stored=named(lambda received: result), on_stable=named(studies.append))
    assert await stored(tmp_path, wanted, INSTANCE) == [answer]
    assert len(studies) == (0 if answer[0] >= 0xC000 or answer[0] == 0xA700 else 1)


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(), SystemExit(3), asyncio.CancelledError()])
@pytest.mark.parametrize("is_async", [False, True])
async def test_what_it_raises_is_told_counted_and_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException, is_async: bool
) -> None:
    def fail(received: object) -> None:
        raise error

    async def fail_later(received: object) -> None:
        fail(received)

    function, before = named(fail_later if is_async else fail), counters.commands_failed
    answers = await stored(tmp_path, Wanted(on_stored=function), INSTANCE)
    assert answers == [(0xC000, "the function on reception failed")]
    assert (tmp_path / "1" / "1.1" / "1.1.1.dcm").exists()
    told = "1.1.1: app:function failed, which is answered with 0xC000"
    assert told in [record.getMessage() for record in caplog.records]
    await stored(tmp_path, Wanted(on_stable=function), INSTANCE)
    assert "study 1: app:function failed" in [record.getMessage() for record in caplog.records]
    assert counters.commands_failed - before == 2


async def test_one_that_takes_long_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("asyncdicom.cli.calling._LONG", 0)
    go_on = threading.Event()
    call = asyncio.create_task(Function(named(go_on.wait), 1)(60))
    while not caplog.records:
        await asyncio.sleep(0.001)
    go_on.set()
    assert await call == (True, None)
    assert caplog.records[0].getMessage() == "app:function runs for more than 0 s"


async def test_one_that_blocks_holds_up_nobody_and_only_so_many_run() -> None:
    go_on, running, most = threading.Event(), 0, 0
    lock = threading.Lock()

    def block(argument: object) -> object:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go_on.wait(60)
        with lock:
            running -= 1
        return argument

    function = Function(named(block), 2)
    calls = [asyncio.create_task(function(number)) for number in range(5)]
    while running < 2:
        await asyncio.sleep(0.001)  # the event loop goes on
    calls[0].cancel()  # its thread goes on, and counts
    await asyncio.wait([calls[0]])
    assert running == 2
    go_on.set()
    assert await asyncio.gather(*calls[1:]) == [(number, None) for number in range(1, 5)]
    assert most == 2
    assert await function(None) == (None, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("json:no_such", "json has no 'no_such'"),
        ("json", "json has no ''"),
        (":x", "it has no 'x'"),
        ("sys:path", "is no function"),
        ("app_broken:x", "app_broken cannot be imported: ZeroDivisionError"),
        ("app_kinds:generator", "is a generator"),
        ("app_kinds:nothing", "cannot be called with one argument"),
    ],
)
def test_what_is_no_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    (tmp_path / "app_broken.py").write_text("1 / 0\n")
    (tmp_path / "app_kinds.py").write_text("async def generator(x):\n    yield\n\ndef nothing(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    command = click.Command("storescp")
    with pytest.raises(click.BadParameter, match=why):
        named_of(click.Context(command), click.Option(["--on-stored"]), text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "--folder-template {PatientNam} 0",
            "--folder-template: 'PatientNam' is no keyword of an element; did",
        ),
        ("--folder-template {PatientID} -su S 0", "-su is a template itself"),
        ("--folder-template {PatientID} --on-stable json:dumps 0", "--on-stable: a study needs a folder"),
        ("--ignore --on-stored json:dumps 0", "are about files, and --ignore saves none"),
        ("--ignore --folder-template {PatientID} 0", "are about files, and --ignore saves none"),
        ("--on-stored json:loadz 0", "json has no 'loadz'"),
    ],
)
async def test_a_wrong_command_line_is_one_line(tool: Tool, line: str, says: str) -> None:
    code, out, err = await tool("storescp", *line.split())
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


APP = """
import json

def stored(received):
    print(received.sop_instance_uid, file=open("stored", "a"), flush=True)

async def stable(study):
    json.dump([str(study.folder), study.instances], open("stable", "w"))
"""


def of_patient(uid: str, patient_id: str) -> BytesSource:
    elements = [
        (0x00080016, "UI", INSTANCE.SOPClassUID),
        (0x00080018, "UI", uid),
        (0x00080060, "CS", "CT"),
        (0x00100020, "LO", patient_id),
        (0x0020000D, "UI", "1.2"),
        (0x00200011, "IS", "3"),
    ]
    data = encode([(tag, vr, value.encode()) for tag, vr, value in elements], EXPLICIT_VR_LITTLE_ENDIAN)
    return BytesSource(INSTANCE.SOPClassUID, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


async def test_storescp_with_a_template_and_functions(start: Start, tmp_path: Path) -> None:
    (tmp_path / "handlers_of_storescp.py").write_text(APP)
    template = "{PatientID}/{StudyInstanceUID}/{SeriesNumber:04}-{Modality}"
    functions = ("--on-stored", "handlers_of_storescp:stored", "--on-stable", "handlers_of_storescp:stable")
    options = ("-od", tmp_path / "in", "--folder-template", template, *functions, "-tos", 3600)
    async with start("storescp", 0, *options, cwd=tmp_path) as process:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        port = int(line.partition(",")[0].rpartition(":")[2])
        sources = [of_patient("1.1", "P1"), of_patient("1.2", "P1")]
        address, contexts = f"ANY@127.0.0.1:{port}", storage_contexts(sources)
        async with associate(address, contexts=contexts) as association:
            for source in sources:
                assert (await association.c_store(source)).status == 0
        assert (tmp_path / "stored").read_text().split() == ["1.1", "1.2"], "before they are answered"
        process.terminate()
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    files = sorted(str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*.dcm"))
    assert files == ["P1/1.2/0003-CT/1.1.dcm", "P1/1.2/0003-CT/1.2.dcm"]
    assert json.loads((tmp_path / "stable").read_text()) == [str(tmp_path / "in" / "P1" / "1.2"), 2]
