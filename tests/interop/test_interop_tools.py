"""Our command line tools as processes, with DCMTK and pynetdicom on the other side."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

pytestmark = pytest.mark.interop

ASKED = runpy.run_path(str(Path(__file__).with_name("questions.py")))
ONE_SERIES = ASKED["ONE_SERIES"]

STORAGE_PEERS = ["dcmtk_storescp", "pynetdicom_storescp"]
QUERY_PEERS = ["dcmtk_qrscp", "pynetdicom_qrscp"]

DataSets = Callable[[Iterable[Path] | Path], list[bytes]]


def call(*command: object, folder: Path | None = None) -> str:
    """Run a command to its end and give what it said on stdout; it has to exit with 0."""
    arguments = [str(argument) for argument in command]
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, timeout=60)
    assert done.returncode == 0, (arguments, done)
    return done.stdout.decode()


@pytest.fixture
def ours(asyncdicom_command: list[str]) -> Callable[..., str]:
    """Run one of our tools: ``ours("echoscu", ...)`` gives its output."""
    return lambda *arguments: call(*asyncdicom_command, *arguments)


def keys(identifier: dict[str, str]) -> list[str]:
    return [part for keyword, value in identifier.items() for part in ("-k", f"{keyword}={value}")]


SERIES_KEYS = keys({keyword: ONE_SERIES[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID")})


# We are the user


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_echoscu(ours: Any, peer: Any) -> None:
    ours("echoscu", peer.address)


@pytest.mark.parametrize("associations", [1, 3])
@pytest.mark.parametrize("peer", STORAGE_PEERS, indirect=True)
def test_storescu(
    ours: Any, peer: Any, variety: list[Path], data_sets: DataSets, associations: int
) -> None:
    if associations > 1 and peer.name == "dcmtk_storescp":
        pytest.skip("storescp serves one association at a time")
    output = ours("storescu", "--json", "--associations", associations, peer.address, *variety)
    summary = json.loads(output.splitlines()[-1])
    assert (summary["sent"], summary["warned"], summary["failed"]) == (len(variety), 0, 0)
    assert data_sets(peer.received()) == data_sets(variety)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_findscu(ours: Any, peer: Any) -> None:
    output = ours("findscu", "--json", peer.address, *SERIES_KEYS, "-k", "SOPInstanceUID", "-L", "IMAGE")
    found = {json.loads(line)["00080018"]["Value"][0] for line in output.splitlines()}
    assert len(found) == 7


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_getscu(ours: Any, peer: Any, series: list[Path], tmp_path: Path, data_sets: DataSets) -> None:
    ours("getscu", peer.address, "-od", tmp_path, *SERIES_KEYS)
    assert data_sets(tmp_path) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_movescu(ours: Any, peer: Any, series: list[Path], tmp_path: Path, data_sets: DataSets) -> None:
    title, port = peer.destination.ae_title, peer.destination.port
    ours("movescu", peer.address, "-aet", title, "--port", port, "-od", tmp_path, *SERIES_KEYS)
    assert data_sets(tmp_path) == data_sets(series)


# We are the provider


@pytest.fixture
def storescp(
    asyncdicom_command: list[str], running: Any, new_peer: Any, tmp_path: Path
) -> Iterator[Any]:
    folder = tmp_path / "received"
    folder.mkdir()
    peer = new_peer("storescp", folder)
    options = ["-aet", peer.ae_title, "-od", str(folder), str(peer.port)]
    with running([*asyncdicom_command, "storescp", *options], peer.port, peer.log):
        yield peer


def test_storescp(
    family: str, tool: Any, storescp: Any, corpus: list[Path], data_sets: DataSets
) -> None:
    proposing = {"dcmtk": "-xe", "pynetdicom": "-cx"}[family]
    call(*tool(family, "storescu", storescp, proposing, files=corpus))
    assert data_sets(storescp.folder) == data_sets(corpus)


@pytest.fixture(scope="module")
def qrscp(
    asyncdicom_command: list[str], running: Any, new_peer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """``asyncdicom qrscp``: started, filled, stopped, and started again."""
    folder = tmp_path_factory.mktemp("qrscp")
    peer = new_peer("qrscp", folder)
