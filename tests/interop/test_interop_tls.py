"""C-ECHO and C-STORE over TLS, with DCMTK and pynetdicom, in both roles."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom
import pytest
from interop.peers import PYNETDICOM_DIMSE_TIMEOUT, Peer, answered, data_sets, run, tool, with_pynetdicom

from asyncdicom import (
    STUDY_ROOT,
    VERIFICATION,
    AssociationClosed,
    AssociationError,
    Destination,
    Request,
    Retrieval,
    Server,
    Status,
    Timeouts,
    associate,
    file_source,
    serve,
    storage_contexts,
)

pytestmark = pytest.mark.interop


@pytest.fixture
def file(variety: list[Path]) -> Path:
    return variety[-1]  # 5 MB: many TLS records


@pytest.fixture
def as_client(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    return context


@pytest.fixture
def as_server(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def our_server(context: ssl.SSLContext, folder: Path) -> Any:
    async def take(request: Request) -> Status:
        await request.data.save(folder / f"{request.affected_sop_instance_uid}.dcm")
        return Status.SUCCESS

    return serve("OURS@127.0.0.1:0", c_store=take, ssl=context)


@pytest.fixture
def pynetdicom_tls_scp(as_server: ssl.SSLContext, tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    """The address of a pynetdicom server with TLS in a thread, and the folder that it stores in."""
    folder = tmp_path / "pynetdicom"
    folder.mkdir()

    def take(event: Any) -> int:
        (folder / event.request.AffectedSOPInstanceUID).write_bytes(event.encoded_dataset())
        return 0

    entity = pynetdicom.AE()
    entity.supported_contexts = [
        *pynetdicom.presentation.StoragePresentationContexts,
        *pynetdicom.presentation.VerificationPresentationContexts,
    ]
    server: Any = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=as_server,
        evt_handlers=[(pynetdicom.evt.EVT_C_STORE, take)],
    )
    yield f"THEIRS@127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()


async def echo_and_store(address: Any, context: ssl.SSLContext, file: Path) -> None:
    source = file_source(file)
    async with associate(
        address, ssl=context, contexts=[VERIFICATION, *storage_contexts([source])]
    ) as association:
        assert association.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert (await association.c_echo()).status == Status.SUCCESS
        assert (await association.c_store(source)).status == Status.SUCCESS


async def test_we_call_dcmtk(dcmtk_tls_storescp: Peer, as_client: ssl.SSLContext, file: Path) -> None:
    dcmtk_tls_storescp.forget()
    await echo_and_store(dcmtk_tls_storescp.address, as_client, file)
    assert data_sets(dcmtk_tls_storescp.received()) == data_sets([file])


async def test_we_call_pynetdicom(
    pynetdicom_tls_scp: tuple[Any, Path], as_client: ssl.SSLContext, file: Path
) -> None:
    address, folder = pynetdicom_tls_scp
    await echo_and_store(address, as_client, file)
    assert data_sets(folder) == data_sets([file])


async def test_dcmtk_calls_us(
    dcmtk: None,
    as_server: ssl.SSLContext,
    certificates: Path,
    file: Path,
    tmp_path: Path,
) -> None:
    own = ("+tls", certificates / "client.key", certificates / "client.pem", "+cf", certificates / "ca.pem")
    async with our_server(as_server, tmp_path) as server:
        await run(tool("dcmtk", "echoscu", server, *own))
        await run(tool("dcmtk", "storescu", server, *own, files=[file]))
    assert data_sets(tmp_path) == data_sets([file])


async def test_pynetdicom_calls_us(
    as_server: ssl.SSLContext, as_client: ssl.SSLContext, file: Path, tmp_path: Path
) -> None:
    async with our_server(as_server, tmp_path) as server:
        await asyncio.to_thread(call_with_pynetdicom, server, as_client, file)
    assert data_sets(tmp_path) == data_sets([file])


def call_with_pynetdicom(server: Server, context: ssl.SSLContext, file: Path) -> None:
    dataset = pydicom.dcmread(file)
    entity = pynetdicom.AE()
    entity.dimse_timeout = PYNETDICOM_DIMSE_TIMEOUT
    entity.add_requested_context(VERIFICATION)
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)

    def ask() -> list[int]:
        association = entity.associate("127.0.0.1", server.port, tls_args=(context, "127.0.0.1"))
        assert association.is_established
        statuses = [answered(association.send_c_echo()), answered(association.send_c_store(dataset))]
        association.release()
        return statuses

    assert with_pynetdicom(ask) == [0, 0]


async def test_we_send_to_dcmtk_for_a_c_move(
    dcmtk_tls_storescp: Peer, as_server: ssl.SSLContext, as_client: ssl.SSLContext, file: Path
) -> None:
    dcmtk_tls_storescp.forget()
    where = f"127.0.0.1:{dcmtk_tls_storescp.port}"

    async def give(request: Request) -> Retrieval:
        await request.data.read()
        return Retrieval([file_source(file)])

    destinations = {"STORESCP": Destination(where, ssl=as_client)}
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
    async with serve("OURS@127.0.0.1:0", c_move=give, ssl=as_server, destinations=destinations) as server:
        address = f"OURS@127.0.0.1:{server.port}"
        async with associate(address, ssl=as_client, contexts=[STUDY_ROOT]) as association:
            assert (await association.c_move(keys, move_destination="STORESCP")).completed == 1
    assert data_sets(dcmtk_tls_storescp.received()) == data_sets([file])


# Who must not get through


async def test_a_certificate_that_we_do_not_trust(dcmtk_tls_storescp: Peer, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=certificates / "stranger.pem")
    with pytest.raises(AssociationClosed, match="certificate of the peer was not accepted"):
        await associate(dcmtk_tls_storescp.address, ssl=context)


async def test_dcmtk_does_not_trust_us(dcmtk_tls_storescp: Peer, certificates: Path) -> None:
    context = ssl.create_default_context(cafile=certificates / "ca.pem")  # and no certificate of our own
    with pytest.raises(AssociationError):
        await associate(dcmtk_tls_storescp.address, ssl=context)


async def test_we_do_not_trust_dcmtk(
    dcmtk: None, as_server: ssl.SSLContext, as_client: ssl.SSLContext, tmp_path: Path
) -> None:
    async with our_server(as_server, tmp_path) as server:
        await run(tool("dcmtk", "echoscu", server, "+tla", "-ic"), fails=True)
        await run(tool("dcmtk", "echoscu", server), fails=True)  # without TLS
        async with associate(f"OURS@127.0.0.1:{server.port}", ssl=as_client) as association:
            assert (await association.c_echo()).status == Status.SUCCESS


async def test_dcmtk_does_not_speak_tls(dcmtk_storescp: Peer, as_client: ssl.SSLContext) -> None:
    with pytest.raises(AssociationError):
        await associate(dcmtk_storescp.address, ssl=as_client, timeouts=Timeouts(connect=5))
