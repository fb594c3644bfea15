"""doctor finds nothing wrong with peers that are set up right, and what is wrong with some that are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop import field
from interop.peers import OURS, Peer, call, free_port, running, tool

from asyncdicom import Address

pytestmark = pytest.mark.interop


def examined(peer: Peer, *options: object) -> list[dict[str, Any]]:
    """What doctor says of a peer, which knows us as DESTINATION."""
    port = peer.destination.port
    command = tool("ours", "doctor", peer, "--json", "-aet", "DESTINATION", "--port", port, *options)
    return [json.loads(line) for line in call(command, may_fail=True).splitlines()]


def problems(lines: list[dict[str, Any]]) -> list[str]:
    return [f"{line['step']}: {line['cause']}: {line['why']}" for line in lines if "cause" in line]


@pytest.mark.parametrize("peer", ["dcmtk_qrscp", "pynetdicom_qrscp", "our_qrscp"], indirect=True)
def test_nothing_is_wrong(peer: Peer) -> None:
    lines = examined(peer)
    assert problems(lines) == []
    assert [line["result"] for line in lines[:-1] if line["step"] != "tls"] == ["ok"] * 9


@pytest.fixture(scope="module")
def orthanc(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    field.need("orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    ports = {title: free_port() for title in ("ORTHANC", "ARCHIVE", "DESTINATION")}
    ours = Address("DESTINATION", "127.0.0.1", ports["DESTINATION"])
    peer = Peer("orthanc", "ORTHANC", ports["ORTHANC"], folder / "storage", folder / "log", ours)
    configuration = folder / "orthanc.json"
    configuration.write_text(json.dumps(field.orthanc_configuration(ports, free_port(), peer.folder)))
    with running(["Orthanc", str(configuration)], peer.port, peer.log):
        call(tool("ours", "storescu", peer, files=corpus[:7]))
        yield peer


def test_nothing_is_wrong_with_orthanc(orthanc: Peer) -> None:
    lines = examined(orthanc)
    assert problems(lines) == []
    assert [line["result"] for line in lines[:-1] if line["step"] != "tls"] == ["ok"] * 9


@pytest.mark.parametrize("peer", ["dcmtk_qrscp", "pynetdicom_qrscp"], indirect=True)
def test_an_unknown_move_destination(peer: Peer) -> None:
    command = tool("ours", "doctor", peer, "--json", "-aet", "NOBODY", "--port", 0)
    lines = [json.loads(line) for line in call(command, may_fail=True).splitlines()]
    assert [line["cause"] for line in lines if "cause" in line] == ["unknown move destination"]


@pytest.mark.parametrize(
    ("peer", "cause"),
    [
        ("dcmtk_qrscp", "destination down"),
        ("pynetdicom_qrscp", "unknown move destination"),  # it answers 0xA801 to this, too
    ],
    indirect=["peer"],
)
def test_a_destination_that_is_down(peer: Peer, cause: str) -> None:
    command = tool("ours", "doctor", peer, "--json", "-aet", "DESTINATION", "--port", 0)
    lines = [json.loads(line) for line in call(command, may_fail=True).splitlines()]
    assert [line["cause"] for line in lines if "cause" in line] == [cause]


@pytest.mark.parametrize("peer", ["dcmtk_implicit_storescp"], indirect=True)
def test_implicit_only(peer: Peer) -> None:
    command = [*OURS, "doctor", f"STORESCP@127.0.0.1:{peer.port}", "--json"]
    lines = call([*command, "--service", "store", "--service", "echo"]).splitlines()
    assert [line["cause"] for line in map(json.loads, lines) if "cause" in line] == ["Implicit only"]
