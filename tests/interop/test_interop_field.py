"""odil, dcmjs-dimse and dcm4che: they ask our archive and receiver, and ours send to theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from interop import field
from interop.peers import OURS, Peer, call, free_port, keys, running, tool
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from benchmarks import processes

pytestmark = pytest.mark.interop

SYNTAXES = {
    "explicit": ("MR_small.dcm", ExplicitVRLittleEndian),
    "implicit": ("MR_small_implicit.dcm", ImplicitVRLittleEndian),
    "big endian": ("MR_small_bigendian.dcm", ExplicitVRBigEndian),
    "deflated": ("MR_small.dcm", DeflatedExplicitVRLittleEndian),
}
SCUS = ["odil", "dcmjs", "dcm4che"]


@pytest.fixture(scope="module")
def stored(pydicom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One MR image in each uncompressed transfer syntax, each a study of its own."""
    folder, paths = tmp_path_factory.mktemp("stored"), {}
    for number, (name, (file, syntax)) in enumerate(SYNTAXES.items()):
        dataset = pydicom.dcmread(pydicom_files / file)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, name]))
        dataset.PatientID = f"FIELD{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = syntax
        paths[name] = folder / f"{number}.dcm"
        dataset.save_as(paths[name], enforce_file_format=True)
    return paths


PORTS = {title: free_port() for title in ("ODIL", "DCMJS", "DESTINATION")}
"""Where destinations of C-MOVE are to listen."""


@pytest.fixture(scope="module")
def archive(stored: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """``asyncdicom qrscp`` with these images; it knows the destinations in `PORTS`."""
    folder = tmp_path_factory.mktemp("archive")
    peer = Peer("archive", "ARCHIVE", free_port(), folder / "data", folder / "log")
    options = [f"--peer={title}=127.0.0.1:{port}" for title, port in PORTS.items()]
    command = [*OURS, "qrscp", "-aet", "ARCHIVE", "--port", str(peer.port), "--data", str(peer.folder)]
    with running([*command, *options], peer.port, peer.log):
        call(tool("ours", "storescu", peer, files=stored.values()))
        yield peer


@pytest.fixture
def scu(request: pytest.FixtureRequest) -> str:
    """Who asks."""
    name: str = request.param
    if name == "dcmtk":
        request.getfixturevalue("dcmtk")
    elif name != "pynetdicom":
        field.need(name)
    return name


each_scu = pytest.mark.parametrize("scu", SCUS, indirect=True)
each_library = pytest.mark.parametrize("scu", ["odil", "dcmjs"], indirect=True)


def study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], force=True).StudyInstanceUID)


# They ask our archive


@each_library
def test_echo(scu: str, archive: Peer) -> None:
    call(field.driver(scu, "echo", archive))


@each_library
def test_store(scu: str, stored: dict[str, Path], tmp_path: Path) -> None:
    """Our receiver gets what they make of it: they encode it anew."""
    receiver = Peer("receiver", "STORESCP", free_port(), tmp_path / "received", tmp_path / "log")
    receiver.folder.mkdir()
    sent = [stored["explicit"], stored["implicit"]]
    with running(
        [*OURS, "storescp", "-od", str(receiver.folder), str(receiver.port)], receiver.port, receiver.log
    ):
        call(field.driver(scu, "store", receiver, *sent))
    assert field.contents(receiver.folder) == field.contents(sent)


@each_scu
def test_find(scu: str, archive: Peer, stored: dict[str, Path], tmp_path: Path) -> None:
    if scu == "dcm4che":
        options = ("-L", "STUDY", "-r", "StudyInstanceUID", "--out-dir", tmp_path)
        call(field.dcm4che("findscu", archive, *options))
        found = {study_of(path) for path in tmp_path.iterdir()}  # data sets without a header
    else:
        found = set(call(field.driver(scu, "find", archive)).split())
    assert {study_of(path) for path in stored.values()} <= found


@pytest.mark.parametrize("scu", ["dcmtk", "pynetdicom", *SCUS], indirect=True)
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_get(scu: str, syntax: str, archive: Peer, stored: dict[str, Path], tmp_path: Path) -> None:
    """Whatever it was stored as, each gets it as something that it proposes."""
    path, study = stored[syntax], study_of(stored[syntax])
    if scu in ("dcmtk", "pynetdicom"):
        wanted = keys({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study})
        call(tool(scu, "getscu", archive, "-S", "-od", tmp_path, *wanted))
    elif scu == "dcm4che":
        call(field.dcm4che("getscu", archive, "-m", f"StudyInstanceUID={study}", "--directory", tmp_path))
    elif scu == "odil":
        sop_class = pydicom.dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID
        call(field.driver(scu, "get", archive, study, tmp_path, sop_class))
    else:
        call(field.driver(scu, "get", archive, study, tmp_path))
    assert field.contents(tmp_path) == field.contents([path])


@each_library
def test_move(scu: str, archive: Peer, stored: dict[str, Path], tmp_path: Path) -> None:
    """They have our archive send to our receiver."""
    path, port = stored["explicit"], PORTS["DESTINATION"]
    with running(
        [*OURS, "storescp", "-od", str(tmp_path), str(port)], port, archive.log.with_name("receiver")
    ):
        call(field.driver(scu, "move", archive, study_of(path), "DESTINATION"))
    assert field.contents(tmp_path) == field.contents([path])


# We send to theirs


@pytest.fixture
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    """The receiver of a library."""
    name: str = request.param
    field.need(name)
    peer = Peer(name, name.upper(), PORTS[name.upper()], tmp_path / "received", tmp_path / "log")
    peer.folder.mkdir()
    command = field.driver(name, "storescp", peer, peer.folder)
    # odil's would take a connection that says nothing for the one association that it waits for.
    with running(command, peer.port, peer.log, listens=processes.is_listening):
        yield peer


each_receiver = pytest.mark.parametrize("receiver", ["odil", "dcmjs"], indirect=True)


def _can_read(receiver: Peer, syntax: str) -> bool:
    """odil accepts Deflated Explicit VR Little Endian, and cannot inflate it."""
    return (receiver.name, syntax) != ("odil", "deflated")


@each_receiver
def test_our_echoscu(receiver: Peer) -> None:
    call(tool("ours", "echoscu", receiver))


@each_receiver
def test_our_storescu(receiver: Peer, stored: dict[str, Path]) -> None:
    sent = [path for syntax, path in stored.items() if _can_read(receiver, syntax)]
    call(tool("ours", "storescu", receiver, files=sent))
    assert field.contents(receiver.folder) == field.contents(sent)


@each_receiver
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_our_archive_moves_to_them(
    receiver: Peer, archive: Peer, stored: dict[str, Path], syntax: str
) -> None:
    if not _can_read(receiver, syntax):
        pytest.skip("it accepts what it cannot read")
    study = keys({"StudyInstanceUID": study_of(stored[syntax])})
    call(tool("ours", "movescu", archive, "-aem", receiver.ae_title, *study))
    assert field.contents(receiver.folder) == field.contents([stored[syntax]])
