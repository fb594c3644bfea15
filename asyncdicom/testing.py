"""A pytest plugin: a handler is tested in five lines, with nothing left behind.

pytest loads it by its entry point (`pytest11`) where both are installed; nothing else imports it.

    async def test_what_is_refused(dicom_server, dicom_peer):
        async with dicom_server(c_store=my_handler) as server, dicom_peer(server, contexts=[dataset]) as peer:
            response = await peer.c_store(dataset)
        assert response.status == 0xA700

With `dicom_server(network=dicom_network, ...)` there are no sockets, and a test can let time pass, hold what
is on its way, or cut the connections. The tests are coroutines, which pytest-asyncio or anyio runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from asyncdicom.net.memory import MemoryNetwork

if TYPE_CHECKING:
    from asyncdicom.association import Association
    from asyncdicom.opening import Opening
    from asyncdicom.server import Server

__all__ = ["DicomPeer", "DicomServer", "MemoryNetwork", "dicom_network", "dicom_peer", "dicom_server"]

DicomServer: TypeAlias = "Callable[..., Opening[Server]]"
"""What the fixture `dicom_server` gives: takes the options of `serve`."""

DicomPeer: TypeAlias = "Callable[..., Opening[Association]]"
"""What the fixture `dicom_peer` gives: takes a server and the options of `associate`."""

_DRAIN = 1.0  # seconds that a handler which hangs may keep the end of a test


@pytest.fixture
def dicom_network() -> Iterator[MemoryNetwork]:
    """A network in memory: `dicom_server(network=dicom_network)` serves there, on no port of this host.

    Whoever associates with `server.host` and `server.port` uses it, too. Its clock is that of the
    associations on it: see `MemoryNetwork`.
    """
    with MemoryNetwork() as network:
        yield network


@pytest.fixture
def dicom_server() -> DicomServer:
    """Serve on a free port of this host: `async with dicom_server(c_store=handler) as server`.

    The options are those of `asyncdicom.serve`, without the address; `ae_title` is "TEST"; `network`: a
    `MemoryNetwork` to serve on instead. At the end of the block the server is closed: what is still under way
    a second later is aborted.
    """

    def server(
        *, ae_title: str = "TEST", network: MemoryNetwork | None = None, **options: Any
    ) -> Opening[Server]:
        from asyncdicom.address import Address
        from asyncdicom.options import Timeouts
        from asyncdicom.server import serve

        options.setdefault("timeouts", Timeouts(drain=_DRAIN))
        host = "127.0.0.1" if network is None else network.host
        return serve(Address(ae_title, host, 0), **options)

    return server


@pytest.fixture
def dicom_peer() -> DicomPeer:
    """Associate with a server: `async with dicom_peer(server, contexts=[...]) as peer`.

    The options are those of `asyncdicom.associate`, without the address. `peer` is an `Association`, which is
    released at the end of the block.
    """

    def peer(server: Server, **options: Any) -> Opening[Association]:
        from asyncdicom.address import Address
        from asyncdicom.client import associate

        return associate(Address(server.ae_title, server.host, server.port), **options)

    return peer
