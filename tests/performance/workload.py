"""What callgrind looks at: ``valgrind --tool=callgrind ... python workload.py FOLDER``.

Does the work of `PHASES`, each twice, with a little and with more of it, and calls `getppid` before and
after: there callgrind writes down what was executed since the last time. The difference of the two runs is
without whatever does not depend on the amount. The other side is a process of its own, ``workload.py peer``,
which callgrind does not look at. Prints the phases as JSON lines: name, and how much more the second run was.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    Association,
    BytesSource,
    FileSource,
    Limits,
    PresentationContext,
    Request,
    Status,
    associate,
    serve,
)
from asyncdicom.net import disk
from asyncdicom.net.stream import DataStream
from asyncdicom.net.transport import Transport
from asyncdicom.opening import Opening

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
MIB = 1 << 20
SMALL = 39 * 1024
MATCH = bytes.fromhex("0800520043530600") + b"IMAGE "
CONTEXTS = [PresentationContext(uid, (EXPLICIT,)) for uid in (CT, STUDY_ROOT.find, VERIFICATION)]


# both sides


async def drop(request: Request) -> Status:
    async for _ in request.data.batches():
        pass
    return Status.SUCCESS


async def find(request: Request) -> AsyncIterator[bytes]:
    for _ in range(int(await request.data.read())):
        yield MATCH


def call(port: int) -> Opening[Association]:
    return associate(f"SCP@127.0.0.1:{port}", contexts=CONTEXTS)


async def echo(port: int, count: int) -> None:
    async with call(port) as association:
        for _ in range(count):
            await association.c_echo()


async def store(port: int, count: int, size: int) -> None:
    source = BytesSource(CT, "1.2.3", EXPLICIT, bytes(size))
    async with call(port) as association:
        for _ in range(count):
            assert (await association.c_store(source)).status == 0


async def ask(port: int, count: int) -> None:
    async with call(port) as association:
        async with association.c_find(b"%08d" % count, raw=True) as matches:
            found = 0
            async for _ in matches:
                found += 1
    assert found == count


# the other side: answers, and does what it is told on its standard input


async def peer() -> None:
    loop = asyncio.get_running_loop()
    async with serve("SCP@127.0.0.1:0", c_store=drop, c_find=find, unknown_storage=True) as server:
        print(server.port, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            name, *arguments = json.loads(line)
            ways: dict[str, Callable[..., Awaitable[None]]] = {"echo": echo, "store": store, "ask": ask}
            await ways[name](*arguments)
            print("done", flush=True)


class Peer:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process

    async def do(self, *command: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        assert await self._process.stdout.readline() == b"done\n"


# our side


class Side:
    """What the phases need."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        self.peer = peer
        self.folder = folder
        self.ports: dict[str, int] = {}

    async def save(self, request: Request) -> Status:
        await request.data.save(self.folder / "received.dcm")
        return Status.SUCCESS

    async def forward(self, request: Request) -> Status:
        async with call(self.peer.port) as onward:
            return (await onward.c_store(request.data)).status

    def file(self, size: int) -> FileSource:
        path = self.folder / f"{size}.dcm"
        if not path.exists():
            path.write_bytes(bytes(size))
        return FileSource(
            path,
            sop_class_uid=CT,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=EXPLICIT,
            offset=0,
            length=size,
        )


async def receive(side: Side, size: int) -> None:
    await side.peer.do("store", side.ports["save"], 1, size)


async def receive_short(side: Side, size: int) -> None:
    await side.peer.do("store", side.ports["short"], 1, size)


async def send(side: Side, size: int) -> None:
    async with call(side.peer.port) as association:
        assert (await association.c_store(side.file(size))).status == 0


async def pass_on(side: Side, size: int) -> None:
    await side.peer.do("store", side.ports["forward"], 1, size)


async def receive_small(side: Side, count: int) -> None:
    await side.peer.do("store", side.ports["save"], count, SMALL)


