"""Gateways that send on what they receive to two destinations, and the destinations."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from asyncdicom import Request, Server, Status, Timeouts, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.gateway import Gateway, parse_gateway
from benchmarks.peers import orthanc
from benchmarks.processes import Running

_kept: list[object] = []  # what lives as long as the worker
_received: dict[str, set[str]] = {}
_came = asyncio.Event()
_NAMES = ("ONE", "TWO")
_SENDERS = 16


async def receive() -> list[int]:
    """Be two destinations, which drop what they get and remember its UIDs; gives their ports."""
    ports = []
    for name in _NAMES:
        uids = _received[name] = set()

        async def take(request: Request, uids: set[str] = uids) -> Status:
            async for _ in request.data.batches():
                pass
            uids.add(request.affected_sop_instance_uid)
            _came.set()
            return Status.SUCCESS

        started: Server = await serve(
            f"{name}@127.0.0.1:0", c_store=take, unknown_storage=True, timeouts=Timeouts(idle=None)
        )
        _kept.append(started)
        ports.append(started.port)
    return ports


async def arrived(count: int, patience: float = 600.0) -> float:
    """Wait until both have got so many more than at the last call; gives the time by the monotonic clock."""
    async with asyncio.timeout(patience):
        while any(len(uids) < count for uids in _received.values()):
            _came.clear()
            await _came.wait()
    for uids in _received.values():
        uids.clear()
    return time.perf_counter()


async def route(directory: str, ports: Sequence[int]) -> int:
    """Be our gateway, which survives a power cut; gives the port."""
    tables = [
        f'[destinations.{name}]\naddress = "{name}@127.0.0.1:{port}"'
        for name, port in zip(_NAMES, ports, strict=True)
    ]
    rule = f"[[routes]]\ndefault = true\nto = {json.dumps(_NAMES)}"
    archive = Archive(directory, durability="power", scrub=0)
    await archive.open()
    gateway = Gateway(archive, parse_gateway("\n".join([*tables, rule])))
    await gateway.__aenter__()
    started = await serve_archive(archive, "RECEIVER@127.0.0.1:0", timeouts=Timeouts(idle=None))
    _kept.extend((archive, gateway, started))
    return started.port


_LUA = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  SendToModality(instanceId, 'ONE')
  SendToModality(instanceId, 'TWO')
end
"""


@contextmanager
def routing_orthanc(folder: Path, ports: Sequence[int]) -> Iterator[Running]:
    """Run Orthanc with auto-routing in Lua."""
    (folder / "routes.lua").write_text(_LUA)
    modalities = {name: [name, "127.0.0.1", where] for name, where in zip(_NAMES, ports, strict=True)}
    scripts = [str(folder / "routes.lua")]
    with orthanc.running(folder, _SENDERS, LuaScripts=scripts, DicomModalities=modalities) as started:
        yield started
