"""The queue that log lines leave through: logs that take nothing, hang, come back; forks; exits."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log_output import FileSink
from asyncdicom.telemetry.log_queue import LogQueue


class Memory:
    """A sink that keeps lines, and that can be made to hang or to fail."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.error: BaseException | None = None
        self.takes = threading.Event()
        self.takes.set()
        self.writing = threading.Event()
        self.reopened = 0

    def write(self, data: bytes) -> None:
        self.writing.set()
        assert self.takes.wait(60)
        if self.error is not None:
            raise self.error
        self.lines += data.decode().splitlines()

    def reopen(self) -> None:
        self.reopened += 1
        if self.error is not None:
            raise self.error


class Fixture:
    def __init__(self) -> None:
        self.sink = Memory()
        self.queue = LogQueue(self.sink)
        self.logger = logging.Logger("asyncdicom.server")
        self.logger.addHandler(self.queue)

    def written(self) -> list[str]:
        self.queue.flush()
        return self.sink.lines


@pytest.fixture
def log() -> Iterator[Fixture]:
    fixture = Fixture()
    yield fixture
    fixture.sink.takes.set()
    fixture.queue.close()


def test_lines_are_written_in_a_thread_in_their_order(log: Fixture) -> None:
    for number in range(1000):
        log.logger.info("line %d", number)
    assert log.written() == [f"line {number}" for number in range(1000)]


def test_a_log_that_hangs_holds_up_nobody_and_costs_a_bounded_number_of_lines(log: Fixture) -> None:
    log.sink.takes.clear()
    log.logger.info("first")
    assert log.sink.writing.wait(60)
    before = counters.log_lines_lost
    for number in range(12_000):
        log.logger.info("line %d", number)
    assert counters.log_lines_lost - before == 2000
    log.sink.takes.set()
    lines = log.written()
    assert lines[0] == "first"
    assert lines[1] == "2000 log lines are lost: the log did not take them"
    assert lines[2:] == [f"line {number}" for number in range(10_000)]
    log.logger.info("all is well")
    assert log.written()[-1] == "all is well"


def test_it_is_bounded_in_bytes(log: Fixture) -> None:
    log.sink.takes.clear()
    before = counters.log_lines_lost
    for _ in range(100):
        log.logger.info("x" * (1 << 20))
    assert counters.log_lines_lost - before >= 100 - (4 << 20) // (64 << 10)
    log.sink.takes.set()
    assert {len(line) for line in log.written() if line.startswith("x")} == {
        (64 << 10) + len("... (shortened)")
    }


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError(), SystemExit()])
def test_a_log_that_fails_is_told_when_it_takes_lines_again(log: Fixture, error: BaseException) -> None:
    log.sink.error = error
    for _ in range(3):
        log.logger.info("lost")
    log.written()
    log.sink.error = None
    log.logger.info("back")
    assert log.written() == ["3 log lines are lost: the log did not take them", "back"]


def test_a_hundred_thousand_refusals_are_a_few_lines(log: Fixture) -> None:
    for number in range(100_000):
        log.logger.warning("%s: refused: %s", f"EVIL ({number})", f"no permission ({number})")
    assert len(log.written()) == 3
    log.queue.close()
    assert log.sink.lines[3].startswith("99997 more times in ")
    assert len(log.sink.lines) == 4


class _Unshowable:
    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    ("message", "args"), [("%d", ("x",)), ("%s %s", ("x",)), ("no place", ("x",)), ("%s", (_Unshowable(),))]
)
def test_a_record_that_does_not_format_costs_itself(
    log: Fixture, message: str, args: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = counters.log_errors
    log.logger.warning(message, *args)
    log.logger.warning("the next one")
    assert log.written()[-1] == "the next one"
    assert counters.log_errors == before + 1
    assert capsys.readouterr().err == ""


def test_after_the_end_lines_are_counted(log: Fixture) -> None:
    log.logger.info("one")
    log.queue.close()
    before = counters.log_lines_lost
    log.logger.info("two")
    assert log.sink.lines == ["one"]
    assert counters.log_lines_lost == before + 1
    log.queue.close()


def test_reopening_that_fails_is_told_and_the_old_log_goes_on(log: Fixture) -> None:
    log.logger.info("one")
    log.written()

    def reopen() -> None:
        raise OSError(13, "Permission denied")

    log.sink.reopen = reopen  # type: ignore[method-assign]
    log.queue.reopen()
    log.logger.info("two")
    assert log.written() == ["one", "the log file could not be opened anew: Permission denied", "two"]


def test_a_log_file_is_opened_anew_without_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    queue = LogQueue(FileSink(str(path)))
    logger = logging.Logger("asyncdicom.server")
    logger.addHandler(queue)
    logger.info("one")
    queue.flush()
    path.rename(tmp_path / "log.1")
    queue.reopen()
    queue.flush()
    assert path.exists()
    logger.info("two")
    queue.close()
    assert (path.read_text(), (tmp_path / "log.1").read_text()) == ("two\n", "one\n")
    assert path.stat().st_mode & 0o777 & ~0o640 == 0


def test_a_line_that_was_cut_off_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink(str(tmp_path / "log"))
    real = os.write
    room = [4, 0]

    def write(descriptor: int, data: bytes) -> int:
        if not room:
            return real(descriptor, data)
        allowed = room.pop(0)
        if not allowed:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:allowed])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        sink.write(b"first line\n")
    sink.write(b"second\n")
    sink.write(b"third\n")
    assert (tmp_path / "log").read_bytes() == b"firs\nsecond\nthird\n"


