"""A target, an attacker and a neighbour: what the attacks on time and memory have in common.

The target (`endurance.target`) and the attackers (`endurance.attackers`, at low priority) are processes of
their own. The neighbour is here: it asks for what everybody may ask for, and counts who kept it waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from endurance.attack import GOALS_MISSED, PATIENCE, Counts
from helpers.archive_process import CT, LONG, SERIES, STUDY, Node, data_set

from asyncdicom import Association, BytesSource
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

TESTS = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
REPETITIONS = 10 if LONG else 1
LINGERS = 12  # seconds that what a peer has asked may go on behind it (`Timeouts.half_closed`), and more
CUT_OFF = 900 if LONG else 30  # seconds; an attack that takes longer is ended
GOALS = {"C-ECHO p99 ms": 50, "C-ECHO max ms": 250, "C-STORE max ms": 500, "MiB": 64, "MiB grown": 8}
"""What the long form compares: on 2 cores that nobody else uses."""


class Neighbour:
    """Asks for what everybody may ask for: C-ECHO all the time, and what else the attack is about."""

    def __init__(self, node: Node, *services: str) -> None:
        self._node = node
        self._services = services
        self._times: dict[str, list[float]] = {}
        self.unserved = 0
        self._stored = 0
        self._enough = False

    async def live(self) -> None:
        """Go on until `leave`, with each service until it was not served."""
        asks = {"C-STORE": self._store, "C-FIND": self._find}
        work = [self._again("C-ECHO", self._echo)]
        await asyncio.gather(*work, *(self._again(name, asks[name]) for name in self._services))

    def leave(self) -> None:
        """Ask for nothing more; what was asked for is waited for."""
        self._enough = True

    async def _again(self, name: str, ask: Any) -> None:
        times = self._times.setdefault(name, [])
        begun = time.perf_counter()
        try:
            async with self._node.associate("NEIGHBOUR") as association:
                while not self._enough:
                    begun = time.perf_counter()
                    async with asyncio.timeout(PATIENCE):
                        await ask(association)
                    times.append((time.perf_counter() - begun) * 1000)
                    await asyncio.sleep(0.01)
        except (AssociationError, TimeoutError):
            times.append((time.perf_counter() - begun) * 1000)
            self.unserved += 1

    async def _echo(self, association: Association) -> None:
        await association.c_echo()

    async def _store(self, association: Association) -> None:
        self._stored += 1
        uid = f"{SERIES}.7.{self._stored}"
        data = data_set(uid, 39 << 10)
        await association.c_store(BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data))

    async def _find(self, association: Association) -> None:
        await association.c_find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})

    def counts(self) -> Counts:
        found: Counts = {"neighbour not served": self.unserved}
        for name, times in self._times.items():
            times.sort()
            found[f"{name} p50 ms"] = times[len(times) // 2]
            found[f"{name} p99 ms"] = times[len(times) * 99 // 100]
            found[f"{name} max ms"] = times[-1]
        return found


class Target(Node):
    """The server under attack."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process

    async def ask(self, word: str) -> Counts:
        """Say "idle" or "tell"; {} if it does not even answer that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        async with asyncio.timeout(CUT_OFF):
            answer: Counts = json.loads(await self._process.stdout.readline() or b"{}")
        return answer


@asynccontextmanager
async def target(
    *,
    folder: Path | None = None,
    handlers: str = "stuck",
    loop: str = "uvloop",
    counted: bool = False,
    peers: dict[str, str] | None = None,
    limits: dict[str, Any] | None = None,
) -> AsyncIterator[Target]:
    setup = {"handlers": handlers, "loop": loop, "counted": counted, "limits": limits or {}}
    setup |= {"peers": peers, "folder": folder and str(folder)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "endurance.target", json.dumps(setup)),
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, "the target did not start"
        yield Target(process, int(json.loads(line)["port"]))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


async def attacked(name: str, port: int, count: int) -> Counts:
    """Run an attacker to its end; what it counted."""
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "19", sys.executable, "-m", "endurance.attackers", name, str(port), str(count)),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), CUT_OFF)
        counts: Counts = json.loads(said)
        return counts
    except TimeoutError:
        return {"cut off": 1}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Siege:
    """An attack on time or memory. ``count``: how much of it, in the suite and in the long form.

    ``prepare`` fills the folder of an archive; ``services``: what the neighbour does beside C-ECHO.
    ``settings``: those of `target`; ``counted``: the calls of the loop are counted, in the suite.
    """

    attacker: str
    count: tuple[int, int]
    services: tuple[str, ...] = ()
    prepare: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    counted: bool = False

    async def __call__(self, folder: Path) -> Counts:
        settings = {"counted": self.counted and not LONG, **self.settings}
        if self.prepare is not None:
            await self.prepare(folder)
            settings["folder"] = folder
        async with target(**settings) as node:
            neighbour = Neighbour(node, *self.services)
            living = asyncio.ensure_future(neighbour.live())
            gc.collect()
            gc.freeze()  # or the neighbour waits for itself
            try:
                await asyncio.sleep(0.2)
                await node.ask("idle")
                counts = await self._attack(node)
                await asyncio.sleep(0.1)
            finally:
                gc.unfreeze()
                neighbour.leave()
                await living
            counts |= neighbour.counts()
            return counts | exceeded_goals(counts) if LONG and not settings["counted"] else counts

    async def _attack(self, node: Target) -> Counts:
        counts: Counts = {}
        kept = []
        for _ in range(REPETITIONS):
            counts |= await attacked(self.attacker, node.port, self.count[LONG])
            counts |= await self._over(node)
            kept.append(counts.get("MiB kept", 0))
        return counts | {"MiB grown": kept[-1] - kept[0]}

    @staticmethod
    async def _over(node: Target) -> Counts:
        """What there is when the attackers have gone: what they had asked may take 5 s more."""
        for _ in range(LINGERS if LONG else 1):
            counts = await node.ask("tell")
            if counts.get("tasks kept", 0) <= 0:
                break
            await asyncio.sleep(1)
        return counts


def exceeded_goals(counts: Counts) -> Counts:
    """How many of the goals of the long form are missed."""
    return {GOALS_MISSED: sum(counts.get(what, 0) > goal for what, goal in GOALS.items())}
