"""Files as they were received."""

from __future__ import annotations

from pathlib import Path

from asyncdicom.data.elements import encode
from asyncdicom.data.part10 import encode_file_meta
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

CT = "1.2.840.10008.5.1.4.1.1.2"


def written(path: Path, pixels: bytes = b"12", sender: str = "CT1", study: str = "1.2") -> Path:
    uids = [(0x00080018, "UI", b"1.2.3"), (0x0020000D, "UI", study.encode())]
    data = encode([*uids, (0x7FE00010, "OB", pixels)], EXPLICIT_VR_LITTLE_ENDIAN)
    meta = encode_file_meta(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, source_ae_title=sender)
    path.write_bytes(meta + data)
    return path
