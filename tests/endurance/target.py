"""A server under attack, in a process of its own that looks at itself: ``python -m endurance.target JSON``.

It prints its port. Then for each line that it reads: "idle" takes what there is now as the idle state, "tell"
prints what was the most since then, as JSON; the end of its input ends it. With "counted" the calls of the
event loop's thread are counted (`sys.setprofile`), which makes it slow: then no time means anything.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any

from asyncdicom import AccessPolicy, Limits, Request, Response, Timeouts, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.net.cached import Memory

BEAT = 0.001  # seconds; whoever else is to be served by the loop waits no longer than from beat to beat
FILE_CALLS = {
    ("posix", "open"),
    ("posix", "pread"),
    ("posix", "preadv"),
    ("posix", "readv"),
    ("posix", "stat"),
}
READS_WHAT_IS_IN_MEMORY = Memory.read_into.__code__  # and waits for no disk: see tests/net/test_cached.py
COUNTED = (
    *("calls from beat to beat", "messages in a turn", "strings interned", "file calls of the loop"),
    *("objects", "tasks", "log lines"),
)
ADDRESS = "ARCHIVE@127.0.0.1:0"


def server_options(limits: dict[str, Any], trace: Callable[[str, object], None] | None) -> dict[str, Any]:
    """The one place that knows how `serve` is given limits and time-outs.

    A handler that is stuck is given up within a repetition or two: what it has kept has to come back.
    """
    return {"limits": Limits(**limits), "trace": trace, "timeouts": Timeouts(handler=5.0)}


class Log(logging.Handler):
    """Counts lines and writes none."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1


class Gauges:
    """What is counted of this process; the most since `idle`."""

    def __init__(self, *, counted: bool) -> None:
        self.most: dict[str, float] = dict.fromkeys(COUNTED, 0)
        self._base: dict[str, float] = {}
        self._calls = 0
        self._messages = 0
        self._counted = counted
        self._cpu = time.thread_time()
        self._log = Log()
        logging.getLogger("asyncdicom").addHandler(self._log)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._beat()
        threading.Thread(target=self._sample, daemon=True).start()
        if self._counted:
            sys.setprofile(self._profile)

    def _raise(self, what: str, count: float) -> None:
        if count > self.most.get(what, 0):
            self.most[what] = count

    def _profile(self, frame: FrameType, event: str, called: Any) -> None:
        self._calls += 1
        if event == "c_call":
            if called is sys.intern:
                self.most["strings interned"] += 1
            elif frame.f_code is READS_WHAT_IS_IN_MEMORY:
                pass
            elif (called.__module__, called.__name__) in FILE_CALLS:
                self.most["file calls of the loop"] += 1

    def _beat(self) -> None:
        self._raise("calls from beat to beat", self._calls)
        self._calls = 0
        now = time.thread_time()
        self._raise("CPU ms from beat to beat", (now - self._cpu) * 1000)
        self._cpu = now
        self._loop.call_later(BEAT, self._beat)

    def trace(self, direction: str, what: object) -> None:
        """Count the messages between two turns of the loop: who else is ready is served in the next."""
        if direction == "received":
            if not self._messages:
                self._loop.call_soon(self._next_turn)
            self._messages += 1

    def _next_turn(self) -> None:
        self._raise("messages in a turn", self._messages)
        self._messages = 0

    def _now(self) -> dict[str, float]:
        anonymous = next(
            line.split()[1]
            for line in Path("/proc/self/status").read_text().splitlines()
            if "RssAnon" in line
        )
        return {
            "objects": sys.getallocatedblocks(),
            "MiB": int(anonymous) / 1024,
            "tasks": len(asyncio.all_tasks(self._loop)),
            "log lines": self._log.lines,
        }

    def _sample(self) -> None:
        while True:
            for what, count in self._now().items():
                self._raise(what, count - self._base.get(what, 0))
            time.sleep(0.01)

    def idle(self) -> None:
        gc.collect()
        gc.freeze()  # as `serve_until_stopped` does: `tell` would hold up everybody for 50 ms
        self._base = self._now()
        self.most = dict.fromkeys(COUNTED, 0)
        self._calls = 0
        self._cpu = time.thread_time()

    def tell(self) -> dict[str, float]:
        gc.collect()
        now = self._now()
        kept = {f"{what} kept": now[what] - self._base[what] for what in ("objects", "MiB", "tasks")}
        return self.most | kept


async def never(request: Request) -> int:
    """A handler that reads nothing and does not end."""
    await asyncio.Event().wait()
    return 0


async def no_match(request: Request) -> AsyncIterator[dict[str, str]]:
    """A C-FIND handler that does not end."""
    await asyncio.Event().wait()
    yield {}


async def reads_the_identifier(request: Request) -> AsyncIterator[dict[str, str]]:
    """A C-FIND handler as users write it."""
    await request.identifier()
    for _ in ():
        yield {}


async def reads_the_whole(request: Request) -> Response:
    """A C-STORE handler as users write it."""
    await request.data.read()
    return Response(0)


class OfALibrary(BaseException):
    """What a library may raise that wants not to be caught."""


async def raises(request: Request) -> int:
    """A handler that raises what is no `Exception`, by Message ID."""
    raise (GeneratorExit(), OfALibrary(), asyncio.CancelledError())[request.message_id - 1]


HANDLERS: dict[str, dict[str, Any]] = {
    "stuck": {"c_store": never, "c_find": no_match},
    "raise": {"c_store": raises},
    "read": {"c_store": reads_the_whole, "c_find": reads_the_identifier},
}


async def attend(gauges: Gauges) -> None:
    """Answer the test until it ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line == b"idle\n":
            gauges.idle()
            print("{}", flush=True)
        else:
            print(json.dumps(gauges.tell()), flush=True)


async def main(setup: dict[str, Any]) -> None:
    gauges = Gauges(counted=setup["counted"])
    options = server_options(setup["limits"], gauges.trace)
    options["access"] = AccessPolicy(
        called_ae_titles="ARCHIVE", peers=(setup["peers"] and dict(setup["peers"])) or None
    )
    if folder := setup.get("folder"):
        async with (
            Archive(folder, durability="none") as archive,
            serve_archive(archive, ADDRESS, **options) as server,
        ):
            print(json.dumps({"port": server.port}), flush=True)
            gauges.start()
            await attend(gauges)
            sys.setprofile(None)
            os._exit(0)  # what is under way may take long
    async with serve(ADDRESS, **HANDLERS[setup["handlers"]], **options) as server:
        print(json.dumps({"port": server.port}), flush=True)
        gauges.start()
        await attend(gauges)
        os._exit(0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["loop"] == "uvloop":
        import uvloop

        uvloop.run(main(given))
    else:
        asyncio.run(main(given))