async def send_small(side: Side, count: int) -> None:
    source = side.file(SMALL)
    async with call(side.peer.port) as association:
        for _ in range(count):
            assert (await association.c_store(source)).status == 0


async def answer_echo(side: Side, count: int) -> None:
    await side.peer.do("echo", side.ports["save"], count)


async def ask_echo(side: Side, count: int) -> None:
    await echo(side.peer.port, count)


async def answer_find(side: Side, count: int) -> None:
    await side.peer.do("ask", side.ports["save"], count)


async def ask_find(side: Side, count: int) -> None:
    await ask(side.peer.port, count)


# One copy more, as somebody might add it unseen; both are undone after their phase.


def copy_what_is_received() -> Callable[[], None]:
    feed = DataStream.feed

    def copying(stream: DataStream, views: list[memoryview], length: int, is_last: bool) -> None:
        feed(stream, [memoryview(bytes(view)) for view in views], length, is_last)

    DataStream.feed = copying  # type: ignore[method-assign,assignment]
    return lambda: setattr(DataStream, "feed", feed)


def copy_what_is_sent() -> Callable[[], None]:
    write = Transport.write
    Transport.write = lambda transport, buffers: write(  # type: ignore[method-assign,assignment]
        transport, [bytes(buffer) for buffer in buffers]
    )
    return lambda: setattr(Transport, "write", write)


class Phase(NamedTuple):
    work: Callable[[Side, int], Awaitable[None]]
    little: int
    much: int
    mutate: Callable[[], Callable[[], None]] | None = None


PHASES: dict[str, Phase] = {
    "a byte received into a file": Phase(receive, MIB, 33 * MIB),
    "a byte received into a file, one copy more": Phase(receive, MIB, 17 * MIB, copy_what_is_received),
    "a byte received into a file, PDU 16 KiB": Phase(receive_short, MIB, 17 * MIB),
    "a byte sent from a file": Phase(send, 2 * MIB, 34 * MIB),
    "a byte sent from a file, one copy more": Phase(send, 2 * MIB, 18 * MIB, copy_what_is_sent),
    "a byte passed on": Phase(pass_on, MIB, 33 * MIB),
    "a C-ECHO answered": Phase(answer_echo, 10, 110),
    "a C-ECHO asked": Phase(ask_echo, 10, 110),
    "a C-STORE of 39 KiB received": Phase(receive_small, 5, 45),
    "a C-STORE of 39 KiB sent": Phase(send_small, 5, 45),
    "a match sent": Phase(answer_find, 20, 320),
    "a match received": Phase(ask_find, 20, 320),
}


async def measure(folder: Path) -> None:
    disk._SLOW = math.inf  # a busy machine must not change which way is measured
    gc.disable()  # in which phase a full collection falls is chance, and worth a sixth of a small C-STORE
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "peer", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    side = Side(Peer(process, int(await process.stdout.readline())), folder)
    options: Any = {"c_find": find, "unknown_storage": True}
    async with (
        serve("SCP@127.0.0.1:0", c_store=side.save, **options) as save,
        serve("SCP@127.0.0.1:0", c_store=side.save, limits=Limits(maximum_length=16384), **options) as short,
        serve("SCP@127.0.0.1:0", c_store=side.forward, **options) as forward,
    ):
        side.ports = {"save": save.port, "short": short.port, "forward": forward.port}
        for name, phase in PHASES.items():
            undo = phase.mutate() if phase.mutate is not None else None
            await phase.work(side, phase.little)  # what a first time needs
            os.getppid()
            await phase.work(side, phase.little)
            os.getppid()
            await phase.work(side, phase.much)
            os.getppid()
            if undo is not None:
                undo()
            print(json.dumps([name, phase.much - phase.little]), flush=True)
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    uvloop.run(peer() if sys.argv[1] == "peer" else measure(Path(sys.argv[1])))
