"""Peers that we did not write: DCMTK and pynetdicom, servers as processes and tools as commands."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple

import pytest
import trustme

import asyncdicom
from asyncdicom import Address, Server, associate, file_source, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.scp import serve_archive

# Explicit and Implicit VR Little Endian, Explicit VR Big Endian, Deflated, and five compressed syntaxes;
# a different SOP Instance UID each.
VARIETY = (
    "CT_small.dcm",
    "SC_rgb_rle.dcm",
    "rtplan.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPEG-lossy.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "examples_palette.dcm",
)

DEFLATED = b"1.2.840.10008.1.2.1.99"

# Two patients with six studies, all in Explicit VR Little Endian.
CORPUS = ("77654033", "98892001", "98892003")


class Peer(NamedTuple):
    """A server that runs: its name, its address, the folder it was given, what it has said so far."""

    name: str
    ae_title: str
    port: int
    folder: Path
    log: Path
    destination: Address | None = None  # the one that it knows for C-MOVE

    @property
    def address(self) -> Address:
        return Address(self.ae_title, "127.0.0.1", self.port)

    def received(self) -> list[Path]:
        """The files in its folder; they are taken away by `forget`."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def forget(self) -> None:
        for path in self.received():
            path.unlink()


class Output(NamedTuple):
    """How a command ended and what it said."""

    code: int
    text: str


Run = Callable[..., Awaitable[Output]]


# Content


def data_set_of(path: Path) -> bytes:
    """The data set of a DICOM file (PS3.10 7.1), inflated, found without the code under test."""
    content = path.read_bytes()
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


@pytest.fixture(scope="session")
def data_sets() -> Callable[[Iterable[Path] | Path], list[bytes]]:
    """The data sets of files, or of a folder, sorted: to be compared with those of other files."""

    def data_sets(where: Iterable[Path] | Path) -> list[bytes]:
        if isinstance(where, Path):
            where = [path for path in where.rglob("*") if path.is_file()]
        return sorted(map(data_set_of, where))

    return data_sets


@pytest.fixture(scope="session")
def variety(pydicom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files in nine transfer syntaxes, and one of 5 MB."""
    multi_frame = tmp_path_factory.mktemp("generated") / "multi-frame.dcm"
    write_multi_frame(multi_frame, frames=40)
    return [*(pydicom_files / name for name in VARIETY), multi_frame]


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


@pytest.fixture(scope="session")
def corpus(pydicom_files: Path) -> list[Path]:
    folders = [pydicom_files / "dicomdirtests" / name for name in CORPUS]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def series(corpus: list[Path]) -> list[Path]:
    """The files of one series of the corpus, of seven images."""
    return [path for path in corpus if path.parent.name == "MR700"]


# Processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def free_ports() -> Callable[[], int]:
    return free_port


@contextmanager
def running(command: list[str], port: int, log: Path, *, timeout: float = 20.0) -> Iterator[None]:
    """Run a server until the end of the block; the block begins when it listens."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # so that what it forks can be ended with it
        )
    try:
        deadline = time.monotonic() + timeout
        while not is_listening(port):
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


@pytest.fixture
async def run() -> Run:
    """Run a command to its end: ``output = await run("echoscu", ...)``.

    `fails`: its exit code must not be 0. `folder`: the one it is run in. `timeout`: seconds.
    """

    async def run(
        *command: object, fails: bool = False, folder: Path | None = None, timeout: float = 60.0
    ) -> Output:
        arguments = [str(argument) for argument in command]
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
        )
        try:
            async with asyncio.timeout(timeout):
                text, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        output = Output(process.returncode or 0, text.decode("utf-8", "replace"))
        assert (output.code != 0) == fails, f"{arguments} ended with {output.code}:\n{output.text}"
        return output

    return run


@pytest.fixture(scope="session")
def dcmtk() -> None:
    """What needs DCMTK asks for this."""
    if shutil.which("storescp") is None:
        pytest.skip("needs DCMTK: apt-get install dcmtk")


PYNETDICOM = (sys.executable, "-W", "ignore", "-m", "pynetdicom")


@pytest.fixture(params=["dcmtk", "pynetdicom"])
def family(request: pytest.FixtureRequest) -> str:
    """Whose tools: `tool` gives their command lines."""
    if request.param == "dcmtk":
        request.getfixturevalue("dcmtk")
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def tool() -> Callable[..., list[object]]:
    """A command line of DCMTK or pynetdicom: ``tool("dcmtk", "echoscu", server, options..., files=())``."""

    def tool(
        family: str, name: str, server: Peer | Server, *options: object, files: Iterable[Path] = ()
    ) -> list[object]:
        prefix = PYNETDICOM if family == "pynetdicom" else ()
        return [*prefix, name, *options, "-aec", server.ae_title, "127.0.0.1", server.port, *files]

    return tool


# Their servers


