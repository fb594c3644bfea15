"""What the tests of the tools have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncdicom
from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(asyncdicom.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


Tool = Callable[..., Awaitable[Result]]
Start = Callable[..., Any]


def write_instance(path: Path, sop_class_uid: str, sop_instance_uid: str, size: int = 100) -> bytes:
    """Write a small DICOM file and give its data set."""
    data = encode(
        [
            (0x00080016, "UI", sop_class_uid.encode()),
            (0x00080018, "UI", sop_instance_uid.encode()),
            (0x7FE00010, "OB", os.urandom(size)),
        ],
        EXPLICIT_VR_LITTLE_ENDIAN,
    )
    path.write_bytes(encode_file_meta(sop_class_uid, sop_instance_uid, EXPLICIT_VR_LITTLE_ENDIAN) + data)
    return data
