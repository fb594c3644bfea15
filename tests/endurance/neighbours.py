"""Good senders beside bad ones: ``python -m endurance.neighbours FOLDER BAD SECONDS [KEY CERT CA]``.

It prints one JSON line, and runs in a network of its own (`unshare -Urn`), where 192.0.2.0/24 are addresses
of this machine that look like those of others: peers on loopback are not limited.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from helpers.archive_process import CT, Qrscp, data_set, qrscp

from asyncdicom import BytesSource, PresentationContext, associate
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

HOST = "192.0.2.1"
SENDERS = 8
AN_ASSOCIATION = 10  # instances
SIZE = 200_000
CONTEXT = PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))

_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_UP_LOOPBACK_RUNNING = 0x49


def make_network() -> None:
    """Bring the loopback interface up and give it 192.0.2.0/24."""

    def address(text: str) -> bytes:
        return struct.pack("16sH2s4s8x", b"lo:1", socket.AF_INET, b"", socket.inet_aton(text))

    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_LOOPBACK_RUNNING))
        fcntl.ioctl(sock, _SIOCSIFADDR, address(HOST))
        fcntl.ioctl(sock, _SIOCSIFNETMASK, address("255.255.255.0"))


class Senders:
    """Modalities: a new association for every few instances."""

    def __init__(self, port: int, secure: ssl.SSLContext | None) -> None:
        self.port = port
        self.secure = secure
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    async def send(self, seconds: float) -> float:
        """Store for so long; gives the rate, in instances a second."""
        before, start = self.statuses.total(), time.perf_counter()
        until = start + seconds
        await asyncio.gather(*(self._send(f"GOOD{number}", until) for number in range(SENDERS)))
        return (self.statuses.total() - before) / (time.perf_counter() - start)

    async def _send(self, calling: str, until: float) -> None:
        options: dict[str, Any] = {"calling_ae_title": calling, "contexts": [CONTEXT], "ssl": self.secure}
        while time.perf_counter() < until:
            try:
                async with associate(f"ASYNCDICOM@{HOST}:{self.port}", **options) as association:
                    for _ in range(AN_ASSOCIATION):
                        uid = f"1.2.3.1.1.{next(self._numbers)}"
                        source = BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data_set(uid, SIZE))
                        response = await association.c_store(source)
                        self.statuses[f"{response.status:#06x}"] += 1
            except (AssociationError, OSError) as error:
                self.errors[str(error)] += 1
                await asyncio.sleep(0.1)


def memory(archive: Qrscp) -> int:
    pages = int(Path(f"/proc/{archive.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_time(archive: Qrscp) -> float:
    fields = Path(f"/proc/{archive.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measured(archive: Qrscp, senders: Senders, seconds: float) -> dict[str, float]:
    before = processor_time(archive)
    rate = await senders.send(seconds)
    return {"instances a second": round(rate, 1), "archive's CPU seconds": processor_time(archive) - before}


async def attack(archive: Qrscp, senders: Senders, bad: int, seconds: float) -> dict[str, object]:
    await senders.send(seconds / 4)  # warm-up
    memory_before = memory(archive)
    before = await measured(archive, senders, seconds)
    hostile = await asyncio.create_subprocess_exec(
        *("nice", "-n", "19", sys.executable, "-m", "endurance.hostile", HOST, str(archive.port), str(bad)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    await asyncio.sleep(min(seconds, 5))  # they are all there
    during = await measured(archive, senders, seconds)
    growth = memory(archive) - memory_before
    counts, _ = await hostile.communicate(b"")
    return {
        "before": before,
        "during": during,
        "after": await measured(archive, senders, seconds),
        "statuses": senders.statuses,
        "errors": senders.errors,
        "hostile": json.loads(counts),
        "growth": growth,
    }


async def main(folder: Path, bad: int, seconds: float, tls: list[str]) -> None:
    secure = ssl.create_default_context(cafile=tls.pop()) if tls else None
    if tls:
        tls = ["+tls", *tls]
    async with qrscp(folder, "--host", HOST, "--open", *tls) as archive:
        found = await attack(archive, Senders(archive.port, secure), bad, seconds)
        archive.process.terminate()
        found["exit code"] = await archive.process.wait()
        found["log"] = Counter(line.partition(":")[0] for line in archive.log.read_text().splitlines())
        found["trace"] = "Traceback" in archive.log.read_text()
    print(json.dumps(found))


if __name__ == "__main__":
    make_network()
    folder, bad, seconds, *tls = sys.argv[1:]
    asyncio.run(main(Path(folder), int(bad), float(seconds), tls))
