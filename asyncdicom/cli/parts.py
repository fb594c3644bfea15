"""Programs that belong together: each is started again when it ends by itself, and all end with us."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from asyncdicom.telemetry.log import Log

__all__ = ["Part", "PartFailed", "run_once"]

log = Log("asyncdicom.cli")

_PAUSE = 1.0  # seconds until one that has ended is started again
_LAST_WORDS = 4096  # bytes of a log that are read for its last lines
_FATAL = re.compile(r"FATAL|PANIC|ALERT|error:")
_PATIENCE = 10.0  # seconds in which one that was told to end has ended
_LOOK = 0.05  # seconds between two looks whether one is ready


class PartFailed(Exception):
    """A program could not be started, or has ended before it was ready; the text is one line."""


class Part:
    """One of the programs.

    `log_to`: the file that takes what it prints; without one it is a tool of ours, whose first line on stdout
    is `line`, and whose log is ours. `ends_by` and `killed_by`: the signals that let it finish what is under
    way, and that end it at once. `pause`: seconds until it is started again.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        log_to: Path | None = None,
        ends_by: int = signal.SIGTERM,
        killed_by: int = signal.SIGKILL,
        pause: float = _PAUSE,
        **of_process: Any,
    ) -> None:
        self.name = name
        self.line = b""
        self.is_leaving = False
        self._command = command
        self._log_to = log_to
        self._ends_by = ends_by
        self._killed_by = killed_by
        self._pause = pause
        self._of_process = of_process
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if it has one."""
        return None if self._process is None else self._process.pid

    async def start(self, is_ready: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Start it, and wait until it is ready: by what `is_ready` says, or by its first line.

        Raises `PartFailed` if it ends before. Cancelled: it runs, until `end`.
        """
        try:
            with _opened(self._log_to) as output:
                self._process = await _execute(self._command(), output, self._of_process)
        except OSError as error:
            raise PartFailed(f"{self.name}: {error.filename}: {error.strerror}") from None
        if is_ready is None:
            stdout = self._process.stdout
            self.line = b"" if stdout is None else await stdout.readline()
            if not self.line:
                raise PartFailed(f"{self.name} has ended: {await self._how()}")
            return
        while not await is_ready():
            if self._process.returncode is not None:
                raise PartFailed(f"{self.name} has ended: {await self._how()}")
            await asyncio.sleep(_LOOK)

    async def _how(self) -> str:
        """Wait for its end, and say how it was."""
        process = self._process
        if process is None:
            return "it was not started"
        if process.stdout is not None:
            while await process.stdout.read(1 << 16):
                pass  # it would wait for who reads it
        code = await process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = _last_line(self._log_to)
        return f"{how}: {last}" if last else how

    async def keep(self) -> None:
        """Start it again each time that it has ended, until it is cancelled or told to end."""
        while True:
            try:
                how = await self._how()
                if self.is_leaving:
                    return
                log.warning("%s (pid %s) has ended, and is started again: %s", self.name, self.pid, how)
                await asyncio.sleep(self._pause)
                if self.is_leaving:
                    return
                if self._log_to is None:
                    await self.start()
                else:
                    await self.start(_at_once)
            except PartFailed as error:
                log.debug("%s", error)  # told by the next turn

    def tell_to_end(self) -> None:
        """Let it finish what is under way, and end."""
        self.is_leaving = True
        self._send(self._ends_by)

    def kill(self) -> None:
        """End it at once."""
        self.is_leaving = True
        self._send(self._killed_by)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def ended(self, patience: float = _PATIENCE) -> None:
        """Wait for its end; after so many seconds it is told again, and then ended at once.

        A signal that comes while Python starts may be lost.
        """
        for number in (self._ends_by, self._killed_by):
            try:
                async with asyncio.timeout(patience):
                    await self._how()
                return
            except TimeoutError:
                name = signal.Signals(number).name
                log.warning("%s (pid %s) has not ended in %g s: %s", self.name, self.pid, patience, name)
                self._send(number)
        await self._how()


async def _at_once() -> bool:
    return True


def _opened(log_to: Path | None) -> AbstractContextManager[IO[bytes] | None]:
    return nullcontext() if log_to is None else open(log_to, "ab")


async def _execute(
    command: Sequence[str], output: IO[bytes] | None, of_process: Mapping[str, Any]
) -> asyncio.subprocess.Process:
    """Start a program; what it prints goes to `output`; without one, its stdout to us."""
    setpriv = shutil.which("setpriv")  # it ends with us, however we end
    words = [*((setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()), *command]
    return await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if output is None else output,
        stderr=None if output is None else asyncio.subprocess.STDOUT,
        process_group=0,  # Ctrl-C is for us, who tell them
        **of_process,
    )


async def run_once(name: str, command: Sequence[str], of_process: Mapping[str, Any]) -> None:
    """Run a program to its end. Raises `PartFailed` if it fails; cancelled: it is ended."""
    with TemporaryFile() as output:
        process = await _execute(command, output, of_process)
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        output.seek(0)
        if code:
            raise PartFailed(f"{name}: {_last_of(output.read().decode(errors='replace'))}")


def _last_line(path: Path | None) -> str:
    """Give the last words of a log."""
    with suppress(OSError):
        if path is not None:
            with open(path, "rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _LAST_WORDS, 0))
                return _last_of(file.read().decode(errors="replace"))
    return ""


def _last_of(text: str) -> str:
    """Give the last line that says something; with those before it that say what was fatal."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-3:]
    while len(lines) > 1 and not _FATAL.search(lines[0]):
        del lines[0]
    return " ".join(lines)
