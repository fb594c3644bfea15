"""tshark, another's decoder, has nothing to say against our bytes that it has not against DCMTK's."""

from __future__ import annotations

import asyncio
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from interop import field
from interop.peers import Peer, free_port, keys, run, tool
from interop.questions import ONE_SERIES
from interop.recording import DICOM_PORT, Recording

pytestmark = pytest.mark.interop

_WARNING = 0x00600000  # Wireshark's severities: warnings, and errors above them
PDUS = {"A-ASSOCIATE-RQ": 1, "A-ASSOCIATE-AC": 2, "P-DATA-TF": 4, "A-RELEASE-RQ": 5, "A-RELEASE-RP": 6}


@pytest.fixture(scope="module", autouse=True)
def tshark() -> None:
    field.need("tshark")


def decode(capture: Path, *fields: str) -> list[list[str]]:
    """The values of some fields, a row for each packet."""
    command = ["tshark", "-n", "-r", str(capture), "-d", f"tcp.port=={DICOM_PORT},dicom", "-T", "fields"]
    options = [part for name in fields for part in ("-e", name)]
    done = subprocess.run(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def complaints(capture: Path) -> set[str]:
    """What tshark warns of or calls an error."""
    found = set()
    for severities, messages, malformed in decode(
        capture, "_ws.expert.severity", "_ws.expert.message", "_ws.malformed"
    ):
        levels = [int(level, 0) for level in severities.split(",") if level]
        if any(level >= _WARNING for level in levels) or malformed:
            found.add(f"{messages}{' malformed' if malformed else ''}")
    return found


def pdus(capture: Path) -> Counter[int]:
    """How many PDUs of each type it found."""
    return Counter(
        int(one, 0) for (types,) in decode(capture, "dicom.pdu.type") for one in types.split(",") if one
    )


def quick(family: str, name: str, peer: Peer, *options: object, files: Iterable[Path] = ()) -> list[str]:
    """A command, without Nagle's algorithm in DCMTK."""
    return ["env", "TCP_NODELAY=1", *tool(family, name, peer, *options, files=files)]


def record(family: str, storescp: Peer, qrscp: Peer, files: list[Path], folder: Path) -> Path:
    """Echo, store, find, get and move between tools of one family, recorded; gives the capture file."""
    return asyncio.run(_record(family, storescp, qrscp, files, folder))


async def _record(family: str, storescp: Peer, qrscp: Peer, files: list[Path], folder: Path) -> Path:
    recording, receiving = Recording(), free_port()
    folder.mkdir()
    image = keys({**ONE_SERIES, "QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": ""})
    series, title = keys(ONE_SERIES), qrscp.destination.ae_title
    receiver = {"dcmtk": ("-aet", title, "+P", receiving), "ours": ("-aet", title, "--port", receiving)}[
        family
    ]
    async with (
        recording.proxy(storescp.port) as to_storescp,
        recording.proxy(qrscp.port) as to_qrscp,
        recording.proxy(receiving, qrscp.destination.port),
    ):
        store, query = storescp._replace(port=to_storescp), qrscp._replace(port=to_qrscp)
        await run(quick(family, "echoscu", query))
        await run(quick(family, "storescu", store, files=files))
        await run(quick(family, "findscu", query, "-S", *image))
        await run(quick(family, "getscu", query, "-S", "-od", folder, *series))
        await run(quick(family, "movescu", query, "-S", "-aem", title, *receiver, "-od", folder, *series))
    assert len(recording.connections) >= 6
    recording.write(folder / "capture.pcap")
    return folder / "capture.pcap"


def test_nothing_is_malformed_that_is_not_with_dcmtk(
    our_storescp: Peer,
    our_qrscp: Peer,
    dcmtk_storescp: Peer,
    dcmtk_qrscp: Peer,
    corpus: list[Path],
    variety: list[Path],
    tmp_path: Path,
) -> None:
    """In Little Endian: tshark 4.0 misreads the Command Sets in contexts of other transfer syntaxes."""
    files = [*corpus[:5], variety[-1]]
    ours = record("ours", our_storescp, our_qrscp, files, tmp_path / "ours")
    theirs = record("dcmtk", dcmtk_storescp, dcmtk_qrscp, files, tmp_path / "theirs")
    assert complaints(ours) <= complaints(theirs)
    found, expected = pdus(ours), pdus(theirs)
    for name, number in PDUS.items():
        assert found[number] > 0, name
        assert expected[number] > 0, name


def test_the_judge_sees_what_is_wrong(tmp_path: Path) -> None:
    """An A-ASSOCIATE-RQ whose items are longer than it is, and a PDV of an impossible length."""
    recording = Recording()
    request = b"\1\0\0\0\0\x48\0\1\0\0" + b"A".ljust(16) + b"B".ljust(16) + bytes(32) + b"\x10\0\0\x7f"
    data = b"\4\0\0\0\0\x06\0\0\0\x01\1\3"
    recording.connections.append([(True, request), (True, data)])
    recording.write(tmp_path / "capture.pcap")
    assert complaints(tmp_path / "capture.pcap")
