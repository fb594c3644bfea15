"""What storescp runs when an instance or a study has come: programs, by arguments and no shell; functions."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from threading import Thread
from typing import NamedTuple

from asyncdicom.cli.calling import Function
from asyncdicom.cli.functions import Named
from asyncdicom.net.threads import Told
from asyncdicom.scu.results import ReceivedInstance, ReceivedStudy
from asyncdicom.services.responses import Response, response_of
from asyncdicom.status import Status
from asyncdicom.telemetry import counters
from asyncdicom.telemetry.log import Log
from asyncdicom.telemetry.text import printable

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


def _values_of(received: ReceivedInstance) -> dict[str, str]:
    """What the placeholders stand for, for a file that was received."""
    path = received.path
    return {"#p": str(path.parent), "#f": path.name, "#p/#f": str(path)} | _sender_of(received)


def _sender_of(received: ReceivedInstance | ReceivedStudy) -> dict[str, str]:
    return {"#a": received.calling_ae_title, "#c": received.called_ae_title, "#r": received.address}


class _Failed(NamedTuple):
    """Why a command or a function failed, for the log."""

    why: str
    error: BaseException | None = None


class Commands:
    """Runs commands, and calls functions, `maximum` at the same time; the others wait their turn.

    What cannot be run, fails, or is a command and takes more than an hour is one line in the log, and counted
    (`counters.commands_failed`).
    """

    def __init__(self, maximum: int) -> None:
        self.run = 0
        self.failed = 0
        self._maximum = maximum
        self._waiting: deque[tuple[str, Callable[[], Awaitable[_Failed | None]]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    def start(self, template: Template, values: Mapping[str, str], about: str) -> None:
        """Run a command as soon as there is room; never waits. `about`: what the log calls it."""
        about = f"{about}: the command"
        try:
            arguments = template.filled(values)
        except ValueError as error:
            self._fail(about, _Failed(f"is not run: {error}"))
        else:
            self._add(about, partial(_execute, arguments))

    def call(self, function: Function, argument: object, about: str) -> None:
        """Call a function as soon as there is room; never waits."""
        self._add(f"{about}: {function.name}", partial(_call, function, argument))

    def _add(self, about: str, work: Callable[[], Awaitable[_Failed | None]]) -> None:
        if len(self._waiting) >= _WAITING:
            self._fail(about, _Failed(f"is not run: {_WAITING} others wait"))
            return
        self._waiting.append((about, work))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and len(self._running) < self._maximum:
            task = asyncio.get_running_loop().create_task(self._perform(*self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._go_on()

    async def _perform(self, about: str, work: Callable[[], Awaitable[_Failed | None]]) -> None:
        self.run += 1
        failed = await work()
        if failed is not None:
            self._fail(about, failed)

    def _fail(self, about: str, failed: _Failed) -> None:
        self.failed += 1
        counters.commands_failed += 1
        if failed.error is None:
            log.warning("%s %s", about, failed.why)
        else:
            log.error("%s %s", about, failed.why, exc_info=failed.error)

    async def close(self) -> None:
        """Wait for what is under way or waits, but for 10 seconds at most; the rest is told, and goes on."""
        deadline = asyncio.get_running_loop().time() + _LAST_PATIENCE
        while self._running and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for about, _ in self._waiting:
            self._fail(about, _Failed("was not run: the process ends"))
        self._waiting.clear()
        for task in self._running:
            task.cancel()
        if self._running:
            log.warning("%d of them still run, and are left alone", len(self._running))
            await asyncio.wait(self._running)
        if self.run or self.failed:
            log.info("%d commands and functions were run, %d failed", self.run, self.failed)


async def _execute(arguments: list[str]) -> _Failed | None:
    told = Told()
    # A thread that is left behind at the end, with what it waits for, must not keep the process.
    Thread(target=lambda: told.tell(_outcome_of(arguments)), daemon=True, name="asyncdicom-run").start()
    why = await told.ending
    return _Failed(why) if why else None


async def _call(function: Function, argument: object) -> _Failed | None:
    _, error = await function(argument)
    return None if error is None else _Failed("failed", error)


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
    """Tells each study for which nothing more has come for `patience` seconds; late ones arm it again."""

    def __init__(self, tell: Callable[[ReceivedStudy], None], patience: float) -> None:
        self._tell = tell
        self._patience = patience
        self._studies: dict[str, tuple[asyncio.TimerHandle, ReceivedStudy]] = {}

    def received(self, received: ReceivedInstance) -> None:
        """Something has come for the study that has this folder."""
        if received.folder is None:
            return
        key, instances = str(received.folder), 1
        if key in self._studies:
            timer, study = self._studies.pop(key)
            timer.cancel()
            instances += study.instances
        elif len(self._studies) >= _WAITING:
            self._end(next(iter(self._studies)))
        uid = received.study_instance_uid
        study = ReceivedStudy(received.folder, uid, instances, *_sender_of(received).values())
        self._studies[key] = (
            asyncio.get_running_loop().call_later(self._patience, self._end, key),
            study,
        )

    def _end(self, key: str) -> None:
        timer, study = self._studies.pop(key)
        timer.cancel()
        self._tell(study)

    def close(self) -> None:
        """Nothing more comes: end all studies."""
        for key in list(self._studies):
            self._end(key)


class Wanted(NamedTuple):
    """What storescp is to run: commands and functions, on reception and when a study has ended."""

    on_reception: Template | None = None
    on_study: Template | None = None
    on_stored: Named | None = None
    on_stable: Named | None = None


class Executing:
    """What storescp runs, as its options say; `stored` and `kept` are told what was received.

    `patience`: seconds after which a study has ended; `maximum`: how many run at the same time. Leaving the
    ``async with`` block waits for them (`Commands`).
    """

    def __init__(self, wanted: Wanted, patience: float, maximum: int) -> None:
        self._commands = Commands(maximum)
        self._wanted = wanted
        self._on_stored = None if wanted.on_stored is None else Function(wanted.on_stored, maximum)
        self._on_stable = None if wanted.on_stable is None else Function(wanted.on_stable, maximum)
        is_told = wanted.on_study is not None or wanted.on_stable is not None
        self._studies = EndOfStudy(self._ended, patience) if is_told else None

    async def __aenter__(self) -> Executing:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._studies is not None:
            self._studies.close()
        await self._commands.close()

    @property
    def stored(self) -> Callable[[ReceivedInstance], Awaitable[Response]] | None:
        """What is awaited when an instance is in its file, and gives the answer."""
        return None if self._on_stored is None else partial(_answer, self._on_stored)

    def kept(self, received: ReceivedInstance) -> None:
        """An instance was kept in a file, and answered."""
        if self._wanted.on_reception is not None:
            about = received.path.name
            self._commands.start(self._wanted.on_reception, _values_of(received), about)
        if self._studies is not None:
            self._studies.received(received)

    def _ended(self, study: ReceivedStudy) -> None:
        about = (
            f"study {printable(study.study_instance_uid)}"  # the names of folders may be those of patients
        )
        if self._wanted.on_study is not None:
            values = {"#p": str(study.folder)} | _sender_of(study)
            self._commands.start(self._wanted.on_study, values, about)
        if self._on_stable is not None:
            self._commands.call(self._on_stable, study, about)


async def _answer(function: Function, received: ReceivedInstance) -> Response:
    """Answer with what a function returns: a status, or None for Success; 0xC000 if it fails."""
    result, error = await function(received)
    if error is None:
        try:
            return response_of(Status.SUCCESS if result is None else result)
        except (TypeError, ValueError) as wrong:
            error = wrong
    counters.commands_failed += 1
    uid = received.sop_instance_uid
    log.error("%s: %s failed, which is answered with 0xC000", uid, function.name, exc_info=error)
    return Response(Status.CANNOT_UNDERSTAND, error_comment="the function on reception failed")
