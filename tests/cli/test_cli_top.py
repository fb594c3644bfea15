"""``asyncdicom top``: what it shows of a state, and how it asks for one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import ENVIRONMENT

from asyncdicom.archive import Archive
from asyncdicom.archive.control import Control
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.cli.asking import result_of
from asyncdicom.cli.observing import observing_methods
from asyncdicom.cli.state import Observer
from asyncdicom.cli.top import duration, fitting, lines_of

PACS = {
    "destination": "PACS", "state": "open", "ready": 100, "waiting": 3, "leased": 1, "failed": 2,
    "under_way": 1, "delivered_since_start": 10, "oldest_seconds": 90.5,
    "last_trouble": "\x1b[2Jevil\u202e", "last_status": None,
}  # fmt: skip
STATE = {
    "version": "0.1", "uptime": 10.0, "ready": True, "why_not": [], "unrouted": 4,
    "associations": {"open": 1, "limit": 9, "accepted": 2, "rejected": 3, "connections_refused": 4},
    "operations": [{"operation": "C-STORE", "outcome": "Success", "number": 40}],
    "archive": {"instance": 7, "quarantine": 1, "missing": 0, "damaged": 0},
    "disk": {"total": 100 << 30, "free": 50 << 30, "reserve": 2 << 30, "is_short": False},
    "log": {"errors": 0, "lines_lost": 0}, "destinations": [PACS],
}  # fmt: skip


def test_a_low_terminal_shows_how_it_is() -> None:
    lines = list(lines_of(STATE | {"destinations": [PACS] * 60}))
    shown = fitting(lines, 40, 24)
    assert len(shown) == 23
    assert shown[0] == "asyncdicom 0.1, up 10s: ready"
    assert shown[-1] == "46 more lines: make the terminal higher,"
    assert fitting(lines, 200, 100) == lines


async def test_it_is_told_that_a_process_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs: what was shown before still stands there, and looks as if all were well."""
    monkeypatch.setattr("asyncdicom.cli.asking._SILENT", 0.01)
    came, goes_on = asyncio.Event(), asyncio.Event()

    async def top(archive: Archive, arguments: Any) -> AsyncGenerator[Any, None]:
        came.set()
        await goes_on.wait()
        yield {"ready": True}

    async with Archive(tmp_path, durability="none") as archive, Control(archive, methods={"top": top}):
        for is_cancelled in (True, False):
            asked = asyncio.ensure_future(result_of(str(tmp_path), "top"))
            async with asyncio.timeout(60):
                while f"{tmp_path} has not answered" not in capsys.readouterr().err:
                    await asyncio.sleep(0.01)
                await came.wait()
            came.clear()
            if is_cancelled:
                asked.cancel()
                await asyncio.wait((asked,))
                assert asked.cancelled()
        goes_on.set()
        assert await asked == {"ready": True}


def test_a_state_is_shown_with_rates() -> None:
    first = list(lines_of(STATE))
    assert first[:5] == [
        "asyncdicom 0.1, up 10s: ready",
        "associations: 1 of 9; 2 accepted, 3 rejected, 4 connections refused",
        "C-STORE: 40 Success",
        "archive: 7 instances; 1 in quarantine, 0 missing, 0 damaged",
        "disk: 50.0 of 100.0 GiB free, 2.0 are kept free",
    ]
    assert first[-1] == "4 instances fit no rule"
    assert first[-2].split()[:7] == ["PACS", "open", "100", "3", "1", "2", "1m30s"]
    later = {
        **STATE,
        "uptime": 20.0,
        "operations": [{"operation": "C-STORE", "outcome": "Success", "number": 140}],
        "destinations": [
            PACS | {"delivered_since_start": 30},
            PACS | {"destination": "NEW", "last_trouble": ""},
        ],
    }
    shown = list(lines_of(later, STATE))
    assert "C-STORE: 140 Success, 10.0 a second" in shown
    assert shown[-3].split()[6:9] == ["2.0", "1m30s", "52s"]
    assert shown[-2].split()[0] == "NEW"


def test_what_peers_say_is_escaped() -> None:
    for line in lines_of(STATE):
        assert line.isprintable()
    assert "\\x1b[2Jevil\\u202e" in "\n".join(lines_of(STATE))


def test_what_is_not_known_is_not_shown() -> None:
    without = {key: STATE[key] for key in STATE if key not in ("archive", "disk", "destinations", "unrouted")}
    state = {**without, "ready": False, "why_not": ["a", "b"], "log": {"errors": 0, "lines_lost": 5}}
    shown = list(lines_of(state))
    assert shown[0] == "asyncdicom 0.1, up 10s: NOT READY: a; b"
    assert shown[-1] == "log: 5 lines are lost"
    assert len(shown) == 4


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.9, "0s"), (59, "59s"), (60, "1m0s"), (3661, "1h1m"), (86400 * 3 + 3600 * 5, "3d5h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


async def test_a_process_is_asked(tmp_path: Path, tool: Any) -> None:
    alone = await tool("top", tmp_path / "archive")
    assert alone.code == 1
    assert "no process serves" in alone.err
    async with (
        Archive(tmp_path / "archive", durability="none") as archive,
        serve_archive(archive, "GATE@127.0.0.1:0") as server,
    ):
        async with Control(archive):
            other = await tool("top", archive.directory)
            assert (other.code, "top looks at serve and qrscp" in other.err) == (1, True)
        observer = Observer(archive, server, None)
        async with Control(archive, methods=observing_methods(observer)):
            (state,) = (await tool("top", archive.directory, "--json")).json
            assert (state["ready"], state["archive"]["instance"]) == (True, 0)
            once = await tool("top", archive.directory, "--once")
            assert once.lines[0].endswith(": ready")
            assert "\x1b" not in once.out
            await watched(archive.directory)
        await observer.close()


async def watched(directory: str) -> None:
    """On a terminal it goes on until Ctrl-C."""
    import pty

    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncdicom", "top", directory, "--interval", "0.2"),
        env=ENVIRONMENT,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        shown = b""
        async with asyncio.timeout(60):
            while shown.count(b"\x1b[H") < 2:
                shown += await asyncio.to_thread(os.read, ours, 4096)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
    assert b"associations: 0 of" in shown
