"""How much code four everyday jobs run through: files, functions and calls of the package.

    python tests/helpers/walks.py            prints one line for each job

Everything that the process does between two marks is counted, on all its threads: both sides of the
association, so that nothing is hidden in the other one. The script uses the public API only, so that it
runs on older versions too (with the version to be measured first on PYTHONPATH).
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import asyncdicom
from asyncdicom import STUDY_ROOT, BytesSource, PresentationContext, associate, serve
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta

PACKAGE = os.path.dirname(os.path.abspath(asyncdicom.__file__)) + os.sep
EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STORAGE = PresentationContext(CT, (EXPLICIT,))


class Recorder:
    """Counts the calls of the package's own functions while it is on."""

    def __init__(self) -> None:
        self.calls: dict[CodeType, int] = {}
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and self.is_on and frame.f_code.co_filename.startswith(PACKAGE):
            code = frame.f_code
            self.calls[code] = self.calls.get(code, 0) + 1

    async def count(self, job: Callable[[], Awaitable[object]]) -> tuple[int, int, int]:
        """Run the job twice, count the second time: what is made on first use is not what a job costs."""
        await job()
        await asyncio.sleep(0.05)
        self.calls.clear()
        self.is_on = True
        await job()
        await asyncio.sleep(0.05)  # what goes on after the answer belongs to the job
        self.is_on = False
        files = {code.co_filename for code in self.calls}
        return len(files), len(self.calls), sum(self.calls.values())


def instance(uid: str, patient: str = "P1", study: str = "1.2.3") -> BytesSource:
    values = [
        (0x00080016, "UI", CT),
        (0x00080018, "UI", uid),
        (0x00100010, "PN", "DOE^JOHN"),
        (0x00100020, "LO", patient),
        (0x0020000D, "UI", study),
        (0x0020000E, "UI", f"{study}.4"),
    ]
    elements = [(tag, vr, text.encode()) for tag, vr, text in values]
    data = encode([*elements, (0x7FE00010, "OW", bytes(40_000))], EXPLICIT)
    return BytesSource(CT, uid, EXPLICIT, data)


async def walk(recorder: Recorder, folder: Path) -> AsyncIterator[tuple[str, tuple[int, int, int]]]:
    uids = (f"1.2.3.4.{number}" for number in range(1, 100))

    async def save(request: Any) -> int:
        await request.data.save(folder / f"{request.affected_sop_instance_uid}.dcm")
        return 0

    async with serve("SAVING@127.0.0.1:0", c_store=save) as server:
        async with associate(f"SAVING@127.0.0.1:{server.port}", contexts=[STORAGE]) as association:
            yield (
                "store, saved to a file",
                await recorder.count(lambda: association.c_store(instance(next(uids)))),
            )

    received = 0

    async def receive(request: Any) -> int:
        nonlocal received
        async for _ in request.data:
            pass
        received += 1
        return 0

    async with (
        serve("STORE@127.0.0.1:0", c_store=receive) as target,
        Archive(folder / "archive", durability="none", minimum_free=0) as archive,
        serve_archive(
            archive, "ARCHIVE@127.0.0.1:0", access={"ASYNCDICOM": None, "STORE": f"127.0.0.1:{target.port}"}
        ) as server,
    ):
        where = f"ARCHIVE@127.0.0.1:{server.port}"
        async with associate(where, contexts=[STORAGE, STUDY_ROOT]) as association:
            yield (
                "store, archived",
                await recorder.count(lambda: association.c_store(instance(next(uids)))),
            )
            await association.c_store(instance(next(uids)))
            await association.c_store(instance("1.2.3.9", "P2", "1.2.9"))

            async def find() -> None:
                identifier = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": ""}
                async with association.c_find(identifier) as matches:
                    count = [match async for match in matches]
                if len(count) != 2:
                    raise RuntimeError(f"{len(count)} matches, not 2")

            yield "C-FIND with 2 matches", await recorder.count(find)

            async def move() -> None:
                before = received
                await association.c_move(
                    {"QueryRetrieveLevel": "IMAGE", **STUDY, "SOPInstanceUID": MOVED},
                    move_destination="STORE",
                )
                if received != before + 3:
                    raise RuntimeError(f"{received - before} instances came, not 3")

            yield "C-MOVE of 3 instances", await recorder.count(move)

    file = folder / "file.dcm"
    source = instance("1.2.3.8")
    meta = encode_file_meta(CT, source.sop_instance_uid, EXPLICIT)
    file.write_bytes(meta + bytes(source.data))
    async with serve("STORE@127.0.0.1:0", c_store=receive) as server:
        where = f"STORE@127.0.0.1:{server.port}"

        async def send() -> None:
            async with associate(where, contexts=[STORAGE]) as association:
                await association.c_store(file)

        yield "a file sent on a new association", await recorder.count(send)


STUDY = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
MOVED = ["1.2.3.4.3", "1.2.3.4.4", "1.2.3.4.5"]  # the first two went into files


async def main() -> None:
    recorder = Recorder()
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    with tempfile.TemporaryDirectory() as folder:
        async for name, (files, functions, calls) in walk(recorder, Path(folder)):
            print(f"{name:35} {files:3} files {functions:4} functions {calls:6} calls", flush=True)
    sys.setprofile(None)


if __name__ == "__main__":
    asyncio.run(main())
