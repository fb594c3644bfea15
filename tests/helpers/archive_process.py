"""``python -m asyncdicom qrscp`` as a process that tests do bad things to, and a client that knows the truth.

The client writes down what it sends before it sends it, and each answer when it has it, in a file that is
synced line by line: what the archive promised is known whatever dies. `Journal.compare` holds it against the
folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers.buckets import below, bucket_of
from helpers.index_asking import ask, database_of

from asyncdicom import VERIFICATION, Association, BytesSource, PresentationContext, Request, associate
from asyncdicom.data.elements import encode
from asyncdicom.exceptions import AssociationError
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, PATIENT_ROOT, STUDY_ROOT, InformationModel

CT = "1.2.840.10008.5.1.4.1.1.2"
CONTEXTS = (
    PresentationContext(VERIFICATION, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,), scp_role=True),
    PresentationContext(STUDY_ROOT.get, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(STUDY_ROOT.find, (EXPLICIT_VR_LITTLE_ENDIAN,)),
    PresentationContext(PATIENT_ROOT.get, (EXPLICIT_VR_LITTLE_ENDIAN,)),
)
STUDY, SERIES = "1.2.3.1", "1.2.3.1.1"
KEPT = (0x0000, 0xB007)
LONG = bool(os.environ.get("ASYNCDICOM_LONG"))

long_test = pytest.mark.timeout(3600 if LONG else 120)
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def data_set(uid: str, size: int = 1000, name: str = "DOE^JOHN") -> bytes:
    values = [
        (0x00080016, "UI", CT),
        (0x00080018, "UI", uid),
        (0x00100010, "PN", name),
        (0x00100020, "LO", "P1"),
        (0x0020000D, "UI", STUDY),
        (0x0020000E, "UI", SERIES),
    ]
    pixels = (uid.encode().ljust(64, b".") * (size // 64 + 1))[:size]
    elements = [(tag, vr, text.encode()) for tag, vr, text in values]
    return encode([*elements, (0x7FE00010, "OW", pixels)], EXPLICIT_VR_LITTLE_ENDIAN)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


class Row(NamedTuple):
    """What the index says about one file, and where that is."""

    uid: str
    digest: str
    path: Path
    offset: int
    length: int

    def is_whole(self) -> bool:
        content = self.path.read_bytes()
        return len(content) == self.offset + self.length and digest_of(content[self.offset :]) == self.digest


_WHERE = {"instance": "objects", "quarantine": "quarantine"}


def rows(folder: Path) -> Iterator[Row]:
    """The rows of the index of an idle archive: of a copy, so that nothing we do helps it."""
    columns = "sop_instance_uid, digest, file, data_set_offset, data_set_length"
    if database_of(folder) is not None:
        for table, where in _WHERE.items():
            for uid, digest, file, *place in ask(folder, f"SELECT {columns} FROM {table}"):
                yield Row(uid, digest, below(folder) / where / file, *place)
        return
    with tempfile.TemporaryDirectory() as copy:
        for name in ("index.sqlite", "index.sqlite-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(folder / name, copy)
        with closing(sqlite3.connect(Path(copy, "index.sqlite"))) as connection:
            for table, where in _WHERE.items():
                for uid, digest, file, *place in connection.execute(f"SELECT {columns} FROM {table}"):
                    yield Row(uid, digest, below(folder) / where / file, *place)


def files_below(folder: Path) -> int:
    """How many files there are, apart from those that were set aside."""
    return sum(path.parent.name != "lost" for path in below(folder).rglob("*.dcm"))


class Journal:
    """What was sent and what was answered.

    ``sync``: on disk before anything else happens. ``patience``: seconds for a response.
    """

    def __init__(self, path: Path, *, sync: bool = True, patience: float = 30) -> None:
        self._file = path.open("a")
        self._sync = sync
        self._patience = patience
        self.sent: dict[str, set[str]] = {}
        self.kept: set[tuple[str, str]] = set()
        self.failed = 0

    def _write(self, *words: object) -> None:
        print(*words, file=self._file, flush=True)
        if self._sync:
            os.fsync(self._file.fileno())

    def sending(self, uid: str, digest: str) -> None:
        self._write("sending", uid, digest)
        self.sent.setdefault(uid, set()).add(digest)

    def answered(self, uid: str, digest: str, status: int) -> None:
        self._write("answered", uid, digest, status)
        if status in KEPT:
            self.kept.add((uid, digest))
        else:
            self.failed += 1

    def close(self) -> None:
        self._file.close()

    def compare(self, folder: Path) -> int:
        """Hold the journal against an archive; gives the number of rows.

        Everything acknowledged is there, and nothing is there but what was sent, whole and once.
        """
        each = list(rows(folder))
        found = [(row.uid, row.digest) for row in each]
        assert len(found) == len(set(found))
        torn = [row for row in each if not row.is_whole()]
        assert not torn, f"{len(torn)} files are torn or missing"
        made_up = [uid for uid, digest in found if digest not in self.sent.get(uid, ())]
        assert not made_up, made_up
        lost = self.kept - set(found)
        assert not lost, f"{len(lost)} of {len(self.kept)} acknowledged instances are lost"
        return len(found)

    async def store(self, association: Association, uid: str, data: bytes) -> int:
        digest = digest_of(data)
        self.sending(uid, digest)
        source = BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data)
        status = int((await association.c_store(source, timeout=self._patience)).status)
        self.answered(uid, digest, status)
        return status


class Node:
    """An archive that listens on a port of this machine, and what a client asks of it."""

    port: int

    @asynccontextmanager
    async def associate(self, calling: str = "SENDER", **options: Any) -> AsyncIterator[Association]:
        address = f"ARCHIVE@127.0.0.1:{self.port}"
        options = {"calling_ae_title": calling, "contexts": CONTEXTS} | options
        async with associate(address, **options) as association:
            yield association

    async def store(self, journal: Journal, uid: str, data: bytes) -> int | None:
        """Store over an association of its own; None if the archive died."""
        try:
            async with self.associate() as association:
                return await journal.store(association, uid, data)
        except (AssociationError, OSError):
            return None

    async def echo(self) -> bool:
        async with self.associate("WATCHDOG") as association:
            return (await association.c_echo(timeout=10)).status.is_success

    async def fetch(self, uid: str) -> list[bytes]:
        """The data sets that a C-GET of ``uid`` gives."""
        keys = {
            "QueryRetrieveLevel": "IMAGE",
            "StudyInstanceUID": STUDY,
            "SeriesInstanceUID": SERIES,
            "SOPInstanceUID": uid,
        }
        return [data for _, data in await self.get(keys)]

    async def get(
        self, keys: dict[str, str] | bytes, information_model: InformationModel = STUDY_ROOT
    ) -> list[tuple[str, bytes]]:
        """The SOP Instance UIDs and data sets that a C-GET gives. Raises what `Association.c_get` raises."""
        fetched: list[tuple[str, bytes]] = []

        async def receive(request: Request) -> int:
            fetched.append((request.affected_sop_instance_uid, bytes(await request.data.read())))
            return 0

        async with self.associate(c_store=receive) as association:
            await association.c_get(keys, information_model=information_model)
        return fetched


@dataclass(frozen=True)
class Qrscp(Node):
    """A running archive. ``root``: its folder as the test sees it."""

    process: asyncio.subprocess.Process
    pid: int
    port: int
    root: Path
    log: Path

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def qrscp(
    folder: Path, *options: str, prefix: Sequence[str] = (), log: Path | None = None
) -> AsyncIterator[Qrscp]:
    """Start an archive; it is killed at the end.

    ``prefix``: words before the command. ``log``: where its stderr goes, a file beside the folder by default.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = log or folder.parent / f"{folder.name}.log"
    command = [sys.executable, "-m", "asyncdicom", "qrscp", "--port", "0", "--json", "--data", str(folder)]
    for option, place in (("--index", database_of(folder)), ("--blobs", bucket_of(folder))):
        command += [option, place] if place else []
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *prefix, *command, *options, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, log.read_text()[-2000:] if log.is_file() else "it did not start"
        yield Qrscp(process, process.pid, int(json.loads(line)["port"]), folder, log)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


