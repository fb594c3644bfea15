"""`Request.head` and `Request.save(keys=...)`: elements of a data set that is still to be received."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from asyncdicom import BytesSource, PresentationContext, Request, associate, serve
from asyncdicom.data.elements import encode
from asyncdicom.net.disk import Batch
from asyncdicom.uid import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
KEYS = ["StudyInstanceUID", "PatientName", "Rows", "StudyDate"]


def data_set(syntax: str, pixels: int = 2000) -> bytes:
    rows = (512).to_bytes(2, "big" if syntax == EXPLICIT_VR_BIG_ENDIAN else "little")
    elements = [
        (0x00080005, "CS", b"ISO_IR 192"),
        (0x00080018, "UI", b"1.2.3"),
        (0x00100010, "PN", "Müster^Jörg".encode()),
        (0x0020000D, "UI", b"1.2"),
        (0x00280010, "US", rows),
        (0x7FE00010, "OB", bytes(pixels)),
    ]
    if syntax != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        return encode(elements, syntax)
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflating.compress(encode(elements, EXPLICIT_VR_LITTLE_ENDIAN)) + deflating.flush()


class Slow(BytesSource):
    """It comes in pieces of some bytes, the loop turning between them."""

    step = 100

    async def open(self) -> AsyncGenerator[Batch, None]:
        for start in range(0, len(self.data), self.step):
            yield [bytes(self.data[start : start + self.step])]
            await asyncio.sleep(0)


async def sent(handler: Any, source: BytesSource) -> int:
    context = PresentationContext(CT, (source.transfer_syntax_uid,))
    async with serve("SCP@127.0.0.1:0", c_store=handler) as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=context) as association:
            return (await association.c_store(source)).status


SYNTAXES = [
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
]


def values(found: Dataset) -> dict[str, Any]:
    return {keyword: found.get(keyword) for keyword in KEYS}


EXPECTED = {"StudyInstanceUID": "1.2", "PatientName": "Müster^Jörg", "Rows": 512, "StudyDate": None}


@pytest.mark.parametrize("syntax", SYNTAXES)
async def test_looked_at_before_it_is_taken(syntax: str, tmp_path: Path) -> None:
    data, seen = data_set(syntax), []

    async def on_store(request: Request) -> int:
        seen.append(values(await request.head(KEYS)))
        seen.append(values(await request.head(KEYS)))
        assert await request.save(tmp_path / "new" / "it.dcm") == len(data)
        return 0

    assert await sent(on_store, Slow(CT, "1.2.3", syntax, data)) == 0
    assert seen == [EXPECTED, EXPECTED]
    assert (tmp_path / "new" / "it.dcm").read_bytes().endswith(data)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("pixels", [10, 2_000_000])
async def test_found_while_it_is_written(syntax: str, pixels: int, tmp_path: Path) -> None:
    data, seen = data_set(syntax, pixels), []

    async def on_store(request: Request) -> int:
        found = await request.save(tmp_path / "it.dcm", keys=KEYS)
        seen.append(values(found))
        return 0

    assert await sent(on_store, BytesSource(CT, "1.2.3", syntax, data)) == 0
    assert seen == [EXPECTED]
    file = tmp_path / "it.dcm"
    assert file.read_bytes().endswith(data)
    assert (await asyncio.to_thread(dcmread, file)).file_meta.SourceApplicationEntityTitle == "ASYNCDICOM"


async def test_what_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    broken = encode(
        [(0x00080018, "UI", b"1.2.3"), (0x00080020, "DA", b"20200101")], EXPLICIT_VR_LITTLE_ENDIAN
    )
    data = broken + b"\x10\0\x10\0PN\xff\xff"

    async def on_store(request: Request) -> int:
        assert values(await request.head(KEYS))["StudyDate"] == "20200101"
        found = await request.save(tmp_path / "it.dcm", keys=KEYS)
        assert values(found)["StudyDate"] == "20200101"
        with pytest.raises(ValueError, match="not a keyword"):
            await request.head(["Nonsense"])
        return 0

    assert await sent(on_store, BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, data)) == 0


async def test_a_head_that_is_longer_than_may_wait() -> None:
    long = encode(
        [(0x00080018, "UI", b"1.2.3"), (0x00091010, "OB", bytes(3 << 20)), (0x0020000D, "UI", b"1.2")],
        EXPLICIT_VR_LITTLE_ENDIAN,
    )

    async def on_store(request: Request) -> int:
        found = await request.head(["SOPInstanceUID", "StudyInstanceUID"])
        assert found.SOPInstanceUID == "1.2.3"
        assert "StudyInstanceUID" not in found
        return 0

    assert await sent(on_store, BytesSource(CT, "1.2.3", EXPLICIT_VR_LITTLE_ENDIAN, long)) == 0
