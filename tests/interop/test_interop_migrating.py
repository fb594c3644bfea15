"""docs/from-dcmqrscp.md and docs/from-orthanc.md are walked through with what these have stored."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from helpers.walking import DOCS, walk
from interop import field
from interop.peers import Peer, call, free_port, running, tool

from asyncdicom.archive import Archive

pytestmark = pytest.mark.interop


async def empty(folder: Path) -> None:
    async with Archive(folder / "archive", durability="none"):
        pass


def imported(page: str, theirs: Path, folder: Path) -> int:
    """Walk through a page over their folder; give how many instances the archive then has."""
    (there,) = {
        word
        for line in (DOCS / page).read_text().splitlines()
        if " import /" in line
        for word in line.split()[-1:]
    }
    asyncio.run(empty(folder))
    for _ in range(2):  # again over what is there then
        said = asyncio.run(walk(page, folder, {there: str(theirs)}))
        assert " 0 are not" in said[0], said[0]
    return int(said[0].split()[0])


def test_from_dcmqrscp(dcmtk_qrscp: Peer, corpus: list[Path], tmp_path: Path) -> None:
    assert (dcmtk_qrscp.folder / "index.dat").exists()
    assert imported("from-dcmqrscp.md", dcmtk_qrscp.folder, tmp_path) == len(corpus)


def test_from_orthanc(corpus: list[Path], tmp_path: Path) -> None:
    field.need("orthanc")
    ports = {title: free_port() for title in ("ORTHANC", "ARCHIVE", "DESTINATION")}
    peer = Peer("orthanc", "ORTHANC", ports["ORTHANC"], tmp_path / "storage", tmp_path / "log")
    configuration = tmp_path / "orthanc.json"
    configuration.write_text(json.dumps(field.orthanc_configuration(ports, free_port(), peer.folder)))
    with running(["Orthanc", str(configuration)], peer.port, peer.log):
        call(tool("ours", "storescu", peer, files=corpus))
        theirs = shutil.copytree(peer.folder, tmp_path / "copy")
    assert imported("from-orthanc.md", theirs, tmp_path) == len(corpus)
