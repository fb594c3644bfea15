"""kill -9 at every SQL statement of receive, commit, claim and settle: each delivery is made once or twice.

The process is a real one, killed by itself when the driver gets its n-th statement; then another one goes on
with what it has left. What was acknowledged and what was delivered is written down outside of the archive.
"""

from __future__ import annotations

import collections
import subprocess
import sys
from pathlib import Path

from helpers.archive_process import LONG
from helpers.forked import lines
from helpers.places import PLACE
from helpers.script_places import environment

INSTANCES, DESTINATIONS = 3, ("A", "B")

# Forks for each life: so the imports are paid once. Nothing but the driver's trace is in the way of SQL.
SCRIPT = '''
import asyncio, os, signal, sys
from pathlib import Path
import asyncdicom.archive
from asyncdicom.archive import Archive
from asyncdicom.archive.index.deliveries import Settlement
from asyncdicom.archive.index.work import State, Work
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from helpers.forked import lives, note
from helpers.script_places import before_each_statement, places_of

CT = "1.2.840.10008.5.1.4.1.1.2"
root, destinations, instances = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])

class Router:
    tags = frozenset()
    def work_for(self, received):
        return [Work("store", name) for name in destinations]

async def batches(data):
    yield [memoryview(data)]

async def store(archive, folder, uid):
    data = encode(
        [(0x00080016, "UI", CT.encode()), (0x00080018, "UI", uid.encode()), (0x00100020, "LO", b"P1"),
         (0x0020000D, "UI", b"1.2"), (0x0020000E, "UI", b"1.2.3")], EXPLICIT_VR_LITTLE_ENDIAN)
    stored = await archive.receive(
        sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        batches=batches(data))
    if stored.is_here:
        note(folder / "acknowledged", uid)

async def send(archive, folder):
    """Deliver all that there is."""
    for name in destinations:
        while claimed := await archive.outbox.claim("store", name, 2):
            for each in claimed:
                note(folder / "delivered", f"{name} {each.sop_instance_uid}")
            await archive.outbox.settle([Settlement(each.id, State.DONE, 0.0, 1) for each in claimed])

async def live(folder, kill_at):
    left = kill_at
    def count(sql):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    options = {"durability": "process", "scrub": 0, "sweep": False, **places_of(folder)}
    async with Archive(folder / "archive", **options) as archive:
        archive.route(Router())
        if kill_at:
            before_each_statement(archive, count)
            for number in range(instances):
                await store(archive, folder, f"1.2.3.{number}")
        await send(archive, folder)

lives(root, int(sys.argv[4]), live)
'''


def test_kill_at_every_statement(tmp_path: Path) -> None:
    step = 1 if LONG else 6 if PLACE else 2  # a life with PostgreSQL takes longer
    arguments = [str(tmp_path), ",".join(DESTINATIONS), str(INSTANCES), str(step)]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, env=environment(), timeout=110)
    folders = list(tmp_path.iterdir())
    assert len(folders) > 30 / step  # so many statements there are
    partly = twice = 0
    for folder in folders:
        acknowledged, delivered = (
            lines(folder / "acknowledged"),
            collections.Counter(lines(folder / "delivered")),
        )
        partly += 0 < len(acknowledged) < INSTANCES
        for uid in acknowledged:
            for name in DESTINATIONS:
                assert 1 <= delivered[f"{name} {uid}"] <= 2, (folder, name, uid)
        twice += any(count == 2 for count in delivered.values())
        assert max(delivered.values(), default=0) <= 2
    assert partly  # some were killed in the middle
    assert twice  # and some after a delivery, before it was noted
