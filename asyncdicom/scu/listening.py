"""Where a C-MOVE of a client sends to: a server that lets in the peer that was asked, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from asyncdicom.access import ANYBODY, AccessPolicy
from asyncdicom.address import ANY_SCP, Address
from asyncdicom.association import Request
from asyncdicom.net.channel import Trace
from asyncdicom.options import Limits, Timeouts
from asyncdicom.scu.receiver import TAKEN
from asyncdicom.server import Server, serve
from asyncdicom.services.request import StoreHandler
from asyncdicom.services.responses import Answer, Response
from asyncdicom.status import Status

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Listening", "is_loopback", "only"]


def is_loopback(host: str) -> bool:
    """Whether a host as it is written is this one."""
    return host in ("localhost", "::1") or host.startswith("127.")


async def only(peer: Address) -> AccessPolicy:
    """Let nobody in but this peer: from its addresses, by its AE title if that is known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(peer.host, None)
    except OSError:  # which calling it will tell
        found = []
    networks = {str(where[0]).partition("%")[0] for *_, where in found}
    if is_loopback(peer.host):
        networks |= {"127.0.0.0/8", "::1"}
    return AccessPolicy(networks=networks, peers=[ANYBODY if peer.ae_title == ANY_SCP else peer.ae_title])


class Listening:
    """Receives for one C-MOVE at a time; what comes without one is refused with 0x0124."""

    def __init__(
        self,
        ours: Address,
        peer: Address,
        *,
        ssl: SSLContext | None,
        timeouts: Timeouts,
        limits: Limits,
        trace: Trace | None,
    ) -> None:
        self.address = ours
        self._peer = peer
        self._ssl = ssl
        self._timeouts = timeouts
        self._limits = limits
        self._trace = trace
        self._server: Server | None = None
        self._handler: StoreHandler | None = None
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Listen. Raises OSError."""
        self._server = await serve(
            self.address,
            c_store=self._on_store,
            contexts=TAKEN,
            unknown_storage=True,
            access=await only(self._peer),
            ssl=self._ssl,
            timeouts=self._timeouts,
            limits=self._limits,
            trace=self._trace,
        )
        self.address = self.address._replace(port=self._server.port)

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.close()

    @asynccontextmanager
    async def receiving(self, handler: StoreHandler) -> AsyncGenerator[str, None]:
        """Give what comes to a handler; gives the AE title to move to. Others wait for their turn."""
        async with self._one_at_a_time:
            self._handler = handler
            try:
                yield self.address.ae_title
            finally:
                self._handler = None

    @property
    def is_receiving(self) -> bool:
        """Whether somebody is still connected."""
        return self._server is not None and self._server.associations > 0

    async def _on_store(self, request: Request) -> Answer:
        if self._handler is None:
            return Response(Status.NOT_AUTHORIZED, error_comment="nothing was asked for")
        return await self._handler(request)
