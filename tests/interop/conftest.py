"""Peers that we did not write: DCMTK and pynetdicom, servers as processes and tools as commands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from interop.peers import (
    DCMTK,
    OURS,
    PATIENCE,
    PYNETDICOM,
    PYNETDICOM_DIMSE_TIMEOUT,
    Peer,
    call,
    dcmtk_tool,
    free_port,
    running,
    store_all,
    tool,
    write_multi_frame,
)

from asyncdicom import Address
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive

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

# Two patients with six studies, all in Explicit VR Little Endian.
CORPUS = ("77654033", "98892001", "98892003")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs a server waits for its start, and for what is stored in it, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3 * PATIENCE))


# Content


@pytest.fixture(scope="session")
def variety(pydicom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files in nine transfer syntaxes, and one of 5 MB."""
    multi_frame = tmp_path_factory.mktemp("generated") / "multi-frame.dcm"
    write_multi_frame(multi_frame, frames=40)
    return [*(pydicom_files / name for name in VARIETY), multi_frame]


@pytest.fixture(scope="session")
def corpus(pydicom_files: Path) -> list[Path]:
    folders = [pydicom_files / "dicomdirtests" / name for name in CORPUS]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def series(corpus: list[Path]) -> list[Path]:
    """The files of one series of the corpus, of seven images."""
    return [path for path in corpus if path.parent.name == "MR700"]


# Processes


@pytest.fixture(scope="session")
def dcmtk() -> None:
    """What needs DCMTK asks for this."""
    if DCMTK is None:
        missing = pytest.fail if os.environ.get("ASYNCDICOM_REQUIRE_PEERS") else pytest.skip
        missing("needs DCMTK: apt-get install dcmtk")


@pytest.fixture(params=["dcmtk", "pynetdicom"])
def family(request: pytest.FixtureRequest) -> str:
    """Whose tools: see `tool`."""
    if request.param == "dcmtk":
        request.getfixturevalue("dcmtk")
    name: str = request.param
    return name


# Their servers


@pytest.fixture(scope="session")
def dcmtk_storescp(dcmtk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with storescp("dcmtk_storescp", tmp_path_factory.mktemp("storescp")) as peer:
        yield peer


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def dcmtk_implicit_storescp(dcmtk: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """storescp that takes Implicit VR Little Endian and nothing else."""
    folder = tmp_path_factory.mktemp("implicit")
    with storescp("dcmtk_implicit_storescp", folder, syntaxes="+xi") as peer:
        yield peer


@contextmanager
def storescp(name: str, folder: Path, *options: str, syntaxes: str = "+xa") -> Iterator[Peer]:
    received = folder / "received"
    received.mkdir()
    peer = Peer(name, "STORESCP", free_port(), received, folder / "log")
    keeping = [syntaxes, "+B", "+uf", "-od", str(received)]  # whatever comes, byte for byte
    command = [dcmtk_tool("storescp"), "-v", "-dhl", "-aet", peer.ae_title, *keeping, *options]
    with running([*command, str(peer.port)], peer.port, peer.log):
        yield peer


@pytest.fixture(scope="session")
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
    command = [dcmtk_tool("dcmqrscp"), "-v", "-dhl", "+B", "-c", str(configuration)]
    with running(command, peer.port, peer.log):
        call(["env", "TCP_NODELAY=1", *tool("dcmtk", "storescu", peer, "-xe", files=corpus)])
        yield peer


@pytest.fixture(scope="session")
def pynetdicom_storescp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("pynetdicom-storescp")
    received = folder / "received"
    received.mkdir()
    peer = Peer("pynetdicom_storescp", "STORESCP", free_port(), received, folder / "log")
    command = [*PYNETDICOM, "storescp", "-v", "-ba", "127.0.0.1", "-od", str(received), str(peer.port)]
    with running(command, peer.port, peer.log):
        yield peer


@pytest.fixture(scope="session")
def pynetdicom_qrscp(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """The qrscp application with the corpus in it; it knows the AE title DESTINATION."""
    folder = tmp_path_factory.mktemp("pynetdicom-qrscp")
    destination = Address("DESTINATION", "127.0.0.1", free_port())
    peer = Peer("pynetdicom_qrscp", "QRSCP", free_port(), folder / "instances", folder / "log", destination)
    configuration = folder / "qrscp.ini"
    configuration.write_text(
        f"[DEFAULT]\nae_title: {peer.ae_title}\nport: {peer.port}\nbind_address: 127.0.0.1\nmax_pdu: 16382\n"
        f"dimse_timeout: {PYNETDICOM_DIMSE_TIMEOUT}\nacse_timeout: 30\nnetwork_timeout: 30\n"
        "log_identifier: True\n"
        f"instance_location: {peer.folder}\ndatabase_location: {folder / 'index.sqlite'}\n"
        f"[{destination.ae_title}]\naddress: {destination.host}\nport: {destination.port}\n"
    )
    with running([*PYNETDICOM, "qrscp", "-v", "-c", str(configuration)], peer.port, peer.log):
        call(tool("pynetdicom", "storescu", peer, "-cx", files=corpus))
        yield peer


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Peer:
    """One of the servers above, by its name: parametrize it with ``indirect=True``."""
    found: Peer = request.getfixturevalue(request.param)
    if request.param.endswith("storescp"):
        found.forget()
    return found


# Our servers


@pytest.fixture(scope="session")
def our_storescp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("our-storescp")
    peer = Peer("our_storescp", "STORESCP", free_port(), folder / "received", folder / "log")
    peer.folder.mkdir()
    with running([*OURS, "storescp", "-od", str(peer.folder), str(peer.port)], peer.port, peer.log):
        yield peer


@pytest.fixture(scope="session")
def our_qrscp(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """``asyncdicom qrscp``, which was filled with the corpus, ended, and started again."""
    folder = tmp_path_factory.mktemp("our-qrscp")
    destination = Address("DESTINATION", "127.0.0.1", free_port())
    peer = Peer("our_qrscp", "ARCHIVE", free_port(), folder / "archive", folder / "log", destination)
    where = f"{destination.ae_title}={destination.host}:{destination.port}"
    options = ["-aet", peer.ae_title, "--port", str(peer.port), "--data", str(peer.folder), "--peer", where]
    with running([*OURS, "qrscp", *options], peer.port, peer.log):
        call(tool("ours", "storescu", peer, files=corpus))
    with running([*OURS, "qrscp", *options], peer.port, peer.log):
        yield peer


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """An empty archive."""
    async with Archive(tmp_path / "archive", durability="none") as opened:
        yield opened


@pytest.fixture(scope="session")
def filled(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an archive that holds the corpus; nobody adds to it."""
    folder = tmp_path_factory.mktemp("filled")

    async def fill() -> None:
        async with (
            Archive(folder, durability="none") as archive,
            serve_archive(archive, "A@127.0.0.1:0") as server,
        ):
            await store_all(server, corpus)

    asyncio.run(fill())
    return folder


@pytest.fixture
async def provider(filled: Path) -> AsyncIterator[Peer]:
    """Our archive with the corpus in it; it knows the AE title DESTINATION."""
    destination = Address("DESTINATION", "127.0.0.1", free_port())
    async with (
        Archive(filled, durability="none") as archive,
        serve_archive(
            archive, "ARCHIVE@127.0.0.1:0", access={"*": None, "DESTINATION": destination}
        ) as server,
    ):
        yield Peer("provider", server.ae_title, server.port, filled, filled / "log", destination)