@pytest.fixture(scope="module")
def dcmtk_storescp(dcmtk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with storescp("dcmtk_storescp", tmp_path_factory.mktemp("storescp")) as peer:
        yield peer


@pytest.fixture(scope="module")
def dcmtk_tls_storescp(
    dcmtk: None, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """storescp with TLS; it demands a certificate from the other side too."""
    options = ["+tls", str(certificates / "server.key"), str(certificates / "server.pem")]
    trusted = ["+cf", str(certificates / "ca.pem")]
    with storescp("dcmtk_tls_storescp", tmp_path_factory.mktemp("tls"), *options, *trusted) as peer:
        yield peer


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, stranger.pem (another one), and key and certificate of a server and a client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    for name, identity in (("server", "127.0.0.1"), ("client", "client.example.org")):
        certificate = authority.issue_cert(identity, key_type=trustme.KeyType.RSA)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


@contextmanager
def storescp(name: str, folder: Path, *options: str) -> Iterator[Peer]:
    received = folder / "received"
    received.mkdir()
    peer = Peer(name, "STORESCP", free_port(), received, folder / "log")
    command = ["storescp", "-v", "-dhl", "-aet", peer.ae_title, "+xa", "+B", "+uf", "-od", str(received)]
    with running([*command, *options, str(peer.port)], peer.port, peer.log):
        yield peer


@pytest.fixture(scope="module")
def dcmtk_qrscp(dcmtk: None, corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """dcmqrscp with the corpus in it; it knows the AE title DESTINATION."""
    folder = tmp_path_factory.mktemp("dcmqrscp")
    database, destination = folder / "database", Address("DESTINATION", "127.0.0.1", free_port())
    database.mkdir()
    peer = Peer("dcmtk_qrscp", "QRSCP", free_port(), database, folder / "log", destination)
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {peer.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nhost = ({destination.ae_title}, localhost, {destination.port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{peer.ae_title} {database} RW (100, 1024mb) ANY\nAETable END\n"
    )
    command = ["dcmqrscp", "-v", "-dhl", "+B", "-c", str(configuration)]
    load = ["storescu", "-xe", "-aec", peer.ae_title, "127.0.0.1", str(peer.port), *map(str, corpus)]
    with running(command, peer.port, peer.log):
        subprocess.run(load, check=True, env=os.environ | {"TCP_NODELAY": "1"}, timeout=60)
        yield peer


@pytest.fixture(scope="module")
def pynetdicom_storescp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("pynetdicom-storescp")
    received = folder / "received"
    received.mkdir()
    peer = Peer("pynetdicom_storescp", "STORESCP", free_port(), received, folder / "log")
    command = [*PYNETDICOM, "storescp", "-v", "-ba", "127.0.0.1", "-od", str(received), str(peer.port)]
    with running(command, peer.port, peer.log):
        yield peer


@pytest.fixture(scope="module")
def pynetdicom_qrscp(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """The qrscp application with the corpus in it; it knows the AE title DESTINATION."""
    folder = tmp_path_factory.mktemp("pynetdicom-qrscp")
    destination = Address("DESTINATION", "127.0.0.1", free_port())
    peer = Peer("pynetdicom_qrscp", "QRSCP", free_port(), folder / "instances", folder / "log", destination)
    configuration = folder / "qrscp.ini"
    configuration.write_text(
        f"[DEFAULT]\nae_title: {peer.ae_title}\nport: {peer.port}\nbind_address: 127.0.0.1\nmax_pdu: 16382\n"
        "acse_timeout: 30\ndimse_timeout: 30\nnetwork_timeout: 30\nlog_identifier: True\n"
        f"instance_location: {peer.folder}\ndatabase_location: {folder / 'index.sqlite'}\n"
        f"[{destination.ae_title}]\naddress: {destination.host}\nport: {destination.port}\n"
    )
    load = [*PYNETDICOM, "storescu", "-cx", "127.0.0.1", str(peer.port), *map(str, corpus)]
    with running([*PYNETDICOM, "qrscp", "-v", "-c", str(configuration)], peer.port, peer.log):
        subprocess.run(load, check=True, timeout=60)
        yield peer


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Peer:
    """One of the servers above, by its name: parametrize it with ``indirect=True``."""
    found: Peer = request.getfixturevalue(request.param)
    found.forget() if request.param.endswith("storescp") else None
    return found


# Our servers


@pytest.fixture(scope="session")
def asyncdicom_command() -> list[str]:
    return [sys.executable, "-m", "asyncdicom"]


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    """Our own tools run as processes too, in any folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(asyncdicom.__file__).parents[1]))
        yield


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with Archive(tmp_path / "archive", durability="none") as opened:
        yield opened


Load = Callable[[Server, Iterable[Path]], Awaitable[None]]


@pytest.fixture
def load() -> Load:
    """Put files into an archive that we serve: ``await load(server, files)``."""

    async def load(server: Server, files: Iterable[Path]) -> None:
        sources = [file_source(path) for path in files]
        address = Address(server.ae_title, "127.0.0.1", server.port)
        async with associate(address, contexts=storage_contexts(sources)) as association:
            for source in sources:
                response = await association.c_store(source)
                assert response.status == 0, (source.path, response)

    return load


@pytest.fixture
async def provider(archive: Archive, load: Load, corpus: list[Path]) -> AsyncIterator[Peer]:
    """Our archive with the corpus in it; it knows the AE title DESTINATION."""
    destination = Address("DESTINATION", "127.0.0.1", free_port())
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", peers={"DESTINATION": destination}) as server:
        await load(server, corpus)
        yield Peer("provider", server.ae_title, server.port, Path(archive.directory), Path(), destination)
