"""A bad network costs time, not truth: no Success without a response, nothing lost, nothing torn."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from endurance.chaos import KINDS, chaos
from helpers.archive_process import CT, LONG, Journal, data_set, long_test, opened

from asyncdicom import Limits, PresentationContext, Timeouts, associate
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.dimse.messages import CommandField, decode
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

STORES = 10_000 if LONG else 80
SENDERS = 16
SIZES = (100, 2_000, 50_000, 400_000)
CONTEXT = PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))
HASTY = Timeouts(connect=1.0, acse=1.0, artim=1.0, receive=0.5, write=0.5, release=1.0, idle=1.0, close=0.5)


class Sender:
    """Sends what is in a queue, a few instances an association, each again until it is acknowledged."""

    def __init__(self, port: int, journal: Journal, queue: list[str]) -> None:
        self.attempts = 0
        self._address = f"ARCHIVE@127.0.0.1:{port}"
        self._journal = journal
        self._queue = queue

    async def work(self) -> None:
        while self._queue:
            uids = [self._queue.pop() for _ in range(min(5, len(self._queue)))]
            while uids:
                try:
                    async with associate(
                        self._address,
                        contexts=[CONTEXT],
                        timeouts=HASTY,
                        limits=Limits(operations_invoked=4),
                    ) as association:
                        await asyncio.gather(*(self._store(association, uid, uids) for uid in list(uids)))
                except (AssociationError, OSError):
                    continue

    async def _store(self, association: object, uid: str, uids: list[str]) -> None:
        self.attempts += 1
        data = data_set(uid, SIZES[int(uid.rpartition(".")[2]) % len(SIZES)])
        if await self._journal.store(association, uid, data) == 0:  # type: ignore[arg-type]
            uids.remove(uid)


def acknowledgements(stream: bytes) -> set[str]:
    """The SOP Instance UIDs of the C-STORE-RSPs with Success in what a requestor was sent."""
    found, start = set(), 0
    while start + 6 <= len(stream):
        end = start + 6 + int.from_bytes(stream[start + 2 : start + 6], "big")
        if stream[start] == 4 and end <= len(stream):
            response = decode(stream[start + 12 : end])  # our acceptor: one command, in one fragment
            assert response.command_field == CommandField.C_STORE_RSP
            if response.status == 0 and response.affected_sop_instance_uid:
                found.add(response.affected_sop_instance_uid)
        start = end
    return found


@long_test
def test_a_bad_network(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32) if LONG else 1
    queue = [f"1.2.3.1.1.{number}" for number in range(STORES)]

    async def work() -> None:
        with opened(tmp_path / "journal", sync=False, patience=0.5) as journal:
            async with (
                Archive(tmp_path / "archive", durability="none") as archive,
                serve_archive(archive, "ARCHIVE@127.0.0.1:0", timeouts=HASTY) as server,
                chaos(server.port, seed=seed, largest=1_000_000) as network,
            ):
                senders = [Sender(network.port, journal, queue) for _ in range(SENDERS)]
                await asyncio.gather(*(sender.work() for sender in senders))
                # What hangs in a black hole ends by a deadline of the archive.
                async with asyncio.timeout(30):
                    while server.associations:
                        await asyncio.sleep(0.05)
            told = set().union(*map(acknowledgements, map(bytes, network.delivered)))
            assert {uid for uid, _ in journal.kept} <= told, "a Success that nobody sent"
            assert len(journal.kept) == STORES
            assert journal.compare(tmp_path / "archive") == STORES
            assert set(network.faults) == set(KINDS)
            attempts = sum(sender.attempts for sender in senders)
            print(
                f"seed {seed}: {STORES} instances in {attempts} attempts over {sum(network.faults.values())} "
                f"connections ({dict(network.faults)}): 0 lost, 0 torn, 0 false Success"
            )

    asyncio.run(work())
