"""We are the service class provider, with the archive; the tools of DCMTK and pynetdicom use it."""

from __future__ import annotations

import runpy
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from asyncdicom import (
    STUDY_ROOT,
    BytesSource,
    Request,
    Retrieval,
    Status,
    UserIdentity,
    associate,
    serve,
)
from asyncdicom.archive import Archive
from asyncdicom.archive.scp import serve_archive
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN
from asyncdicom.ul.pdu import AAssociateRQ

pytestmark = pytest.mark.interop

ASKED = runpy.run_path(str(Path(__file__).with_name("questions.py")))
QUESTIONS, ONE_SERIES = ASKED["QUESTIONS"], ASKED["ONE_SERIES"]
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"

DCMTK_PROPOSALS = {
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}

DataSets = Callable[[Iterable[Path] | Path], list[bytes]]


def keys(identifier: dict[str, str]) -> list[str]:
    return [part for keyword, value in identifier.items() for part in ("-k", f"{keyword}={value}")]


def stored(archive: Archive) -> Path:
    return Path(archive.directory, "objects")


def read_matches(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in folder.glob("rsp*.dcm")]


async def test_echo(run: Any, tool: Any, family: str, provider: Any) -> None:
    await run(*tool(family, "echoscu", provider))


@pytest.mark.parametrize("maximum_length", [4096, 262144])
async def test_store(
    run: Any,
    tool: Any,
    family: str,
    archive: Archive,
    variety: list[Path],
    data_sets: DataSets,
    maximum_length: int,
    request: pytest.FixtureRequest,
) -> None:
    expected = data_sets(variety)
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", maximum_length=maximum_length) as server:
        for option, files in proposals(family, variety):
            await run(*tool(family, "storescu", server, option, files=files))
    if family == "dcmtk":  # it encodes anew what it sends: is it the same as its own receiver gets?
        peer = request.getfixturevalue("dcmtk_storescp")
        peer.forget()
        for option, files in proposals(family, variety):
            await run(*tool(family, "storescu", peer, option, files=files))
        expected = data_sets(peer.received())
    assert data_sets(stored(archive)) == expected


def proposals(family: str, files: list[Path]) -> list[tuple[str, list[Path]]]:
    """The option of storescu that proposes what the files are encoded in, and those it does so for."""
    if family == "pynetdicom":
        return [("-cx", files)]  # whatever is needed
    by_option: dict[str, list[Path]] = {}
    for path in files:
        syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        by_option.setdefault(DCMTK_PROPOSALS.get(syntax, "-x="), []).append(path)
    return list(by_option.items())


@pytest.mark.parametrize("question", QUESTIONS)
async def test_find(run: Any, tool: Any, family: str, provider: Any, question: str, tmp_path: Path) -> None:
    model, level, wanted, expected = QUESTIONS[question]
    identifier, unique = ASKED["identifier"](level, wanted), ASKED["UNIQUE_KEYS"][level]
    to_files = {"dcmtk": "-X", "pynetdicom": "-w"}[family]
    model_option = "-S" if model is STUDY_ROOT else "-P"
    await run(*tool(family, "findscu", provider, model_option, to_files, *keys(identifier)), folder=tmp_path)
    matches = read_matches(tmp_path)
    assert len(matches) == len({match[unique].value for match in matches}) == expected
    assert all(match.RetrieveAETitle == "ARCHIVE" for match in matches)
    assert all(set(identifier) <= set(match.dir()) for match in matches)


async def test_get(
    run: Any, tool: Any, family: str, provider: Any, load: Any, pydicom_files: Path, series: list[Path],
    tmp_path: Path, data_sets: DataSets,
) -> None:  # fmt: skip
    wanted, files = ONE_SERIES, series
    if family == "pynetdicom":  # it proposes Implicit VR Little Endian first, so that is what it can get
        files = [pydicom_files / "rtplan.dcm"]
        wanted = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study_of(files[0])}
        await load(provider, files)
    received = tmp_path / "received"
    received.mkdir()
    more = ("+B",) if family == "dcmtk" else ()
    await run(*tool(family, "getscu", provider, "-S", "-od", received, *more, *keys(wanted)))
    assert data_sets(received) == data_sets(files)


async def test_get_in_another_transfer_syntax(run: Any, tool: Any, provider: Any, tmp_path: Path) -> None:
    """What is not accepted as it is encoded is counted as failed, and not sent as something else."""
    command = tool("pynetdicom", "getscu", provider, "-v", "-S", "-od", tmp_path / "received")
    output = await run(*command, *keys(ONE_SERIES))
    assert "0xA702" in output.text  # Unable to perform sub-operations
    assert "Remaining: 0, Completed: 0, Failed: 7, Warning: 0" in output.text
    assert not (tmp_path / "received").exists()


