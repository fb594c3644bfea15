"""A server that drains: nobody new comes, and who is there goes on until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from asyncdicom.admission import Admission
from asyncdicom.net.listener import Acceptor
from asyncdicom.net.networks import Listener, loop_for
from asyncdicom.options import Timeouts
from asyncdicom.telemetry.log import Log

__all__ = ["drained"]

log = Log("asyncdicom.server")


async def drained(
    host: str, admission: Admission, acceptors: Sequence[Acceptor | Listener], timeouts: Timeouts
) -> None:
    """Wait until no connection is left, or for `Timeouts.drain`; see `Server.drain`."""
    loop = loop_for(host)
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    enough = loop.call_later(timeouts.drain, _tell, over)
    try:
        if admission.is_behind_proxies:
            await _passed(loop, min(timeouts.drain_notice, timeouts.drain))
        for acceptor in acceptors:
            if isinstance(acceptor, Acceptor):
                acceptor.finish()
            else:
                acceptor.close()
        admission.emptied = lambda: _tell(over)
        admission.drain(timeouts.drain_idle)
        if admission.is_empty:
            _tell(over)
        await over
    finally:
        enough.cancel()
        admission.emptied = None
    if not admission.is_empty:
        left = len(admission.associated)
        log.warning("%d associations have not ended in %g s: they are aborted", left, timeouts.drain)


async def _passed(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Wait by the clock of a network."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = loop.call_later(seconds, _tell, over)
    try:
        await over
    finally:
        handle.cancel()


def _tell(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
