"""What the field sends is stored, found and given back byte by byte, however odd it is."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest

from asyncdicom import (
    STUDY_ROOT,
    BytesSource,
    Request,
    associate,
    retrieval_contexts,
    storage_contexts,
)
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.data.elements import encode
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}


def instance(transfer_syntax_uid: str) -> bytes:
    elements = [
        (0x00080016, "UI", CT.encode()),
        (0x00080018, "UI", b"1.2.3.1.1"),
        (0x00100010, "PN", b"DOE^JANE"),
        (0x00100020, "LO", b"P1"),
        (0x0020000D, "UI", b"1.2.3"),
        (0x0020000E, "UI", b"1.2.3.1"),
        (0x7FE00010, "OW", bytes(range(256))),
    ]
    return encode(elements, transfer_syntax_uid)


EXPLICIT = instance(EXPLICIT_VR_LITTLE_ENDIAN)
KINDS = {
    "the private syntax of GE": ("1.2.840.113619.5.2", instance(IMPLICIT_VR_LITTLE_ENDIAN)),
    "a private syntax like Implicit": ("1.3.46.670589.33.1.4.1", instance(IMPLICIT_VR_LITTLE_ENDIAN)),
    "a private syntax like Explicit": ("1.3.46.670589.33.1.4.2", EXPLICIT),
    "a private syntax like Big Endian": ("1.3.46.670589.33.1.4.3", instance(EXPLICIT_VR_BIG_ENDIAN)),
    "zeros behind the end": (EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT + bytes(1001)),
    "a group of a command set": (EXPLICIT_VR_LITTLE_ENDIAN, b"\0\0\0\1US\2\0\1\0" + EXPLICIT),
    "a group of a file": (EXPLICIT_VR_LITTLE_ENDIAN, b"\2\0\x10\0UI\4\x001.2\0" + EXPLICIT),
    "an element without a VR": (EXPLICIT_VR_LITTLE_ENDIAN, b"\x08\0\5\0\0\0\0\0" + EXPLICIT),
    "deflated, with a header of zlib": (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, zlib.compress(EXPLICIT)),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_field_sends_is_stored_found_and_given_back(tmp_path: Path, kind: str) -> None:
    transfer_syntax_uid, data = KINDS[kind]
    received: list[tuple[str, bytes]] = []

    async def on_store(request: Request) -> int:
        received.append((request.transfer_syntax_uid, await request.data.read()))
        return 0

    source = BytesSource(CT, "1.2.3.1.1", transfer_syntax_uid, data)
    contexts: list[Any] = [STUDY_ROOT, *retrieval_contexts([(CT, transfer_syntax_uid)])]
    async with (
        Archive(tmp_path, durability="process") as archive,
        serve_archive(archive, "SCP@127.0.0.1:0") as server,
    ):
        address = f"SCP@127.0.0.1:{server.port}"
        async with associate(address, contexts=storage_contexts([source])) as association:
            assert (await association.c_store(source)).status == 0
        async with associate(address, contexts=contexts, c_store=on_store) as association:
            [match] = await association.c_find(STUDY | {"PatientName": "DOE*", "PatientID": ""})
            assert match.PatientID == "P1"
            assert (await association.c_get(STUDY)).completed == 1
    assert received == [(transfer_syntax_uid, data)]
