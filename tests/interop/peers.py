"""Servers as processes, tools as commands, and what is in DICOM files."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import unpack_from
from typing import Any, NamedTuple, TypeVar

import pytest

import asyncdicom
from asyncdicom import Address, Server, associate, file_source, storage_contexts

T = TypeVar("T")

DEFLATED = b"1.2.840.10008.1.2.1.99"

# Our own tools run as processes too, in any folder.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(asyncdicom.__file__).parents[1]),
    "PYTHONUNBUFFERED": "1",
}

OURS = (sys.executable, "-m", "asyncdicom")
PYNETDICOM = (sys.executable, "-W", "ignore", "-m", "pynetdicom")

# pynetdicom installs commands with the names of DCMTK's, all but this one.
DCMTK = shutil.which("dcmqrscp")


class Peer(NamedTuple):
    """A server that runs: its name, its address, the folder it was given, what it has said so far."""

    name: str
    ae_title: str
    port: int
    folder: Path
    log: Path
    destination: Address = Address("", "", 0)  # the one that it knows for C-MOVE

    @property
    def address(self) -> Address:
        return Address(self.ae_title, "127.0.0.1", self.port)

    def received(self) -> list[Path]:
        """The files in its folder; they are taken away by `forget`."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def forget(self) -> None:
        for path in self.received():
            path.unlink()


# Commands


def tool(
    whose: str, name: str, server: Peer | Server | Address, *options: object, files: Iterable[Path] = ()
) -> list[str]:
    """A command line that calls ``server``; ``whose`` is "dcmtk", "pynetdicom" or "ours"."""
    arguments: tuple[object, ...] = (*options, "-aec", server.ae_title, "127.0.0.1", server.port, *files)
    command = {"dcmtk": (dcmtk_tool(name),), "pynetdicom": (*PYNETDICOM, name), "ours": (*OURS, name)}[whose]
    if whose == "pynetdicom":
        arguments = ("-td", PYNETDICOM_DIMSE_TIMEOUT, *arguments)
    return [*command, *map(str, arguments)]


def dcmtk_tool(name: str) -> str:
    """The path of a tool of DCMTK."""
    return os.path.join(os.path.dirname(DCMTK or ""), name)


def keys(identifier: dict[str, str]) -> list[str]:
    """An identifier as options of findscu, getscu and movescu."""
    return [part for keyword, value in identifier.items() for part in ("-k", f"{keyword}={value}")]


async def run(command: list[str], *, fails: bool = False, folder: Path | None = None) -> str:
    """Run a command to its end, in ``folder``, and give what it said; its exit code says if it ``fails``."""
    for _ in range(attempts(command)):
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env=ENVIRONMENT,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                output, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        text = output.decode("utf-8", "replace")
        if LOST_RESPONSE not in text:
            break
    assert (process.returncode != 0) == fails, f"{command} ended with {process.returncode}:\n{text}"
    return text


def call(command: list[str], *, folder: Path | None = None, may_fail: bool = False) -> str:
    """The same without an event loop, and only what it said on stdout."""
    for _ in range(attempts(command)):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=folder,
            env=ENVIRONMENT,
            timeout=PATIENCE,
        )
        if LOST_RESPONSE not in (done.stdout + done.stderr).decode("utf-8", "replace"):
            break
    assert done.returncode == 0 or may_fail, done
    return done.stdout.decode("utf-8", "replace")


# A thread of pynetdicom may take the response that another one waits for (its issue 875): on a busy
# machine one association in some hundred is lost. So it is tried again, and does not wait for long.
LOST_RESPONSE = "DIMSE timeout reached while waiting for message response"
PYNETDICOM_DIMSE_TIMEOUT = 10

PATIENCE = 100.0
"""Seconds that a command, a start or an answer may take: a busy machine is slow; no test is about that."""


def attempts(what: Peer | Iterable[str]) -> int:
    """How often to try it: once, if it is not pynetdicom that sends."""
    name = what.name if isinstance(what, Peer) else " ".join(what)
    return 3 if "pynetdicom" in name else 1


class ResponseLost(Exception):
    """pynetdicom, in this process, has lost a response."""


def answered(status: Any) -> int:
    """The status of what pynetdicom's `send_...` has given; raises `ResponseLost` if it has none."""
    if "Status" not in status:
        raise ResponseLost
    return int(status.Status)


def with_pynetdicom(ask: Callable[[], T]) -> T:
    """The result of `ask`, which is called again if pynetdicom has lost a response."""
    for _ in range(attempts(("pynetdicom",)) - 1):
        with suppress(ResponseLost):
            return ask()
    return ask()


# Servers


def free_port() -> int:
    """A port for a server that starts later: not one that the system gives to whoever connects, and once."""
    while True:
        port = random.randrange(10240, 32768)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port


_given: set[int] = set()


@contextmanager
def running(
    command: Iterable[str],
    port: int,
    log: Path,
    *,
    timeout: float = PATIENCE,
    listens: Callable[[int], bool] | None = None,
) -> Iterator[None]:
    """Run a server until the end of the block; the block begins when it ``listens``."""
    listens = listens or is_listening
    command = list(command)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,  # so that what it forks can be ended with it
        )
    try:
        deadline = time.monotonic() + timeout
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(
                    f"{' '.join(command)} does not listen on {port}:\n{log.read_text('utf-8', 'replace')}"
                )
            time.sleep(0.02)
        yield
    finally:
        end_group(process)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(3)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


# Content


def data_set_of(path: Path) -> bytes:
    """The data set of a DICOM file (PS3.10 7.1), inflated, found without the code under test."""
    content = path.read_bytes()
    if content[:2] in (b"\x08\0", b"\0\x08") and content[128:132] != b"DICM":
        return content  # nothing else is in the file
    assert content[128:132] == b"DICM", path
    offset, transfer_syntax_uid = 132, b""
    while content[offset : offset + 2] == b"\x02\x00":
        is_long = content[offset + 4 : offset + 6] in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        start = offset + (12 if is_long else 8)
        length = unpack_from("<L" if is_long else "<H", content, start - (4 if is_long else 2))[0]
        if content[offset + 2 : offset + 4] == b"\x10\x00":
            transfer_syntax_uid = content[start : start + length].rstrip(b"\0")
        offset = start + length
    if transfer_syntax_uid == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[offset:])
    return content[offset:]


def data_sets(where: Iterable[Path] | Path) -> list[bytes]:
    """The data sets of files, or of a folder, sorted: to be compared with those of other files."""
    if isinstance(where, Path):
        where = [path for path in where.rglob("*") if path.is_file()]
    return sorted(map(data_set_of, where))


def write_multi_frame(path: Path, *, frames: int) -> None:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

    dataset = Dataset()
    dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.1", "2.25.2", "2.25.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Frames^Many", "MF1", "OT"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames, 256, 256
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.add_new("PixelData", "OW", bytes(range(256)) * 512 * frames)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


async def store_all(server: Server, files: Iterable[Path]) -> None:
    """Put files into an archive that we serve."""
    sources = [file_source(path) for path in files]
    address = Address(server.ae_title, "127.0.0.1", server.port)
    async with associate(address, contexts=storage_contexts(sources)) as association:
        for source in sources:
            response = await association.c_store(source)
            assert response.status == 0, (source.path, response)
