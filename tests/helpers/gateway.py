"""A gateway between an archive and destinations that count what comes, over real associations."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncdicom import BytesSource, PresentationContext, Request, Server, associate, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.archive.index.work import State
from asyncdicom.data.elements import encode
from asyncdicom.gateway.config import parse_gateway
from asyncdicom.gateway.gateway import Gateway
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def instance(uid: str, *, sop_class: str = CT, study: str = "1.2.3", patient: str = "P1") -> BytesSource:
    elements = [
        (0x00080016, "UI", sop_class.encode()),
        (0x00080018, "UI", uid.encode()),
        (0x00080060, "CS", b"CT" if sop_class == CT else b"MR"),
        (0x00100020, "LO", patient.encode()),
        (0x0020000D, "UI", study.encode()),
        (0x0020000E, "UI", f"{study}.1".encode()),
        (0x7FE00010, "OW", b"\1\2\3\4"),
    ]
    data = encode(elements, EXPLICIT_VR_LITTLE_ENDIAN)
    return BytesSource(sop_class, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)


class Pacs:
    """A destination: it counts what comes, and answers what it is told to."""

    def __init__(self) -> None:
        self.received: Counter[str] = Counter()
        self.callers: set[str] = set()
        self.requests: list[Any] = []
        self.studies: dict[Any, list[str]] = {}
        self.answer: Callable[[str], int] = lambda uid: 0
        self.came = asyncio.Event()
        self.goes_on = asyncio.Event()
        """While it is not set, nothing is taken."""
        self.goes_on.set()
        self.server: Server

    async def on_store(self, request: Request) -> int:
        await self.goes_on.wait()
        await request.data.read()
        self.requests.append(request)
        uid = request.affected_sop_instance_uid
        self.callers.add(request.calling_ae_title)
        self.studies.setdefault(request.association, []).append(uid)
        status = self.answer(uid)
        if status == 0:
            self.received[uid] += 1
        self.came.set()
        return status

    async def has(self, *uids: str) -> None:
        """Wait until all of these have come."""
        async with asyncio.timeout(60):
            while not set(uids) <= set(self.received):
                self.came.clear()
                await self.came.wait()

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(60):
            while sum(map(len, self.studies.values())) < times:
                self.came.clear()
                await self.came.wait()


@asynccontextmanager
async def pacs(port: int = 0, **options: Any) -> AsyncIterator[Pacs]:
    node = Pacs()
    async with serve(f"PACS@127.0.0.1:{port}", c_store=node.on_store, **options) as node.server:
        yield node


QUICK = "first_pause = 0.05\nlongest_pause = 0.2\n"


def config(routes: str, more: str = QUICK, **ports: int) -> Any:
    destinations = [
        f'[destinations.{name}]\naddress = "{name}@127.0.0.1:{port}"\n{more}' for name, port in ports.items()
    ]
    return parse_gateway("".join(destinations) + routes)


EVERYTHING = "[[routes]]\nwhen = {{}}\nto = [{}]\n"

BULK_OR_URGENT = (
    '[[routes]]\nwhen = { calling = "CT1" }\nto = ["A"]\npriority = "bulk"\nstop = true\n'
    '[[routes]]\nwhen = {}\nto = ["A"]\npriority = "urgent"\n'
)
"""What CT1 sends can wait, what others send can not."""

ONE_AT_A_TIME = "maximum_associations = 1\noperations_invoked = 1\n"


@asynccontextmanager
async def gateway(path: Path, setting: Any) -> AsyncIterator[tuple[Gateway, str]]:
    async with (
        Archive(path, durability="none", scrub=0) as archive,
        Gateway(archive, setting, ae_title="GATE", patience=1.0) as running,
        serve_archive(archive, "GATE@127.0.0.1:0") as server,
    ):
        yield running, f"GATE@127.0.0.1:{server.port}"


async def send(where: str, *instances: BytesSource, calling: str = "CT1") -> None:
    kinds = {(each.sop_class_uid, each.transfer_syntax_uid) for each in instances}
    contexts = [PresentationContext(sop_class, (syntax,)) for sop_class, syntax in kinds]
    async with associate(where, calling_ae_title=calling, contexts=contexts) as association:
        for each in instances:
            (await association.c_store(each)).raise_for_status()


async def settled(running: Gateway, **states: int) -> None:
    """Wait until so many deliveries are in these states, and none in any other that is not the end."""
    async with asyncio.timeout(60):
        while True:
            counts = Counter[str]()
            for _, _, state, number in await running._archive.read(running._archive.deliveries.counts):
                counts[State(state).name.lower()] += number
            if counts == states:
                return
            await asyncio.sleep(0.01)