def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", code],
        capture_output="stdout" not in options and "stderr" not in options,
        text=True,
        timeout=60,
        **options,
        check=False,
    )
    return done


def test_a_forked_child_logs_as_well(tmp_path: Path) -> None:
    done = run(
        f"""
import logging, os, warnings
from asyncdicom.telemetry.log_output import close_logs, log_to
log_to({str(tmp_path / "log")!r}, level=logging.INFO, format="short")
log = logging.getLogger("asyncdicom.server")
log.info("parent, before")
child = os.fork()
log.info("%s, after", "parent" if child else "child")
close_logs()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""
    )
    assert done.returncode == 0, done.stderr
    lines = sorted((tmp_path / "log").read_text().splitlines())
    assert lines == ["I: child, after", "I: parent, after", "I: parent, before"]


AT_THE_END = """
import asyncio, atexit, logging, sys
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import log_to
log_to(level=logging.INFO, format="short")
log = Log("asyncdicom.server")
class Late:
    def __del__(self):
        log.warning("while the interpreter ends")
late = Late()
late.itself = late
atexit.register(log.warning, "at exit")
for number in range(5000):
    log.info("%s", "x" * 100)
sys.exit(3)
"""


def test_logging_while_the_interpreter_ends() -> None:
    done = run(AT_THE_END)
    assert done.returncode == 3
    assert done.stderr.splitlines()[:5000] == ["I: " + "x" * 100] * 5000
    assert "W: at exit" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_stderr_changes_nothing() -> None:
    with open("/dev/full", "wb") as full:
        assert run(AT_THE_END, stderr=full).returncode == 3


def stuck() -> tuple[int, Callable[[], None]]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()

    def close() -> None:
        os.close(reading)
        os.close(writing)

    return writing, close


def test_an_exit_does_not_wait_for_a_pipe_that_nobody_reads() -> None:
    writing, close = stuck()
    try:
        assert run(AT_THE_END, stderr=writing).returncode == 3
    finally:
        close()


def test_a_pipe_whose_reader_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(AT_THE_END, stderr=writing).returncode == 3
    finally:
        os.close(writing)


def test_a_closed_stderr() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, AT_THE_END], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (3, b"")


def test_how_lines_look(tmp_path: Path) -> None:
    code = """
import logging, sys
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.log_output import close_logs, log_to
log_to(sys.argv[1] or None, level=logging.INFO, format=sys.argv[2])
log = Log("asyncdicom.server")
log.info("%s: stored", "CT\\x1b[2J\\n", fields={"address": "10.0.0.7", "calling_ae_title": "CT\\x1b"})
try:
    raise ValueError("two\\nlines\\x1b")
except ValueError:
    log.exception("a bug")
close_logs()
"""

    def lines(form: str) -> list[str]:
        path = tmp_path / form
        subprocess.run([sys.executable, "-c", code, str(path), form], check=True, timeout=60)
        return path.read_text().splitlines()

    short = lines("short")
    assert short[:3] == [
        r"I: CT\x1b[2J\n: stored",
        "E: a bug",
        "    Traceback (most recent call last):",
    ]
    assert short[-2:] == ["    ValueError: two", r"    lines\x1b"]
    text = lines("text")
    assert text[0].endswith(" " + short[0])
    assert text[0][:4].isdigit()
    stored, bug = map(json.loads, lines("json"))
    assert list(stored) == ["time", "level", "logger", "message", "address", "calling_ae_title"]
    assert (stored["level"], stored["message"]) == ("INFO", r"CT\x1b[2J\n: stored")
    assert bug["traceback"].startswith("Traceback (most recent call last):\n")
