"""kill -9 at every SQL statement and every file call of a deletion: all of it is gone, or nothing.

The process is a real one, killed by itself at its n-th call. Then the archive is opened twice: as it was
left, and without its index. What was deleted is the same both times, and has no file and no row; the rest is
whole.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.archive_process import LONG
from helpers.forked import ENVIRONMENT

from asyncdicom.archive import Archive
from asyncdicom.archive.maintenance import verify

INSTANCES = 2

# Forks for each life: so the imports are paid once.
SCRIPT = """
import asyncio, os, shutil, signal, sys
from pathlib import Path
from asyncdicom.archive import Archive, FileCalls
from helpers.forked import life

stored, root, step = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
left = 0

def call(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

class Files(FileCalls):
    def __getattribute__(self, name):
        call()
        return super().__getattribute__(name)

async def live(folder, kill_at):
    global left
    async with Archive(folder, files=Files(), durability="process", scrub=0, sweep=False) as archive:
        archive._ingest._writer._fairy.driver_connection.set_trace_callback(call)
        left = kill_at
        await archive.delete("STUDY", "1.2.3.1")
        (folder / "answered").touch()
        left = 0

kill_at, ended = 1, -9
while ended == -9:
    folder = root / str(kill_at)
    shutil.copytree(stored, folder)
    ended = life(lambda: live(folder, kill_at))
    assert ended in (-9, 0), ended
    kill_at += step
"""


async def left_of(folder: Path, tools: Any) -> set[str]:
    """Open it, and give what is there still."""
    async with Archive(folder, scrub=0) as archive:
        swept = await archive.reindex()
        assert (swept.quarantined, swept.set_aside, swept.missing, swept.failed) == (0, 0, 0, 0)
        keys = {"SOPInstanceUID": ""}
        found = {str(match["SOPInstanceUID"]) async for match in archive.search(keys, level="IMAGE")}
        deleted = (await archive.read(archive.care.stat))["deleted"]
    assert len(found) + deleted == INSTANCES + 1
    assert len(tools.files_below(folder)) == len(found)
    assert [each for each in verify(str(folder)) if not each.is_sound] == []
    return found


async def store(folder: Path, tools: Any) -> None:
    async with Archive(folder, durability="none", scrub=0) as archive:
        for number in range(INSTANCES):
            await tools.store(archive, tools.data_set(SOPInstanceUID=f"1.2.3.1.1.{number}"))
        other = {"StudyInstanceUID": "1.2.3.2", "SOPInstanceUID": "1.2.3.2.1.1"}
        await tools.store(archive, tools.data_set(**other))


async def outcomes_of(lives: Path, tools: Any) -> list[int]:
    outcomes = []
    for folder in sorted(lives.iterdir(), key=lambda path: int(path.name)):
        was_answered = (folder / "answered").exists()
        without_index = folder.with_name(f"{folder.name}-lost")
        shutil.copytree(folder, without_index)
        for path in without_index.glob("index.sqlite*"):
            path.unlink()
        found = await left_of(folder, tools)
        assert found == await left_of(without_index, tools)
        assert len(found) in (1, INSTANCES + 1)
        assert not (was_answered and len(found) > 1)
        outcomes.append(len(found))
    return outcomes


def test_killed_at_every_call(tmp_path: Path, tools: Any) -> None:
    stored, lives = tmp_path / "stored", tmp_path / "lives"
    asyncio.run(store(stored, tools))
    arguments = [str(stored), str(lives), "1" if LONG else "4"]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, env=ENVIRONMENT, timeout=300)
    outcomes = asyncio.run(outcomes_of(lives, tools))
    print(f"{len(outcomes)} lives")
    assert outcomes == sorted(outcomes, reverse=True)
    assert set(outcomes) == {1, INSTANCES + 1}
