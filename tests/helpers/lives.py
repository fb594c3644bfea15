"""Lives of an archive, one after another, each a process that is killed somewhere; for tests.

``python lives.py``: each line of JSON on stdin is a life, forked off a process that has loaded everything.
What it tells is a word and a value a line: its process, each instance that was acknowledged, and its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.archive_process import CT, data_set

from asyncdicom.archive import Archive
from asyncdicom.archive.arrival import Outcome
from asyncdicom.archive.index.writer import Writer
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

_PIECE = 1 << 18


def tell(word: str, value: object) -> None:
    os.write(1, f"{word} {value}\n".encode())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(place: str, number: int) -> None:
    """Have this process killed before or after its n-th commit."""
    commit: Callable[..., Any] = Writer.commit
    left = [number]

    def dying_commit(*arguments: Any) -> Any:
        left[0] -= 1
        if not left[0] and place == "before the commit":
            die()
        result = commit(*arguments)
        if not left[0] and place == "after the commit":
            die()
        return result

    Writer.commit = dying_commit  # type: ignore[method-assign, assignment]


async def pieces(data: bytes) -> AsyncIterator[list[memoryview]]:
    for start in range(0, len(data), _PIECE):
        yield [memoryview(data)[start : start + _PIECE]]


async def live(
    folder: str, blobs: str, options: dict[str, Any], instances: list[tuple[str, int]], *, dies_moving: bool
) -> None:
    async with Archive(folder, blobs=blobs, durability="process", scrub=0, **options) as archive:

        async def store(uid: str, size: int) -> None:
            stored = await archive.receive(
                sop_class_uid=CT,
                sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
                batches=pieces(data_set(uid, size)),
            )
            tell("kept" if stored.outcome in (Outcome.STORED, Outcome.ALREADY_HERE) else "refused", uid)

        await asyncio.gather(*(store(uid, size) for uid, size in instances))
        if options["ack"] == "spool" and dies_moving:
            await asyncio.Event().wait()


def main() -> None:
    for line in sys.stdin:
        wanted = json.loads(line)
        if not (process := os.fork()):
            dying(wanted["place"], wanted["number"])
            tell("process", os.getpid())
            try:
                archive = (wanted["folder"], wanted["blobs"], wanted["options"], wanted["instances"])
                asyncio.run(live(*archive, dies_moving="commit" not in wanted["place"]))
            finally:
                os._exit(0)
        _, status = os.waitpid(process, 0)
        tell("end", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
