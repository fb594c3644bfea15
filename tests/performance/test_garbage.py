"""What an instance leaves behind is given back at once: the garbage collector has no part in it."""

from __future__ import annotations

import gc
from pathlib import Path

from helpers.archive_process import CT, data_set

from asyncdicom import BytesSource, PresentationContext, associate
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN

_COUNT = 50


async def test_what_is_stored_makes_no_cycles(tmp_path: Path) -> None:
    contexts = [PresentationContext(CT, (EXPLICIT_VR_LITTLE_ENDIAN,))]
    async with Archive(tmp_path) as archive, serve_archive(archive, "SCP@127.0.0.1:0") as server:
        async with associate(f"SCP@127.0.0.1:{server.port}", contexts=contexts) as association:

            async def store(number: int) -> None:
                uid = f"1.2.3.{number}"
                source = BytesSource(CT, uid, EXPLICIT_VR_LITTLE_ENDIAN, data_set(uid))
                assert (await association.c_store(source)).status == 0

            await store(0)
            gc.collect()
            gc.disable()
            try:
                for number in range(1, _COUNT + 1):
                    await store(number)
                assert gc.collect() < _COUNT, "less than one object for each"
            finally:
                gc.enable()
