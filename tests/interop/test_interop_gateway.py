"""A gateway that passes on while it receives: DCMTK sends and gets, and either may go in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from helpers.gateway import EVERYTHING, instance
from interop.conftest import storescp
from interop.peers import Peer, data_sets, run, tool

from asyncdicom import Address, AssociationError, associate, file_source, storage_contexts
from asyncdicom.archive import Archive
from asyncdicom.archive.dimse import serve_archive
from asyncdicom.gateway.config import parse_gateway
from asyncdicom.gateway.gateway import Gateway

pytestmark = pytest.mark.interop


@asynccontextmanager
async def passing(path: Path, peer: Peer) -> AsyncIterator[tuple[Archive, Address]]:
    text = f'[destinations.A]\naddress = "{peer.address}"\nmode = "stream"\n' + EVERYTHING.format('"A"')
    async with (
        Archive(path, durability="none", scrub=0) as archive,
        Gateway(archive, parse_gateway(text), ae_title="GATE", patience=1.0),
        serve_archive(archive, "GATE@127.0.0.1:0") as server,
    ):
        yield archive, Address("GATE", "127.0.0.1", server.port)


async def kept(archive: Archive) -> int:
    return (await archive.counts())["instance"]


async def test_all_passes_as_it_is(tmp_path: Path, dcmtk_storescp: Peer, variety: list[Path]) -> None:
    dcmtk_storescp.forget()
    sources = [file_source(path) for path in variety]
    async with passing(tmp_path, dcmtk_storescp) as (archive, where):
        async with associate(where, contexts=storage_contexts(sources)) as association:
            for source in sources:
                assert (await association.c_store(source)).status == 0
        assert await kept(archive) == 0
    assert data_sets(dcmtk_storescp.received()) == data_sets(variety)


async def test_their_tool_is_answered_by_their_server(
    tmp_path: Path, dcmtk_storescp: Peer, series: list[Path]
) -> None:
    dcmtk_storescp.forget()
    async with passing(tmp_path, dcmtk_storescp) as (archive, where):
        await run(tool("dcmtk", "storescu", where, files=series))
        assert archive.outbox.happened["streamed"] == len(series)
        assert await kept(archive) == 0
    assert len(dcmtk_storescp.received()) == len(series)


@pytest.mark.parametrize("when", ["--abort-during", "--abort-after"])
async def test_their_server_goes_in_the_middle(
    tmp_path: Path, dcmtk: None, variety: list[Path], when: str
) -> None:
    large = file_source(variety[-1])
    (tmp_path / "theirs").mkdir()
    with storescp(f"storescp{when}", tmp_path / "theirs", when) as peer:
        async with passing(tmp_path / "ours", peer) as (archive, where):
            async with associate(where, contexts=storage_contexts([large])) as association:
                response = await association.c_store(large)
                assert response.status == 0xA700
                assert response.error_comment == "the association was lost while this instance was sent"
            assert await kept(archive) == 0


async def test_the_sender_goes_in_the_middle(tmp_path: Path, dcmtk_storescp: Peer) -> None:
    """Their server has no whole instance then, and takes the next one."""
    dcmtk_storescp.forget()

    class Endless:
        sop_class_uid, transfer_syntax_uid = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
        sop_instance_uid = "1.2.3.4"
        gone = asyncio.Event()

        def at_hand(self) -> None:
            pass

        async def open(self) -> AsyncIterator[list[bytes]]:
            yield [bytes(instance("1.2.3.4").data)[:-16] + b"\xe0\x7f\x10\x00OW\0\0" + b"\0\0\0\x7f"]
            while True:
                yield [bytes(1 << 16)]
                sent.release()

    sent = asyncio.Semaphore(0)
    async with passing(tmp_path, dcmtk_storescp) as (archive, where):
        association = await associate(where, contexts=["CT Image Storage"])
        storing = asyncio.ensure_future(association.c_store(Endless()))  # type: ignore[arg-type]
        for _ in range(200):
            await sent.acquire()
        await association.abort()
        with pytest.raises(AssociationError):
            await storing
        async with associate(where, contexts=["CT Image Storage"]) as association:
            assert (await association.c_store(instance("1.2.3.5"))).status == 0
        assert await kept(archive) == 0
    assert data_sets(dcmtk_storescp.received()) == [bytes(instance("1.2.3.5").data)]