async def test_move(
    run: Any, tool: Any, family: str, provider: Any, series: list[Path], tmp_path: Path, data_sets: DataSets
) -> None:
    received, port, title = tmp_path / "received", provider.destination.port, provider.destination.ae_title
    received.mkdir()
    receiver = {
        "dcmtk": ("-aet", title, "+P", port, "+xa", "+B"),  # which writes to the current folder
        "pynetdicom": ("--store", "--store-port", port, "--store-aet", title, "-od", received),
    }[family]
    options = ("-S", "-aem", title, *receiver, *keys(ONE_SERIES))
    await run(*tool(family, "movescu", provider, *options), folder=received)
    assert data_sets(received) == data_sets(series)


@pytest.mark.parametrize("peer", ["dcmtk_storescp", "pynetdicom_storescp"], indirect=True)
async def test_move_to_a_third(
    peer: Any, archive: Archive, load: Any, variety: list[Path], data_sets: DataSets
) -> None:
    """We ask our archive to send to a receiver of theirs, in many transfer syntaxes."""
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", peers={peer.ae_title: peer.address}) as server:
        await load(server, variety)
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
async def test_unknown_move_destination(run: Any, tool: Any, provider: Any) -> None:
    command = tool("dcmtk", "movescu", provider, "-v", "-S", "-aem", "NOBODY", *keys(ONE_SERIES))
    output = await run(*command, fails=True)
    assert "MoveDestinationUnknown" in output.text


@pytest.mark.usefixtures("dcmtk")
async def test_find_is_cancelled(run: Any, tool: Any) -> None:
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
        output = await run(*tool("dcmtk", "findscu", server, *options))
    assert ended == [True]
    assert yielded < 5000  # much more fits into the buffers of the connection
    assert "MatchingTerminatedDueToCancelRequest" in output.text


@pytest.mark.usefixtures("dcmtk")
async def test_move_is_cancelled(run: Any, tool: Any, free_ports: Any) -> None:
    port = free_ports()

    async def many(request: Request) -> Retrieval:
        data = bytes.fromhex("0800 1600 5549 0000")
        sources = [BytesSource(MR_IMAGE, f"1.2.3.{n}", EXPLICIT_VR_LITTLE_ENDIAN, data) for n in range(20000)]
        return Retrieval(sources)

    async with serve(
        "ARCHIVE@127.0.0.1:0", c_move=many, destinations={"MOVESCU": f"127.0.0.1:{port}"}
    ) as server:
        options = ("-v", "-S", "+P", port, "--ignore", "--cancel", 3, *keys(ONE_SERIES))
        output = await run(*tool("dcmtk", "movescu", server, *options))
    assert "SubOperationsTerminatedDueToCancelIndication" in output.text


@pytest.mark.usefixtures("dcmtk")
async def test_strangers_are_refused(run: Any, tool: Any, archive: Archive) -> None:
    async with serve_archive(archive, "ARCHIVE@127.0.0.1:0", peers={"FRIEND": None}, strict=True) as server:
        await run(*tool("dcmtk", "echoscu", server, "-aet", "FRIEND"))
        stranger = await run(*tool("dcmtk", "echoscu", server, "-aet", "STRANGER"), fails=True)
        wrong = await run("echoscu", "-aet", "FRIEND", "-aec", "OTHER", "127.0.0.1", server.port, fails=True)
    assert "Calling AE Title Not Recognized" in stranger.text
    assert "Called AE Title Not Recognized" in wrong.text


@pytest.mark.usefixtures("dcmtk")
async def test_user_identity(run: Any, tool: Any, pydicom_files: Path) -> None:
    seen: list[UserIdentity | None] = []

    async def check(request: AAssociateRQ, identity: UserIdentity | None) -> bool | bytes:
        seen.append(identity)
        return identity is not None and identity.secondary == b"secret"

    async def take(request: Request) -> Status:
        return Status.SUCCESS

    files = [pydicom_files / "CT_small.dcm"]
    async with serve("ARCHIVE@127.0.0.1:0", c_store=take, user_identity=check) as server:
        await run(*tool("dcmtk", "storescu", server, "-usr", "me", "-pwd", "secret", "-rsp", files=files))
        output = await run(
            *tool("dcmtk", "storescu", server, "-usr", "me", "-pwd", "guess", files=files), fails=True
        )
    assert [identity.primary for identity in seen if identity is not None] == [b"me", b"me"]
    assert "Association Rejected" in output.text


@pytest.mark.usefixtures("dcmtk")
async def test_one_that_aborts_does_not_disturb(run: Any, tool: Any, provider: Any) -> None:
    await run(*tool("dcmtk", "echoscu", provider, "--abort"))
    await run(*tool("dcmtk", "echoscu", provider))