# strace


@asynccontextmanager
async def strace(pid: int, *options: str, output: Path) -> AsyncIterator[None]:
    """Attach strace to a process or thread until the block ends."""
    process = await asyncio.create_subprocess_exec(
        "strace", "-o", str(output), "-p", str(pid), *options, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = await asyncio.wait_for(process.stderr.readline(), 30)
        if b"attached" not in said:
            pytest.skip(f"strace cannot attach here: {said.decode().strip()}")
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.stderr.read()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


def _written(pid: int) -> dict[int, int]:
    """What each thread has written so far, in bytes."""
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(": ") for line in (task / "io").read_text().splitlines())
        counts[int(task.name)] = int(fields["wchar"])
    return counts


async def threads_of(archive: Qrscp, journal: Journal, uid: str) -> dict[str, int]:
    """Store one instance, and see by what they write which thread does what: loop, files, index."""
    data = data_set(uid, 200_000)
    before = _written(archive.pid)
    assert await archive.store(journal, uid, data) == 0
    after = _written(archive.pid)
    wrote = {thread: after[thread] - before.get(thread, 0) for thread in after}
    del wrote[archive.pid]
    files, index = sorted(wrote, key=wrote.__getitem__, reverse=True)[:2]
    assert wrote[files] >= len(data) > wrote[index] > 4096
    return {"loop": archive.pid, "files": files, "index": index}


@contextmanager
def opened(path: Path, *, sync: bool = True, patience: float = 30) -> Iterator[Journal]:
    journal = Journal(path, sync=sync, patience=patience)
    try:
        yield journal
    finally:
        journal.close()
