"""Peers of the field that are fetched for these tests (`.ci/peers`), and how they are called.

odil and dcmjs-dimse are libraries: a driver makes a tool of each. dcm4che's tools are requestors only.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from interop.peers import ENVIRONMENT, PATIENCE, Peer

_HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("ASYNCDICOM_PEERS_FOLDER") or _HERE.parents[1] / "build" / "peers")
_SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's odil is for Debian's Python

ENVIRONMENT["NODE_PATH"] = str(FOLDER / "node_modules")


def _jar(tool: str) -> Path:
    return FOLDER / "dcmfetch" / "ext" / tool


def haproxy() -> str | None:
    """The path of HAProxy, which Debian keeps from users that are not root."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def _has_odil() -> bool:
    command = [_SYSTEM_PYTHON, "-c", "import odil"]
    return os.path.exists(_SYSTEM_PYTHON) and subprocess.run(command, capture_output=True).returncode == 0


_IS_THERE: dict[str, Callable[[], bool]] = {
    "orthanc": lambda: shutil.which("Orthanc") is not None,
    "odil": _has_odil,
    "dcmjs": lambda: shutil.which("node") is not None and (FOLDER / "node_modules" / "dcmjs-dimse").is_dir(),
    "dcm4che": lambda: shutil.which("java") is not None and _jar("getscu").is_file(),
    "tshark": lambda: shutil.which("tshark") is not None,
    "haproxy": lambda: haproxy() is not None,
}


@functools.cache
def _is_there(name: str) -> bool:
    return _IS_THERE[name]()


def need(name: str) -> None:
    """Skip the test if the peer is not there; fail if `.ci/peers` has found it."""
    if _is_there(name):
        return
    if name in os.environ.get("ASYNCDICOM_FIELD_PEERS", "").split():
        pytest.fail(f"{name} was fetched, and is not found")
    pytest.skip(f"needs {name}: .ci/peers fetches it")


# Requestors


def driver(name: str, command: str, peer: Peer, *arguments: object) -> list[str]:
    """A command of odil's or dcmjs-dimse's driver, which calls `peer`."""
    start = {
        "odil": (_SYSTEM_PYTHON, str(_HERE / "drivers" / "odil_tool.py")),
        "dcmjs": ("node", str(_HERE / "drivers" / "dcmjs_tool.cjs")),
    }[name]
    return [*start, command, peer.ae_title, str(peer.port), *map(str, arguments)]


def dcm4che(tool: str, peer: Peer, *options: object) -> list[str]:
    """A command of dcm4che's findscu or getscu."""
    where = f"{peer.ae_title}@127.0.0.1:{peer.port}"
    return ["java", "-jar", str(_jar(tool)), "-c", where, *map(str, options)]


# Orthanc


def orthanc_configuration(ports: dict[str, int], http: int, folder: Path) -> dict[str, Any]:
    """What Orthanc is started with: it knows our archive and DESTINATION."""
    modalities = {
        "archive": ["ARCHIVE", "127.0.0.1", ports["ARCHIVE"]],
        "destination": ["DESTINATION", "127.0.0.1", ports["DESTINATION"]],
    }
    return {
        "Name": "Orthanc",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "DicomPort": ports["ORTHANC"],
        "DicomAet": "ORTHANC",
        "DicomModalities": modalities,
        **dict.fromkeys(("DicomAlwaysAllowFind", "DicomAlwaysAllowGet", "DicomAlwaysAllowMove"), True),
        "SaveJobs": False,
        "SyncStorageArea": False,  # a slow disk is nothing that is tested
        "MaximumStorageCacheSize": 0,  # a file that is gone is gone
    }


def rest(http: int, path: str, body: object = None, method: str | None = None) -> Any:
    """Ask Orthanc's REST interface; with a body it is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{http}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text else None


# Content


def content(path: Path) -> tuple[object, ...]:
    """What has to be the same, whoever encoded it: who it is, and the pixels in Little Endian."""
    dataset = pydicom.dcmread(path)
    pixels: bytes = dataset.PixelData
    if not dataset.file_meta.TransferSyntaxUID.is_little_endian and dataset.BitsAllocated == 16:
        swapped = bytearray(len(pixels))
        swapped[::2], swapped[1::2] = pixels[1::2], pixels[::2]
        pixels = bytes(swapped)
    return dataset.SOPInstanceUID, str(dataset.PatientName), dataset.Rows, dataset.Columns, pixels


def contents(where: Path | list[Path]) -> list[tuple[object, ...]]:
    """The content of files, or of those in a folder, sorted."""
    if isinstance(where, Path):
        where = [path for path in where.rglob("*") if path.is_file()]
    return sorted(map(content, where), key=repr)
