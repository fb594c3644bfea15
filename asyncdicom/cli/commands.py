"""Programs that storescp runs when an instance or a study has come: a list of arguments, never a shell."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from asyncdicom.net.threads import Told
from asyncdicom.services.request import Request
from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log import Log

__all__ = ["Commands", "EndOfStudy", "Executing", "Template"]

log = Log("asyncdicom.cli")

_WAITING = 10_000  # commands: what comes beyond is not run
_PATIENCE = 3600.0  # seconds that a command may take
_LAST_PATIENCE = 10.0  # seconds that the end of the process waits for commands
_PLACEHOLDER = re.compile(r"#[pfacr]")


class Template(NamedTuple):
    """A command line: its words, some of which stand for what was received."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, placeholders: str = "#p #f #a #c #r #p/#f") -> Template:
        """Read a command line by the rules of the shell for quotes. Raises ValueError.

        A placeholder is a word of its own, so nothing that a peer sends is ever read as anything else than
        one argument: #p, the folder; #f, the file's name (#p/#f, its path); #a, the calling and #c the called
        AE title; #r, the peer's address.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
        if not words:
            raise ValueError("it is empty")
        for word in words:
            if _PLACEHOLDER.search(word) and word not in placeholders.split():
                raise ValueError(
                    f"{word!r}: placeholders are arguments of their own, and here they are {placeholders}"
                )
        if _PLACEHOLDER.search(words[0]):
            raise ValueError(f"{words[0]!r} is no program")
        if shutil.which(words[0]) is None:
            raise ValueError(f"there is no program {words[0]!r}")
        return cls(tuple(words))

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """Give the arguments. Raises ValueError for a value that a program would take for an option, or not
        get as it is."""
        for word in self.words:
            value = values.get(word, "")
            if value.startswith("-"):
                raise ValueError(f"{word} is {value!r}, which would be taken for an option")
            if "\0" in value:
                raise ValueError(f"{word} is {value!r}, which is no argument")
        return [values.get(word, word) for word in self.words]


def _values_of(request: Request, path: Path) -> dict[str, str]:
    """What the placeholders stand for, for a file that was received."""
    return {
        "#p": str(path.parent),
        "#f": path.name,
        "#p/#f": str(path),
        "#a": request.calling_ae_title,
        "#c": request.called_ae_title,
        "#r": request.association.peer[0],
    }


class Commands:
    """Runs commands, `maximum` at the same time; the others wait their turn.

    A command that cannot be run, fails, or takes more than an hour is one line in the log, and counted
    (`counters.commands_failed`).
    """

    def __init__(self, maximum: int) -> None:
        self.run = 0
        self.failed = 0
        self._maximum = maximum
        self._waiting: deque[tuple[list[str], str]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def start(self, template: Template, values: Mapping[str, str], about: str) -> None:
        """Run a command as soon as there is room; never waits. `about`: what the log calls it."""
        try:
            arguments = template.filled(values)
        except ValueError as error:
            self._fail(about, f"is not run: {error}")
            return
        if len(self._waiting) >= _WAITING:
            self._fail(about, f"is not run: {_WAITING} others wait")
            return
        self._waiting.append((arguments, about))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._running) < self._maximum:
            task = asyncio.get_running_loop().create_task(self._execute(*self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._go_on()

    async def _execute(self, arguments: list[str], about: str) -> None:
        self.run += 1
        told = Told()
        # A thread that is left behind at the end, with what it waits for, must not keep the process.
        Thread(target=lambda: told.tell(_outcome_of(arguments)), daemon=True, name="asyncdicom-run").start()
        why = await told.ending
        if why:
            self._fail(about, why)

    def _fail(self, about: str, why: str) -> None:
        self.failed += 1
        counters.commands_failed += 1
        log.warning("%s: the command %s", about, why)

    async def close(self) -> None:
        """Wait for what is under way or waits, but for 10 seconds at most; the rest is told, and goes on."""
        deadline = asyncio.get_running_loop().time() + _LAST_PATIENCE
        while self._running and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for _, about in self._waiting:
            self._fail(about, "was not run: the process ends")
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        if self._running:
            log.warning("%d commands still run, and are left alone", len(self._running))
            await asyncio.wait(self._running)
        if self.run or self.failed:
            log.info("%d commands were run, %d failed", self.run, self.failed)


def _outcome_of(arguments: list[str]) -> str:
    """Run a program, and say what went wrong; "": nothing. Blocking."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=2,  # our own stdout may be read as JSON
            timeout=_PATIENCE,
            start_new_session=True,  # the signals that stop us are not for it
        )
    except (OSError, ValueError) as error:
        return f"cannot be run: {error}"
    except subprocess.TimeoutExpired:
        return f"was ended: it took more than {_PATIENCE:.0f} s"
    code = done.returncode
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with {code}" if code else ""


class EndOfStudy:
    """Runs a command for each study of which nothing more has come for `patience` seconds."""

    def __init__(self, commands: Commands, template: Template, patience: float) -> None:
        self._commands = commands
        self._template = template
        self._patience = patience
        self._studies: dict[str, tuple[asyncio.TimerHandle, dict[str, str]]] = {}

    def received(self, request: Request, path: Path) -> None:
        """Something has come for the study whose folder this file is in."""
        folder = str(path.parent)
        if folder in self._studies:
            self._studies.pop(folder)[0].cancel()
        elif len(self._studies) >= _WAITING:
            self._end(next(iter(self._studies)))
        timer = asyncio.get_running_loop().call_later(self._patience, self._end, folder)
        self._studies[folder] = timer, _values_of(request, path)

    def _end(self, folder: str) -> None:
        timer, values = self._studies.pop(folder)
        timer.cancel()
        self._commands.start(self._template, values, folder)

    def close(self) -> None:
        """Nothing more comes: end all studies."""
        for folder in list(self._studies):
            self._end(folder)


class Executing:
    """What storescp runs, as its options say; `kept` is told what was received.

    `on_reception` and `on_study`: the commands, or None; `patience`: seconds after which a study has ended;
    `maximum`: how many run at the same time. Leaving the ``async with`` block waits for them (`Commands`).
    """

    def __init__(
        self, on_reception: Template | None, on_study: Template | None, patience: float, maximum: int
    ) -> None:
        self._commands = Commands(maximum)
        self._on_reception = on_reception
        self._studies = None if on_study is None else EndOfStudy(self._commands, on_study, patience)

    async def __aenter__(self) -> Executing:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._studies is not None:
            self._studies.close()
        await self._commands.close()

    def kept(self, request: Request, path: Path) -> None:
        """An instance was kept in a file, and answered."""
        if self._on_reception is not None:
            self._commands.start(self._on_reception, _values_of(request, path), path.name)
        if self._studies is not None:
            self._studies.received(request, path)
