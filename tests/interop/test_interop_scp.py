"""We are the service class provider, with the archive; the tools of DCMTK and pynetdicom use it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from interop.peers import Peer, call, data_sets, free_port, keys, run, store_all, tool
from interop.questions import ONE_SERIES, QUESTIONS, UNIQUE_KEYS, identifier_of

from asyncdicom import (
    STUDY_ROOT,
    AccessPolicy,
    Address,
    BytesSource,
    Limits,
    Request,
    Retrieval,
    Status,
    UserIdentity,
    associate,
    serve,
)
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.pdu import AAssociateRQ

pytestmark = pytest.mark.interop

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"

DCMTK_PROPOSALS = {
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


def stored(archive: Archive) -> Path:
    return Path(archive.directory, "objects")


def read_matches(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in folder.glob("rsp*.dcm")]


async def test_echo(family: str, provider: Peer) -> None:
    await run(tool(family, "echoscu", provider))


@pytest.mark.parametrize("maximum_length", [4096, 262144])
async def test_store(
    family: str,
    archive: Archive,
    variety: list[Path],
    maximum_length: int,
    request: pytest.FixtureRequest,
) -> None:
    async with serve_archive(
        archive, "ARCHIVE@127.0.0.1:0", limits=Limits(maximum_length=maximum_length)
    ) as server:
        said = [
            await run(tool(family, "storescu", server, "-v", option, files=files))
            for option, files in proposals(family, variety)
        ]
    sent = request.getfixturevalue("sent_by_dcmtk") if family == "dcmtk" else variety
    assert data_sets(stored(archive)) == data_sets(sent), said


@pytest.fixture(scope="module")
def sent_by_dcmtk(dcmtk_storescp: Peer, variety: list[Path], tmp_path_factory: Any) -> Path:
    """What storescu sends to its own receiver: it encodes data sets anew."""
    dcmtk_storescp.forget()
    for option, files in proposals("dcmtk", variety):
        call(tool("dcmtk", "storescu", dcmtk_storescp, option, files=files))
    folder: Path = tmp_path_factory.mktemp("sent")
    for path in dcmtk_storescp.received():
        path.rename(folder / path.name)
    return folder


def proposals(family: str, files: list[Path]) -> list[tuple[str, list[Path]]]:
    """The option of storescu that proposes what the files are encoded in, and those it does so for."""
    if family == "pynetdicom":
        return [("-cx", files)]  # whatever is needed
    by_option: dict[str, list[Path]] = {}
    for path in files:
        syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        by_option.setdefault(DCMTK_PROPOSALS.get(syntax, "-x="), []).append(path)
    return list(by_option.items())


@pytest.mark.parametrize(
    ("family", "question"),
    [("dcmtk", question) for question in QUESTIONS]
    + [("pynetdicom", question) for question in ("a wildcard", "all studies", "series", "images")],
    indirect=["family"],
)
async def test_find(family: str, provider: Peer, question: str, tmp_path: Path) -> None:
    model, level, wanted, expected = QUESTIONS[question]
    identifier, unique = identifier_of(level, wanted), UNIQUE_KEYS[level]
    to_files = {"dcmtk": "-X", "pynetdicom": "-w"}[family]
    model_option = "-S" if model is STUDY_ROOT else "-P"
    await run(tool(family, "findscu", provider, model_option, to_files, *keys(identifier)), folder=tmp_path)
    matches = read_matches(tmp_path)
    assert len(matches) == len({match[unique].value for match in matches}) == expected
    assert all(match.RetrieveAETitle == "ARCHIVE" for match in matches)
    assert all(set(identifier) <= set(match.dir()) for match in matches)


@pytest.mark.usefixtures("dcmtk")
async def test_get_with_dcmtk(provider: Peer, series: list[Path], tmp_path: Path) -> None:
    await run(tool("dcmtk", "getscu", provider, "-S", "+B", "-od", tmp_path, *keys(ONE_SERIES)))
    assert data_sets(tmp_path) == data_sets(series)


async def test_get_with_pynetdicom(archive: Archive, pydicom_files: Path, tmp_path: Path) -> None:
    file = pydicom_files / "rtplan.dcm"  # in Implicit VR Little Endian, which getscu proposes first
    wanted = keys({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study_of(file)})
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0") as server:
        await store_all(server, [file])
        await run(tool("pynetdicom", "getscu", server, "-S", "-od", tmp_path / "received", *wanted))
    assert data_sets(tmp_path / "received") == data_sets([file])


async def test_move(family: str, provider: Peer, series: list[Path], tmp_path: Path) -> None:
    received, port, title = tmp_path / "received", provider.destination.port, provider.destination.ae_title
    received.mkdir()
    receiver = {
        "dcmtk": ("-aet", title, "+P", port, "+xa", "+B"),  # which writes to the current folder
        "pynetdicom": ("--store", "--store-port", port, "--store-aet", title, "-od", received),
    }[family]
    options = ("-S", "-aem", title, *receiver, *keys(ONE_SERIES))
    await run(tool(family, "movescu", provider, *options), folder=received)
    assert data_sets(received) == data_sets(series)


@pytest.mark.parametrize("peer", ["dcmtk_storescp", "pynetdicom_storescp"], indirect=True)
async def test_move_to_a_third(peer: Peer, archive: Archive, variety: list[Path]) -> None:
    """We ask our archive to send to a receiver of theirs, in many transfer syntaxes."""
    async with serve_archive(
        archive, "ARCHIVE@127.0.0.1:0", access={"*": None, peer.ae_title: peer.address}
    ) as server:
        await store_all(server, variety)
        async with associate(f"ARCHIVE@127.0.0.1:{server.port}", contexts=[STUDY_ROOT]) as association:
            for study in {study_of(path) for path in variety}:
                wanted = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
                result = await association.c_move(wanted, move_destination=peer.ae_title)
                assert result.status == Status.SUCCESS
    assert data_sets(peer.received()) == data_sets(variety)


def study_of(path: Path) -> str:
    uid: str = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID
    return uid


# What only DCMTK can do


@pytest.mark.usefixtures("dcmtk")
async def test_unknown_move_destination(provider: Peer) -> None:
    command = tool("dcmtk", "movescu", provider, "-v", "-S", "-aem", "NOBODY", *keys(ONE_SERIES))
    output = await run(command, fails=True)
    assert "MoveDestinationUnknown" in output


@pytest.mark.usefixtures("dcmtk")
async def test_find_is_cancelled() -> None:
    yielded, ended = 0, []

    async def endless(request: Request) -> AsyncIterator[dict[str, str]]:
        nonlocal yielded
        try:
            while True:  # and it never waits
                yielded += 1
                yield {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}
        finally:
            ended.append(request.is_cancelled)

    async with serve("ARCHIVE@127.0.0.1:0", c_find=endless) as server:
        options = ("-v", "-S", "--cancel", 3, "-k", "QueryRetrieveLevel=STUDY")
        output = await run(tool("dcmtk", "findscu", server, *options))
    assert ended == [True]
    assert yielded < 5000  # much more fits into the buffers of the connection
    assert "MatchingTerminatedDueToCancelRequest" in output


@pytest.mark.usefixtures("dcmtk")
async def test_move_is_cancelled() -> None:
    port = free_port()

    async def many(request: Request) -> Retrieval:
        data = bytes.fromhex("0800 1600 5549 0000")
        sources = [BytesSource(MR_IMAGE, f"1.2.3.{n}", EXPLICIT_VR_LITTLE_ENDIAN, data) for n in range(20000)]
        return Retrieval(sources)

    async with serve(
        "ARCHIVE@127.0.0.1:0", c_move=many, destinations={"MOVESCU": f"127.0.0.1:{port}"}
    ) as server:
        options = ("-v", "-S", "+P", port, "--ignore", "--cancel", 3, *keys(ONE_SERIES))
        output = await run(tool("dcmtk", "movescu", server, *options))
    assert "SubOperationsTerminatedDueToCancelIndication" in output


@pytest.mark.usefixtures("dcmtk")
async def test_strangers_are_refused(archive: Archive) -> None:
    async with serve_archive(
        archive, "ARCHIVE@127.0.0.1:0", access=AccessPolicy(called_ae_titles="ARCHIVE", peers="FRIEND")
    ) as server:
        await run(tool("dcmtk", "echoscu", server, "-aet", "FRIEND"))
        stranger = await run(tool("dcmtk", "echoscu", server, "-aet", "STRANGER"), fails=True)
        other = Address("OTHER", "127.0.0.1", server.port)
        wrong = await run(tool("dcmtk", "echoscu", other, "-aet", "FRIEND"), fails=True)
    assert "Calling AE Title Not Recognized" in stranger
    assert "Called AE Title Not Recognized" in wrong


@pytest.mark.usefixtures("dcmtk")
async def test_user_identity(pydicom_files: Path) -> None:
    seen: list[UserIdentity | None] = []

    async def check(request: AAssociateRQ, identity: UserIdentity | None) -> bool | bytes:
        seen.append(identity)
        return identity is not None and identity.secondary == b"secret"

    async def take(request: Request) -> Status:
        return Status.SUCCESS

    files = [pydicom_files / "CT_small.dcm"]
    async with serve("ARCHIVE@127.0.0.1:0", c_store=take, access=AccessPolicy(user_identity=check)) as server:
        await run(tool("dcmtk", "storescu", server, "-usr", "me", "-pwd", "secret", "-rsp", files=files))
        output = await run(
            tool("dcmtk", "storescu", server, "-usr", "me", "-pwd", "guess", files=files), fails=True
        )
    assert [identity.primary for identity in seen if identity is not None] == [b"me", b"me"]
    assert "Association Rejected" in output


@pytest.mark.usefixtures("dcmtk")
async def test_one_that_aborts_does_not_disturb(provider: Peer) -> None:
    await run(tool("dcmtk", "echoscu", provider, "--abort"))
    await run(tool("dcmtk", "echoscu", provider))
