from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from cli.nodes import Instance, data_sets, expected
from cli.running import Start, Tool

from asyncdicom import (
    AssociationRejected,
    BytesSource,
    Limits,
    PresentationContext,
    associate,
    storage_contexts,
)
from asyncdicom.net.disk import Batch
from asyncdicom.uid import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, SOP_CLASSES

INSTANCE = Instance("1", "1.1", "1.1.1")
PRIVATE = Instance("1", "1.1", "1.1.2", SOPClassUID="1.2.3.4.5.6")


async def listening(process: Any) -> int:
    line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
    assert line.startswith("STORESCP listens on 127.0.0.1:"), line
    return int(line.partition(",")[0].rpartition(":")[2])


async def when_it_listens(port: int) -> None:
    for _ in range(1000):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def send(port: int, *instances: Instance) -> list[int]:
    sources = [instance.source() for instance in instances]
    async with associate(f"ANY@127.0.0.1:{port}", contexts=storage_contexts(sources)) as association:
        return [(await association.c_store(source)).status for source in sources]


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_receive_and_stop(start: Start, tmp_path: Path, stop: signal.Signals, code: int) -> None:
    async with start("storescp", 0, "-od", tmp_path / "new" / "folder") as process:
        port = await listening(process)
        assert await send(port, INSTANCE, PRIVATE, INSTANCE) == [0, 0, 0]
        process.send_signal(stop)
        out, err = await process.communicate()
    assert process.returncode == code
    assert (out, err.strip()) == (b"", b"" if code == 0 else b"asyncdicom storescp: interrupted")
    assert data_sets(tmp_path / "new" / "folder") == expected([INSTANCE, PRIVATE])


class Endless(BytesSource):
    """A source that stops in the middle of its data set."""

    async def open(self) -> AsyncGenerator[Batch, None]:
        yield [bytes(1_000_000)]
        await asyncio.sleep(60)


async def test_stopping_while_something_is_received(start: Start) -> None:
    source = Endless(INSTANCE.SOPClassUID, "1.1.1", INSTANCE.AvailableTransferSyntaxUID, b"")
    async with start("storescp", 0, "--ignore") as process:
        port = await listening(process)
        async with associate(f"ANY@127.0.0.1:{port}", contexts=storage_contexts([source])) as association:
            storing = asyncio.ensure_future(association.c_store(source))
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
            told = await process.stderr.readline()
            assert told.endswith(b" W: waiting for 1 associations to end; a second signal aborts them\n")
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            storing.cancel()
            await asyncio.wait([storing])
    assert (process.returncode, err) == (130, b"asyncdicom storescp: interrupted\n")


async def test_verbose_ignore_and_limit(start: Start) -> None:
    limits = ("--max-associations", 1, "--operations", 3)
    async with start("storescp", 0, "--ignore", "-v", *limits) as process:
        port = await listening(process)
        async with associate(f"ANY@127.0.0.1:{port}", limits=Limits(operations_invoked=16)) as association:
            assert association.operations_invoked == 3
            with pytest.raises(AssociationRejected, match="local limit exceeded"):
                await associate(f"ANY@127.0.0.1:{port}")
        await send(port, INSTANCE)
        process.terminate()
        _, err = await process.communicate()
    size = len(INSTANCE.source().data)
    told = rf"ASYNCDICOM -> ANY \(127.0.0.1:\d+\): C-STORE of CT Image Storage 1.1.1, {size} bytes: status 0x"
    assert re.search(rf"^\d{{4}}-\d\d-\d\dT[0-9:.]+[+-][0-9:]+ I: {told}", err.decode(), re.MULTILINE)


async def test_json(start: Start, tmp_path: Path, free_port: int) -> None:
    async with start("storescp", free_port, "-od", tmp_path, "--json") as process:
        await when_it_listens(free_port)
        await send(free_port, INSTANCE)
        line = json.loads(await process.stdout.readline())
        process.terminate()
        await process.communicate()
    assert line == {
        "sop_class_uid": INSTANCE.SOPClassUID,
        "sop_instance_uid": "1.1.1",
        "transfer_syntax_uid": INSTANCE.AvailableTransferSyntaxUID,
        "calling_ae_title": "ASYNCDICOM",
        "bytes": len(INSTANCE.source().data),
        "file": str(tmp_path / "1.1.1.dcm"),
        "status": 0,
        "category": "Success",
        "meaning": "0x0000 (Success)",
    }


async def test_a_port_that_is_taken(tool: Tool) -> None:
    from asyncdicom import serve

    async with serve("SCP@127.0.0.1:0") as server:
        code, out, err = await tool("storescp", server.port, "--ignore")
    assert (code, out) == (1, "")
    assert err == (
        f"asyncdicom storescp: cannot listen on 127.0.0.1:{server.port}: "
        "Address already in use; choose another port\n"
    )


async def test_other_data_under_a_uid_is_told_and_both_are_kept(start: Start, tmp_path: Path) -> None:
    other = Instance("2", "2.1", INSTANCE.SOPInstanceUID)
    async with start("storescp", 0, "-od", tmp_path) as process:
        port = await listening(process)
        assert await send(port, INSTANCE, other, other) == [0, 0, 0]
        process.terminate()
        _, err = await process.communicate()
    assert err.count(b"other data under this SOP Instance UID are there; kept as 1.1.1-") == 1
    kept = data_sets(tmp_path)
    assert kept.pop("1.1.1.dcm") == INSTANCE.source().data
    assert list(kept.values()) == [other.source().data]


async def test_all_storage_classes_are_taken(start: Start, tmp_path: Path) -> None:
    """Those of the standard, of patients or not (hanging protocols, color palettes ...), and private ones."""
    kinds = [
        uid for uid, entry in SOP_CLASSES.items() if entry[1] in ("storage", "non-patient-object-storage")
    ]
    kinds += ["1.2.840.113619.4.30", "1.3.46.670589.2.5.1.1", "2.25.1234"]
    assert len(kinds) > 200
    assert any("Hanging" in SOP_CLASSES[uid][0] for uid in kinds if uid in SOP_CLASSES)
    async with start("storescp", 0, "-od", tmp_path) as process:
        address = f"ANY@127.0.0.1:{await listening(process)}"
        for at in range(0, len(kinds), 128):
            some = kinds[at : at + 128]
            async with associate(address, contexts=some) as association:
                assert {context.abstract_syntax for context in association.contexts.values()} == set(some)
        process.terminate()
        await process.communicate()


async def test_implicit_only(start: Start, tmp_path: Path) -> None:
    async with start("storescp", 0, "-od", tmp_path, "+xi") as process:
        address = f"ANY@127.0.0.1:{await listening(process)}"
        contexts = [
            PresentationContext(INSTANCE.SOPClassUID, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
            PresentationContext(INSTANCE.SOPClassUID, (EXPLICIT_VR_LITTLE_ENDIAN,)),
        ]
        async with associate(address, contexts=contexts) as association:
            accepted = [context.transfer_syntax for context in association.contexts.values()]
        process.terminate()
        await process.communicate()
    assert accepted == [IMPLICIT_VR_LITTLE_ENDIAN]
