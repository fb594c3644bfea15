"""A process that has an archive open together with others, and stores; what it was answered, it prints.

    python archive_worker.py FOLDER URL DURABILITY NUMBER COUNT STUDIES

It stores COUNT instances of STUDIES studies, each eighth of which the others store, too; a line "UID STATUS"
says of each that it is answered. Then, or when its stdin ends, it closes.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Iterator

from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import status_of
from asyncdicom.data.elements import encode
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"
AT_ONCE = 16
PAUSE = 0.05


def data_set(uid: str, study: str, patient: str) -> bytes:
    values = [
        (0x00080016, "UI", CT),
        (0x00080018, "UI", uid),
        (0x00100010, "PN", "DOE^JOHN"),
        (0x00100020, "LO", patient),
        (0x0020000D, "UI", study),
        (0x0020000E, "UI", f"{study}.1"),
    ]
    elements = [(tag, vr, text.encode()) for tag, vr, text in values]
    return encode([*elements, (0x7FE00010, "OW", bytes(2000))], EXPLICIT_VR_LITTLE_ENDIAN)


def instances(number: int, count: int, studies: int) -> Iterator[tuple[str, str, str]]:
    """UID, study and patient of each, in an order of this process."""
    waiting = [(number if n % 8 else 0, n) for n in range(count)]
    random.Random(number).shuffle(waiting)
    for owner, n in waiting:
        yield f"1.9.{owner}.{n}", f"1.5.{n % studies}", f"P{n % studies}"


async def _whole(data: bytes) -> AsyncIterator[list[memoryview]]:
    yield [memoryview(data)]


async def store(archive: Archive, uid: str, study: str, patient: str) -> int:
    stored = await archive.receive(
        sop_class_uid=CT,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        batches=_whole(data_set(uid, study, patient)),
        calling_ae_title="WORKER",
    )
    return int(status_of(stored))


async def main(folder: str, url: str, durability: str, number: int, count: int, studies: int) -> None:
    """Store; what was refused is tried again."""
    waiting = list(instances(number, count, studies))[::-1]
    async with Archive(folder, index=url, durability=durability, scrub=0) as archive:
        print("open", flush=True)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(_store_some(archive, waiting))
        print("stored", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _store_some(archive: Archive, waiting: list[tuple[str, str, str]]) -> None:
    while waiting:
        each = waiting.pop()
        status = await store(archive, *each)
        print(each[0], status, flush=True)
        if status:
            waiting.append(each)
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    number, count, studies = map(int, sys.argv[4:])
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], number, count, studies))
