"""How evenly associations are spread over processes: who serves, who calls, and who counts.

Run as a program it is one of the processes that serve: one that is handed connections by the supervisor of
`--processes`, or, with a port, one of several that listen on it with SO_REUSEPORT.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from asyncdicom import Association, Server, Timeouts, associate, serve
from asyncdicom.address import Address
from asyncdicom.cli.supervisor import Place, Supervisor
from benchmarks.measure import Sample
from benchmarks.processes import free_port

_LOOPBACK = "127.0.0.1"
_ESTABLISHED = "01"
_PATIENCE = 30.0
_PAUSE = 0.02
_SERVER = [sys.executable, "-m", "benchmarks.peers.balance"]

_kept: list[object] = []  # what lives as long as the worker


# who serves


async def hand_out(processes: int) -> tuple[int, list[int]]:
    """Run the supervisor of `--processes` with processes that only serve; gives the port, and their IDs."""
    port = free_port()
    supervisor = Supervisor(_SERVER, processes, Address("RECEIVER", _LOOPBACK, port))
    running = asyncio.create_task(supervisor.run())
    _kept.append(running)
    async with asyncio.timeout(_PATIENCE):
        await supervisor.up.wait()
    return port, [each.process.pid for each in supervisor.workers]


async def share_port(processes: int) -> tuple[int, list[int]]:
    """Run processes that listen on one port with SO_REUSEPORT; gives the same."""
    holder = socket.socket()  # which does not listen, so that the port is ours and nobody's
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((_LOOPBACK, 0))
    port: int = holder.getsockname()[1]
    started = [
        await asyncio.create_subprocess_exec(
            *_SERVER, str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(processes)
    ]
    _kept.extend((holder, *started))
    async with asyncio.timeout(_PATIENCE):
        for each in started:
            assert each.stdout is not None
            await each.stdout.readline()
    return port, [each.pid for each in started]


async def _serve(port: str | None) -> None:
    timeouts = Timeouts(idle=None)
    place = Place.found()
    if place is not None:
        server = await serve("RECEIVER@127.0.0.1:0", sock=place.listener, timeouts=timeouts)
        place.tell_ready("")
    else:
        server = await serve(f"RECEIVER@{_LOOPBACK}:{port}", reuse_port=True, timeouts=timeouts)
        print(flush=True)
    await _until_the_other_ends(server, place)


async def _until_the_other_ends(server: Server, place: Place | None) -> None:
    """Serve until whoever has started this is gone: its pipe is closed, or a supervisor's end ends us."""
    if place is not None:
        await asyncio.Event().wait()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()
    await server.close()


# who calls, and counts


async def spreads(port: int, pids: Sequence[int], counts: Sequence[int], runs: int, seed: int) -> Sample:
    """Open associations one after another, and tell what the busiest process has, as a multiple of the mean.

    Then half of them, chosen by chance, end, and as many come. Gives the mean and the largest of so many runs
    for each number of associations.
    """
    chosen = random.Random(seed)
    sample: Sample = {}
    for count in counts:
        found = [await _spread(port, pids, count, chosen) for _ in range(runs)]
        for name, values in zip(("opened", "replaced"), zip(*found, strict=True), strict=True):
            sample[f"{name}_{count}"] = sum(values) / runs
            sample[f"{name}_{count}_worst"] = max(values)
    return sample


async def _spread(port: int, pids: Sequence[int], count: int, chosen: random.Random) -> tuple[float, float]:
    opened = [await _open(port) for _ in range(count)]
    first = await _largest_by_mean(port, pids, count)
    chosen.shuffle(opened)
    kept, ended = opened[: count // 2], opened[count // 2 :]
    await _release(ended)
    await _largest_by_mean(port, pids, len(kept))
    kept += [await _open(port) for _ in ended]
    second = await _largest_by_mean(port, pids, count)
    await _release(kept)
    await _largest_by_mean(port, pids, 0)
    return first, second


async def _open(port: int) -> Association:
    return await associate(f"RECEIVER@{_LOOPBACK}:{port}", timeouts=Timeouts(idle=None))


async def _release(associations: Sequence[Association]) -> None:
    for each in associations:
        await each.release()


async def _largest_by_mean(port: int, pids: Sequence[int], count: int) -> float:
    """Wait until the processes have so many connections, and tell how they are spread."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            numbers = connections(port, pids)
            if sum(numbers.values()) == count:
                break
            await asyncio.sleep(_PAUSE)
    await asyncio.sleep(_PAUSE)  # until who hands them out has heard of it, too
    return max(numbers.values()) * len(pids) / count if count else 0.0


def connections(port: int, pids: Sequence[int]) -> Counter[int]:
    """Tell how many connections to a port of the loopback interface each process has."""
    ours = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            ours.add(f"socket:[{inode}]")
    found = Counter(dict.fromkeys(pids, 0))
    for pid in pids:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # it was closed meanwhile
                found[pid] += os.readlink(entry.path) in ours
    return found


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1] if len(sys.argv) > 1 else None))
