"""Our command line tools as processes, with DCMTK and pynetdicom on the other side."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from interop.peers import Peer, attempts, call, data_sets, keys, run, tool
from interop.questions import ONE_SERIES

pytestmark = pytest.mark.interop

QUERY_PEERS = ["dcmtk_qrscp", "pynetdicom_qrscp"]
SERIES_KEYS = keys({keyword: ONE_SERIES[keyword] for keyword in ("StudyInstanceUID", "SeriesInstanceUID")})


# Our tools are the user


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_echoscu(peer: Peer) -> None:
    call(tool("ours", "echoscu", peer))


@pytest.mark.parametrize(
    ("peer", "associations"),
    [("dcmtk_storescp", 1), ("pynetdicom_storescp", 1), ("pynetdicom_storescp", 3)],  # DCMTK's takes one
    indirect=["peer"],
)
def test_storescu(peer: Peer, variety: list[Path], associations: int) -> None:
    output = call(tool("ours", "storescu", peer, "--json", "--associations", associations, files=variety))
    summary = json.loads(output.splitlines()[-1])
    assert (summary["sent"], summary["warned"], summary["failed"]) == (len(variety), 0, 0)
    assert data_sets(peer.received()) == data_sets(variety)


@pytest.mark.parametrize("peer", ["dcmtk_storescp", "pynetdicom_storescp"], indirect=True)
async def test_storescu_asks_for_operations_that_the_peer_does_not_know(
    peer: Peer, variety: list[Path]
) -> None:
    """Neither answers the Asynchronous Operations Window: one operation at a time (PS3.7 D.3.3.3)."""
    output = await run(tool("ours", "storescu", peer, "--operations", 16, files=variety))
    assert "allows 1 outstanding operation an association, not 16" in output
    assert f"sent {len(variety)}, warned 0, failed 0" in output
    assert data_sets(peer.received()) == data_sets(variety)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_findscu(peer: Peer) -> None:
    output = call(
        tool("ours", "findscu", peer, "--json", "-L", "IMAGE", "-k", "SOPInstanceUID", *SERIES_KEYS)
    )
    *matches, end = map(json.loads, output.splitlines())
    assert len({match["00080018"]["Value"][0] for match in matches}) == 7
    assert end["status"] == 0


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_getscu(peer: Peer, series: list[Path], tmp_path: Path) -> None:
    call(tool("ours", "getscu", peer, "-od", tmp_path, *SERIES_KEYS))
    assert data_sets(tmp_path) == data_sets(series)


@pytest.mark.parametrize("peer", QUERY_PEERS, indirect=True)
def test_movescu(peer: Peer, series: list[Path], tmp_path: Path) -> None:
    receiver = ("-aet", peer.destination.ae_title, "--port", peer.destination.port, "-od", tmp_path)
    for _ in range(attempts(peer)):
        output = call(tool("ours", "movescu", peer, *receiver, *SERIES_KEYS), may_fail=True)
        if "failed 0" in output:
            break
    assert "completed 7, warned 0, failed 0" in output
    assert data_sets(tmp_path) == data_sets(series)


# Our servers are the provider


def test_storescp(family: str, our_storescp: Peer, series: list[Path]) -> None:
    our_storescp.forget()
    proposing = {"dcmtk": "-xe", "pynetdicom": "-cx"}[family]
    call(tool(family, "storescu", our_storescp, proposing, files=series))
    assert data_sets(our_storescp.folder) == data_sets(series)


def test_qrscp_echo(family: str, our_qrscp: Peer) -> None:
    call(tool(family, "echoscu", our_qrscp))


def test_qrscp_store(family: str, our_qrscp: Peer, corpus: list[Path], series: list[Path]) -> None:
    """What is there already is answered with Success and kept once."""
    proposing = {"dcmtk": "-xe", "pynetdicom": "-cx"}[family]
    call(tool(family, "storescu", our_qrscp, proposing, files=series))
    kept = [path.relative_to(our_qrscp.folder).parts[0] for path in our_qrscp.folder.rglob("*.dcm")]
    assert kept == ["objects"] * len(corpus)


def test_qrscp_find(family: str, our_qrscp: Peer, tmp_path: Path) -> None:
    to_files = {"dcmtk": "-X", "pynetdicom": "-w"}[family]
    identifier = keys({**ONE_SERIES, "QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": ""})
    call(tool(family, "findscu", our_qrscp, "-S", to_files, *identifier), folder=tmp_path)
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in tmp_path.glob("rsp*.dcm")}) == 7


def test_qrscp_get(dcmtk: None, our_qrscp: Peer, series: list[Path], tmp_path: Path) -> None:
    call(tool("dcmtk", "getscu", our_qrscp, "-S", "+B", "-od", tmp_path, *keys(ONE_SERIES)))
    assert data_sets(tmp_path) == data_sets(series)


def test_qrscp_move(family: str, our_qrscp: Peer, series: list[Path], tmp_path: Path) -> None:
    title, port = our_qrscp.destination.ae_title, our_qrscp.destination.port
    receiver = {
        "dcmtk": ("-aet", title, "+P", port, "+xa", "+B"),  # which writes to the current folder
        "pynetdicom": ("--store", "--store-port", port, "--store-aet", title, "-od", tmp_path),
    }[family]
    options = ("-S", "-aem", title, *receiver, *keys(ONE_SERIES))
    call(tool(family, "movescu", our_qrscp, *options), folder=tmp_path)
    assert data_sets(tmp_path) == data_sets(series)
